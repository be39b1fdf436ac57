//! What the kit needs of the process it runs in: somebody who runs its work, and a clock. Handed in, never found.

mod tokio;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;

pub use self::tokio::{SystemClock, Tasks};

/// Runs work to its end, or until it is itself dropped.
pub trait Spawner: Send + Sync + 'static {
    /// Takes the work over and returns at once.
    fn spawn(&self, work: BoxFuture<'static, ()>);
}

/// Tells and awaits the time.
pub trait Clock: Send + Sync + 'static {
    /// Now, for durations.
    fn now(&self) -> Instant;

    /// Now, for people and other machines: milliseconds since 1970.
    fn unix_millis(&self) -> u64;

    /// Ends when that time has come.
    fn sleep_until(&self, until: Instant) -> BoxFuture<'static, ()>;
}

/// See the module.
#[derive(Clone)]
pub struct Runtime {
    /// Runs handlers that go on after their caller has gone.
    pub spawner: Arc<dyn Spawner>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Names this process run; every run has another one.
    pub instance: String,
}

impl Runtime {
    /// Tasks of the tokio runtime this is called in, the system's clock, and a fresh instance name.
    #[must_use]
    pub fn tokio() -> Self {
        Self {
            spawner: Arc::new(Tasks::default()),
            clock: Arc::new(SystemClock),
            instance: tokio::instance(),
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("instance", &self.instance).finish_non_exhaustive()
    }
}
