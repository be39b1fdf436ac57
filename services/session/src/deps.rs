//! Everything a session node needs from the outside.

use std::sync::Arc;

use api::registry::{RegistryClient, Trace, link};
use api::{Epoch, KeyRing, Registry, SlotCount};
use chassis::grpc::channel::{AddressError, dial_with};
use chassis::process::Process;
use chassis::task::{self, Kind};
use chassis::telemetry::propagate;
use chassis::tls::Dialler;
use chassis::workers::PerWorker;
use placement::{Claimer, Claims, Directory, Following, Now, Tick};

use crate::config::Config;
use crate::store::{Memory, SessionStore, Unfit};

/// Links to one registry process. With more runtimes than that, some share one.
const MAX_LINKS: usize = 4;

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

/// How a node comes by its slots.
pub enum Seat {
    /// Those of the configuration, for good.
    Fixed {
        /// How many the mesh has.
        slots: SlotCount,
        /// Of this owner: higher than that of every owner before.
        epoch: Epoch,
    },
    /// Those that it claims among others.
    Claimed(Box<Claimed>),
}

/// A place in a cluster.
pub struct Claimed {
    /// Claims slots for this node.
    pub claimer: Claimer,
    /// How it is told to stop.
    pub claims: Claims,
    /// Shows that this process works; without it, its lease ends.
    pub tick: Tick,
    /// The clock of the cluster.
    pub now: Now,
    /// Where others' slots are found.
    pub directory: Arc<Directory>,
    /// Keeps that up to date.
    pub following: Following,
    /// How registries are dialled that show themselves.
    pub dialler: Dialler,
}

/// See the module.
pub struct Deps {
    /// Keys that identifiers and states are made with.
    pub keys: KeyRing,
    /// Where sessions are kept.
    pub store: Arc<dyn SessionStore>,
    /// How this node comes by its slots.
    pub seat: Seat,
    /// The registries.
    pub registries: Vec<RegistryPeer>,
    /// Where this role counts, and says how it is.
    pub process: Process,
}

/// Why a dependency cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An address that cannot be dialled.
    #[error("session.registries: {0}")]
    Address(#[from] AddressError),
}

impl Deps {
    /// Sessions in memory, the configured ones of so many slots, registries over gRPC at the configured addresses, dialled as `dialler` says. Dials in the background.
    ///
    /// # Errors
    /// [`ConnectError`] for an address that cannot be one.
    pub fn connect(
        config: &Config,
        slots: SlotCount,
        keys: KeyRing,
        dialler: &Dialler,
    ) -> Result<Self, ConnectError> {
        let registries =
            config.registries.iter().map(|r| Self::registry(&r.address, r.namespace.clone(), dialler));
        Ok(Self {
            keys,
            store: Arc::new(Memory::default()),
            seat: Seat::Fixed { slots, epoch: Self::epoch_of_this_start() },
            registries: registries.collect::<Result<_, _>>()?,
            process: Process::default(),
        })
    }

    /// A registry process at an address.
    ///
    /// # Errors
    /// [`AddressError`] for an address that cannot be dialled.
    pub fn registry(
        address: &str,
        namespace: Option<String>,
        dialler: &Dialler,
    ) -> Result<RegistryPeer, AddressError> {
        let channel = dial_with(dialler, address)?;
        let wire = api::wire::wire(channel);
        let links = PerWorker::at_most(MAX_LINKS, || {
            let (link, driver) = link(wire.clone(), trace);
            (link, task::spawn(Kind::Upkeep, "registry link", driver.run()))
        });
        let port = RegistryClient::new(wire).over(move || links.get().0.clone());
        Ok(RegistryPeer { address: address.to_owned(), namespace, port: Arc::new(port) })
    }

    /// Keeps sessions there. An owner of fixed slots begins above every epoch that the store was told of: clocks may go back.
    #[must_use]
    pub fn keeping_in(mut self, store: Arc<dyn SessionStore>) -> Self {
        if let Seat::Fixed { epoch, .. } = &mut self.seat {
            *epoch = (*epoch).max(Epoch(store.past().0.saturating_add(1)));
        }
        self.store = store;
        self
    }

    /// Under which name the mesh deals with registries: the configured one, or else that which the store keeps. What is derived
    /// from the keys changes with them, and calls under way could not be found again; so it does no more than propose a name,
    /// which is also the one that nodes of builds without a kept name have derived.
    ///
    /// # Errors
    /// [`Unfit`] if the store does not say.
    pub async fn mesh(&self, config: &Config) -> Result<String, Unfit> {
        if config.mesh.is_empty() {
            return self.store.name(&derived_mesh(&self.keys)).await;
        }
        // For the day on which it is configured no more.
        self.store.name(&config.mesh).await.map(|_kept| config.mesh.clone())
    }

    /// Without etcd the clock stands in for the count of owners: it rises with every start.
    #[must_use]
    pub fn epoch_of_this_start() -> Epoch {
        Epoch(chassis::clock::unix_millis().max(1))
    }
}

/// The same for all nodes that share their keys, and for nobody else.
pub(crate) fn derived_mesh(keys: &KeyRing) -> String {
    let derived = keys.derive(&keys.current(), "mesh").unwrap_or_default();
    derived.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

fn trace() -> Trace {
    let (parent, state) = propagate::current();
    Trace { parent, state }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(key: [u8; 32], store: &Arc<Memory>) -> Deps {
        let keys = KeyRing::single("k", key);
        let deps = Deps::connect(&Config::default(), SlotCount::default(), keys, &Dialler::default());
        deps.unwrap().keeping_in(store.clone())
    }

    #[tokio::test]
    async fn the_name_of_the_mesh_stays_when_keys_are_changed() {
        let (old, new) = (*b"0123456789abcdef0123456789abcdef", *b"fedcba9876543210fedcba9876543210");
        let (config, store) = (Config::default(), Arc::new(Memory::default()));
        let first = node(old, &store).mesh(&config).await;
        assert_eq!(first, Ok(derived_mesh(&KeyRing::single("k", old))), "as builds without a kept name say");
        assert_eq!(node(new, &store).mesh(&config).await, first, "a node that starts with the new key");
        let named = Config { mesh: "team".into(), ..Config::default() };
        assert_eq!(node(new, &store).mesh(&named).await, Ok("team".to_owned()));

        let other = Arc::new(Memory::default());
        assert_ne!(node(new, &other).mesh(&config).await, first, "another mesh");
        let third = Arc::new(Memory::default());
        assert_eq!(node(old, &third).mesh(&named).await, Ok("team".to_owned()));
        assert_eq!(node(new, &third).mesh(&config).await, Ok("team".to_owned()), "configured no more");
    }
}
