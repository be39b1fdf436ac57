//! One line of a history: who saw what, when.
//!
//! A line is a JSON object `{src, proc, n, t, kind, session?, ..}`. `n` counts the lines of one `proc` from 0, and the last
//! line of each is `end`, so that a line that is missing, doubled or moved is noticed. `t` is nanoseconds on one clock.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A client of the mesh.
    Client,
    /// The record of what tools really did, outside all faults.
    Ledger,
    /// The shared stores, as an outsider reads them.
    Store,
    /// A session node or a gateway: a hint, never a proof.
    Mesh,
    /// Whoever injects the faults.
    Runner,
    /// Where spans arrive.
    Exporter,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Who wrote it.
    pub src: Source,
    /// Which of them.
    pub proc: String,
    /// Counts the lines of that one.
    pub n: u64,
    /// When, in nanoseconds.
    pub t: u64,
    /// The session it is about, by the client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// Begins a session.
    Create,
    /// Ends a session.
    Delete,
    /// Adds a number to the list of the session, exactly once (W1).
    Append,
    /// Reads that list (W1).
    Read,
    /// Counts one more; must not run twice (W2).
    Count,
    /// Works for a while and says how far it is; may run again (W3).
    Slow,
    /// Asks the client something while it works; must not run twice (W4).
    Ask,
    /// Says something back; may run again.
    Echo,
    /// Asks the session whether it is there.
    Ping,
    /// Uses a session that has ended (W8).
    Late,
    /// Uses somebody else's session (W7).
    Hijack,
    /// Uses a session that there never was, to know what that looks like (W7).
    Stranger,
}

impl Doing {
    /// Whether running it twice does harm.
    #[must_use]
    pub const fn once(self) -> bool {
        matches!(self, Self::Append | Self::Count | Self::Ask)
    }

    /// Whether tools keep a record of running it.
    #[must_use]
    pub const fn recorded(self) -> bool {
        matches!(self, Self::Append | Self::Count | Self::Ask | Self::Slow | Self::Echo)
    }
}

