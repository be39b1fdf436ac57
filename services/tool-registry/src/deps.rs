//! What the tool registry needs from outside: somebody who runs its work.

use std::convert::Infallible;

use chassis::metrics::Metrics;
use registry::Runtime;

use crate::config::Config;

/// See the module.
#[derive(Debug, Clone)]
pub struct Deps {
    /// Runs calls and tells the time.
    pub runtime: Runtime,
    /// What it counts.
    pub metrics: Metrics,
}

/// Nothing is connected to, so nothing can fail.
pub type ConnectError = Infallible;

impl Deps {
    /// Work runs in the tokio runtime this is called in.
    ///
    /// # Errors
    /// None; the signature is that of every role.
    #[allow(clippy::unused_async, reason = "every role connects in the same way")]
    pub async fn connect(_: &Config) -> Result<Self, ConnectError> {
        Ok(Self { runtime: Runtime::tokio(), metrics: Metrics::default() })
    }
}
