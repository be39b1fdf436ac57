//! The sessions of this node. An idle one is a struct in a map: no task, no queue. While something is in flight it has both. One that
//! has been idle for longer is a few numbers, where the store keeps sessions outside of this process.

mod passive;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::session::{Frames, Transport};
use api::{Epoch, Principal, SessionId, Slot};
use chassis::task::Handle;
use foldhash::fast::RandomState;
use machines::{CallId, Millis, Session};
use mcp::rpc::Id;
use tokio::sync::mpsc;

pub(crate) use self::passive::{Passive, Presence};
use crate::letter::{Letter, Overdue};
use crate::refuse;
use crate::registries::watches::Subscription;
use crate::store::Answered;

/// Letters that may wait for a busy session. One more is refused if somebody waits for its answer, else kept beside.
pub(crate) const MAILBOX: usize = 64;

/// A session while nothing is in flight.
pub(crate) struct Resident {
    pub(crate) id: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) principal: Arc<Principal>,
    pub(crate) transport: Transport,
    pub(crate) machine: Session,
    /// Number of commits so far.
    pub(crate) version: u64,
    pub(crate) subscriptions: HashMap<String, Subscription>,
    /// When it began, or was loaded.
    pub(crate) begun: Millis,
    /// Loaded from the store, and nothing of it is under way here yet.
    pub(crate) is_restored: bool,
    /// Deliveries that came again.
    pub(crate) repeated: Repeated,
    /// Answers to journaled calls that were given without the store, until it has them.
    pub(crate) unsaved: Vec<(CallId, Answered)>,
    /// The store has not said what became of the last commit.
    pub(crate) is_in_doubt: bool,
}

/// Keys of deliveries that came again, so that a first copy behind them is told. Empty as a rule.
#[derive(Default)]
pub(crate) struct Repeated(VecDeque<String>);

impl Repeated {
    /// So many are remembered.
    const MOST: usize = 64;

    pub(crate) fn note(&mut self, key: &str) {
        if self.0.len() >= Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(key.to_owned());
    }

    pub(crate) fn knows(&self, key: &str) -> bool {
        self.0.iter().any(|known| known == key)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

enum Cell {
    Idle(Box<Resident>),
    /// The letters are boxed, because a queue has room for many from its first one on.
    Active {
        mailbox: mpsc::Sender<Box<Letter>>,
        _task: Handle<()>,
    },
    /// To be loaded when something happens.
    Passive(Passive),
}

/// Who asks for a session, and in which way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) transport: Transport,
}

/// Parts that the sessions are in. What goes through all of them lets others in between.
pub(crate) const PARTS: usize = 32;

/// Of a session that is not in the wheel.
const NEVER: Millis = Millis::MAX;
/// When a passive session is woken again that could not be loaded.
const AGAIN: Millis = 10_000;

struct Entry {
    principal: Arc<Principal>,
    transport: Transport,
    cell: Option<Cell>,
    /// Its moment in the wheel; [`NEVER`] if it has none.
    armed: Millis,
    overdue: Option<Box<Overdue>>,
}

/// A session that is no longer found, and its actor.
pub(crate) struct Removed {
    _entry: Entry,
}

/// Why a letter was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// No such session here.
    Unknown,
    /// It is passive: whoever wants it has to load it first.
    Passive,
    /// Not this principal's, or not of this transport. To be told in the same words, and not to be looked for elsewhere.
    Foreign,
    /// Its queue is full.
    Full,
    /// The store does not say.
    NotNow,
}

impl Undelivered {
    /// What whoever asked is told.
    pub(crate) fn answer(self, request: Option<&Id>) -> Frames {
        match self {
            // Whoever waits for an answer has a passive one loaded.
            Self::Unknown | Self::Passive | Self::Foreign => refuse::session_not_found(),
            Self::Full => refuse::rate_limited(request, "too many messages wait in this session"),
            Self::NotNow => refuse::unavailable(request, "store_down"),
        }
    }
}

/// How many sessions there are, and how they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Census {
    pub(crate) all: usize,
    /// Those that have something under way.
    pub(crate) active: usize,
    /// Those whose state is only in the store.
    pub(crate) passive: usize,
    /// What waits in their queues.
    pub(crate) letters: usize,
}

