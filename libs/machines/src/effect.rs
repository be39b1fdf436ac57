//! Everything a conversation can want. Performed in order; effects behind a `Commit` only once it succeeded.

use bytes::Bytes;
use mcp::log::Level;
use mcp::rpc::RpcError;
use mcp::{Json, Method, Revision};

use crate::input::{CallId, Millis, StreamId};
use crate::snapshot::Change;

/// What is to be done, in order.
pub type Effects = Vec<Effect>;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make these changes durable, all or none.
    Commit(Vec<Change>),
    /// Answer a POST or DELETE as a whole.
    Answer {
        /// Which.
        stream: StreamId,
        /// HTTP status.
        status: u16,
        /// JSON body.
        body: Option<Json>,
    },
    /// The answer becomes an event stream.
    Open {
        /// Which.
        stream: StreamId,
    },
    /// Send an event to the stream's reader, if it has one. (The commit before it keeps it for a later reader.)
    Send {
        /// Which.
        stream: StreamId,
        /// What.
        event: Event,
    },
    /// Close the connection of the stream's reader; the stream goes on.
    Pause {
        /// Which.
        stream: StreamId,
    },
    /// The stream is over.
    Finish {
        /// Which.
        stream: StreamId,
    },
    /// Ask a registry. `ToolsCall`, `ResourcesRead`, `PromptsGet`, `Complete`, or a list.
    Call {
        /// Its frames come back under this.
        call: CallId,
        /// What.
        method: Method,
        /// Params, less `progressToken`, `inputResponses` and `requestState`.
        params: Json,
        /// What the registry has to know.
        context: CallContext,
        /// When it is given up.
        deadline: Millis,
    },
    /// Continue a call with the client's answers.
    Resume {
        /// Which.
        call: CallId,
        /// Which round is answered.
        round: u32,
        /// The client's answers by key.
        responses: Vec<(String, Result<Json, RpcError>)>,
        /// `None`: the handler is parked. Else the state to call it again with.
        state: Option<Bytes>,
    },
    /// Ask the registry to stop.
    CancelCall {
        /// Which.
        call: CallId,
        /// Why.
        reason: String,
    },
    /// The call's frames will not be asked for again.
    Release {
        /// Which.
        call: CallId,
    },
    /// Watch a resource; the outcome comes back as `Result` or `Error` of the call.
    Subscribe {
        /// Outcome comes back under this.
        call: CallId,
        /// Which resource.
        uri: String,
    },
    /// No longer watch a resource.
    Unsubscribe {
        /// Which resource.
        uri: String,
    },
    /// Come back with `DeadlineReached` at this moment. Replaces the wish before.
    WakeAt(Millis),
    /// The conversation is over; no input reaches it any more.
    Stop(StopReason),
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Place in the stream, from 1; `None` where the revision has no event ids.
    pub seq: Option<u64>,
    /// Of the owner that wrote it down. With `seq` it is the event's id, whoever sends it.
    pub epoch: u64,
    /// A JSON-RPC message; `None` = an event without data.
    pub message: Option<Json>,
    /// SSE retry.
    pub retry_ms: Option<u32>,
}

/// What a registry has to know about the client of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct CallContext {
    /// The client's revision.
    pub revision: Revision,
    /// The client's capabilities object.
    pub client_capabilities: Option<Json>,
    /// Least severe log level wanted.
    pub log_level: Option<Level>,
    /// Whether progress is wanted.
    pub progress: bool,
}

/// Why a conversation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The client ended it.
    Closed,
    /// It was idle for too long.
    Idle,
    /// It has lasted as long as any may.
    Expired,
    /// The handshake was not finished in time.
    InitTimeout,
    /// The handshake failed.
    Failed,
    /// This node no longer owns it.
    Lost,
    /// The one exchange it was for is over.
    Done,
}
