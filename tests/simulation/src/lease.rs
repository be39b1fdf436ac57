//! A simulated etcd: linearizable when it answers, and as nasty as the real one around that.
//!
//! What it can do to its users: extend all leases when its leader changes, forget history that a watch asks for, leave events
//! out of a watch without a word, answer a list from an older moment, lose the answer of a write that was done, be away, and
//! come back from an old backup. What each operation promises stands in `placement::port`, and is kept otherwise.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use placement::LeaseId;
use placement::port::{Compare, Entry, Event, Granted, Listing, Op, Revision, StoreError, Txn};

use crate::world::{Ctx, Micros, Net, Proc, Rx, Sim, Tx};

/// How often leases that are over are looked for.
const TICK_MS: u64 = 500;
/// What a change of its leader adds to each lease.
const ELECTION: Micros = 1_000_000;
/// What a client waits for an answer.
const PATIENCE_MS: u64 = 1_000;
/// Writes that a watch can still ask for.
const HISTORY: usize = 2_000;

/// What a watch brings.
pub(crate) type Seen = Result<Vec<Event>, StoreError>;

#[derive(Clone, Default)]
struct State {
    revision: Revision,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
}

#[derive(Clone)]
struct Lease {
    ttl: Micros,
    ends: Micros,
    keys: BTreeSet<String>,
}

struct Watch {
    prefix: String,
    tx: Tx<Seen>,
    /// Events are left out until then.
    deaf_until: Micros,
}

struct Inner {
    state: State,
    backup: Option<State>,
    history: VecDeque<(Revision, Vec<Event>)>,
    compacted: Revision,
    watches: Vec<Watch>,
    up: bool,
    /// The state of a while ago, that a stale read may be answered from.
    stale: Option<(State, Micros)>,
    /// Answers in a thousand that are lost.
    lossy: u64,
}

/// The store.
#[derive(Clone)]
pub(crate) struct Etcd {
    pub(crate) me: Proc,
    sim: Sim,
    net: Net,
    inner: Rc<RefCell<Inner>>,
}

impl Etcd {
    pub(crate) fn start(sim: &Sim, net: &Net, written: Vec<(String, Vec<u8>)>) -> Self {
        let ctx = Ctx::new(sim);
        let mut state = State { revision: 1, next_lease: 1, ..State::default() };
        for (key, value) in written {
            let entry = Entry { key: key.clone(), value, revision: 1, lease: None };
            state.entries.insert(key, entry);
        }
        let inner = Inner {
            state,
            backup: None,
            history: VecDeque::new(),
            compacted: 1,
            watches: Vec::new(),
            up: true,
            stale: None,
            lossy: 0,
        };
        let inner = Rc::new(RefCell::new(inner));
        let etcd = Self { me: ctx.me, sim: sim.clone(), net: net.clone(), inner };
        let ticking = etcd.clone();
        let clock = ctx.clone();
        ctx.spawn(async move {
            loop {
                clock.sleep_ms(TICK_MS).await;
                ticking.expire();
            }
        });
        etcd
    }

    /// Away, or there again. Watches break, leases do not end meanwhile.
    pub(crate) fn set_up(&self, up: bool) {
        let broken = {
            let mut inner = self.inner.borrow_mut();
            inner.up = up;
            if up {
                self.extend(&mut inner);
            }
            if up { Vec::new() } else { std::mem::take(&mut inner.watches) }
        };
        for watch in broken {
            watch.tx.send(Err(StoreError::Unavailable("the member is gone".into())));
        }
    }

    /// Another member leads: every lease lives on for its whole time, and an election longer.
    pub(crate) fn change_leader(&self) {
        self.extend(&mut self.inner.borrow_mut());
    }

    fn extend(&self, inner: &mut Inner) {
        let now = self.sim.now();
        for lease in inner.state.leases.values_mut() {
            lease.ends = now + lease.ttl + ELECTION;
        }
    }

    pub(crate) fn compact(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.compacted = inner.state.revision;
        inner.history.clear();
        let broken: Vec<Watch> = inner.watches.drain(..).collect();
        drop(inner);
        for watch in broken {
            watch.tx.send(Err(StoreError::Compacted));
        }
    }

