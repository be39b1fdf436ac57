//! Every invocation of the process: none runs twice, finished ones are kept for a while for callers that come back.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use api::{Code, Detail, Error};
use futures::FutureExt as _;
use tokio::sync::Notify;

use super::{Invocation, Key, Shared, Was};
use crate::runtime::{Clock, Spawner};

/// Invocations whose frames had to go early and whose names are remembered, so that none of them runs again.
const MOST_LOST: usize = 10_000;

/// What a finished invocation takes beside its frames.
const ENTRY_BYTES: usize = 1024;

/// See the module.
pub(crate) struct Table {
    shared: Shared,
    spawner: Arc<dyn Spawner>,
    inner: Mutex<Inner>,
    /// Told when none runs or waits any more.
    idle: Notify,
}

#[derive(Default)]
struct Inner {
    /// Hashed alike in every run, so that what is done to all of them is done in the same order.
    entries: HashMap<Arc<Key>, Entry, BuildHasherDefault<DefaultHasher>>,
    /// Finished ones, oldest first.
    kept: BTreeMap<u64, (Instant, Arc<Key>)>,
    kept_bytes: usize,
    next_kept: u64,
    lost: VecDeque<(Instant, Arc<Key>)>,
    lost_keys: BTreeSet<Arc<Key>>,
    active: usize,
    draining: bool,
    sweeping: bool,
}

struct Entry {
    invocation: Arc<Invocation>,
    /// Place among the finished ones, and bytes.
    kept: Option<(u64, usize)>,
    /// Not wanted any more once it is finished.
    released: bool,
}

/// What comes of asking for a new invocation.
pub(crate) enum Begun {
    /// It is new: start its handler.
    New(Arc<Invocation>),
    /// It is known: read its frames.
    Known(Arc<Invocation>),
}

/// What a drain had no more time for: invocations that ended with an error that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CutShort {
    /// Their handlers were at work.
    pub running: usize,
    /// They waited for an answer of their client.
    pub parked: usize,
}

impl Table {
    pub(crate) fn new(shared: Shared, spawner: Arc<dyn Spawner>) -> Arc<Self> {
        Arc::new(Self { shared, spawner, inner: Mutex::default(), idle: Notify::new() })
    }

    /// Takes an invocation on, unless it is known.
    pub(crate) fn begin(
        &self,
        key: Key,
        make: impl FnOnce(Arc<Key>) -> Arc<Invocation>,
    ) -> Result<Begun, Error> {
        let mut inner = self.lock();
        self.sweep_now(&mut inner);
        if let Some(entry) = inner.entries.get(&key) {
            return Ok(Begun::Known(entry.invocation.clone()));
        }
        if inner.lost_keys.contains(&key) {
            let detail = Detail::OutcomeUnknown { invocation: key.invocation };
            return Err(
                Error::new(Code::OutcomeUnknown, "executed, but the outcome was not kept").with(detail)
            );
        }
        if inner.draining {
            return Err(Error::draining());
        }
        if inner.active >= self.shared.limits.running {
            return Err(Error::overloaded("too many running invocations", Duration::from_secs(1)));
        }
        let key = Arc::new(key);
        let invocation = make(key.clone());
        let entry = Entry { invocation: invocation.clone(), kept: None, released: false };
        inner.entries.insert(key, entry);
        inner.active += 1;
        Ok(Begun::New(invocation))
    }

    /// A known invocation of this registry.
    pub(crate) fn find(&self, key: &Key, registry: &str) -> Option<Arc<Invocation>> {
        let mut inner = self.lock();
        self.sweep_now(&mut inner);
        let entry = inner.entries.get(key)?;
        (entry.invocation.registry == registry).then(|| entry.invocation.clone())
    }

