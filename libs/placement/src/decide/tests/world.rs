//! Nodes that do at once what they decide, on one store and one clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::{Epoch, Slot, SlotCount};
use futures::{FutureExt as _, StreamExt as _};

use super::super::{CLAIMED_AT_ONCE, Desk, Effect, GIVEN_UP_AT_ONCE, View};
use crate::claim::Identity;
use crate::embedded::Embedded;
use crate::locate::Incarnation;
use crate::port::{Compare, LeaseId, LeaseStore as _, Op, Txn};
use crate::record::{Key, Keys, SuspectRecord, encode};
use crate::table::Table;
use crate::tenant::Fenced;

const TTL: Duration = Duration::from_secs(5);

/// Nodes that do at once what they decide, on one store and one clock.
pub(super) struct World {
    pub(super) store: Embedded,
    pub(super) clock: Arc<AtomicU64>,
    pub(super) keys: Keys,
    /// What all of them see: each sees everything at once.
    pub(super) table: Table,
    pub(super) events: crate::port::Events,
    pub(super) nodes: Vec<Node>,
    pub(super) fences: BTreeMap<Slot, Epoch>,
    pub(super) fences_down: bool,
    /// Who acquired what; the same twice is the end.
    pub(super) acquired: BTreeMap<(Slot, Epoch), Incarnation>,
}

pub(super) struct Node {
    pub(super) me: Identity,
    pub(super) desk: Desk,
    pub(super) lease: Option<LeaseId>,
    pub(super) running: bool,
    pub(super) serves: BTreeMap<Slot, Epoch>,
    pub(super) log: Vec<String>,
}

pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the embedded store answers at once")
}

pub(super) fn slot(n: u16) -> Slot {
    Slot::new(n).unwrap()
}

impl World {
    pub(super) fn new(nodes: u64) -> Self {
        let clock = Arc::new(AtomicU64::new(1_000));
        let read = Arc::clone(&clock);
        let store = Embedded::new(Arc::new(move || read.load(Ordering::SeqCst)));
        let keys = Keys::new("/t");
        let mut table = Table::new(keys.clone(), SlotCount::Usual);
        table.list(now(store.list("/t/")).unwrap(), 0);
        let mut world = Self {
            events: now(store.watch("/t/", 1)).unwrap(),
            store,
            clock,
            keys,
            table,
            nodes: Vec::new(),
            fences: BTreeMap::new(),
            fences_down: false,
            acquired: BTreeMap::new(),
        };
        for n in 0..nodes {
            world.join(&format!("session-{n}"), n);
        }
        world
    }

    pub(super) fn join(&mut self, name: &str, incarnation: u64) {
        let me = Identity {
            node: name.into(),
            address: format!("{name}:1").into(),
            zone: "".into(),
            capacity: 100,
            incarnation: Incarnation(incarnation),
        };
        let lease = Some(now(self.store.grant(TTL)).unwrap().lease);
        let desk = Desk::new(me.clone(), SlotCount::Usual, incarnation);
        self.nodes.push(Node { me, desk, lease, running: true, serves: BTreeMap::new(), log: Vec::new() });
    }

