//! A simulated session store: a primary, a replica that is behind, and the commit of `services/session/src/store.rs`.
//!
//! Mirrors the port `SessionStore` and what its Redis form promises: a fence for each slot, a version and a writer for each
//! session, events at explicit places `<epoch>-<seq>` that only rise, answers kept under the keys of deliveries, a wait for
//! the replica behind each write that matters, and a writer that recognises its own write after the answer was lost. What it
//! can do to its users: be away, be slow, lose answers of writes that were done, and fail over, with or without its tail.

mod client;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use api::{Epoch, Principal, SessionId, Slot};
use futures::channel::oneshot;
use history::line::{Place, Source, What};
use machines::snapshot::{CallChange, StreamChange};
use machines::{Change, CommitRefusal, Snapshot, StreamId};
use mcp::Json;

pub(crate) use self::client::{Client, Fenced};
use crate::record::Pen;
use crate::sabotage::{Known, Sabotage};
use crate::world::{Ctx, Micros, Net, Proc, Sim};

/// Answers that are kept for one session.
const ANSWERS: usize = 64;

/// Who wrote, and which of its writes it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) epoch: u64,
    pub(crate) instance: u64,
    pub(crate) number: u64,
}

/// How a request ended, for a gateway that asks again.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) key: String,
    pub(crate) status: u16,
    pub(crate) body: Option<Json>,
}

#[derive(Clone)]
struct Kept {
    principal: Principal,
    snapshot: Snapshot,
    version: u64,
    by: By,
    answers: VecDeque<Answered>,
}

/// One copy of everything.
#[derive(Clone, Default)]
struct Copy {
    fences: BTreeMap<Slot, (u64, u64)>,
    sessions: BTreeMap<SessionId, Kept>,
}

/// A write on its way to the replica.
struct Write {
    at: Micros,
    number: u64,
    key: Key,
    places: Vec<Place>,
}

enum Key {
    Fence(Slot, (u64, u64)),
    Session(SessionId, Option<Box<Kept>>),
}

/// How the store behaves.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// Whether writes that matter wait for the replica.
    pub(crate) waits: bool,
    /// How far the replica is behind.
    pub(crate) lag: (Micros, Micros),
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) known: Vec<Known>,
}

struct Inner {
    primary: Copy,
    replica: Copy,
    flying: VecDeque<Write>,
    written: u64,
    /// Counts fail-overs.
    generation: u64,
    up: bool,
    slow: Micros,
    lossy: u64,
    /// Rung by the next write of that kind.
    ambush: Option<(Prey, oneshot::Sender<Slot>)>,
}

/// A write that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prey {
    /// The end of a session.
    End,
    /// An answer of a client.
    Message,
    /// A call that is to be sent.
    Dispatch,
}

impl Prey {
    fn is_in(self, changes: &[Change]) -> bool {
        changes.iter().any(|change| match change {
            Change::Ended => self == Self::End,
            Change::Call(_, CallChange::Answered { .. }) => self == Self::Message,
            Change::Call(_, CallChange::Accepted(_)) => self == Self::Dispatch,
            _ => false,
        })
    }
}

/// The store.
#[derive(Clone)]
pub(crate) struct Redis {
    pub(crate) me: Proc,
    sim: Sim,
    net: Net,
    pen: Pen,
    habits: Rc<Habits>,
    inner: Rc<RefCell<Inner>>,
}

/// What is to be written.
pub(crate) struct Commit {
    pub(crate) changes: Vec<Change>,
    pub(crate) after: Snapshot,
    pub(crate) answered: Option<Answered>,
}

/// What a commit finds.
enum Found {
    Done(u64),
    Refused(CommitRefusal),
    Other { version: u64, by: By },
}

impl Redis {
    pub(crate) fn start(sim: &Sim, net: &Net, pen: &Pen, habits: Habits) -> Self {
        let ctx = Ctx::new(sim);
        let inner = Inner {
            primary: Copy::default(),
            replica: Copy::default(),
            flying: VecDeque::new(),
            written: 0,
            generation: 0,
            up: true,
            slow: 0,
            lossy: 0,
            ambush: None,
        };
        let (sim, net, pen) = (sim.clone(), net.clone(), pen.clone());
        Self { me: ctx.me, sim, net, pen, habits: Rc::new(habits), inner: Rc::new(RefCell::new(inner)) }
    }

