//! What the tool registry needs from outside: somebody who runs its work.

use registry::Runtime;

use crate::config::Config;

/// See the module.
#[derive(Debug, Clone)]
pub struct Deps {
    /// Runs handlers and tells the time.
    pub runtime: Runtime,
}

/// Why the dependencies are not to be had. There is no reason yet.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {}

impl Deps {
    /// Work runs in the tokio runtime this is called in.
    ///
    /// # Errors
    /// None yet.
    #[allow(clippy::unused_async, reason = "the same shape in every role")]
    pub async fn connect(_: &Config) -> Result<Self, ConnectError> {
        Ok(Self { runtime: Runtime::tokio() })
    }
}
