//! What the resource registry needs from outside: the directories, and somebody who runs its work.

use std::sync::Arc;

use chassis::metrics::Metrics;
use registry::Runtime;

use crate::config::{Config, ConfigError};
use crate::source::Directories;

/// See the module.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The directories, looked through once.
    pub directories: Arc<Directories>,
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
    /// Looking through the directories ended early.
    #[error("looking through the directories ended early")]
    Interrupted,
}

impl Deps {
    /// Looks through the directories of `config` for the first time; work runs in the tokio runtime this is called in.
    ///
    /// # Errors
    /// [`ConnectError`] naming the key of the directory that cannot be read.
    pub async fn connect(config: &Config) -> Result<Self, ConnectError> {
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || Directories::open(&config)).await;
        let directories = opened.map_err(|_| ConnectError::Interrupted)??;
        Ok(Self {
            directories: Arc::new(directories),
            runtime: Runtime::tokio(),
            metrics: Metrics::default(),
        })
    }
}
