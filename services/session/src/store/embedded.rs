//! Sessions in a file of this process, in an embedded database: they outlive the process, however it ends.
//!
//! Owns: the file, and the thread that writes it. Nothing is answered before the disk has it; what waits at the same time shares
//! one write. Must not decide anything that the other stores do not: fences, versions and doubts are theirs. Deliberately absent:
//! other processes. The file is locked, so the fences are only ever raised by one start after another.

mod file;
mod keeper;
mod known;
mod ledger;
mod order;
mod overlay;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use api::session::Transport;
use api::{Epoch, Principal, SessionId, Slot, SlotCount};
use async_trait::async_trait;
use chassis::metrics::Metrics;
use machines::{CommitRefusal, Snapshot};
use redb::Database;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

pub use self::file::Refused;
use self::keeper::{Fences, Keeper, Open};
use self::order::{Errand, How, Order, Said, Write};
use self::tables::Rows;
use super::refusals::Refusals;
use super::{Answered, Commit, Fenced, SessionStore, Stored, Unfit, fields, names, restore};
use crate::host::ROLE;

/// Orders that may wait for the thread. Whoever finds no place waits for one, and hears in the end that the store is down.
const QUEUE: usize = 1024;
/// How long anything may take, the wait for a place included.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long slots may take: without them there is nothing to be done.
const FENCING: Duration = Duration::from_secs(30);
/// How long the end of the process waits for the file to be closed.
const CLOSING: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Embedded {
    path: PathBuf,
    orders: Option<mpsc::Sender<Errand>>,
    fences: Arc<Fences>,
    past: Epoch,
    closed: Mutex<Receiver<()>>,
    refusals: Refusals,
}

/// What does not depend on the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// How long a session is kept that nobody uses.
    pub(super) life: Duration,
    /// Most commits that share a write.
    pub(super) group: usize,
}

/// Judges the file if it is there, without touching it. One that is in use was judged by whoever uses it.
pub(super) fn examine(path: &Path) -> Result<(), Refused> {
    if !path.exists() {
        return Ok(());
    }
    match file::judge(path) {
        Err(Refused::Busy { .. }) => Ok(()),
        judged => judged,
    }
}

impl Embedded {
    /// Opens the file, which is made if it is not there.
    pub(super) fn open(path: &Path, settings: Settings, metrics: &Metrics) -> Result<Self, Refused> {
        let path = path.to_owned();
        let database = file::open(&path)?;
        let again = path.clone();
        Self::start(path, (database, Box::new(move || file::reopen(&again))), settings, metrics)
    }

    fn start(
        path: PathBuf,
        (database, open): (Database, Open),
        settings: Settings,
        metrics: &Metrics,
    ) -> Result<Self, Refused> {
        let metrics = metrics.of_role(ROLE);
        let damaged = |error: redb::Error| Refused::Damaged { path: path.clone(), why: error.to_string() };
        let failed = |error: std::io::Error| Refused::Unusable { path: path.clone(), why: error.to_string() };
        let keeper =
            Keeper::new(database, open, (settings.life, settings.group), &metrics).map_err(damaged)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let (orders, taken) = mpsc::channel(QUEUE);
        let (closing, closed) = sync_channel(1);
        let fences = keeper.fences();
        let run = move || {
            keeper.run(taken, &runtime);
            drop(closing);
        };
        thread::Builder::new().name("session file".into()).spawn(run).map_err(failed)?;
        let past = Epoch(fences.highest());
        let (closed, refusals) = (Mutex::new(closed), Refusals::new(&metrics));
        Ok(Self { path, orders: Some(orders), fences, past, closed, refusals })
    }

    /// Has something done, and hears what came of it. Whoever hears nothing in time takes it back if it was not begun; if it was,
    /// the keeper knows that nobody heard.
    async fn ask(&self, order: Order) -> Said {
        self.ask_for(order, PATIENCE).await
    }

    async fn ask_for(&self, order: Order, patience: Duration) -> Said {
        let down = Said::Refused(CommitRefusal::Down);
        let Some(orders) = &self.orders else { return down };
        let until = Instant::now() + patience;
        let Ok(Ok(place)) = timeout_at(until, orders.reserve()).await else { return down };
        let (heard, mut said) = oneshot::channel();
        place.send(Errand { order, heard });
        match timeout_at(until, &mut said).await {
            Ok(said) => said.unwrap_or(down),
            Err(_) => {
                said.close();
                said.try_recv().unwrap_or(down)
            }
        }
    }

    async fn write(&self, write: Write) -> Said {
        self.ask(Order::Write(Box::new(write))).await
    }

    async fn commit_whole(&self, write: &Commit<'_>, id: &SessionId, epoch: Epoch, version: u64) -> Said {
        let (id, parts, answered) = (id.clone(), fields::whole(write.after), write.answered.clone());
        self.write(Write { id, epoch, how: How::Whole, version, parts, answered }).await
    }

    fn done(&self, said: Said) -> Result<(), CommitRefusal> {
        self.refusals.count(match said {
            Said::Done => Ok(()),
            Said::Refused(refusal) => Err(refusal),
            Said::SendWhole => Err(CommitRefusal::Conflict),
            Said::Fenced(_) | Said::Loaded(_) | Said::Found(_) | Said::Named(_) => Err(CommitRefusal::Down),
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.orders = None;
        let closed = self.closed.get_mut().unwrap_or_else(PoisonError::into_inner);
        match closed.recv_timeout(CLOSING) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("the session file takes too long to close; the next start will check it");
            }
        }
    }
}

