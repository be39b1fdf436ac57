//! Session nodes by address.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use api::SessionHost;
use api::session::{Trace, link};
use chassis::grpc::channel::{AddressError, dial_with};
use chassis::task::{self, Handle, Kind};
use chassis::telemetry::propagate;
use chassis::tls::Dialler;
use chassis::workers::PerWorker;

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

/// Links to one session node. With more runtimes than that, some share one.
const MAX_LINKS: usize = 4;

/// Nodes in other processes. A connection is made when it is first used.
pub struct Dialled {
    dialler: Dialler,
    peers: RwLock<BTreeMap<String, Links>>,
}

impl Dialled {
    /// Links to these nodes; others are added when a node names them as owners. Needs a runtime.
    ///
    /// # Errors
    /// [`AddressError`] for anything but `host:port`, and without TLS for other machines.
    pub fn new<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        dialler: &Dialler,
    ) -> Result<Self, AddressError> {
        let mut peers = BTreeMap::new();
        for address in addresses {
            peers.insert(address.to_owned(), links(dialler, address)?);
        }
        Ok(Self { dialler: dialler.clone(), peers: RwLock::new(peers) })
    }
}

fn links(dialler: &Dialler, address: &str) -> Result<Links, AddressError> {
    let wire = api::wire::wire(dial_with(dialler, address)?);
    let links = PerWorker::at_most(MAX_LINKS, || {
        let (client, driver) = link(wire.clone(), trace);
        let client: Arc<dyn SessionHost> = Arc::new(client);
        (client, task::spawn(Kind::Upkeep, "link", driver.run()))
    });
    Ok(links)
}

fn trace() -> Trace {
    let (parent, state) = propagate::current();
    Trace { parent, state }
}

/// A node: the link of each runtime, and what keeps it.
type Links = PerWorker<(Arc<dyn SessionHost>, Handle<()>)>;

impl Peers for Dialled {
    fn get(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        if let Some(known) = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(address) {
            return Some(known.get().0.clone());
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS {
            return None;
        }
        let new = links(&self.dialler, address).ok()?;
        Some(peers.entry(address.to_owned()).or_insert(new).get().0.clone())
    }
}
