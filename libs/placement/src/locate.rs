//! Who is asked for a slot.
//!
//! Owns: the port a gateway looks owners up in and its types. Must not know: where the answers come from.

use std::fmt;
use std::sync::Arc;

use api::{Epoch, Slot, SlotCount};
use tokio::sync::watch;

use crate::record::RegistryRecord;

/// A session node, as a gateway addresses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// `host:port`; in one process, any name.
    pub address: Arc<str>,
}

/// One run of one process: a restart is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who owns a slot, in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Where to reach it.
    pub peer: Peer,
    /// Its name.
    pub node: Arc<str>,
    /// Which run of it.
    pub incarnation: Incarnation,
    /// The epoch it owns the slot in.
    pub epoch: Epoch,
}

/// Says which session node to ask. Answers from memory, never waits.
pub trait Locator: Send + Sync + 'static {
    /// How many slots there are.
    fn slots(&self) -> SlotCount;

    /// The owner of a slot; `None` while it has none.
    fn owner(&self, slot: Slot) -> Option<Peer>;

    /// Every ready node, for requests that no session owns. Callers take turns.
    fn ready(&self) -> Vec<Peer>;

    /// The owner of a slot with its epoch; `None` while it has none, and in a table without epochs.
    fn holder(&self, _slot: Slot) -> Option<Owner> {
        None
    }

    /// Counts the changes of the table, so that waiting requests look again. Closed from the start where nothing changes.
    fn changed(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Reports that a node could not be reached. Two reporters that agree move its slots.
    fn suspect(&self, _peer: &Peer, _why: &str) {}

    /// Every registry that announced itself, ready ones and draining ones.
    fn registries(&self) -> Vec<RegistryRecord> {
        Vec::new()
    }
}
