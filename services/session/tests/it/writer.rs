//! A session that is written to, and what it should be.

use std::sync::Arc;

use crate::server::until;
use api::session::Transport;
use api::{Epoch, KeyRing, Principal, SessionId, Slot};
use machines::snapshot::StreamChange;
use machines::{Change, CommitRefusal, Snapshot, StreamId};
use mcp::Json;
use mcp::log::Level;
use session::store::{Answered, Commit, Fenced, SessionStore, Stored};

pub(crate) const SLOT: u16 = 77;

pub(crate) fn id(slot: u16, random: u8) -> SessionId {
    let keys = KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef");
    SessionId::mint(&keys, Slot::new(slot).unwrap(), [random; 16])
}

/// Commits to one session.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) id: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) state: Snapshot,
    pub(crate) version: u64,
}

impl Writer {
    pub(crate) async fn begin(store: &Arc<dyn SessionStore>, random: u8) -> Self {
        Self::begin_in(store, SLOT, random).await
    }

    pub(crate) async fn begin_in(store: &Arc<dyn SessionStore>, slot: u16, random: u8) -> Self {
        let writer = Self::of(store, slot, random);
        writer.fence().await;
        writer.create().await
    }

    /// In a slot that is fenced already.
    pub(crate) async fn begin_unfenced(store: &Arc<dyn SessionStore>, random: u8) -> Self {
        Self::of(store, SLOT, random).create().await
    }

    fn of(store: &Arc<dyn SessionStore>, slot: u16, random: u8) -> Self {
        let id = id(slot, random);
        Self { store: store.clone(), id, epoch: Epoch(1), state: Snapshot::default(), version: 0 }
    }

    async fn create(self) -> Self {
        let (writer, store) = (&self, &self.store);
        let created = store.create(&writer.id, Epoch(1), &Principal::default(), Transport::Streamable).await;
        assert_eq!(created, Ok(()));
        self
    }

    pub(crate) async fn fence(&self) {
        until("the fence is kept", async || {
            match self.store.fence(&[(self.id.slot(), self.epoch)]).await[..] {
                [Fenced::Done] => true,
                // Replicas that are to have it are not there yet.
                [Fenced::Down] => false,
                ref other => panic!("{other:?}"),
            }
        })
        .await;
    }

    pub(crate) async fn attempt(
        &self,
        changes: &[Change],
        answered: Option<Answered>,
    ) -> Result<(), CommitRefusal> {
        let mut after = self.state.clone();
        changes.iter().for_each(|change| after.apply(change));
        let commit = Commit { changes, after: &after, answered };
        self.store.commit(&self.id, self.epoch, self.version, commit).await
    }

    /// The state goes along as soon as the store has it.
    pub(crate) async fn offer(&mut self, changes: &[Change]) -> Result<(), CommitRefusal> {
        self.attempt(changes, None).await?;
        changes.iter().for_each(|change| self.state.apply(change));
        self.version += 1;
        Ok(())
    }

    pub(crate) async fn write(&mut self, changes: &[Change]) {
        assert_eq!(self.offer(changes).await, Ok(()), "{changes:?}");
    }

    pub(crate) fn stored(&self) -> Stored {
        Stored {
            principal: Principal::default(),
            transport: Transport::Streamable,
            snapshot: self.state.clone(),
            version: self.version,
        }
    }

    pub(crate) async fn loaded(&self) -> Stored {
        self.store.load(&self.id).await.unwrap().expect("is there")
    }

    pub(crate) async fn is_whole(&self) {
        assert_eq!(self.loaded().await, self.stored());
    }

    pub(crate) fn key(&self) -> String {
        format!("{{s:{}}}:sess:{}", self.id.slot(), self.id)
    }

    pub(crate) fn log(&self, stream: StreamId) -> String {
        format!("{{s:{}}}:log:{}:{}", self.id.slot(), self.id, stream.0)
    }

    pub(crate) fn fence_key(&self) -> String {
        format!("{{s:{}}}:fence", self.id.slot())
    }
}

pub(crate) fn level(level: Level) -> [Change; 1] {
    [Change::LevelSet(level)]
}

pub(crate) fn opened(stream: StreamId) -> Change {
    Change::Stream(stream, StreamChange::Opened { request: None, key: None })
}

pub(crate) fn appended(stream: StreamId, seq: u64) -> Change {
    appended_in(1, stream, seq)
}

pub(crate) fn appended_in(epoch: u64, stream: StreamId, seq: u64) -> Change {
    let message = Json::trusted(format!(r#"{{"jsonrpc":"2.0","method":"n/{seq}"}}"#));
    Change::Stream(stream, StreamChange::Appended { seq, epoch, message: Some(message), delivered: false })
}

pub(crate) fn answered(key: &str) -> Answered {
    Answered { key: key.to_owned(), status: 202, body: None }
}
