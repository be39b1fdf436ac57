//! Everything a session node needs from the outside.

use std::sync::Arc;

use api::registry::RegistryClient;
use api::{Epoch, KeyRing, Registry};

use crate::config::Config;
use crate::store::{Memory, SessionStore};

/// One registry process that this node may ask.
#[derive(Clone)]
pub struct RegistryPeer {
    /// For logs.
    pub address: String,
    /// Prefix of its names, instead of the one it announces.
    pub namespace: Option<String>,
    /// The process.
    pub port: Arc<dyn Registry>,
}

/// See the module.
pub struct Deps {
    /// Keys that identifiers and states are made with.
    pub keys: KeyRing,
    /// Where sessions are kept.
    pub store: Arc<dyn SessionStore>,
    /// Epoch of this owner: higher than that of every owner before.
    pub epoch: Epoch,
    /// The registries.
    pub registries: Vec<RegistryPeer>,
}

/// Why a dependency cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An address that is none.
    #[error("session.registries: {address:?} is not an address: write host:port")]
    Address {
        /// What was written.
        address: String,
        /// What is wrong with it.
        #[source]
        source: chassis::grpc::channel::AddressError,
    },
}

impl Deps {
    /// Sessions in memory, registries over gRPC at the configured addresses. Dials in the background.
    ///
    /// # Errors
    /// [`ConnectError`] for an address that cannot be one.
    pub fn connect(config: &Config, keys: KeyRing) -> Result<Self, ConnectError> {
        let registries = config.registries.iter().map(|r| Self::registry(&r.address, r.namespace.clone()));
        Ok(Self {
            keys,
            store: Arc::new(Memory::default()),
            epoch: Self::epoch_of_this_start(),
            registries: registries.collect::<Result<_, _>>()?,
        })
    }

    /// A registry process at an address.
    ///
    /// # Errors
    /// [`ConnectError`] for an address that cannot be one.
    pub fn registry(address: &str, namespace: Option<String>) -> Result<RegistryPeer, ConnectError> {
        let channel = chassis::grpc::channel::dial(address)
            .map_err(|source| ConnectError::Address { address: address.to_owned(), source })?;
        let port = Arc::new(RegistryClient::new(api::wire::wire(channel)));
        Ok(RegistryPeer { address: address.to_owned(), namespace, port })
    }

    /// Without etcd the clock stands in for the count of owners: it rises with every start.
    #[must_use]
    pub fn epoch_of_this_start() -> Epoch {
        Epoch(chassis::clock::unix_millis().max(1))
    }
}
