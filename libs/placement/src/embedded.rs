//! A lease store inside the process.
//!
//! Owns: the same promises as etcd, on a clock that is given. Must not know: what is kept. For one process that is the whole
//! cluster, and for tests that hold the clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::watch;

use crate::cluster::Now;
use crate::port::{
    Compare, Entry, Event, Events, Granted, LeaseId, LeaseStore, Listing, Op, Revision, StoreError,
    TXN_LIMIT, Txn,
};

/// Writes that a watch can still ask for.
const HISTORY: usize = 8_192;

/// Keeps leases and keys in memory.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    written: watch::Sender<Revision>,
    now: Now,
}

#[derive(Default)]
struct State {
    revision: Revision,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
    next_lease: i64,
    history: VecDeque<(Revision, Vec<Event>)>,
    compacted: Revision,
}

struct Lease {
    ttl: Duration,
    ends_ms: u64,
    keys: BTreeSet<String>,
}

impl Embedded {
    /// An empty store; `now` says when leases end.
    #[must_use]
    pub fn new(now: Now) -> Self {
        let shared = Shared { state: Mutex::default(), written: watch::channel(0).0, now };
        Self { shared: Arc::new(shared) }
    }

    /// Ends the leases whose time has come. Every operation does so first; whoever moves the clock of a store that nobody
    /// uses calls it so that watches see the end.
    pub fn expire(&self) {
        drop(self.locked());
    }

    /// Forgets what happened up to a moment.
    pub fn compact(&self, revision: Revision) {
        let mut state = self.locked();
        state.compacted = revision.min(state.revision);
        let compacted = state.compacted;
        state.history.retain(|(written, _)| *written > compacted);
        drop(state);
        self.shared.written.send_modify(|_| {});
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.shared.locked()
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.revision;
        state.expire((self.now)());
        self.tell(&state, before);
        state
    }

    fn tell(&self, state: &State, before: Revision) {
        if state.revision != before {
            self.written.send_replace(state.revision);
        }
    }
}

impl State {
    fn expire(&mut self, now_ms: u64) {
        let ended: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.ends_ms <= now_ms).map(|(id, _)| *id).collect();
        for lease in ended {
            self.end(lease);
        }
    }

    fn end(&mut self, lease: LeaseId) {
        let Some(ended) = self.leases.remove(&lease) else { return };
        let ops = ended.keys.into_iter().map(Op::Delete).collect();
        self.write(ops);
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.entries.contains_key(key),
            Compare::Value(key, value) => self.entries.get(key).is_some_and(|entry| entry.value == *value),
            Compare::Revision(key, revision) => {
                self.entries.get(key).is_some_and(|entry| entry.revision == *revision)
            }
        }
    }

    /// Writes at one moment, if there is anything to write.
    fn write(&mut self, ops: Vec<Op>) -> Revision {
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for op in ops {
            match op {
                Op::Put(key, value, lease) => {
                    self.let_go(&key);
                    if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
                        lease.keys.insert(key.clone());
                    }
                    let entry = Entry { key: key.clone(), value, revision, lease };
                    self.entries.insert(key, entry.clone());
                    events.push(Event::Put(entry));
                }
                Op::Delete(key) => {
                    self.let_go(&key);
                    if self.entries.remove(&key).is_some() {
                        events.push(Event::Deleted { key, revision });
                    }
                }
            }
        }
        if !events.is_empty() {
            self.revision = revision;
            self.history.push_back((revision, events));
            while self.history.len() > HISTORY {
                self.compacted = self.history.pop_front().map_or(self.compacted, |(written, _)| written);
            }
        }
        self.revision
    }

    /// Takes a key off the lease it hangs on.
    fn let_go(&mut self, key: &str) {
        let lease = self.entries.get(key).and_then(|entry| entry.lease);
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
    }

    /// What happened under a prefix from a moment on, by the write that comes first.
    fn next(&self, prefix: &str, from: Revision) -> Result<Option<(Revision, Vec<Event>)>, StoreError> {
        if from <= self.compacted {
            return Err(StoreError::Compacted);
        }
        for (revision, events) in self.history.iter().filter(|(revision, _)| *revision >= from) {
            let under = |event: &&Event| match event {
                Event::Put(entry) => entry.key.starts_with(prefix),
                Event::Deleted { key, .. } => key.starts_with(prefix),
            };
            let seen: Vec<Event> = events.iter().filter(under).cloned().collect();
            if !seen.is_empty() {
                return Ok(Some((*revision, seen)));
            }
        }
        Ok(None)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl LeaseStore for Embedded {
    async fn grant(&self, ttl: Duration) -> Result<Granted, StoreError> {
        let mut state = self.locked();
        state.next_lease += 1;
        let lease = LeaseId(state.next_lease);
        let ends_ms = (self.shared.now)().saturating_add(millis(ttl));
        state.leases.insert(lease, Lease { ttl, ends_ms, keys: BTreeSet::new() });
        Ok(Granted { lease, ttl })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Granted, StoreError> {
        let mut state = self.locked();
        let now = (self.shared.now)();
        let kept = state.leases.get_mut(&lease).ok_or(StoreError::Gone)?;
        kept.ends_ms = now.saturating_add(millis(kept.ttl));
        Ok(Granted { lease, ttl: kept.ttl })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.locked();
        if !state.leases.contains_key(&lease) {
            return Err(StoreError::Gone);
        }
        let before = state.revision;
        state.end(lease);
        self.shared.tell(&state, before);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let state = self.locked();
        let from = state.entries.range(prefix.to_owned()..);
        let entries =
            from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone()).collect();
        Ok(Listing { entries, revision: state.revision })
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError> {
        if compares.len() > TXN_LIMIT || ops.len() > TXN_LIMIT {
            return Err(StoreError::Refused("too many operations in one transaction".to_owned()));
        }
        let mut state = self.locked();
        if !compares.iter().all(|compare| state.holds(compare)) {
            return Ok(Txn::Refused);
        }
        let mut leases = ops.iter().filter_map(|op| match op {
            Op::Put(_, _, lease) => *lease,
            Op::Delete(_) => None,
        });
        if leases.any(|lease| !state.leases.contains_key(&lease)) {
            return Err(StoreError::Gone);
        }
        let before = state.revision;
        let revision = state.write(ops);
        self.shared.tell(&state, before);
        Ok(Txn::Done(revision))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, StoreError> {
        let written = self.shared.written.subscribe();
        let start = (Arc::clone(&self.shared), written, prefix.to_owned(), from);
        let events = stream::unfold(Some(start), |watching| async move {
            let (shared, mut written, prefix, from) = watching?;
            loop {
                written.mark_unchanged();
                let next = shared.locked().next(&prefix, from);
                match next {
                    Ok(Some((revision, events))) => {
                        return Some((Ok(events), Some((shared, written, prefix, revision + 1))));
                    }
                    Err(error) => return Some((Err(error), None)),
                    Ok(None) => {}
                }
                // The sender lives in `shared`, which is held here.
                written.changed().await.ok()?;
            }
        });
        Ok(events.boxed())
    }
}
