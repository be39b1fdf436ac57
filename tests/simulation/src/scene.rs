//! What everything in a run is part of.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use api::KeyRing;
use machines::Settings;
use mcp::Json;
use placement::Keys;

use crate::ask::{Ask, Door};
use crate::lease::Etcd;
use crate::record::Pen;
use crate::registry::RegistryDoor;
use crate::sabotage::{Known, Sabotage};
use crate::store::Redis;
use crate::trap::Trap;
use crate::world::{Net, Sim};

/// The door of a session node or a gateway.
pub(crate) type AskDoor = Door<Ask, api::session::Frame>;

/// Session nodes.
pub(crate) const NODES: usize = 3;
/// Gateways.
pub(crate) const GATEWAYS: usize = 2;
/// Replicas of the registry.
pub(crate) const REGISTRIES: usize = 2;

/// See the module.
pub(crate) struct Scene {
    pub(crate) sim: Sim,
    pub(crate) net: Net,
    pub(crate) pen: Pen,
    pub(crate) etcd: Etcd,
    pub(crate) redis: Redis,
    pub(crate) keys: KeyRing,
    pub(crate) lease_keys: Keys,
    pub(crate) settings: Arc<Settings>,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) known: Vec<Known>,
    pub(crate) nodes: RefCell<Vec<AskDoor>>,
    pub(crate) gateways: RefCell<Vec<AskDoor>>,
    pub(crate) registries: RefCell<Vec<RegistryDoor>>,
    /// What tools keep for clients, outside all faults.
    pub(crate) lists: RefCell<BTreeMap<String, Vec<u64>>>,
    /// Told to drain.
    pub(crate) draining: RefCell<Vec<bool>>,
    /// How far the dates of the nodes' machines are off, in milliseconds.
    pub(crate) dates: RefCell<Vec<i64>>,
    /// Where an owner is stopped.
    pub(crate) trap: Trap,
    /// Nothing goes wrong any more, and clients do what they are asked to.
    pub(crate) calm: Cell<bool>,
}

impl Scene {
    pub(crate) fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    pub(crate) fn has(&self, known: Known) -> bool {
        self.known.contains(&known)
    }

    /// The node at an address, as placement shows it.
    pub(crate) fn node_at(&self, address: &str) -> Option<AskDoor> {
        let index: usize = address.strip_prefix("node-")?.parse().ok()?;
        self.nodes.borrow().get(index).cloned()
    }
}

/// What sessions are told.
pub(crate) fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        capabilities: Json::trusted(r#"{"tools":{"listChanged":true},"logging":{}}"#),
        open_after_ms: 300,
        call_timeout_ms: 9_000,
        ask_timeout_ms: 9_000,
        log_events: 6,
        kept_streams: 16,
        kept_ms: 20_000,
        store_retry_ms: 500,
        ..Settings::default()
    })
}