    fn is(&self, sabotage: Sabotage) -> bool {
        self.habits.sabotage == Some(sabotage)
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.inner.borrow_mut().up = up;
    }

    pub(crate) fn slow_down(&self, by: Micros) {
        self.inner.borrow_mut().slow = by;
    }

    pub(crate) fn lose_answers(&self, per_mille: u64) {
        self.inner.borrow_mut().lossy = per_mille;
    }

    /// Says when the next write of that kind was done, which the replica does not have yet, and of which slot.
    pub(crate) fn ambush(&self, prey: Prey) -> oneshot::Receiver<Slot> {
        let (rung, heard) = oneshot::channel();
        self.inner.borrow_mut().ambush = Some((prey, rung));
        heard
    }

    /// The replica takes over: with everything, or with what had reached it.
    pub(crate) fn fail_over(&self, keeps_all: bool) {
        let mut inner = self.inner.borrow_mut();
        let now = if keeps_all { Micros::MAX } else { self.sim.now() };
        Self::replicate(&mut inner, now);
        let lost: Vec<Write> = inner.flying.drain(..).collect();
        inner.primary = inner.replica.clone();
        inner.generation += 1;
        for write in lost {
            if let Key::Session(id, _) = &write.key {
                write.places.into_iter().for_each(|place| self.pen.lost(id.as_str(), place));
            }
        }
    }

    /// Brings to the replica what has been on its way for long enough.
    fn replicate(inner: &mut Inner, now: Micros) {
        while inner.flying.front().is_some_and(|write| write.at <= now) {
            let Some(write) = inner.flying.pop_front() else { break };
            match write.key {
                Key::Fence(slot, fence) => drop(inner.replica.fences.insert(slot, fence)),
                Key::Session(id, Some(kept)) => drop(inner.replica.sessions.insert(id, *kept)),
                Key::Session(id, None) => drop(inner.replica.sessions.remove(&id)),
            }
        }
    }

    fn fly(&self, inner: &mut Inner, key: Key, places: Vec<Place>) -> u64 {
        let now = self.sim.now();
        Self::replicate(inner, now);
        inner.written += 1;
        let last = inner.flying.back().map_or(0, |write| write.at);
        let (low, high) = self.habits.lag;
        let at = (now + self.sim.range(low, high)).max(last);
        let number = inner.written;
        inner.flying.push_back(Write { at, number, key, places });
        number
    }

    /// Whether the replica has this write; `None` if it will never have, as it is the primary now.
    fn has(&self, generation: u64, number: u64) -> Option<bool> {
        let mut inner = self.inner.borrow_mut();
        Self::replicate(&mut inner, self.sim.now());
        let has = inner.flying.front().is_none_or(|write| write.number > number);
        (inner.generation == generation).then_some(has)
    }

    /// Sessions that are stored and not over, with their journals.
    pub(crate) fn dump(&self) -> Vec<(SessionId, Snapshot)> {
        let inner = self.inner.borrow();
        let there = inner.primary.sessions.iter().filter(|(_, kept)| !kept.snapshot.ended);
        there.map(|(id, kept)| (id.clone(), kept.snapshot.clone())).collect()
    }

    fn check(&self, inner: &Inner, slot: Slot, epoch: u64) -> Result<(), CommitRefusal> {
        if self.is(Sabotage::SkipFence) {
            return Ok(());
        }
        let outcome = match inner.primary.fences.get(&slot) {
            Some((fence, _)) if *fence > epoch => Err(CommitRefusal::Stale),
            Some((fence, _)) if *fence == epoch => Ok(()),
            Some(_) | None => Err(CommitRefusal::Regress),
        };
        self.pen.count(|counts| match outcome {
            Err(CommitRefusal::Stale) => counts.stale += 1,
            Err(CommitRefusal::Regress) => counts.regress += 1,
            Err(CommitRefusal::Conflict | CommitRefusal::Down) | Ok(()) => {}
        });
        outcome
    }