/// A place in a stream of events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The stream, within its session.
    pub stream: String,
    /// The owner's epoch.
    pub epoch: u64,
    /// Counts within the epoch.
    pub seq: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// Client: asks for something. Exactly one of `ok`, `fail`, `info` and `cancelled` follows.
    Invoke {
        /// Names the operation, also towards the tool.
        op: String,
        /// On whose behalf.
        principal: String,
        /// What is asked for.
        f: Doing,
        /// The JSON-RPC id.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        id: Value,
        /// What is appended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<u64>,
        /// Whether the call needs no session (2026-07-28).
        #[serde(default, skip_serializing_if = "is_false")]
        modern: bool,
        /// How long the client waits, in milliseconds.
        deadline_ms: u64,
    },
    /// Client: it was done.
    Ok {
        /// The operation.
        op: String,
        /// What the run of the tool named itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<String>,
        /// What was read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        list: Option<Vec<u64>>,
    },
    /// Client: it was certainly not done.
    Fail {
        /// The operation.
        op: String,
        /// HTTP status.
        status: u16,
        /// What came with it, less the request's id.
        body: String,
        /// The trace it is in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<String>,
    },
    /// Client: nobody knows whether it was done.
    Info {
        /// The operation.
        op: String,
        /// Whether the mesh said so, as opposed to a connection that broke.
        explicit: bool,
        /// What it said.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        body: String,
        /// The trace it is in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<String>,
    },
    /// Client: it took the request back and got no answer.
    Cancelled {
        /// The operation.
        op: String,
    },
    /// Client: a JSON-RPC response arrived, whether awaited or not.
    Response {
        /// Its id.
        #[serde(default)]
        id: Value,
        /// The request on whose connection (or continued stream) it came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        op: Option<String>,
    },
    /// Client: a stream is open.
    Open {
        /// Names the connection.
        conn: String,
        /// Where it continues.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Place>,
    },
    /// Client: an event arrived.
    Event {
        /// The connection.
        conn: String,
        /// Its place.
        #[serde(flatten)]
        at: Place,
        /// The id as it was sent.
        raw: String,
        /// Who received it.
        principal: String,
        /// What it said, or a digest of that.
        data: String,
        /// The operation it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        op: Option<String>,
    },
    /// Client: it was told that events of a stream are missing.
    Gap {
        /// The connection.
        conn: String,
        /// The stream.
        stream: String,
    },
    /// Client: a stream was read to its proper end.
    Complete {
        /// The connection.
        conn: String,
        /// The stream.
        stream: String,
    },
    /// Client: a message of its own was answered 202.
    Accepted {
        /// Names the message, also towards the tool.
        message: String,
        /// The operation that waits for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        op: Option<String>,
    },
    /// Client: it was told that its session is over.
    Gone {},
    /// Ledger: a tool ran.
    Execute {
        /// The client's name of the operation.
        op: String,
        /// This run's own name, which is in the result.
        nonce: String,
        /// What was done.
        f: Doing,
    },
    /// Ledger: a tool got a message of the client.
    Consume {
        /// The client's name of the message.
        message: String,
    },
    /// Store: a node took over a slot.
    Acquire {
        /// The slot.
        slot: u16,
        /// From this epoch on.
        epoch: u64,
        /// The run of the node.
        incarnation: String,
    },
    /// Store: commits below this epoch are refused from now on.
    Fence {
        /// The slot.
        slot: u16,
        /// The lowest epoch that may write.
        epoch: u64,
    },
    /// Store: a session's state was changed.
    Commit {
        /// The slot.
        slot: u16,
        /// The writer's epoch.
        epoch: u64,
    },
    /// Store: an event that was kept.
    Log {
        /// Its place.
        #[serde(flatten)]
        at: Place,
        /// What it says, or a digest of that.
        data: String,
    },
    /// Store: an event that was kept and written over by its owner, which had never heard that it was kept and told nobody of it.
    Withdrawn {
        /// Its place.
        #[serde(flatten)]
        at: Place,
    },
    /// Store: an event that went with the server that kept it, whoever had it by then.
    Lost {
        /// Its place.
        #[serde(flatten)]
        at: Place,
    },
    /// Store: what the journal says of a request in the end.
    Journal {
        /// The operation.
        op: String,
        /// `accepted`, `dispatched`, `done`, `failed`, `cancelled` or `unknown`.
        state: String,
    },
    /// Runner: which run this is.
    Run {
        /// The fault.
        fault: String,
        /// What the choices follow from.
        seed: u64,
        /// The version of the product.
        commit: String,
    },
    /// Runner: something was done to the mesh.
    Injected {
        /// What.
        what: String,
    },
    /// Runner: from now on until `over`.
    Begin {
        /// Names the window.
        window: String,
        /// What it is.
        of: Span,
        /// Longest outage of a session that is allowed, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit_ms: Option<u64>,
    },
    /// Runner: the end of a window.
    Over {
        /// Names it.
        window: String,
    },
    /// Runner: writes of owners that were none any more, refused so far.
    Refused {
        /// How many.
        count: u64,
    },
    /// Runner: how much there is of something.
    Probe {
        /// Of what: `redis-keys`, `etcd-keys`, `fds:gateway-1`, `children`, `memory-slope-kib-per-h`.
        what: String,
        /// Whether before or after.
        phase: Phase,
        /// How much.
        value: i64,
        /// How much more than before is nothing.
        #[serde(default)]
        slack: i64,
    },
    /// Runner: something that must never be seen in a trace.
    Secret {
        /// Names it.
        name: String,
        /// The text.
        text: String,
    },
    /// Exporter: a span arrived.
    Span {
        /// Its trace.
        trace: String,
        /// Its name and attributes.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
    },
    /// Anybody: nothing more will be written.
    End {},
}

/// What a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Span {
    /// A fault and the recovery from it.
    Fault,
    /// A planned change: nothing may fail.
    Planned,
    /// Both stores are down.
    NoStores,
}

/// See [`What::Probe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before the first session.
    Before,
    /// After the last one.
    After,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_false(value: &bool) -> bool {
    !*value
}
