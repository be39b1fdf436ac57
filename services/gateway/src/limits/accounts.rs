//! Who has how much under way, and how often they asked lately.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::gauge::Gauge;

/// Locks are held for a look-up and taken once for a connection; this many keep the cores apart.
const SHARDS: usize = 32;
/// Accounts in a shard before unused ones are looked for.
const FEW: usize = 64;
/// An account that nobody has held for so long, and with nothing under way, remembers nothing: its second has passed.
const FORGET_MS: u64 = 2000;

/// The bounds of each account; 0 = no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Requests in a second, and as many at once.
    pub(crate) rate: u32,
    /// Whatever is counted.
    pub(crate) places: usize,
    /// Streams that wait for news.
    pub(crate) streams: usize,
}

/// What is counted for one caller.
#[derive(Debug)]
pub(crate) struct Account {
    rate: Option<DefaultDirectRateLimiter>,
    pub(crate) places: Gauge,
    pub(crate) streams: Gauge,
    /// When it was last let go of, in milliseconds after `start`.
    left: AtomicU64,
    start: Instant,
}

/// A hold on an account, which is not forgotten meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Lease(Arc<Account>);

/// Accounts by what they are for.
#[derive(Debug)]
pub(crate) struct Accounts<K> {
    shards: Box<[Mutex<Shard<K>>]>,
    hasher: RandomState,
    bounds: Bounds,
    start: Instant,
}

#[derive(Debug)]
struct Shard<K> {
    known: HashMap<K, Arc<Account>>,
    sweep_at: usize,
}

impl<K: Eq + Hash + Clone> Accounts<K> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let shard = || Mutex::new(Shard { known: HashMap::new(), sweep_at: FEW });
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { shards, hasher: RandomState::new(), bounds, start: Instant::now() }
    }

    /// The account for a key. Unused ones are forgotten as new ones come, so their number follows that of recent callers.
    pub(crate) fn of(&self, key: &K) -> Lease {
        let place = usize::try_from(self.hasher.hash_one(key)).unwrap_or_default() % SHARDS;
        let mut shard = self.shards[place].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shard.known.get(key) {
            return Lease(known.clone());
        }
        if shard.known.len() >= shard.sweep_at {
            let now = self.now();
            shard.known.retain(|_, account| account.is_remembered(now));
            shard.sweep_at = FEW.max(shard.known.len() * 2);
        }
        let account = Arc::new(Account::new(self.bounds, self.start));
        shard.known.insert(key.clone(), account.clone());
        Lease(account)
    }

    fn now(&self) -> u64 {
        millis(self.start)
    }
}

impl Account {
    fn new(bounds: Bounds, start: Instant) -> Self {
        let rate = NonZeroU32::new(bounds.rate).map(|rate| RateLimiter::direct(Quota::per_second(rate)));
        let left = AtomicU64::new(millis(start));
        Self { rate, places: Gauge::new(bounds.places), streams: Gauge::new(bounds.streams), left, start }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn ask(&self) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check().map_err(|refused| refused.wait_time_from(DefaultClock::default().now()))
    }

    fn is_remembered(self: &Arc<Self>, now: u64) -> bool {
        Arc::strong_count(self) > 1
            || now < self.left.load(Ordering::Relaxed) + FORGET_MS
            || !(self.places.is_empty() && self.streams.is_empty())
    }
}

impl Deref for Lease {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.left.store(millis(self.0.start), Ordering::Relaxed);
    }
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_for_each_account_and_says_how_long_to_wait() {
        let accounts = Accounts::new(Bounds { rate: 3, places: 1, streams: 1 });
        let one = accounts.of(&1);
        assert_eq!([(); 3].map(|()| one.ask().is_ok()), [true; 3]);
        let wait = accounts.of(&1).ask().unwrap_err();
        assert!(wait <= Duration::from_millis(334), "{wait:?}");
        assert!(accounts.of(&2).ask().is_ok());
        let free = Accounts::new(Bounds { rate: 0, places: 1, streams: 1 });
        assert!((0..10_000).all(|_| free.of(&1).ask().is_ok()));
    }

    #[test]
    fn an_account_is_not_forgotten_while_something_is_under_way() {
        let mut accounts = Accounts::new(Bounds { rate: 0, places: 1, streams: 1 });
        let place = accounts.of(&-1).places.enter().unwrap();
        let stream = accounts.of(&-2).streams.enter().unwrap();
        // Time passes.
        accounts.start -= Duration::from_secs(10);
        for key in 0..10_000 {
            accounts.of(&key);
        }
        assert!(accounts.of(&-1).places.enter().is_none() && accounts.of(&-2).streams.enter().is_none());
        drop((place, stream));
        assert!(accounts.of(&-1).places.enter().is_some() && accounts.of(&-2).streams.enter().is_some());
    }

    #[test]
    fn accounts_of_recent_callers_are_kept_and_others_forgotten() {
        let mut accounts = Accounts::new(Bounds { rate: 1, places: 0, streams: 0 });
        let held = accounts.of(&0);
        assert!(held.ask().is_ok());
        for key in 0..10_000 {
            accounts.of(&key);
        }
        assert!(accounts.of(&0).ask().is_err(), "still the same account");
        // Time passes.
        accounts.start -= Duration::from_secs(10);
        for key in 10_000..20_000 {
            accounts.of(&key);
        }
        let known = |shard: &Mutex<Shard<i32>>| shard.lock().unwrap().known.len();
        let count: usize = accounts.shards.iter().map(known).sum();
        assert!(count < 15_000, "{count}");
        assert!(accounts.of(&0).ask().is_err(), "a caller who is still there");
    }
}
