//! What the prompt registry needs from outside: the directory, and somebody who runs its work.

use std::sync::Arc;

use chassis::metrics::Metrics;
use registry::Runtime;

use crate::config::{Config, ConfigError};
use crate::source::Prompts;

/// See the module.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The prompts, read once.
    pub prompts: Arc<Prompts>,
    /// Runs reads and tells the time.
    pub runtime: Runtime,
    /// What it counts.
    pub metrics: Metrics,
}

/// Why the dependencies are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A setting cannot be used, or names a directory that is not there.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Reading the directory ended early.
    #[error("reading the prompt directory ended early")]
    Interrupted,
}

impl Deps {
    /// Reads the directory of `config` for the first time; work runs in the tokio runtime this is called in.
    ///
    /// # Errors
    /// [`ConnectError`] naming the key of the directory that cannot be read.
    pub async fn connect(config: &Config) -> Result<Self, ConnectError> {
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || Prompts::open(&config)).await;
        let prompts = opened.map_err(|_| ConnectError::Interrupted)??;
        Ok(Self { prompts: Arc::new(prompts), runtime: Runtime::tokio(), metrics: Metrics::default() })
    }
}
