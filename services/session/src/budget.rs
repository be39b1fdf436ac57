//! What one principal may have on this node, and how fast it may begin it. Nothing is kept of what is refused.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Principal;
use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::config::Config;
use crate::residents::Residents;

/// When to try again where it is not known when there will be room.
const SOME_TIME: Duration = Duration::from_secs(5);
/// Principals whose rates are remembered before those that have rested are forgotten.
const REMEMBERED: usize = 1024;

type Rate = RateLimiter<Principal, HashMapStateStore<Principal>, DefaultClock>;

/// See the module.
pub(crate) struct Budget {
    all: usize,
    own: usize,
    strangers: usize,
    creations: Option<Rate>,
    local_creations: Option<Rate>,
    beginning: Arc<Tally>,
    listens: Arc<Tally>,
    most_listens: usize,
}

/// How many of something each principal has.
#[derive(Default)]
struct Tally(Mutex<HashMap<Principal, usize>>);

/// One of something, as long as it exists.
pub(crate) struct Inside {
    tally: Arc<Tally>,
    principal: Principal,
}

impl Budget {
    /// Zero is no limit.
    pub(crate) fn new(config: &Config) -> Self {
        let most = |setting: usize| if setting == 0 { usize::MAX } else { setting };
        let rate = |per_second: u32| {
            let burst = NonZeroU32::new(config.creation_burst).unwrap_or(NonZeroU32::MIN);
            let quota = NonZeroU32::new(per_second).map(|rate| Quota::per_second(rate).allow_burst(burst));
            quota.map(RateLimiter::hashmap)
        };
        Self {
            all: most(config.max_sessions),
            own: most(config.max_sessions_per_principal),
            strangers: most(config.max_sessions_anonymous),
            creations: rate(config.creations_per_s),
            local_creations: rate(config.creations_per_s_local),
            beginning: Arc::default(),
            listens: Arc::default(),
            most_listens: most(config.max_listens_per_principal),
        }
    }

    /// Room for one more session of a principal, until it is among the residents; or when to ask again.
    pub(crate) fn begin(&self, residents: &Residents, principal: &Principal) -> Result<Inside, Duration> {
        let (place, beginning) = Tally::enter(&self.beginning, principal);
        let (all, own) = residents.count(principal);
        let most = if is_remote_stranger(principal) { self.strangers.min(self.own) } else { self.own };
        if all >= self.all || own.saturating_add(beginning) > most {
            return Err(SOME_TIME);
        }
        let rate = if is_local_stranger(principal) { &self.local_creations } else { &self.creations };
        if let Some(rate) = rate {
            if rate.len() > REMEMBERED {
                rate.retain_recent();
            }
            let now = DefaultClock::default();
            rate.check_key(principal).map_err(|not_yet| not_yet.wait_time_from(now.now()))?;
        }
        Ok(place)
    }

    /// Room for one more listen stream of a principal, as long as it is open.
    pub(crate) fn listen(&self, principal: &Principal) -> Result<Inside, Duration> {
        let (place, count) = Tally::enter(&self.listens, principal);
        if count > self.most_listens { Err(SOME_TIME) } else { Ok(place) }
    }
}

/// Everybody without credentials, where other machines can call: they share a small budget.
fn is_remote_stranger(principal: &Principal) -> bool {
    principal.is_anonymous() && !principal.issuer.is_empty()
}

/// Everybody without credentials on this machine: they count as any other principal, but may begin as fast as they can.
fn is_local_stranger(principal: &Principal) -> bool {
    principal.is_anonymous() && principal.issuer.is_empty()
}

impl Tally {
    /// One more, and how many there are now.
    fn enter(tally: &Arc<Self>, principal: &Principal) -> (Inside, usize) {
        let mut counts = tally.lock();
        let count = counts.entry(principal.clone()).or_default();
        *count += 1;
        (Inside { tally: tally.clone(), principal: principal.clone() }, *count)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Principal, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut counts = self.tally.lock();
        if let Some(count) = counts.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(subject: &str, issuer: &str) -> Principal {
        Principal { subject: subject.into(), issuer: issuer.into(), ..Principal::default() }
    }

    fn unlimited() -> Config {
        Config {
            max_sessions: 0,
            max_sessions_per_principal: 0,
            max_sessions_anonymous: 0,
            creations_per_s: 0,
            max_listens_per_principal: 0,
            ..Config::default()
        }
    }

    /// How many sessions a principal can begin at a time.
    fn begun(config: &Config, principal: &Principal, most: usize) -> usize {
        let (budget, residents) = (Budget::new(config), Residents::new(None));
        let places: Vec<_> = (0..most).map_while(|_| budget.begin(&residents, principal).ok()).collect();
        places.len()
    }

    #[test]
    fn each_principal_has_so_many_sessions_and_strangers_from_elsewhere_fewer() {
        let config = Config { max_sessions_per_principal: 20, max_sessions_anonymous: 5, ..unlimited() };
        for (principal, most) in [(who("ada", "i"), 20), (who("", ""), 20), (who("", "remote"), 5)] {
            assert_eq!(begun(&config, &principal, 100), most, "{principal:?}");
            assert_eq!(begun(&unlimited(), &principal, 100), 100);
        }
    }

    #[test]
    fn sessions_are_begun_at_a_rate_except_on_this_machine() {
        let config = Config { creations_per_s: 1, creation_burst: 7, ..unlimited() };
        for (principal, most) in [(who("ada", "i"), 7), (who("", "remote"), 7), (who("", ""), 100)] {
            assert_eq!(begun(&config, &principal, 100), most, "{principal:?}");
        }
        let local = Config { creations_per_s_local: 1, creation_burst: 3, ..unlimited() };
        assert_eq!(begun(&local, &who("", ""), 100), 3);
        let (budget, residents) = (Budget::new(&config), Residents::new(None));
        let ada = who("ada", "i");
        let wait = (0..100).find_map(|_| budget.begin(&residents, &ada).err()).unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(budget.begin(&residents, &who("bob", "i")).is_ok(), "one does not keep out the other");
    }

    #[test]
    fn nothing_is_kept_of_what_is_refused() {
        let config = Config { max_sessions_per_principal: 1, max_listens_per_principal: 1, ..unlimited() };
        let (budget, residents) = (Budget::new(&config), Residents::new(None));
        let ada = who("ada", "i");
        let place = budget.begin(&residents, &ada).unwrap();
        let stream = budget.listen(&ada).unwrap();
        assert!((0..10).all(|_| budget.begin(&residents, &ada).is_err() && budget.listen(&ada).is_err()));
        assert_eq!((budget.beginning.lock()[&ada], budget.listens.lock()[&ada]), (1, 1));
        drop((place, stream));
        assert!(budget.beginning.lock().is_empty() && budget.listens.lock().is_empty());
        assert!(budget.begin(&residents, &ada).is_ok() && budget.listen(&ada).is_ok());
    }
}
