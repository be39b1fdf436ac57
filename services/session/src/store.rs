//! Where sessions outlive their actors.
//!
//! [`SessionStore`] is the port. `memory` keeps sessions in this process, `embedded` in a file of this process, `redis` in Redis;
//! `contract` is the suite that all of them pass. Must not decide anything about a conversation, nor know who owns which slot: what is written carries the epoch of
//! its writer, and the store refuses all but the highest it has been told of.

pub mod config;
mod connect;
pub mod contract;
mod embedded;
mod ended;
#[cfg(debug_assertions)]
pub mod faulty;
mod fields;
mod memory;
mod names;
mod redis;
mod refusals;
mod restore;

use api::session::Transport;
use api::{Epoch, Principal, SessionId, Slot, SlotCount};
use async_trait::async_trait;
pub use machines::CommitRefusal;
use machines::{Change, Snapshot};
use mcp::Json;

pub use self::config::Config;
pub use self::connect::{ConnectError, Store};
pub use self::embedded::Refused;
pub use self::memory::Memory;

/// A stored session.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Whose it is.
    pub principal: Principal,
    /// The way it was begun in, and is found in.
    pub transport: Transport,
    /// Its durable state.
    pub snapshot: Snapshot,
    /// Number of commits so far.
    pub version: u64,
}

/// What is to be made durable, all or none.
#[derive(Debug, Clone)]
pub struct Commit<'a> {
    /// The steps.
    pub changes: &'a [Change],
    /// The state behind them: that of the version before, and `changes` applied to it.
    pub after: &'a Snapshot,
    /// The answer that leaves with this commit, if a request ends in it.
    pub answered: Option<Answered>,
}

impl<'a> Commit<'a> {
    /// A commit in which no request ends.
    #[must_use]
    pub const fn new(changes: &'a [Change], after: &'a Snapshot) -> Self {
        Self { changes, after, answered: None }
    }
}

/// How a request ended, for a gateway that asks again with the same key. See [`Answered::MOST`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The gateway's key of the request.
    pub key: String,
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Option<Json>,
}

impl Answered {
    /// So many answers of a session are kept at least, and at most as many again; the oldest go first.
    pub const MOST: usize = 64;
    /// The same where the last one has no body. In a session of HTTP+SSE every request is remembered, so that what its client says
    /// in the time in which a gateway may say it again is known.
    pub const BARE: usize = 512;
    /// Most bytes of answers that are kept for one session. A larger one is not kept at all.
    pub const BYTES: usize = 1 << 20;
    /// How long one is kept at least, in milliseconds.
    pub const KEPT_MS: u64 = 600_000;

    /// How many are kept with this one.
    const fn most(&self) -> usize {
        if self.body.is_some() { Self::MOST } else { Self::BARE }
    }

    /// What it counts for.
    fn size(&self) -> usize {
        self.key.len() + self.body.as_ref().map_or(0, |body| body.as_str().len())
    }
}

/// What came of taking over a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// Writes with a lower epoch are refused from now on.
    Done,
    /// The store knows of an owner with this higher epoch.
    Higher(Epoch),
    /// The store cannot be reached, or does not answer in time. It may have been done.
    Down,
}

/// Why a store cannot keep the sessions of a mesh with so many slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Nobody would ever ask for some of its sessions.
    #[error(
        "cluster.slots: {asked} here, and {place} was used with {made}: sessions in slots from {asked} on would be lost. Set \
         cluster.slots = {made}, or {way_out}"
    )]
    Larger {
        /// How many the mesh is to have.
        asked: SlotCount,
        /// How many it had.
        made: u64,
        /// Where they are.
        place: String,
        /// What to do if they may be lost.
        way_out: String,
    },
    /// The store does not say.
    #[error("{place}: the store does not say how many slots its sessions live in")]
    Down {
        /// Which setting names it.
        place: &'static str,
    },
    /// The store does not say what the mesh is called.
    #[error("{place}: the store does not say under which name the mesh deals with registries")]
    Nameless {
        /// Which setting names it.
        place: &'static str,
    },
}