    fn fence(&self, slot: Slot, epoch: Epoch, instance: u64) -> (Fenced, u64) {
        let mut inner = self.inner.borrow_mut();
        let there = inner.primary.fences.get(&slot).copied().unwrap_or_default();
        let equal_is_done = self.habits.known.contains(&Known::EqualFence) || self.is(Sabotage::SameEpoch);
        if there.0 > epoch.0 || (there.0 == epoch.0 && there.1 != instance && !equal_is_done) {
            return (Fenced::Higher(Epoch(there.0)), inner.written);
        }
        if there.0 == epoch.0 {
            return (Fenced::Done, inner.written);
        }
        let fence = (epoch.0, instance);
        inner.primary.fences.insert(slot, fence);
        let number = self.fly(&mut inner, Key::Fence(slot, fence), Vec::new());
        let what = What::Fence { slot: slot.number(), epoch: epoch.0 };
        self.pen.write(Source::Store, "redis", None, what);
        (Fenced::Done, number)
    }

    fn create(&self, id: &SessionId, by: By, principal: &Principal) -> Result<u64, CommitRefusal> {
        let mut inner = self.inner.borrow_mut();
        self.check(&inner, id.slot(), by.epoch)?;
        if inner.primary.sessions.contains_key(id) {
            return Err(CommitRefusal::Conflict);
        }
        let (principal, snapshot) = (principal.clone(), Snapshot::default());
        let kept = Kept { principal, snapshot, version: 0, by, answers: VecDeque::new() };
        Ok(self.put(&mut inner, id, kept, Vec::new()))
    }

    fn put(&self, inner: &mut Inner, id: &SessionId, kept: Kept, places: Vec<Place>) -> u64 {
        let what = What::Commit { slot: id.slot().number(), epoch: kept.by.epoch };
        self.pen.write(Source::Store, "redis", Some(id.as_str()), what);
        inner.primary.sessions.insert(id.clone(), kept.clone());
        self.fly(inner, Key::Session(id.clone(), Some(Box::new(kept))), places)
    }

    fn commit(&self, id: &SessionId, by: By, version: u64, commit: &Commit) -> Found {
        let mut inner = self.inner.borrow_mut();
        if let Err(refusal) = self.check(&inner, id.slot(), by.epoch) {
            return Found::Refused(refusal);
        }
        let Some(kept) = inner.primary.sessions.get(id) else {
            return Found::Refused(CommitRefusal::Conflict);
        };
        if kept.by.epoch > by.epoch && !self.is(Sabotage::SkipFence) {
            return Found::Refused(CommitRefusal::Stale);
        }
        if kept.version != version {
            return Found::Other { version: kept.version, by: kept.by };
        }
        let mut kept = kept.clone();
        let places = self.append(id, commit);
        for change in &commit.changes {
            if !(self.is(Sabotage::ResurrectTombstone) && matches!(change, Change::Ended)) {
                kept.snapshot.apply(change);
            }
        }
        kept.version += 1;
        kept.by = by;
        remember(&mut kept, commit.answered.as_ref());
        if let Some((_, rung)) = inner.ambush.take_if(|(prey, _)| prey.is_in(&commit.changes)) {
            // Whoever waited has gone on to something else.
            let _heard = rung.send(id.slot()).is_ok();
        }
        Found::Done(self.put(&mut inner, id, kept, places))
    }

    fn place(&self, stream: StreamId, epoch: u64, seq: u64) -> Place {
        let epoch = if self.is(Sabotage::ReuseSeq) { 1 } else { epoch };
        Place { stream: stream.0.to_string(), epoch, seq }
    }

    /// Events have places that rise.
    fn append(&self, id: &SessionId, commit: &Commit) -> Vec<Place> {
        let mut places = Vec::new();
        for change in &commit.changes {
            let Change::Stream(stream, StreamChange::Appended { seq, epoch, message, .. }) = change else {
                continue;
            };
            let at = self.place(*stream, *epoch, *seq);
            let data = message.as_ref().map_or("", |message| message.as_str()).to_owned();
            self.pen.kept(id.as_str(), at.clone(), data);
            places.push(at);
        }
        places
    }

