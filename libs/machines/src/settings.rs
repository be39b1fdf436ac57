//! What a session machine is told once: what the server is, how long it waits, how much it keeps.

use mcp::Json;

use crate::input::Millis;
use crate::snapshot::Lists;

/// Settings of a [`crate::Session`]; shared by all sessions of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Server capabilities, as the newest older revision words them; filtered per revision in the answer to `initialize`.
    pub capabilities: Json,
    /// The server's Implementation object.
    pub server_info: Json,
    /// For the model.
    pub instructions: Option<String>,
    /// What the lists are.
    pub lists: Lists,
    /// A POST without any frame for this long is answered by an event stream.
    pub open_after_ms: Millis,
    /// The handshake has to be finished within this.
    pub init_timeout_ms: Millis,
    /// A session without readers, calls and messages for this long ends.
    pub idle_timeout_ms: Millis,
    /// A session ends this long after its handshake, whatever is under way.
    pub max_life_ms: Millis,
    /// A call has to end within this; it does not run while the client is being asked.
    pub call_timeout_ms: Millis,
    /// The client has to answer a request of ours within this.
    pub ask_timeout_ms: Millis,
    /// Most calls of one session at a time.
    pub max_inflight: usize,
    /// Most unanswered requests to the client at a time.
    pub max_outgoing: usize,
    /// Most rounds of questions one call may start.
    pub max_rounds: u32,
    /// Most watched resources of one session.
    pub max_subscriptions: usize,
    /// Most events kept per stream.
    pub log_events: usize,
    /// Most bytes of messages kept per stream; the newest event is kept whatever its size.
    pub log_bytes: usize,
    /// Most finished streams kept for a late reader.
    pub kept_streams: usize,
    /// How long a finished stream is kept for a late reader.
    pub kept_ms: Millis,
    /// SSE retry of priming events.
    pub retry_ms: u32,
    /// A carried session without its reader for this long ends.
    pub alone_ms: Millis,
    /// What the reader of a carried session was given is kept for this long at least, for the case that it got lost on the way.
    pub told_ms: Millis,
    /// After a store failure, when to try again.
    pub store_retry_ms: Millis,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            capabilities: Json::empty_object(),
            server_info: Json::trusted(r#"{"name":"trunkline","version":"0"}"#),
            instructions: None,
            lists: Lists::default(),
            open_after_ms: 500,
            init_timeout_ms: 30_000,
            idle_timeout_ms: 1_800_000,
            max_life_ms: 86_400_000,
            call_timeout_ms: 300_000,
            ask_timeout_ms: 600_000,
            max_inflight: 64,
            max_outgoing: 16,
            max_rounds: 10,
            max_subscriptions: 1024,
            log_events: 256,
            log_bytes: 1 << 20,
            kept_streams: 64,
            kept_ms: 300_000,
            retry_ms: 1000,
            alone_ms: 10_000,
            told_ms: 60_000,
            store_retry_ms: 1000,
        }
    }
}