/// Keeps sessions. Every write carries the epoch of the writer and the version it was made for.
///
/// A refusal says what the store knows: [`CommitRefusal::Stale`] a higher epoch, [`CommitRefusal::Regress`] none as high as
/// the writer's, so that it has lost data, [`CommitRefusal::Conflict`] another version, or no such session,
/// [`CommitRefusal::Down`] nothing: the write may have been done. Whoever goes on after `Down` commits the same version again:
/// what that finds of the write before, it replaces.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Takes over slots: from now on writes with a lower epoch are refused. One answer for each, in order.
    async fn fence(&self, slots: &[(Slot, Epoch)]) -> Vec<Fenced>;

    /// Whether a slot is still fenced as this process has fenced it; one whose fence was lost is fenced again. Unlike a fence that
    /// takes a slot over, this need not outlive a fail-over.
    async fn is_fenced(&self, slot: Slot, epoch: Epoch) -> Fenced {
        self.fence(&[(slot, epoch)]).await.first().copied().unwrap_or(Fenced::Down)
    }

    /// Makes a session with version 0. [`CommitRefusal::Conflict`] if it exists.
    async fn create(
        &self,
        id: &SessionId,
        epoch: Epoch,
        principal: &Principal,
        transport: Transport,
    ) -> Result<(), CommitRefusal>;

    /// Makes the changes, all or none, if the session has this version; it has the next one then.
    async fn commit(
        &self,
        id: &SessionId,
        epoch: Epoch,
        version: u64,
        commit: Commit<'_>,
    ) -> Result<(), CommitRefusal>;

    /// Reads a session; `None` if there is none.
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, CommitRefusal>;

    /// How the request with this key ended, if that is still kept.
    async fn answered(&self, id: &SessionId, key: &str) -> Result<Option<Answered>, CommitRefusal>;

    /// Writes the whole of a session that the store has lost, or has lost the end of. [`CommitRefusal::Conflict`] if the
    /// store has a higher version, or knows that the session was removed: what was given up and comes late does not bring it back.
    async fn repair(&self, id: &SessionId, epoch: Epoch, stored: &Stored) -> Result<(), CommitRefusal>;

    /// The same, if the store has anything of the session: one that it does not have was ended by somebody, and stays so.
    /// [`CommitRefusal::Conflict`] then, too.
    async fn repair_what_is_there(
        &self,
        id: &SessionId,
        epoch: Epoch,
        stored: &Stored,
    ) -> Result<(), CommitRefusal> {
        match self.load(id).await? {
            Some(_) => self.repair(id, epoch, stored).await,
            None => Err(CommitRefusal::Conflict),
        }
    }

    /// Says that a session is in use although nothing of it is committed, so that it is kept for longer.
    async fn touch(&self, id: &SessionId) -> Result<(), CommitRefusal>;

    /// Forgets a session. Forgetting what is not there is no error.
    async fn remove(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal>;

    /// Whether it answers.
    async fn is_up(&self) -> bool;

    /// Whether sessions are kept outside of this process, so that what an owner does not need of them is best left there.
    fn is_outside(&self) -> bool {
        false
    }

    /// Says how many slots its sessions live in from now on. Asked once, at the start: a store whose sessions may live in slots
    /// that there are no more refuses, and remembers the larger number otherwise.
    async fn live_in(&self, _slots: SlotCount) -> Result<(), Unfit> {
        Ok(())
    }

    /// The name under which the mesh of its sessions deals with registries: the first that it was ever told. Asked once, at the
    /// start.
    async fn name(&self, proposed: &str) -> Result<String, Unfit>;

    /// The highest epoch that it was told of before this process used it, where only one process at a time can: this one has to
    /// begin above it. 0 where others count the owners.
    fn past(&self) -> Epoch {
        Epoch(0)
    }
}
