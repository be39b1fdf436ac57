//! What the keeper is asked for, and what it says.

use api::{Epoch, SessionId, Slot};
use machines::CommitRefusal;
use tokio::sync::oneshot;

use super::tables::Rows;
use crate::store::fields::Parts;
use crate::store::{Answered, Fenced};

/// What is to be done.
pub(super) enum Order {
    /// Take over slots.
    Fence(Vec<(Slot, Epoch)>),
    /// Write a session.
    Write(Box<Write>),
    /// Read a session.
    Load(SessionId),
    /// Look up an answer.
    Answered(SessionId, String),
    /// Keep a session for longer.
    Touch(SessionId),
    /// Forget a session.
    Remove(SessionId, Epoch),
    /// Say what the mesh is called, by the first name that was ever proposed.
    Name(String),
    /// Say whether the file can be used.
    Ping,
}

/// A session, or what changes of it.
pub(super) struct Write {
    pub(super) id: SessionId,
    pub(super) epoch: Epoch,
    pub(super) how: How,
    /// The version behind it.
    pub(super) version: u64,
    pub(super) parts: Parts,
    pub(super) answered: Option<Answered>,
}

/// What has to be there for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Nothing: it is a new session.
    New,
    /// The version before, of which these are the changes.
    Step,
    /// The version before, or a commit in doubt in its place; this is the whole instead.
    Whole,
    /// Whatever is not newer; this is the whole instead.
    Repair,
}

/// What came of it.
pub(super) enum Said {
    Done,
    Fenced(Vec<Fenced>),
    Loaded(Option<Box<(u64, Rows)>>),
    Found(Option<Answered>),
    Named(String),
    /// A commit in doubt is in the place of this one: the whole session is needed.
    SendWhole,
    Refused(CommitRefusal),
}

/// An order, and who waits for it.
pub(super) struct Errand {
    pub(super) order: Order,
    pub(super) heard: oneshot::Sender<Said>,
}

impl Order {
    /// The session and the version that are in doubt if nobody hears what became of this.
    pub(super) fn mark(&self) -> Option<(Box<str>, u64)> {
        let Self::Write(write) = self else { return None };
        match write.how {
            How::Step | How::Whole => Some((write.id.as_str().into(), write.version)),
            How::New | How::Repair => None,
        }
    }
}