    /// Watches hear nothing for a while, and nobody says so.
    pub(crate) fn deafen(&self, for_micros: Micros) {
        let until = self.sim.now() + for_micros;
        self.inner.borrow_mut().watches.iter_mut().for_each(|watch| watch.deaf_until = until);
    }

    /// Lists are answered from what stands now, for a while.
    pub(crate) fn grow_stale(&self, for_micros: Micros) {
        let mut inner = self.inner.borrow_mut();
        inner.stale = Some((inner.state.clone(), self.sim.now() + for_micros));
    }

    pub(crate) fn lose_answers(&self, per_mille: u64) {
        self.inner.borrow_mut().lossy = per_mille;
    }

    pub(crate) fn back_up(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.backup = Some(inner.state.clone());
    }

    /// Comes back as it was when the backup was made. Leases begin anew, as in etcd.
    pub(crate) fn restore(&self) {
        let broken = {
            let mut inner = self.inner.borrow_mut();
            let Some(backup) = inner.backup.take() else { return };
            let next_lease = inner.state.next_lease;
            inner.state = backup;
            inner.state.next_lease = next_lease;
            inner.history.clear();
            inner.compacted = inner.state.revision;
            self.extend(&mut inner);
            std::mem::take(&mut inner.watches)
        };
        for watch in broken {
            watch.tx.send(Err(StoreError::Unavailable("the member is gone".into())));
        }
    }

    fn expire(&self) {
        let now = self.sim.now();
        let mut inner = self.inner.borrow_mut();
        if !inner.up {
            return;
        }
        let ended: Vec<i64> =
            inner.state.leases.iter().filter(|(_, l)| l.ends <= now).map(|(id, _)| *id).collect();
        for lease in ended {
            self.end_lease(&mut inner, lease);
        }
    }

    fn end_lease(&self, inner: &mut Inner, lease: i64) {
        if let Some(ended) = inner.state.leases.remove(&lease) {
            self.write(inner, ended.keys.into_iter().map(Op::Delete).collect());
        }
    }

    fn write(&self, inner: &mut Inner, ops: Vec<Op>) -> Revision {
        let revision = inner.state.revision + 1;
        let mut events = Vec::new();
        for op in ops {
            let (Op::Put(key, ..) | Op::Delete(key)) = &op;
            let held = inner.state.entries.get(key).and_then(|entry| entry.lease);
            if let Some(lease) = held.and_then(|lease| inner.state.leases.get_mut(&lease.0)) {
                lease.keys.remove(key);
            }
            match op {
                Op::Put(key, value, lease) => {
                    if let Some(lease) = lease.and_then(|lease| inner.state.leases.get_mut(&lease.0)) {
                        lease.keys.insert(key.clone());
                    }
                    let entry = Entry { key: key.clone(), value, revision, lease };
                    inner.state.entries.insert(key, entry.clone());
                    events.push(Event::Put(entry));
                }
                Op::Delete(key) => {
                    if inner.state.entries.remove(&key).is_some() {
                        events.push(Event::Deleted { key, revision });
                    }
                }
            }
        }
        if events.is_empty() {
            return inner.state.revision;
        }
        inner.state.revision = revision;
        let now = self.sim.now();
        inner.watches.retain(|watch| {
            let seen = under(&events, &watch.prefix);
            seen.is_empty() || now < watch.deaf_until || watch.tx.send(Ok(seen))
        });
        inner.history.push_back((revision, events));
        while inner.history.len() > HISTORY {
            inner.compacted = inner.history.pop_front().map_or(inner.compacted, |(written, _)| written);
        }
        revision
    }

    fn txn(&self, compares: &[Compare], ops: Vec<Op>) -> Result<Txn, StoreError> {
        let mut inner = self.inner.borrow_mut();
        let entries = &inner.state.entries;
        let holds = |compare: &Compare| match compare {
            Compare::Absent(key) => !entries.contains_key(key),
            Compare::Value(key, value) => entries.get(key).is_some_and(|entry| entry.value == *value),
            Compare::Revision(key, at) => entries.get(key).is_some_and(|entry| entry.revision == *at),
        };
        if !compares.iter().all(holds) {
            return Ok(Txn::Refused);
        }
        let is_gone = |op: &Op| match op {
            Op::Put(_, _, Some(lease)) => !inner.state.leases.contains_key(&lease.0),
            Op::Put(_, _, None) | Op::Delete(_) => false,
        };
        if ops.iter().any(is_gone) {
            return Err(StoreError::Gone);
        }
        Ok(Txn::Done(self.write(&mut inner, ops)))
    }

