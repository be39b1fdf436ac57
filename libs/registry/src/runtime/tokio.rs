//! The runtime of an ordinary process. Nothing else in the kit knows it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinSet;

use super::{Clock, Spawner};

/// Owns its tasks: they end with it.
#[derive(Debug, Default)]
pub struct Tasks {
    set: Mutex<JoinSet<()>>,
}

impl Spawner for Tasks {
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        while set.try_join_next().is_some() {}
        // The handler has a span of its own; the task outlives the request and must not hold the caller's.
        set.spawn(work);
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn unix_millis(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, until: Instant) -> BoxFuture<'static, ()> {
        tokio::time::sleep_until(until.into()).boxed()
    }
}

/// 128 bits that no other run has. They are no secret.
pub(super) fn instance() -> String {
    let word = || RandomState::new().build_hasher().finish();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let pid = std::process::id();
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(started ^ pid.rotate_left(16));
    format!("{:016x}{:016x}", word(), hasher.finish())
}