/// A session out of its rows.
fn stored(version: u64, mut rows: Rows) -> Result<Stored, restore::Unreadable> {
    rows.fields.push((names::VERSION.to_owned(), version.to_string().into_bytes()));
    let damaged = || restore::Unreadable::Damaged(names::SCHEMA.to_owned());
    let mut outline = restore::outline(rows.fields)?.ok_or_else(damaged)?;
    for (stream, count) in std::mem::take(&mut outline.logs) {
        let mine = rows.events.iter_mut().filter(|(of, ..)| *of == stream.0);
        let events =
            mine.map(|(_, id, message)| (std::mem::take(id), std::mem::take(message))).collect::<Vec<_>>();
        outline.fill(stream, count, events)?;
    }
    Ok(outline.stored)
}

#[async_trait]
impl SessionStore for Embedded {
    async fn fence(&self, slots: &[(Slot, Epoch)]) -> Vec<Fenced> {
        let said = self.ask_for(Order::Fence(slots.to_vec()), FENCING).await;
        let Said::Fenced(fenced) = said else { return vec![Fenced::Down; slots.len()] };
        fenced
    }

    async fn is_fenced(&self, slot: Slot, epoch: Epoch) -> Fenced {
        // Nobody else can raise it while this process has the file.
        match self.fences.get(slot) {
            fence if fence == epoch.0 => Fenced::Done,
            fence if fence > epoch.0 => Fenced::Higher(Epoch(fence)),
            _ => self.fence(&[(slot, epoch)]).await.first().copied().unwrap_or(Fenced::Down),
        }
    }

    async fn create(
        &self,
        id: &SessionId,
        epoch: Epoch,
        principal: &Principal,
        transport: Transport,
    ) -> Result<(), CommitRefusal> {
        let mut parts = fields::whole(&Snapshot::default());
        parts.set.extend(fields::identity(principal, transport));
        let write = Write { id: id.clone(), epoch, how: How::New, version: 0, parts, answered: None };
        self.done(self.write(write).await)
    }

    async fn commit(
        &self,
        id: &SessionId,
        epoch: Epoch,
        version: u64,
        commit: Commit<'_>,
    ) -> Result<(), CommitRefusal> {
        let version = version.saturating_add(1);
        let said = match fields::touched(commit.changes, commit.after) {
            Some(parts) => {
                let (id, answered) = (id.clone(), commit.answered.clone());
                self.write(Write { id, epoch, how: How::Step, version, parts, answered }).await
            }
            None => Said::SendWhole,
        };
        let said = match matches!(said, Said::SendWhole) {
            true => self.commit_whole(&commit, id, epoch, version).await,
            false => said,
        };
        self.done(said)
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, CommitRefusal> {
        let said = self.ask(Order::Load(id.clone())).await;
        let Said::Loaded(found) = said else { return self.done(said).map(|()| None) };
        let Some((version, rows)) = found.map(|found| *found) else { return Ok(None) };
        let restored = stored(version, rows).map_err(|why| {
            tracing::error!(slot = %id.slot(), %why, "a stored session cannot be used");
            CommitRefusal::Conflict
        });
        self.refusals.count(restored).map(Some)
    }

    async fn answered(&self, id: &SessionId, key: &str) -> Result<Option<Answered>, CommitRefusal> {
        let said = self.ask(Order::Answered(id.clone(), key.to_owned())).await;
        let Said::Found(found) = said else { return self.done(said).map(|()| None) };
        Ok(found)
    }

    async fn repair(&self, id: &SessionId, epoch: Epoch, stored: &Stored) -> Result<(), CommitRefusal> {
        let Stored { principal, transport, snapshot, version } = stored;
        let mut parts = fields::whole(snapshot);
        parts.set.extend(fields::identity(principal, *transport));
        let write =
            Write { id: id.clone(), epoch, how: How::Repair, version: *version, parts, answered: None };
        self.done(self.write(write).await)
    }

    async fn touch(&self, id: &SessionId) -> Result<(), CommitRefusal> {
        self.done(self.ask(Order::Touch(id.clone())).await)
    }

    async fn remove(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal> {
        self.done(self.ask(Order::Remove(id.clone(), epoch)).await)
    }

    async fn is_up(&self) -> bool {
        matches!(self.ask(Order::Ping).await, Said::Done)
    }

    async fn name(&self, proposed: &str) -> Result<String, Unfit> {
        let said = self.ask(Order::Name(proposed.to_owned())).await;
        let Said::Named(name) = said else { return Err(Unfit::Nameless { place: "store.file" }) };
        Ok(name)
    }

    fn past(&self) -> Epoch {
        self.past
    }

    async fn live_in(&self, slots: SlotCount) -> Result<(), Unfit> {
        let fits = |count: &SlotCount| self.fences.is_none_beyond(*count);
        let made = SlotCount::ALL.into_iter().find(fits).map_or(Slot::MOST, SlotCount::get);
        if made <= slots.get() {
            return Ok(());
        }
        let (place, way_out) =
            (self.path.display().to_string(), "name another store.file, or folder with --data".to_owned());
        Err(Unfit::Larger { asked: slots, made: made.into(), place, way_out })
    }
}

#[cfg(test)]
mod tests;
