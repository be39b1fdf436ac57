//! Keeping a lease.
//!
//! Owns: when a lease is renewed, when it counts as lost, and the rule that a process which does not work does not renew.
//! Must not know: what hangs on the lease. [`Keeper::run`] is for a thread of its own, so that busy workers cannot starve
//! it; each renewal asks for a [`Tick`] of the workers, so that it does not speak for workers that stand still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::cluster::Now;
use crate::port::{LeaseId, LeaseStore, StoreError};

/// A tick older than this is no sign of life.
const FRESH_MS: u64 = 1_000;
/// Between two attempts that failed, at first and at most. The attempts themselves have deadlines.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A lease counts as unsure so long before the store may end it.
const MARGIN_MS: u64 = 500;
/// Longest that a stop waits for the store.
const REVOKING: Duration = Duration::from_secs(2);

/// Says that the workers run. Whoever gives it up lets the lease go.
#[derive(Debug, Clone)]
pub struct Tick(Arc<AtomicU64>);

impl Tick {
    /// Runs now.
    pub fn beat(&self, now_ms: u64) {
        self.0.fetch_max(now_ms, Ordering::Relaxed);
    }

    fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.0.load(Ordering::Relaxed)) < FRESH_MS
    }
}

/// The lease, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseState {
    /// The lease; `None` before the first one and between two.
    pub lease: Option<LeaseId>,
    /// Until when, on the clock of the cluster, nobody else can believe it ended: the time the last renewal that succeeded
    /// was *sent*, plus what the lease lives, less half a second.
    pub sure_until_ms: u64,
    /// Leases that were lost.
    pub lost: u64,
}

/// Keeps a lease, and gets another when it is lost.
pub struct Keeper {
    store: Arc<dyn LeaseStore>,
    ttl: Duration,
    now: Now,
    tick: Tick,
    state: watch::Sender<LeaseState>,
    stop: watch::Receiver<bool>,
}

/// The handle of a kept lease.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The lease, as it stands.
    pub state: watch::Receiver<LeaseState>,
    /// To be beaten at least every half second by the workers, or the lease is let go.
    pub tick: Tick,
    stop: Arc<watch::Sender<bool>>,
}