/// See the module.
pub(crate) struct Residents {
    /// After so long without traffic a session becomes passive.
    passivate: Option<Millis>,
    shards: [Mutex<Shard>; PARTS],
    per_principal: Mutex<HashMap<Arc<Principal>, usize>>,
}

#[derive(Default)]
struct Shard {
    /// Hashed quickly: nobody chooses the MAC of a session's id.
    sessions: HashMap<SessionId, Entry, RandomState>,
    /// When idle sessions want to be woken: each once, and not too late. One that is woken too early is asked again.
    wheel: BTreeSet<(Millis, SessionId)>,
}

impl Shard {
    /// Makes sure that an idle session is woken at this moment or before.
    fn arm(&mut self, id: &SessionId, wake: Option<Millis>) {
        let (Some(wake), Some(entry)) = (wake, self.sessions.get_mut(id)) else { return };
        if entry.armed <= wake {
            return;
        }
        let armed = std::mem::replace(&mut entry.armed, wake);
        if armed != NEVER {
            self.wheel.remove(&(armed, id.clone()));
        }
        self.wheel.insert((wake, id.clone()));
    }
}

/// Starts the actor of a session; called with the shard locked, so it must not wait.
pub(crate) type Start<'a> = &'a dyn Fn(Box<Resident>, mpsc::Receiver<Box<Letter>>) -> Handle<()>;

impl Residents {
    /// None; those that come become passive after so long without traffic, or never.
    pub(crate) fn new(passivate: Option<Millis>) -> Self {
        Self { passivate, shards: std::array::from_fn(|_| Mutex::default()), per_principal: Mutex::default() }
    }