    pub(super) fn ms(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// Lets time pass; those who run renew their leases.
    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.clock.fetch_add(100.min(ms), Ordering::SeqCst);
            for node in self.nodes.iter_mut().filter(|node| node.running) {
                let kept = node.lease.map(|lease| now(self.store.keep_alive(lease)));
                if !matches!(kept, Some(Ok(_))) {
                    node.lease = Some(now(self.store.grant(TTL)).unwrap().lease);
                }
            }
        }
    }

    pub(super) fn see(&mut self) -> &Table {
        self.store.expire();
        while let Some(Some(events)) = self.events.next().now_or_never() {
            self.table.apply(events.unwrap());
        }
        &self.table
    }

    /// Everybody decides and does it, until nobody has anything to do at this moment.
    pub(super) fn settle(&mut self) {
        for _ in 0..1_000 {
            let mut idle = true;
            for n in 0..self.nodes.len() {
                idle &= !self.turn(n);
            }
            if idle {
                return;
            }
        }
        panic!("they never agree");
    }

    pub(super) fn turn(&mut self, n: usize) -> bool {
        if !self.nodes[n].running {
            return false;
        }
        self.see();
        let effects = self.decide(n);
        let any = !effects.is_empty();
        for effect in effects {
            self.perform(n, effect);
        }
        any
    }

    pub(super) fn decide(&mut self, n: usize) -> Vec<Effect> {
        let now_ms = self.ms();
        let node = &mut self.nodes[n];
        node.desk.decide(View { now_ms, table: &self.table, lease: node.lease, reachable: true })
    }

    pub(super) fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> bool {
        matches!(now(self.store.txn(compares, ops)), Ok(Txn::Done(_)))
    }

    fn perform(&mut self, n: usize, effect: Effect) {
        let now_ms = self.ms();
        match effect {
            Effect::Announce { value, instead_of } => {
                let node = &mut self.nodes[n];
                let (compares, ops) = crate::claim::writes::announce(
                    &self.keys,
                    &node.me.node,
                    node.lease.unwrap(),
                    value,
                    instead_of,
                );
                let done = self.txn(compares, ops);
                self.nodes[n].desk.announced(now_ms, done);
            }
            Effect::Claim(claims) => {
                assert!(claims.len() <= CLAIMED_AT_ONCE);
                let lease = self.nodes[n].lease.unwrap();
                let (compares, ops) = crate::claim::writes::claim(&self.keys, lease, &claims);
                let done = self.txn(compares, ops);
                let node = &mut self.nodes[n];
                node.log.push(format!("claim {}", claims.len()));
                node.desk.claimed(now_ms, &claims, done);
            }
            Effect::Fence(slots) => {
                let answers: Vec<Fenced> =
                    slots.iter().map(|(slot, epoch)| self.fence(*slot, *epoch)).collect();
                let acquired = self.nodes[n].desk.fenced(now_ms, &slots, &answers);
                for (slot, epoch) in acquired {
                    let me = self.nodes[n].me.incarnation;
                    let first = *self.acquired.entry((slot, epoch)).or_insert(me);
                    assert_eq!(first, me, "slot {slot} was acquired twice in epoch {epoch}");
                    self.nodes[n].serves.insert(slot, epoch);
                }
            }
            Effect::HandOver(hand_over) => {
                assert!(hand_over.moves.len() <= GIVEN_UP_AT_ONCE);
                let (compares, ops) = crate::claim::writes::hand_over(&self.keys, &hand_over);
                let done = self.txn(compares, ops);
                let node = &mut self.nodes[n];
                drop(node.desk.handed(now_ms, &hand_over.moves, done));
                if done {
                    for moved in &hand_over.moves {
                        node.serves.remove(&moved.slot);
                    }
                    node.log.push(format!("hand {} to {}", hand_over.moves.len(), hand_over.to.node));
                }
            }
            Effect::Lost(slots, to) => {
                let node = &mut self.nodes[n];
                for slot in &slots {
                    assert!(node.serves.remove(slot).is_some(), "slot {slot} was not served");
                }
                let to = to.map(|owner| owner.node);
                node.log.push(format!("lost {} to {}", slots.len(), to.as_deref().unwrap_or("nobody")));
            }
            Effect::Replaced(by) => {
                self.nodes[n].log.push(format!("replaced by {by}"));
                self.nodes[n].running = false;
            }
            Effect::Drained(dropped) => {
                self.nodes[n].log.push(format!("drained {dropped}"));
                self.kill(n);
            }
        }
    }

    fn fence(&mut self, slot: Slot, epoch: Epoch) -> Fenced {
        let stands = self.fences.get(&slot).copied().unwrap_or_default();
        if self.fences_down {
            Fenced::Down
        } else if stands >= epoch {
            Fenced::Higher(stands)
        } else {
            self.fences.insert(slot, epoch);
            Fenced::Done
        }
    }

    /// The process is gone, and its lease with it.
    pub(super) fn kill(&mut self, n: usize) {
        self.nodes[n].running = false;
        self.nodes[n].serves.clear();
        drop(now(self.store.revoke(self.nodes[n].lease.unwrap())));
    }

    pub(super) fn put(&self, key: &Key, value: Vec<u8>) {
        assert!(self.txn(Vec::new(), vec![Op::Put(self.keys.write(key), value, None)]));
    }

    pub(super) fn suspect(&self, whom: usize, reporter: &str) {
        let me = &self.nodes[whom].me;
        let key = Key::Suspect {
            node: me.node.to_string(),
            incarnation: me.incarnation,
            reporter: reporter.into(),
        };
        self.put(&key, encode(&SuspectRecord::new("refused")));
    }

    pub(super) fn loads(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.serves.len()).collect()
    }

    /// Every slot is served by exactly one node, in the epoch of its fence.
    pub(super) fn assert_whole(&self) {
        let mut owners: BTreeMap<Slot, Epoch> = BTreeMap::new();
        for node in &self.nodes {
            for (slot, epoch) in &node.serves {
                assert_eq!(owners.insert(*slot, *epoch), None, "slot {slot} is served twice");
            }
        }
        assert_eq!(owners.len(), 4096);
        assert_eq!(owners, self.fences);
    }
}

/// Nodes that have shared everything and come to rest.
pub(super) fn at_rest(nodes: u64) -> World {
    let mut world = World::new(nodes);
    for _ in 0..40 {
        world.settle();
        world.pass(1_000);
    }
    world.settle();
    world.assert_whole();
    world.nodes.iter_mut().for_each(|node| node.log.clear());
    world
}