    /// Writes the whole of a session in the place of a version up to `most`, or of exactly that write.
    fn rewrite(
        &self,
        (id, by): (&SessionId, By),
        instead: Instead,
        stored: (&Principal, u64),
        commit: &Commit,
    ) -> Found {
        let mut inner = self.inner.borrow_mut();
        if let Err(refusal) = self.check(&inner, id.slot(), by.epoch) {
            return Found::Refused(refusal);
        }
        let (principal, version) = stored;
        let before = inner.primary.sessions.get(id);
        if before.is_some_and(|kept| kept.by.epoch > by.epoch) {
            return Found::Refused(CommitRefusal::Stale);
        }
        let fits = match (instead, before) {
            // One that was given up, and comes late, is not written over what its writer wrote since.
            (Instead::UpTo(most) | Instead::Before(most), Some(kept)) => {
                kept.version <= most && !is_late(kept.by, by)
            }
            (Instead::UpTo(_), None) => true,
            (Instead::Before(_), None) => return Found::Refused(CommitRefusal::Conflict),
            (Instead::By(of), Some(kept)) => kept.by == of,
            (Instead::By(_), None) => false,
        };
        if let (false, Some(kept)) = (fits, before) {
            return Found::Other { version: kept.version, by: kept.by };
        }
        for (stream, log) in before.iter().flat_map(|kept| &kept.snapshot.streams) {
            for event in log.events.iter().filter(|event| event.epoch == by.epoch) {
                // Comes back at once, unless it is one of a write that was given up.
                let at = self.place(*stream, event.epoch, event.seq);
                match commit.after.streams.get(stream) {
                    // Whether anybody has seen it, and whether it comes back, is not known here.
                    None => self.pen.lost(id.as_str(), at),
                    Some(log) => {
                        let stays =
                            event.seq <= log.trimmed || log.events.iter().any(|there| there.seq == event.seq);
                        if !stays {
                            self.pen.replaced(id.as_str(), at);
                        }
                    }
                }
            }
        }
        let answers = before.map(|kept| kept.answers.clone()).unwrap_or_default();
        let (principal, snapshot) = (principal.clone(), commit.after.clone());
        let mut kept = Kept { principal, snapshot, version, by, answers };
        remember(&mut kept, commit.answered.as_ref());
        let mut places = Vec::new();
        for (stream, log) in &commit.after.streams {
            for event in &log.events {
                let at = self.place(*stream, event.epoch, event.seq);
                self.pen.kept(id.as_str(), at.clone(), event.message.as_str().to_owned());
                places.push(at);
            }
        }
        for change in &commit.changes {
            let Change::Stream(stream, StreamChange::Appended { seq, epoch, message: None, .. }) = change
            else {
                continue;
            };
            self.pen.kept(id.as_str(), self.place(*stream, *epoch, *seq), String::new());
        }
        Found::Done(self.put(&mut inner, id, kept, places))
    }

    fn remove(&self, id: &SessionId, by: By) -> Result<u64, CommitRefusal> {
        let mut inner = self.inner.borrow_mut();
        self.check(&inner, id.slot(), by.epoch)?;
        if self.is(Sabotage::ResurrectTombstone) {
            return Ok(inner.written);
        }
        inner.primary.sessions.remove(id);
        Ok(self.fly(&mut inner, Key::Session(id.clone(), None), Vec::new()))
    }
}

/// What must stand where the whole of a session is written.
#[derive(Clone, Copy)]
enum Instead {
    UpTo(u64),
    /// The same, if there is anything.
    Before(u64),
    By(By),
}

fn is_late(there: By, by: By) -> bool {
    there.epoch == by.epoch && there.instance == by.instance && there.number > by.number
}

fn remember(kept: &mut Kept, answered: Option<&Answered>) {
    let Some(answered) = answered else { return };
    if !kept.answers.iter().any(|there| there.key == answered.key) {
        kept.answers.push_back(answered.clone());
    }
    while kept.answers.len() > ANSWERS {
        kept.answers.pop_front();
    }
}
