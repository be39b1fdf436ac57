//! Where sessions outlive their actors.

pub mod contract;
mod memory;

use api::session::Transport;
use api::{Epoch, Principal, SessionId};
use async_trait::async_trait;
use machines::{Change, CommitRefusal, Snapshot};

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

/// Keeps sessions. Every write carries the epoch of the writer and the version it was made for.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Takes over a slot: from now on writes with a lower epoch are refused.
    async fn fence(&self, slot: api::Slot, epoch: Epoch) -> Result<(), CommitRefusal>;

    /// Makes a session with version 0. [`CommitRefusal::Conflict`] if it exists.
    async fn create(
        &self,
        id: &SessionId,
        epoch: Epoch,
        principal: &Principal,
        transport: Transport,
    ) -> Result<(), CommitRefusal>;

    /// Applies changes, all or none, if the session has this version.
    async fn commit(
        &self,
        id: &SessionId,
        epoch: Epoch,
        version: u64,
        changes: &[Change],
    ) -> Result<(), CommitRefusal>;

    /// Reads a session; `None` if there is none.
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, CommitRefusal>;

    /// Forgets a session. Forgetting what is not there is no error.
    async fn remove(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal>;
}
