//! What the lease store holds, as far as it was seen.
//!
//! Owns: folding lists and events into one table, and noticing what a watch missed. Must not know: what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Epoch, Slot, SlotCount};

use crate::locate::{Incarnation, Owner, Peer};
use crate::made::Seen;
use crate::port::{Entry, Event, LeaseId, Listing, Revision};
use crate::record::{
    EpochRecord, GatewayRecord, Key, Keys, NodeRecord, PinRecord, Readiness, RegistryRecord, SlotRecord,
    SlotsRecord, decode,
};

/// A value, read, with what a transaction compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held<R> {
    /// What it says; `None` when it is of a version that is not known here.
    pub record: Option<R>,
    /// The exact bytes.
    pub raw: Vec<u8>,
    /// The write that put it.
    pub revision: Revision,
    /// The lease that it goes with.
    pub lease: Option<LeaseId>,
}

/// The table.
#[derive(Debug, Clone)]
pub struct Table {
    keys: Keys,
    entries: BTreeMap<String, Entry>,
    /// The moment of the last list: what events say of earlier ones is in it.
    floor: Revision,
    /// The newest moment that was heard of.
    newest: Revision,
    /// Counts the changes.
    version: u64,
    nodes: BTreeMap<Arc<str>, Held<NodeRecord>>,
    slots: Vec<Option<Held<SlotRecord>>>,
    epochs: Vec<Option<Held<EpochRecord>>>,
    pins: BTreeMap<Slot, PinRecord>,
    /// How many slots the mesh was made with; `Some(None)` if that cannot be read.
    made: Option<Option<u16>>,
    registries: BTreeMap<Arc<str>, RegistryRecord>,
    gateways: BTreeMap<Arc<str>, GatewayRecord>,
    suspects: BTreeMap<(Arc<str>, Incarnation), BTreeSet<String>>,
}

/// What a list did to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// It is the table now. So many keys were not as the events had said.
    Taken {
        /// Keys that a watch should have told about.
        missed: usize,
    },
    /// It is older than events that came meanwhile: list again.
    Overtaken,
    /// The store went back in time: it was restored from a backup. The list is the table now; watch from there.
    Restored,
}

impl Table {
    /// An empty table of so many slots.
    #[must_use]
    pub fn new(keys: Keys, slots: SlotCount) -> Self {
        let count = usize::from(slots.get());
        Self {
            keys,
            entries: BTreeMap::new(),
            floor: 0,
            newest: 0,
            version: 0,
            nodes: BTreeMap::new(),
            slots: vec![None; count],
            epochs: vec![None; count],
            pins: BTreeMap::new(),
            made: None,
            registries: BTreeMap::new(),
            gateways: BTreeMap::new(),
            suspects: BTreeMap::new(),
        }
    }

    /// The newest moment that was heard of.
    #[must_use]
    pub fn newest(&self) -> Revision {
        self.newest
    }

    /// Counts the changes of the table.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Takes a list over. `asked_at` is what [`Table::newest`] was when the list was asked for.
    pub fn list(&mut self, listing: Listing, asked_at: Revision) -> Listed {
        let restored = listing.revision < asked_at;
        if !restored && listing.revision < self.newest {
            return Listed::Overtaken;
        }
        let first = self.floor == 0;
        let seen_until = self.newest;
        let mut listed: BTreeMap<String, Entry> =
            listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let gone: Vec<String> =
            self.entries.keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
        listed.retain(|key, entry| self.entries.get(key) != Some(entry));
        // What was put later than the last event heard of is no event missed. Of deletions that cannot be told: they may
        // be on their way.
        let missed = listed.values().filter(|entry| entry.revision <= seen_until).count();
        for key in gone {
            self.set(&key, None);
        }
        for (key, entry) in listed {
            self.set(&key, Some(entry));
        }
        self.floor = listing.revision;
        self.newest = listing.revision;
        match (restored, first) {
            (true, _) => Listed::Restored,
            (false, true) => Listed::Taken { missed: 0 },
            (false, false) => Listed::Taken { missed },
        }
    }

    /// Takes over what a watch, or a write of one's own, brought. Late and repeated events change nothing. Returns whether
    /// anything changed.
    pub fn apply(&mut self, events: Vec<Event>) -> bool {
        let mut changed = false;
        for event in events {
            let (key, revision) = match &event {
                Event::Put(entry) => (&entry.key, entry.revision),
                Event::Deleted { key, revision } => (key, *revision),
            };
            self.newest = self.newest.max(revision);
            let known = self.entries.get(key).map_or(self.floor, |entry| entry.revision.max(self.floor));
            if revision <= known {
                continue;
            }
            match event {
                Event::Put(entry) => {
                    let key = entry.key.clone();
                    self.set(&key, Some(entry));
                }
                Event::Deleted { key, .. } => self.set(&key, None),
            }
            changed = true;
        }
        changed
    }