impl Kept {
    /// Ends the lease, and [`Keeper::run`] with it.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Prepares to keep a lease. The store is the keeper's own: connections belong to the runtime that made them.
#[must_use]
pub fn keep(store: Arc<dyn LeaseStore>, ttl: Duration, now: Now) -> (Keeper, Kept) {
    let tick = Tick(Arc::new(AtomicU64::new(now())));
    let (state, state_seen) = watch::channel(LeaseState::default());
    let (stop, stopped) = watch::channel(false);
    let kept = Kept { state: state_seen, tick: tick.clone(), stop: Arc::new(stop) };
    (Keeper { store, ttl, now, tick, state, stop: stopped }, kept)
}

impl Keeper {
    /// Keeps a lease until it is stopped or nobody holds the handle; ends it then.
    pub async fn run(mut self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.renew_for_ever() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        let Some(lease) = self.state.borrow().lease else { return };
        self.state.send_modify(|state| state.lease = None);
        let revoked = async {
            while let Err(StoreError::Unavailable(_)) = self.store.revoke(lease).await {
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(REVOKING, revoked).await.is_err() {
            tracing::warn!(lease = lease.0, "lease could not be ended: it runs out by itself");
        }
    }

    async fn renew_for_ever(&mut self) {
        let mut since_trouble: Option<u64> = None;
        let mut pause = PAUSE;
        loop {
            let sent = (self.now)();
            if !self.tick.is_fresh(sent) {
                since_trouble =
                    Self::trouble(since_trouble, sent, "workers stand still, the lease is not renewed");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let lease = self.state.borrow().lease;
            let answer = match lease {
                Some(lease) => self.store.keep_alive(lease).await,
                None => self.store.grant(self.ttl).await,
            };
            match answer {
                Ok(granted) => {
                    pause = PAUSE;
                    let lived = u64::try_from(granted.ttl.as_millis()).unwrap_or(u64::MAX);
                    let sure_until_ms = sent.saturating_add(lived).saturating_sub(MARGIN_MS);
                    self.state.send_modify(|state| {
                        state.lease = Some(granted.lease);
                        state.sure_until_ms = sure_until_ms;
                    });
                    if since_trouble.take().is_some() {
                        tracing::info!(lease = granted.lease.0, "lease is renewed again");
                    }
                    tokio::time::sleep(granted.ttl.min(self.ttl) / 5).await;
                }
                Err(StoreError::Gone) => {
                    tracing::warn!(lease = lease.map(|lease| lease.0), "lease lost");
                    self.state.send_modify(|state| {
                        state.lease = None;
                        state.lost += 1;
                    });
                }
                Err(error) => {
                    since_trouble = Self::trouble(since_trouble, sent, &error.to_string());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Says so once, not with every attempt.
    fn trouble(since: Option<u64>, now: u64, why: &str) -> Option<u64> {
        if since.is_none() {
            tracing::warn!(why, "lease is not renewed");
        }
        since.or(Some(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::Embedded;
    use crate::faulty::Faulty;

    const TTL: Duration = Duration::from_secs(5);

    struct Kit {
        store: Embedded,
        faults: Arc<crate::faulty::Faults>,
        now: Now,
        kept: Kept,
        keeping: tokio::task::JoinSet<()>,
    }

    fn start() -> Kit {
        let start = tokio::time::Instant::now();
        let now: Now = Arc::new(move || u64::try_from(start.elapsed().as_millis()).unwrap());
        let store = Embedded::new(Arc::clone(&now));
        let (faulty, faults) = Faulty::new(Arc::new(store.clone()));
        let (keeper, kept) = keep(Arc::new(faulty), TTL, Arc::clone(&now));
        let mut keeping = tokio::task::JoinSet::new();
        keeping.spawn(keeper.run());
        Kit { store, faults, now, kept, keeping }
    }

    impl Kit {
        /// Workers run for so long.
        async fn work(&self, ms: u64) {
            let until = (self.now)() + ms;
            while (self.now)() < until {
                self.kept.tick.beat((self.now)());
                tokio::time::advance(Duration::from_millis(100)).await;
                tokio::task::yield_now().await;
            }
        }

        fn state(&self) -> LeaseState {
            *self.kept.state.borrow()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_kept_while_workers_run() {
        let kit = start();
        kit.work(60_000).await;
        let state = kit.state();
        assert_eq!((state.lease, state.lost), (Some(LeaseId(1)), 0));
        // Sent at most a second and a tick ago.
        let sure_for = state.sure_until_ms - (kit.now)();
        assert!((3_300..=4_500).contains(&sure_for), "{sure_for}");
    }

    #[tokio::test(start_paused = true)]
    async fn workers_that_stand_still_lose_it() {
        let kit = start();
        kit.work(3_000).await;
        for _ in 0..70 {
            tokio::time::advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(kit.store.keep_alive(LeaseId(1)).await, Err(StoreError::Gone));
        assert!((kit.now)() > kit.state().sure_until_ms);
        kit.work(1_000).await;
        assert_eq!((kit.state().lease, kit.state().lost), (Some(LeaseId(2)), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_outage_costs_nothing() {
        let kit = start();
        kit.work(2_000).await;
        kit.faults.cut(true);
        kit.work(3_000).await;
        let unsure = kit.state().sure_until_ms;
        kit.faults.cut(false);
        kit.work(500).await;
        assert!(kit.state().sure_until_ms > unsure);
        assert_eq!(kit.state().lost, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_ends_the_lease() {
        let mut kit = start();
        kit.work(1_000).await;
        kit.kept.stop();
        kit.keeping.join_next().await.unwrap().unwrap();
        assert_eq!(kit.store.keep_alive(LeaseId(1)).await, Err(StoreError::Gone));
    }
}
