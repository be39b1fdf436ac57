//! Everything a gateway needs from the outside.

use std::sync::Arc;

use api::{KeyRing, SlotCount};
use chassis::process::Process;
use chassis::tls::Dialler;
use placement::{Locator, Static, TableError};

use crate::auth::Authenticate;
use crate::config::Config;
use crate::peers::{Dialled, Peers};

/// See the module.
#[derive(Clone)]
pub struct Deps {
    /// Keys that session ids are made with; the same ones the session nodes have.
    pub keys: KeyRing,
    /// Which session node to ask.
    pub locator: Arc<dyn Locator>,
    /// How to reach it.
    pub peers: Arc<dyn Peers>,
    /// Who asks.
    pub auth: Arc<dyn Authenticate>,
    /// Where this role counts, and says how it is.
    pub process: Process,
}

/// Why a dependency cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The slots are not divided among the nodes.
    #[error("gateway.sessions: {why}; give every slot of 0-{last} to exactly one node", last = .slots.last())]
    Slots {
        /// How many there are.
        slots: SlotCount,
        /// What is wrong with them.
        why: TableError,
    },
    /// An address that cannot be dialled.
    #[error("gateway.sessions: {0}")]
    Address(#[from] chassis::grpc::channel::AddressError),
}

impl Deps {
    /// Session nodes over gRPC at the configured addresses, among which so many slots are divided, dialled as `dialler` says. Dials when a node is first needed. Needs a runtime.
    ///
    /// # Errors
    /// [`ConnectError`] for slots that are not divided and for an address that cannot be one.
    pub fn connect(
        config: &Config,
        slots: SlotCount,
        keys: KeyRing,
        dialler: &Dialler,
        auth: Arc<dyn Authenticate>,
    ) -> Result<Self, ConnectError> {
        let nodes = config.sessions.iter();
        let table = Static::new(slots, nodes.clone().map(|node| (node.address.clone(), node.slots)))
            .map_err(|why| ConnectError::Slots { slots, why })?;
        let peers = Dialled::new(nodes.map(|node| node.address.as_str()), dialler)?;
        Ok(Self { keys, locator: Arc::new(table), peers: Arc::new(peers), auth, process: Process::default() })
    }

    /// Session nodes over gRPC wherever `locator` finds them, dialled as `dialler` says when they are first needed.
    #[must_use]
    pub fn found(
        locator: Arc<dyn Locator>,
        keys: KeyRing,
        dialler: &Dialler,
        auth: Arc<dyn Authenticate>,
    ) -> Self {
        let peers = Arc::new(Dialled::found(dialler));
        Self { keys, locator, peers, auth, process: Process::default() }
    }
}