    /// The invocation has its ending.
    pub(super) fn finished(self: &Arc<Self>, invocation: &Arc<Invocation>) {
        // Where it is kept. Another lock, so it is asked for before this one.
        let bytes = if invocation.owned { invocation.bytes() + ENTRY_BYTES } else { 0 };
        let mut inner = self.lock();
        inner.active -= 1;
        if inner.active == 0 {
            self.idle.notify_waiters();
        }
        if !invocation.owned {
            inner.entries.remove(&invocation.key);
            return;
        }
        let place = inner.next_kept;
        let Some(entry) = inner.entries.get_mut(&invocation.key) else { return };
        if entry.released {
            inner.entries.remove(&invocation.key);
            return;
        }
        let now = self.shared.clock.now();
        entry.kept = Some((place, bytes));
        inner.next_kept += 1;
        inner.kept.insert(place, (now, invocation.key.clone()));
        inner.kept_bytes += bytes;
        self.sweep(&mut inner, now);
        if !std::mem::replace(&mut inner.sweeping, true) {
            let sweeper = sweep_until_empty(Arc::downgrade(self), self.shared.clock.clone());
            drop(inner);
            self.spawner.spawn(sweeper.boxed());
        }
    }

    /// These are not wanted any more.
    pub(crate) fn release(&self, mesh: &str, invocations: Vec<String>) {
        let mut inner = self.lock();
        for invocation in invocations {
            let key = Key { mesh: mesh.to_owned(), invocation };
            let Some(entry) = inner.entries.get_mut(&key) else { continue };
            entry.released = true;
            if entry.kept.is_some() {
                inner.forget(&key);
            }
        }
    }

    /// Refuses new invocations from now on.
    pub(crate) fn drain(&self) {
        self.lock().draining = true;
    }

    /// Ends all that run or wait: there is no time left. Says how many that were.
    pub(crate) fn give_up(&self) -> CutShort {
        let active: Vec<Arc<Invocation>> =
            self.lock().entries.values().map(|entry| entry.invocation.clone()).collect();
        let mut cut = CutShort::default();
        for invocation in active {
            match invocation.give_up() {
                Was::Running => cut.running += 1,
                Was::Parked => cut.parked += 1,
                Was::Ended => {}
            }
        }
        cut
    }

    /// Waits until none runs or waits.
    pub(crate) async fn idle(&self) {
        loop {
            // Made before looking, so that nothing is missed that comes after.
            let idle = self.idle.notified();
            if self.lock().active == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Drops what has been kept long enough, and the oldest where it is too much.
    fn sweep(&self, inner: &mut Inner, now: Instant) {
        let limits = &self.shared.limits;
        while let Some((ended, key)) = inner.kept.first_key_value().map(|(_, kept)| kept.clone()) {
            let is_old = now.saturating_duration_since(ended) >= limits.keep_for;
            if !is_old && inner.kept_bytes <= limits.keep_bytes {
                break;
            }
            inner.forget(&key);
            if !is_old {
                inner.remember_lost(now, key);
            }
        }
        while inner.lost.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= limits.keep_for)
        {
            inner.forget_oldest_lost();
        }
    }

    /// The same, without a look at the clock where nothing is kept.
    fn sweep_now(&self, inner: &mut Inner) {
        if !inner.kept.is_empty() || !inner.lost.is_empty() {
            self.sweep(inner, self.shared.clock.now());
        }
    }

    /// When the oldest finished one has been kept long enough; `None` ends the sweeping.
    fn next_sweep(&self) -> Option<Instant> {
        let now = self.shared.clock.now();
        let mut inner = self.lock();
        self.sweep(&mut inner, now);
        let next = inner.kept.first_key_value().map(|(_, (ended, _))| *ended + self.shared.limits.keep_for);
        inner.sweeping = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many invocations are known, and the bytes of those that have ended.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.entries.len(), inner.kept_bytes)
    }
}

impl Inner {
    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        if let Some((place, bytes)) = entry.kept {
            self.kept.remove(&place);
            self.kept_bytes -= bytes;
        }
    }

    fn remember_lost(&mut self, now: Instant, key: Arc<Key>) {
        if self.lost.len() >= MOST_LOST {
            self.forget_oldest_lost();
        }
        self.lost_keys.insert(key.clone());
        self.lost.push_back((now, key));
    }

    fn forget_oldest_lost(&mut self) {
        if let Some((_, key)) = self.lost.pop_front() {
            self.lost_keys.remove(&key);
        }
    }
}

/// Keeps no memory longer than promised where nobody asks for anything; ends when nothing is kept.
async fn sweep_until_empty(table: Weak<Table>, clock: Arc<dyn Clock>) {
    while let Some(until) = table.upgrade().and_then(|table| table.next_sweep()) {
        clock.sleep_until(until).await;
    }
}
