//! What the library needs of the process it runs in: somebody who runs its connections, and a clock. Handed in, never found.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

/// Runs work and awaits time.
pub trait Host: Send + Sync + 'static {
    /// Takes the work over, which ends with the connection it carries, and returns at once.
    fn spawn(&self, work: BoxFuture<'static, ()>);

    /// Ends after this time.
    fn sleep(&self, period: Duration) -> BoxFuture<'static, ()>;
}

/// The host as hyper wants it.
#[derive(Clone)]
pub(crate) struct Runner(pub(crate) Arc<dyn Host>);

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runner")
    }
}

impl<F> hyper::rt::Executor<F> for Runner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
        self.0.spawn(work);
    }
}
