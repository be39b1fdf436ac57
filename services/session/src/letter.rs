//! What is put into a session's queue, and what of it is kept beside a queue that is full.

use std::collections::{BTreeMap, BTreeSet};

use api::EventId;
use api::session::Again;
use chassis::telemetry::Scope;
use machines::ListKind;
use mcp::Json;
use mcp::rpc::{Malformed, Message};

use crate::carry::Visit;
use crate::reader::Reader;

/// What is put into a session's queue.
pub(crate) enum Letter {
    /// The client posted a message.
    Message {
        message: Message,
        key: String,
        again: Option<Again>,
        in_batch: bool,
        reply: Reader,
        scope: Scope,
    },
    /// The client of a session of HTTP+SSE posted several messages at once; each is judged for itself.
    Batch { messages: Vec<Result<Message, Malformed>>, reply: Reader, scope: Scope },
    /// From now on everything in a session of HTTP+SSE goes to this reader. The first letter of such a session is one.
    Carry { visit: Visit, reply: Reader },
    /// A session of HTTP+SSE is to end with its last call.
    Leave { reply: Reader },
    /// The client opened or continues a stream.
    Attach { cursor: Option<EventId>, reply: Reader },
    /// The client ends the session.
    Close { reply: Reader },
    /// A list has changed.
    Changed(ListKind),
    /// A watched resource has changed.
    Updated { uri: String, params: Json },
    /// A moment the machine waited for may have come.
    Wake,
    /// There is more beside the queue.
    Overdue,
    /// The node drains.
    Drain,
    /// The session lives elsewhere from now on.
    Moved,
}

impl Letter {
    /// Whoever waits for what comes of it.
    pub(crate) const fn reply(&self) -> Option<&Reader> {
        match self {
            Self::Message { reply, .. }
            | Self::Batch { reply, .. }
            | Self::Carry { reply, .. }
            | Self::Leave { reply }
            | Self::Attach { reply, .. }
            | Self::Close { reply } => Some(reply),
            Self::Changed(_)
            | Self::Updated { .. }
            | Self::Wake
            | Self::Overdue
            | Self::Drain
            | Self::Moved => None,
        }
    }
}

/// What a full queue could not take although nobody would say it again: each thing once, however often it happens meanwhile.
#[derive(Default)]
pub(crate) struct Overdue {
    lists: BTreeSet<ListKind>,
    updated: BTreeMap<String, Json>,
    drain: bool,
    moved: bool,
}

impl Overdue {
    /// Keeps a letter that nobody waits for; whether it is one.
    pub(crate) fn keep(&mut self, letter: Letter) -> bool {
        match letter {
            Letter::Changed(kind) => _ = self.lists.insert(kind),
            Letter::Updated { uri, params } => _ = self.updated.insert(uri, params),
            Letter::Drain => self.drain = true,
            Letter::Moved => self.moved = true,
            // An actor keeps its own time.
            Letter::Wake | Letter::Overdue => {}
            Letter::Message { .. }
            | Letter::Batch { .. }
            | Letter::Carry { .. }
            | Letter::Leave { .. }
            | Letter::Attach { .. }
            | Letter::Close { .. } => return false,
        }
        true
    }

    pub(crate) fn letters(self) -> Vec<Letter> {
        let changed = self.lists.into_iter().map(Letter::Changed);
        let updated = self.updated.into_iter().map(|(uri, params)| Letter::Updated { uri, params });
        changed
            .chain(updated)
            .chain(self.drain.then_some(Letter::Drain))
            .chain(self.moved.then_some(Letter::Moved))
            .collect()
    }
}
