//! The durable part of a session, and the changes it is made of.
//!
//! The session machine keeps its durable state in a [`Snapshot`] and alters it through [`Snapshot::apply`] only, with the
//! very changes it asks to commit: whoever folds the committed changes has the machine's snapshot.

mod apply;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use mcp::log::Level;
use mcp::rpc::Id;
use mcp::{Json, Revision};
use serde::{Deserialize, Serialize};

use crate::input::{CallId, ListKind, Millis, StreamId};
use crate::journal::{Answer, Entry, JournalState, Round};

pub(crate) use self::apply::{Undo, give_back};

/// Everything that outlives an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Form of this structure.
    pub version: u32,
    /// What was negotiated.
    pub handshake: Option<Handshake>,
    /// Level of `logging/setLevel`.
    pub level: Option<Level>,
    /// Watched resources.
    pub subscriptions: BTreeSet<String>,
    /// Calls under way. Each behind a pointer: entries are large, a node of the tree has room for many and mostly holds one, and
    /// what keeps the same session beside this shares them.
    pub journal: BTreeMap<CallId, Arc<Entry>>,
    /// Event streams, open or kept for a late reader.
    pub streams: BTreeMap<StreamId, StreamLog>,
    /// Lowest stream number that never was an event stream or of a journaled call.
    pub next_stream: u64,
    /// Lowest call number that was never journaled.
    pub next_call: u64,
    /// Number of the next question to the client.
    pub next_ask: u64,
    /// The session is over.
    pub ended: bool,
}

/// What the handshake settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// Negotiated revision.
    pub revision: Revision,
    /// The client's capabilities object.
    pub capabilities: Json,
    /// The client's Implementation object.
    pub client_info: Json,
    /// Whether the client has shown that it has the answer.
    pub ready: bool,
    /// When it was: a session does not live longer because its owner changes.
    pub at: Millis,
    /// What the lists were when the client was last told that one has changed; `None` if a version before this one settled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<Lists>,
}

/// Tells one state of the lists from another: what changed while a session had no owner, its next one finds out by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lists {
    /// A digest of all tools.
    pub tools: u32,
    /// Of all resources and templates.
    pub resources: u32,
    /// Of all prompts.
    pub prompts: u32,
}

impl Lists {
    /// The digest of one list.
    #[must_use]
    pub const fn of(self, kind: ListKind) -> u32 {
        match kind {
            ListKind::Tools => self.tools,
            ListKind::Resources => self.resources,
            ListKind::Prompts => self.prompts,
        }
    }

    /// The same with another digest of one list.
    #[must_use]
    pub const fn with(mut self, kind: ListKind, digest: u32) -> Self {
        match kind {
            ListKind::Tools => self.tools = digest,
            ListKind::Resources => self.resources = digest,
            ListKind::Prompts => self.prompts = digest,
        }
        self
    }
}

/// The events of one stream that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamLog {
    /// The request it answers; `None` for the session's own stream.
    pub request: Option<Id>,
    /// Of the delivery of a journaled call: a gateway that has lost the owner asks for it under this.
    #[serde(default)]
    pub key: Option<String>,
    /// Highest number given to an event.
    pub last: u64,
    /// Highest number of a message that is no longer kept.
    pub trimmed: u64,
    /// Highest number handed to a reader (own stream only).
    pub delivered: u64,
    /// When it was finished.
    pub finished_at: Option<Millis>,
    /// Messages by number.
    pub events: VecDeque<Logged>,
    /// Bytes of these messages.
    pub bytes: usize,
}

impl StreamLog {
    /// Whether more events may come.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.finished_at.is_none()
    }
}

/// One kept message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Number in its stream.
    pub seq: u64,
    /// Epoch of the owner that wrote it.
    #[serde(default)]
    pub epoch: u64,
    /// JSON-RPC message.
    pub message: Json,
}

/// One step of the durable state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// `initialize` was answered.
    Greeted(Box<Handshake>),
    /// The client has the answer.
    Ready,
    /// The client is told of a list as it is now.
    Listed(Lists),
    /// `logging/setLevel`.
    LevelSet(Level),
    /// A resource is watched.
    Subscribed(String),
    /// A resource is no longer watched.
    Unsubscribed(String),
    /// A step of a journaled call.
    Call(CallId, CallChange),
    /// A step of a stream.
    Stream(StreamId, StreamChange),
    /// The session is over; nothing of it is kept.
    Ended,
}

/// One step of a journaled call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallChange {
    /// It was taken on.
    Accepted(Arc<Entry>),
    /// A registry may hear of it from now on.
    Dispatched,
    /// This registry instance has taken it on.
    Placed(String),
    /// What is stored takes account of the invocation's frames up to this number.
    Heard(u64),
    /// It asks the client.
    Asked(Box<Round>),
    /// The client has answered a question.
    Answered {
        /// Which question.
        key: String,
        /// How.
        answer: Answer,
    },
    /// All questions are answered or withdrawn.
    RoundClosed {
        /// New deadline of the call.
        deadline: Millis,
    },
    /// It is over, in this ending state.
    Ended(JournalState),
}

/// One step of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamChange {
    /// It may have events from now on.
    Opened {
        /// The request it answers; `None` for the session's own stream.
        request: Option<Id>,
        /// Of the delivery of a journaled call.
        #[serde(default)]
        key: Option<String>,
    },
    /// It has an event.
    Appended {
        /// The event's number.
        seq: u64,
        /// Of the owner that writes it.
        #[serde(default)]
        epoch: u64,
        /// `None`: only the number is used up.
        message: Option<Json>,
        /// Whether a reader is there.
        delivered: bool,
    },
    /// A reader has been given everything up to here (own stream only).
    Delivered {
        /// Number of the last event.
        through: u64,
    },
    /// The oldest events are no longer kept.
    Trimmed {
        /// Number of the last event that went.
        through: u64,
    },
    /// It will have no more events.
    Finished {
        /// When.
        at: Millis,
    },
    /// It is no longer kept.
    Dropped,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            version: Self::VERSION,
            handshake: None,
            level: None,
            subscriptions: BTreeSet::new(),
            journal: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_stream: 1,
            next_call: 1,
            next_ask: 1,
            ended: false,
        }
    }
}

/// Why a stored snapshot cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// It has a form this build does not know.
    Version(u32),
    /// It is damaged.
    Damaged(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "snapshot has version {version}, this build knows {}", Snapshot::VERSION)
            }
            Self::Damaged(why) => write!(f, "snapshot is damaged: {why}"),
        }
    }
}

impl std::error::Error for LoadError {}

impl Snapshot {
    /// The form this build writes.
    pub const VERSION: u32 = 1;

    /// Writes it as JSON.
    #[must_use]
    pub fn save(&self) -> Json {
        Json::of(self)
    }

    /// Reads what [`Snapshot::save`] wrote.
    ///
    /// # Errors
    /// [`LoadError`] if it was written in another form or is damaged.
    pub fn load(json: &Json) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = json.read().map_err(|e| LoadError::Damaged(e.to_string()))?;
        if head.version != Self::VERSION {
            return Err(LoadError::Version(head.version));
        }
        json.read().map_err(|e| LoadError::Damaged(e.to_string()))
    }
}
