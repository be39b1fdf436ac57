//! Session nodes by address.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use api::SessionHost;
use api::session::SessionClient;
use chassis::grpc::channel::{AddressError, dial};

/// Nodes that a redirection named and configuration did not. More than that is no mesh but a mistake.
const MAX_PEERS: usize = 1024;

/// Finds the session node behind an address.
pub trait Peers: Send + Sync + 'static {
    /// The node; `None` for an address that cannot be one.
    fn get(&self, address: &str) -> Option<Arc<dyn SessionHost>>;
}

/// The one session node of this process, whatever it is called.
#[derive(Clone)]
pub struct Local(pub Arc<dyn SessionHost>);

impl Peers for Local {
    fn get(&self, _address: &str) -> Option<Arc<dyn SessionHost>> {
        Some(self.0.clone())
    }
}

/// Nodes in other processes, one channel each. A channel connects when it is first used.
pub struct Dialled {
    peers: RwLock<BTreeMap<String, Arc<dyn SessionHost>>>,
}

impl Dialled {
    /// Channels to these nodes; others are added when a node names them as owners. Needs a runtime.
    ///
    /// # Errors
    /// [`AddressError`] for anything but `host:port`.
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Result<Self, AddressError> {
        let mut peers = BTreeMap::new();
        for address in addresses {
            peers.insert(address.to_owned(), client(address)?);
        }
        Ok(Self { peers: RwLock::new(peers) })
    }
}

fn client(address: &str) -> Result<Arc<dyn SessionHost>, AddressError> {
    Ok(Arc::new(SessionClient::new(api::wire::wire(dial(address)?))))
}

impl Peers for Dialled {
    fn get(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        if let Some(known) = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(address) {
            return Some(known.clone());
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS {
            return None;
        }
        let new = client(address).ok()?;
        Some(peers.entry(address.to_owned()).or_insert(new).clone())
    }
}
