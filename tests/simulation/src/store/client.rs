//! The store, as one run of a session node reaches it. Mirrors `services/session/src/store.rs` (the port), and of its Redis
//! form the doubts about writes without an answer and the wait for replicas.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use api::{Epoch, Principal, SessionId, Slot};
use machines::snapshot::{CallChange, StreamChange};
use machines::{Change, CommitRefusal, Snapshot};

use super::{Answered, By, Commit, Found, Instead, Redis};
use crate::sabotage::{Known, Sabotage};
use crate::world::Ctx;

/// What is waited for an answer.
const PATIENCE_MS: u64 = 1_200;
/// What is waited for a replica.
const WAIT_MS: u64 = 50;

/// What came of a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fenced {
    Done,
    Higher(Epoch),
    Down,
}

/// A session, as it is loaded.
pub(crate) struct Stored {
    pub(crate) principal: Principal,
    pub(crate) snapshot: Snapshot,
    pub(crate) version: u64,
}

/// See the module.
pub(crate) struct Client {
    redis: Redis,
    ctx: Ctx,
    instance: u64,
    next: Cell<u64>,
    /// Writes that were given up although they may have been done: the version they were for, and the first one's number.
    doubts: RefCell<BTreeMap<SessionId, (u64, u64)>>,
}

impl Client {
    pub(crate) fn new(redis: &Redis, ctx: &Ctx, instance: u64) -> Self {
        let (redis, ctx) = (redis.clone(), ctx.clone());
        Self { redis, ctx, instance, next: Cell::new(1), doubts: RefCell::default() }
    }