    fn shard(&self, id: &SessionId) -> MutexGuard<'_, Shard> {
        // The last character of the MAC spreads well enough.
        let index = id.as_str().bytes().rev().take(2).fold(0_usize, |sum, c| sum * 31 + usize::from(c));
        self.shards[index % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of sessions, and of those of one principal.
    pub(crate) fn count(&self, principal: &Principal) -> (usize, usize) {
        let all =
            self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).sessions.len()).sum();
        let counts = self.per_principal.lock().unwrap_or_else(PoisonError::into_inner);
        (all, counts.get(principal).copied().unwrap_or(0))
    }

    /// Number of sessions.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).sessions.len()).sum()
    }

    /// Looks at every session.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            census.all += shard.sessions.len();
            for entry in shard.sessions.values() {
                match &entry.cell {
                    Some(Cell::Active { mailbox, .. }) => {
                        census.active += 1;
                        census.letters += mailbox.max_capacity() - mailbox.capacity();
                    }
                    Some(Cell::Passive(_)) => census.passive += 1,
                    Some(Cell::Idle(_)) | None => {}
                }
            }
        }
        census
    }

    /// Takes a session in. One that is there already stays.
    pub(crate) fn insert(&self, mut resident: Box<Resident>) {
        let id = resident.id.clone();
        let mut shard = self.shard(&id);
        if shard.sessions.contains_key(&id) {
            return;
        }
        let principal = self.count_one(&resident.principal);
        resident.principal = principal.clone();
        let wake = self.looked_at(&resident.machine, 0);
        let transport = resident.transport;
        let entry =
            Entry { principal, transport, cell: Some(Cell::Idle(resident)), armed: NEVER, overdue: None };
        shard.sessions.insert(id.clone(), entry);
        shard.arm(&id, wake);
    }

    /// Puts all of a passive session in the place of what was remembered. One that is gone meanwhile, or here, stays so.
    pub(crate) fn wake(&self, mut resident: Box<Resident>) {
        let (id, wake) = (resident.id.clone(), resident.machine.next_wake());
        let mut shard = self.shard(&id);
        let Some(entry) = shard.sessions.get_mut(&id) else { return };
        if let Some(Cell::Passive(_)) = entry.cell {
            resident.principal = entry.principal.clone();
            entry.cell = Some(Cell::Idle(resident));
            // What it is loaded for follows; only behind that it may become passive again.
            shard.arm(&id, wake);
        }
    }

    /// Counts a session more of a principal, which is kept once for all of them.
    fn count_one(&self, principal: &Arc<Principal>) -> Arc<Principal> {
        let mut counts = self.per_principal.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.get_key_value(principal).map(|(known, _)| known.clone());
        let principal = known.unwrap_or_else(|| principal.clone());
        *counts.entry(principal.clone()).or_default() += 1;
        principal
    }

    /// What is here of a session.
    pub(crate) fn presence(&self, id: &SessionId) -> Presence {
        match self.shard(id).sessions.get(id) {
            None => Presence::Absent,
            Some(Entry { cell: Some(Cell::Passive(passive)), .. }) => Presence::Passive(*passive),
            Some(_) => Presence::Here,
        }
    }

    /// Forgets a session. What is given back holds its actor, which ends when it is dropped.
    pub(crate) fn remove(&self, id: &SessionId) -> Option<Removed> {
        self.forget(&mut self.shard(id), id)
    }

    fn forget(&self, shard: &mut Shard, id: &SessionId) -> Option<Removed> {
        let entry = shard.sessions.remove(id)?;
        give_back(&mut shard.sessions);
        if entry.armed != NEVER {
            shard.wheel.remove(&(entry.armed, id.clone()));
        }
        let mut counts = self.per_principal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&entry.principal) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&entry.principal);
            }
        }
        Some(Removed { _entry: entry })
    }

    /// Puts a letter into a session's queue and starts its actor if it has none. The `visitor` is checked
    /// if given. The letter stays if there is no such session, or it has to be loaded first.
    pub(crate) fn offer(
        &self,
        id: &SessionId,
        visitor: Option<Visitor<'_>>,
        offered: &mut Option<Letter>,
        start: Start<'_>,
    ) -> Result<(), Undelivered> {
        let mut shard = self.shard(id);
        let entry = shard.sessions.get_mut(id).ok_or(Undelivered::Unknown)?;
        if visitor.is_some_and(|v| *v.principal != *entry.principal || v.transport != entry.transport) {
            return Err(Undelivered::Foreign);
        }
        if let Some(Cell::Passive(_)) = entry.cell {
            return Err(Undelivered::Passive);
        }
        let Some(letter) = offered.take() else { return Ok(()) };
        match entry.cell.take() {
            Some(Cell::Idle(resident)) => {
                // One place is kept for the letter that says that there is more beside the queue.
                let (mailbox, letters) = mpsc::channel(MAILBOX + 1);
                // A new queue has room.
                let _taken = mailbox.try_send(Box::new(letter)).is_ok();
                entry.cell = Some(Cell::Active { mailbox, _task: start(resident, letters) });
                Ok(())
            }
            Some(Cell::Active { mailbox, _task }) => {
                let letter = if mailbox.capacity() > 1 || mailbox.is_closed() {
                    Some(letter)
                } else {
                    let is_first = entry.overdue.is_none();
                    if !entry.overdue.get_or_insert_default().keep(letter) {
                        if is_first {
                            entry.overdue = None;
                        }
                        entry.cell = Some(Cell::Active { mailbox, _task });
                        return Err(Undelivered::Full);
                    }
                    is_first.then_some(Letter::Overdue)
                };
                let sent = letter.map_or(Ok(()), |letter| mailbox.try_send(Box::new(letter)));
                entry.cell = Some(Cell::Active { mailbox, _task });
                sent.map_err(|unsent| {
                    *offered = Some(*unsent.into_inner());
                    // The actor panicked. What was committed can be loaded again.
                    let removed = self.forget(&mut shard, id);
                    drop(shard);
                    drop(removed);
                    Undelivered::Unknown
                })
            }
            Some(Cell::Passive(_)) | None => Err(Undelivered::Unknown),
        }
    }

    /// What the queue could not take. Asked by the actor when the queue says so.
    pub(crate) fn overdue(&self, id: &SessionId) -> Vec<Letter> {
        let overdue = self.shard(id).sessions.get_mut(id).and_then(|entry| entry.overdue.take());
        overdue.map(|overdue| overdue.letters()).unwrap_or_default()
    }

    /// Lets an actor go to rest, unless a letter has come meanwhile; then both are given back.
    pub(crate) fn rest(
        &self,
        mut resident: Box<Resident>,
        letters: &mut mpsc::Receiver<Box<Letter>>,
    ) -> Result<(), Box<(Box<Resident>, Letter)>> {
        let mut shard = self.shard(&resident.id);
        if let Ok(letter) = letters.try_recv() {
            return Err(Box::new((resident, *letter)));
        }
        resident.machine.rest();
        let (id, wake) = (resident.id.clone(), self.looked_at(&resident.machine, 0));
        if let Some(entry) = shard.sessions.get_mut(&id) {
            entry.cell = Some(Cell::Idle(resident));
            shard.arm(&id, wake);
        }
        Ok(())
    }

    /// When an idle session is to be looked at: it wants to be woken, or may become passive, unless that was to be before.
    fn looked_at(&self, machine: &Session, not_before: Millis) -> Option<Millis> {
        let passive = self.passivate.map(|after| machine.active().saturating_add(after));
        machine.next_wake().into_iter().chain(passive.filter(|at| *at >= not_before)).min()
    }

    /// Whether something is in flight in any session.
    pub(crate) fn any_active(&self) -> bool {
        let is_active = |entry: &Entry| matches!(entry.cell, Some(Cell::Active { .. }));
        let lock = |shard: &Mutex<Shard>| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).sessions.values().any(is_active)
        };
        self.shards.iter().any(lock)
    }

    /// Whether something is in flight in a session of these slots.
    pub(crate) fn any_active_in(&self, wanted: &dyn Fn(Slot) -> bool) -> bool {
        let is_active = |(id, entry): (&SessionId, &Entry)| {
            wanted(id.slot()) && matches!(entry.cell, Some(Cell::Active { .. }))
        };
        let lock = |shard: &Mutex<Shard>| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).sessions.iter().any(is_active)
        };
        self.shards.iter().any(lock)
    }

    /// Forgets the idle sessions of these slots; those that have something in flight come back, and are to be told.
    pub(crate) fn leave(&self, wanted: &dyn Fn(Slot) -> bool) -> Vec<SessionId> {
        let mut active = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let leaving: Vec<SessionId> =
                shard.sessions.keys().filter(|id| wanted(id.slot())).cloned().collect();
            for id in leaving {
                match shard.sessions.get(&id).and_then(|entry| entry.cell.as_ref()) {
                    Some(Cell::Active { .. }) => active.push(id),
                    Some(Cell::Idle(_) | Cell::Passive(_)) | None => drop(self.forget(&mut shard, &id)),
                }
            }
        }
        active
    }

    /// The sessions of a part whose moment has come. Those that were idle for long enough are passive from now on.
    pub(crate) fn due(&self, place: usize, now: Millis) -> Vec<SessionId> {
        // Dropped when the part is no longer locked.
        let (mut due, mut let_go) = (Vec::new(), Vec::new());
        let mut shard = self.shards[place % PARTS].lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((wake, id)) = shard.wheel.pop_first() {
            if wake > now {
                shard.wheel.insert((wake, id));
                break;
            }
            let Some(entry) = shard.sessions.get_mut(&id) else { continue };
            entry.armed = NEVER;
            let_go.extend(self.passivate.and_then(|after| entry.passivate(after, now)));
            let again = match &entry.cell {
                Some(Cell::Idle(resident)) => self.looked_at(&resident.machine, now + 1),
                Some(Cell::Passive(passive)) => Some(passive.remembered().wake()),
                // An actor keeps its own time.
                Some(Cell::Active { .. }) | None => None,
            };
            // The store may not have a passive one just now.
            let retry = matches!(entry.cell, Some(Cell::Passive(_))).then(|| now.saturating_add(AGAIN));
            match again {
                Some(later) if later > now => shard.arm(&id, Some(later)),
                Some(_) => {
                    shard.arm(&id, retry);
                    due.push(id);
                }
                None => {}
            }
        }
        due
    }

    /// The ids of a part.
    pub(crate) fn part(&self, place: usize) -> Vec<SessionId> {
        let part = self.shards[place % PARTS].lock().unwrap_or_else(PoisonError::into_inner);
        part.sessions.keys().cloned().collect()
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<SessionId> {
        let lock = |shard: &Mutex<Shard>| -> Vec<SessionId> {
            shard.lock().unwrap_or_else(PoisonError::into_inner).sessions.keys().cloned().collect()
        };
        self.shards.iter().flat_map(lock).collect()
    }
}

/// Returns memory that a map has from fuller times, now and then.
pub(crate) fn give_back<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if map.capacity() > 1024 && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}

#[cfg(test)]
mod tests;