    fn set(&mut self, key: &str, entry: Option<Entry>) {
        self.version += 1;
        let entry = entry.as_ref();
        match self.keys.read(key) {
            Some(Key::Node(node)) => replace(&mut self.nodes, node.into(), entry.map(held)),
            Some(Key::Slot(slot)) => put(&mut self.slots, slot, entry.map(held)),
            Some(Key::Epoch(slot)) => put(&mut self.epochs, slot, entry.map(held)),
            Some(Key::Slots) => {
                self.made = entry.map(|entry| decode::<SlotsRecord>(&entry.value).map(|record| record.slots));
            }
            Some(Key::Pin(slot)) => replace(&mut self.pins, slot, read(entry)),
            Some(Key::Registry(instance)) => replace(&mut self.registries, instance.into(), read(entry)),
            Some(Key::Gateway(node)) => replace(&mut self.gateways, node.into(), read(entry)),
            Some(Key::Suspect { node, incarnation, reporter }) => {
                let whom = (Arc::from(node), incarnation);
                let reporters = self.suspects.entry(whom.clone()).or_default();
                if entry.is_some() {
                    reporters.insert(reporter)
                } else {
                    reporters.remove(&reporter)
                };
                if reporters.is_empty() {
                    self.suspects.remove(&whom);
                }
            }
            None => {}
        }
        match entry {
            Some(entry) => drop(self.entries.insert(key.to_owned(), entry.clone())),
            None => drop(self.entries.remove(key)),
        }
    }

    /// What is said of how many slots the mesh has.
    pub(crate) fn made(&self) -> Seen {
        Seen { number: self.made, is_dealt: self.epochs.first().is_some_and(Option::is_some) }
    }

    /// A node's own record.
    #[must_use]
    pub fn node(&self, node: &str) -> Option<&Held<NodeRecord>> {
        self.nodes.get(node)
    }

    /// The nodes whose records are known, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<str>, &NodeRecord)> {
        self.nodes.iter().filter_map(|(node, held)| Some((node, held.record.as_ref()?)))
    }

    /// What stands for a slot.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> Option<&Held<SlotRecord>> {
        self.slots.get(usize::from(slot.number()))?.as_ref()
    }

    /// The newest epoch of a slot.
    #[must_use]
    pub fn epoch(&self, slot: Slot) -> Option<&Held<EpochRecord>> {
        self.epochs.get(usize::from(slot.number()))?.as_ref()
    }

    /// The record of a node in the run that is named; `None` when it is another run that shows itself.
    #[must_use]
    pub fn alive(&self, node: &str, incarnation: Incarnation) -> Option<&NodeRecord> {
        self.nodes.get(node)?.record.as_ref().filter(|record| record.incarnation == incarnation)
    }

    /// The owner of a slot, where it is one that shows itself.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<Owner> {
        let record = self.slot(slot)?.record.as_ref()?;
        let node = self.alive(&record.node, record.incarnation)?;
        Some(owner(&record.node, node, record.epoch))
    }

    /// How many slots are a node's, in whichever run of it.
    #[must_use]
    pub fn load(&self, node: &str) -> usize {
        let records = self.slots.iter().filter_map(|held| held.as_ref()?.record.as_ref());
        records.filter(|record| &*record.node == node).count()
    }

    /// Who reported a run of a node.
    #[must_use]
    pub fn reporters(&self, node: &Arc<str>, incarnation: Incarnation) -> Option<&BTreeSet<String>> {
        if self.suspects.is_empty() {
            return None;
        }
        self.suspects.get(&(Arc::clone(node), incarnation))
    }

    /// Slots that were moved by hand, and to whom.
    pub fn pins(&self) -> impl Iterator<Item = (Slot, &Arc<str>)> {
        self.pins.iter().map(|(slot, pin)| (*slot, &pin.node))
    }

    /// The nodes that take new work.
    #[must_use]
    pub fn ready(&self) -> Vec<Peer> {
        let ready = self.nodes().filter(|(_, node)| node.state == Readiness::Ready);
        ready.map(|(_, node)| Peer { address: Arc::clone(&node.address) }).collect()
    }

    /// The registries that show themselves, by instance.
    pub fn registries(&self) -> impl Iterator<Item = &RegistryRecord> {
        self.registries.values()
    }

    /// The gateways that show themselves, by name.
    pub fn gateways(&self) -> impl Iterator<Item = &GatewayRecord> {
        self.gateways.values()
    }
}

/// A node as the owner of a slot.
pub(crate) fn owner(name: &Arc<str>, node: &NodeRecord, epoch: Epoch) -> Owner {
    let peer = Peer { address: Arc::clone(&node.address) };
    Owner { peer, node: Arc::clone(name), incarnation: node.incarnation, epoch }
}

fn held<R: for<'a> serde::Deserialize<'a>>(entry: &Entry) -> Held<R> {
    Held {
        record: decode(&entry.value),
        raw: entry.value.clone(),
        revision: entry.revision,
        lease: entry.lease,
    }
}

fn read<R: for<'a> serde::Deserialize<'a>>(entry: Option<&Entry>) -> Option<R> {
    entry.and_then(|entry| decode(&entry.value))
}

/// A slot that the mesh does not have is left out.
fn put<R>(to: &mut [Option<R>], slot: Slot, value: Option<R>) {
    if let Some(place) = to.get_mut(usize::from(slot.number())) {
        *place = value;
    }
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

#[cfg(test)]
mod tests;