    async fn ask<T: 'static>(&self, f: impl FnOnce(&Redis) -> T + 'static) -> Option<T> {
        let redis = self.redis.clone();
        let slow = redis.inner.borrow().slow;
        if slow > 0 {
            self.ctx.sleep_ms(redis.sim.range(0, slow) / 1000).await;
        }
        let answer = move || {
            if !redis.inner.borrow().up {
                return None;
            }
            let answer = f(&redis);
            let lossy = redis.inner.borrow().lossy;
            (!redis.sim.per_mille(lossy)).then_some(answer)
        };
        self.redis.net.ask(&self.ctx, self.redis.me, PATIENCE_MS, answer).await
    }

    fn stamp(&self, epoch: Epoch) -> By {
        let number = self.next.get();
        self.next.set(number + 1);
        By { epoch: epoch.0, instance: self.instance, number }
    }

    /// Waits until the replica has a write. True where nobody waits.
    async fn is_safe(&self, generation: u64, number: u64) -> bool {
        if !self.redis.habits.waits || self.redis.is(Sabotage::AckBeforeWait) {
            return true;
        }
        let waiting = async {
            loop {
                match self.redis.has(generation, number) {
                    Some(true) => return true,
                    Some(false) => self.ctx.sleep_ms(2).await,
                    None => return false,
                }
            }
        };
        self.ctx.within_ms(WAIT_MS, waiting).await.unwrap_or(false)
    }

    fn generation(&self) -> u64 {
        self.redis.inner.borrow().generation
    }

    /// Raises fences, and is sure that a fail-over does not bring the old ones back.
    pub(crate) async fn fence(&self, slots: &[(Slot, Epoch)]) -> Vec<Fenced> {
        let (asked, instance) = (slots.to_vec(), self.instance);
        let generation = self.generation();
        let raise = move |redis: &Redis| -> Vec<(Fenced, u64)> {
            asked.iter().map(|(slot, epoch)| redis.fence(*slot, *epoch, instance)).collect()
        };
        let Some(answers) = self.ask(raise).await else { return vec![Fenced::Down; slots.len()] };
        let last = answers.iter().map(|(_, number)| *number).max().unwrap_or(0);
        let waits = !self.redis.habits.known.contains(&Known::FenceUnwaited);
        if waits && !self.is_safe(generation, last).await {
            return vec![Fenced::Down; slots.len()];
        }
        answers.into_iter().map(|(fenced, _)| fenced).collect()
    }

    pub(crate) async fn create(
        &self,
        id: &SessionId,
        epoch: Epoch,
        principal: &Principal,
    ) -> Result<(), CommitRefusal> {
        let (id, by, principal) = (id.clone(), self.stamp(epoch), principal.clone());
        let created = self.ask(move |redis| redis.create(&id, by, &principal)).await;
        created.unwrap_or(Err(CommitRefusal::Down)).map(|_| ())
    }

    pub(crate) async fn commit(
        &self,
        id: &SessionId,
        epoch: Epoch,
        (version, principal): (u64, &Principal),
        commit: Commit,
    ) -> Result<(), CommitRefusal> {
        let by = self.stamp(epoch);
        let ends = commit.changes.iter().any(|change| matches!(change, Change::Ended));
        let is_lenient = self.redis.habits.known.contains(&Known::DeleteShort);
        let refusable = can_be_refused(&commit.changes) || (ends && !is_lenient);
        let matters = matters(&commit.changes);
        let generation = self.generation();
        let committed = match self.write(id, by, (version, principal), commit).await {
            Ok(number) => {
                let safe = !matters || self.is_safe(generation, number).await;
                if safe || !refusable { Ok(()) } else { Err(CommitRefusal::Down) }
            }
            Err(refusal) => Err(refusal),
        };
        match committed {
            Ok(()) => drop(self.doubts.borrow_mut().remove(id)),
            Err(CommitRefusal::Down) => {
                let mut doubts = self.doubts.borrow_mut();
                if doubts.get(id).is_none_or(|(of, _)| *of != version) {
                    doubts.insert(id.clone(), (version, by.number));
                }
            }
            Err(CommitRefusal::Conflict) => self.redis.pen.count(|counts| counts.conflicts += 1),
            Err(CommitRefusal::Stale | CommitRefusal::Regress) => {}
        }
        committed
    }

    async fn write(
        &self,
        id: &SessionId,
        by: By,
        (version, principal): (u64, &Principal),
        commit: Commit,
    ) -> Result<u64, CommitRefusal> {
        let doubted = self.doubts.borrow().get(id).copied();
        let (id, principal, instance) = (id.clone(), principal.clone(), self.instance);
        let written = self
            .ask(move |redis| {
                let found = redis.commit(&id, by, version, &commit);
                let Found::Other { version: there, by: of } = found else { return found };
                let given_up =
                    doubted.is_some_and(|(for_version, from)| for_version == version && from <= of.number);
                // What was given up itself takes nobody's place any more.
                let ours = of.epoch == by.epoch && of.instance == instance && of.number < by.number;
                if !(given_up && ours && there == version + 1) {
                    return found;
                }
                redis.rewrite((&id, by), Instead::By(of), (&principal, version + 1), &commit)
            })
            .await;
        done(written)
    }

    /// Writes the whole of a session that the store has lost, or has lost the end of.
    pub(crate) async fn repair(
        &self,
        id: &SessionId,
        epoch: Epoch,
        (stored, may_be_lost): ((&Principal, u64), bool),
        commit: Commit,
    ) -> Result<(), CommitRefusal> {
        let (of, by) = (id.clone(), self.stamp(epoch));
        let (principal, version) = (stored.0.clone(), stored.1);
        let written = self
            .ask(move |redis| {
                let instead = if may_be_lost { Instead::UpTo(version) } else { Instead::Before(version) };
                redis.rewrite((&of, by), instead, (&principal, version), &commit)
            })
            .await;
        done(written)?;
        self.doubts.borrow_mut().remove(id);
        self.redis.pen.count(|counts| counts.repairs += 1);
        Ok(())
    }

    pub(crate) async fn load(&self, id: &SessionId) -> Result<Option<Stored>, CommitRefusal> {
        let id = id.clone();
        let loaded = self.ask(move |redis| {
            let inner = redis.inner.borrow();
            inner.primary.sessions.get(&id).map(|kept| Stored {
                principal: kept.principal.clone(),
                snapshot: kept.snapshot.clone(),
                version: kept.version,
            })
        });
        loaded.await.ok_or(CommitRefusal::Down)
    }

    pub(crate) async fn answered(
        &self,
        id: &SessionId,
        key: &str,
    ) -> Result<Option<Answered>, CommitRefusal> {
        let (id, key) = (id.clone(), key.to_owned());
        let found = self.ask(move |redis| {
            let inner = redis.inner.borrow();
            let kept = inner.primary.sessions.get(&id)?;
            kept.answers.iter().find(|answered| answered.key == key).cloned()
        });
        found.await.ok_or(CommitRefusal::Down)
    }

    pub(crate) async fn remove(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal> {
        let (id, by) = (id.clone(), self.stamp(epoch));
        let removed = self.ask(move |redis| redis.remove(&id, by)).await;
        removed.unwrap_or(Err(CommitRefusal::Down)).map(|_| ())
    }
}

fn done(written: Option<Found>) -> Result<u64, CommitRefusal> {
    match written {
        Some(Found::Done(number)) => Ok(number),
        Some(Found::Refused(refusal)) => Err(refusal),
        Some(Found::Other { .. }) => Err(CommitRefusal::Conflict),
        None => Err(CommitRefusal::Down),
    }
}

/// Whether a write is worth waiting for: all but what only moves a stream along.
fn matters(changes: &[Change]) -> bool {
    changes.iter().any(|change| match change {
        Change::Stream(_, change) => matches!(
            change,
            StreamChange::Opened { .. } | StreamChange::Finished { .. } | StreamChange::Dropped
        ),
        _ => true,
    })
}

/// Whether a client waits for this with something that was not done yet.
fn can_be_refused(changes: &[Change]) -> bool {
    let (mut waits, mut ends) = (false, false);
    for change in changes {
        match change {
            Change::Call(_, CallChange::Ended(_)) | Change::Ended => ends = true,
            Change::Call(_, CallChange::Placed(_) | CallChange::Heard(_) | CallChange::Asked(_))
            | Change::Stream(..) => {}
            _ => waits = true,
        }
    }
    waits && !ends
}
