//! Everything that can happen to a conversation.

use bytes::Bytes;
use mcp::Json;
use mcp::rpc::{Id, Message, RpcError};
use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as the host's clock says.
pub type Millis = u64;

/// A stream within a conversation: the answer to one POST, or [`StreamId::OWN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u64);

impl StreamId {
    /// The session's own stream, that a GET opens.
    pub const OWN: Self = Self(0);
}

/// A call within a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// The lists whose changes are announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ListKind {
    /// Tools.
    Tools,
    /// Resources and templates.
    Resources,
    /// Prompts.
    Prompts,
}

impl ListKind {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Tools, Self::Resources, Self::Prompts];
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The client posted a message; `stream` was reserved for the answer.
    Client {
        /// Where the answer goes.
        stream: StreamId,
        /// What it says.
        message: Message,
        /// Tells this delivery from every other one, should it come again to the next owner.
        key: Option<String>,
    },
    /// The client posted a request again which an owner before has taken on, and nothing is known of it any more; `stream` was reserved
    /// for the answer.
    Forgotten {
        /// Where the answer goes.
        stream: StreamId,
        /// The id of the request.
        id: Id,
    },
    /// A reader attached to a stream: GET for [`StreamId::OWN`], or a resumption of any.
    ReaderAttached(StreamId),
    /// The reader of a stream is gone.
    ReaderGone(StreamId),
    /// A registry said something about a call.
    Frame {
        /// Which call.
        call: CallId,
        /// Its number in the invocation, from 1; 0 = the host says it on the registry's behalf.
        number: u64,
        /// What.
        frame: CallFrame,
    },
    /// A list has changed.
    CatalogChanged(ListKind),
    /// A subscribed resource has changed.
    ResourceUpdated {
        /// Which.
        uri: String,
        /// Params of `notifications/resources/updated`.
        params: Json,
    },
    /// A commit was refused; the effects behind it were dropped.
    CommitRefused(CommitRefusal),
    /// The moment of the last `WakeAt` has come.
    DeadlineReached,
    /// The client ends the session (DELETE).
    Close {
        /// Where the answer goes.
        stream: StreamId,
    },
    /// The node drains.
    Drain,
}

/// Why a commit was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CommitRefusal {
    /// Another owner has a higher epoch, or may have: the slot has left this node.
    Stale,
    /// The store has lost data.
    Regress,
    /// The version differs.
    Conflict,
    /// The store cannot be reached.
    Down,
}

/// What a registry, or the host on its behalf, says about a call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallFrame {
    /// Taken on by this instance.
    Accepted {
        /// Who holds it.
        instance: String,
    },
    /// Params of a progress notification, without token.
    Progress(Json),
    /// Params of a log notification.
    Log(Json),
    /// Another notification of this request.
    Notice {
        /// Its method.
        method: String,
        /// Its params.
        params: Json,
    },
    /// Ask the client to come back.
    Detach {
        /// After this long.
        retry_ms: u32,
    },
    /// Ending: a result.
    Result(Json),
    /// Ending: an error.
    Error(RpcError),
    /// Ending of the round: input is needed.
    InputRequired {
        /// Object: key -> {method, params}.
        requests: Json,
        /// From 1.
        round: u32,
        /// How it goes on.
        continuation: Continuation,
    },
    /// Ending: goes on as a task.
    Task(Json),
    /// Ending: the registry was lost or refused.
    Lost {
        /// `data.reason`, for the client: `unavailable`, `timeout`, `overloaded`, ...
        reason: &'static str,
        /// Whether it has provably not been executed.
        not_executed: bool,
    },
}

/// How a request for input goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Continuation {
    /// The handler waits in its instance.
    Parked,
    /// The handler has returned; it is called again with this state.
    State(Bytes),
    /// Towards a modern client: the text it gets as `requestState`, sealed by the host. `None` = no state.
    Sealed(Option<String>),
}