    fn list(&self, prefix: &str) -> Listing {
        let inner = self.inner.borrow();
        let stale = inner.stale.as_ref().filter(|(_, until)| self.sim.now() < *until);
        let state = stale.map_or(&inner.state, |(state, _)| state);
        let from = state.entries.range(prefix.to_owned()..);
        let entries = from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone());
        Listing { entries: entries.collect(), revision: state.revision }
    }

    fn watch(&self, prefix: &str, from: Revision, tx: Tx<Seen>) {
        let mut inner = self.inner.borrow_mut();
        if from <= inner.compacted && from <= inner.state.revision {
            tx.send(Err(StoreError::Compacted));
            return;
        }
        for (_, events) in inner.history.iter().filter(|(revision, _)| *revision >= from) {
            let seen = under(events, prefix);
            if !seen.is_empty() {
                tx.send(Ok(seen));
            }
        }
        inner.watches.push(Watch { prefix: prefix.to_owned(), tx, deaf_until: 0 });
    }
}

fn under(events: &[Event], prefix: &str) -> Vec<Event> {
    let is_under = |event: &&Event| match event {
        Event::Put(entry) => entry.key.starts_with(prefix),
        Event::Deleted { key, .. } => key.starts_with(prefix),
    };
    events.iter().filter(is_under).cloned().collect()
}

/// The store, as one process reaches it.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) etcd: Etcd,
    pub(crate) ctx: Ctx,
}

impl Client {
    async fn ask<T: 'static>(
        &self,
        f: impl FnOnce(&Etcd) -> Result<T, StoreError> + 'static,
    ) -> Result<T, StoreError> {
        let etcd = self.etcd.clone();
        let answer = move || {
            if !etcd.inner.borrow().up {
                return None;
            }
            etcd.expire();
            let answer = f(&etcd);
            let lossy = etcd.inner.borrow().lossy;
            (!etcd.sim.per_mille(lossy)).then_some(answer)
        };
        let answered = self.etcd.net.ask(&self.ctx, self.etcd.me, PATIENCE_MS, answer).await;
        answered.unwrap_or_else(|| Err(StoreError::Unavailable("no answer".into())))
    }

    pub(crate) async fn grant(&self, ttl_ms: u64) -> Result<Granted, StoreError> {
        self.ask(move |etcd| {
            let mut inner = etcd.inner.borrow_mut();
            let id = inner.state.next_lease;
            inner.state.next_lease += 1;
            let (ttl, now) = (ttl_ms * 1000, etcd.sim.now());
            inner.state.leases.insert(id, Lease { ttl, ends: now + ttl, keys: BTreeSet::new() });
            Ok(Granted { lease: LeaseId(id), ttl: Duration::from_millis(ttl_ms) })
        })
        .await
    }

    pub(crate) async fn keep_alive(&self, lease: LeaseId) -> Result<Granted, StoreError> {
        self.ask(move |etcd| {
            let (mut inner, now) = (etcd.inner.borrow_mut(), etcd.sim.now());
            let kept = inner.state.leases.get_mut(&lease.0).ok_or(StoreError::Gone)?;
            kept.ends = kept.ends.max(now + kept.ttl);
            Ok(Granted { lease, ttl: Duration::from_micros(kept.ttl) })
        })
        .await
    }

    pub(crate) async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(move |etcd| {
            etcd.end_lease(&mut etcd.inner.borrow_mut(), lease.0);
            Ok(())
        })
        .await
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        self.ask(move |etcd| Ok(etcd.list(&prefix))).await
    }

    pub(crate) async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError> {
        self.ask(move |etcd| etcd.txn(&compares, ops)).await
    }

    pub(crate) async fn watch(&self, prefix: &str, from: Revision) -> Result<Rx<Seen>, StoreError> {
        let (tx, rx) = self.etcd.net.pipe(self.etcd.me, self.ctx.me);
        let prefix = prefix.to_owned();
        self.ask(move |etcd| {
            etcd.watch(&prefix, from, tx);
            Ok(())
        })
        .await?;
        Ok(rx)
    }
}
