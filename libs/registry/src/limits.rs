//! Bounds on what one registry process takes on and keeps.

use std::time::Duration;

/// See the module. The defaults suit a process with a few hundred megabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a finished invocation is kept for callers that come back, unless it is released before.
    pub keep_for: Duration,
    /// Bytes of finished invocations that are kept; the oldest go first.
    pub keep_bytes: usize,
    /// Bytes of progress, log and notice frames of one invocation; further ones are dropped, its ending never is.
    pub notes_bytes: usize,
    /// Bytes of one result: what fits into a message of the contract with room for the envelope.
    pub result_bytes: usize,
    /// Invocations that run or wait at the same time; further ones are refused as overloaded.
    pub running: usize,
    /// Invocations that wait for the client at the same time; a further question fails in its handler.
    pub parked: usize,
    /// How long a cancelled handler that listens to [`crate::Call::cancelled`] may take to end by itself.
    pub cancel_grace: Duration,
    /// How long a handler may go on that has given up a question, until the client comes back for the rest.
    pub after_giving_up: Duration,
    /// URIs one subscriber may watch.
    pub watched_uris: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keep_for: Duration::from_secs(300),
            keep_bytes: 64 << 20,
            notes_bytes: 4 << 20,
            result_bytes: (8 << 20) - (64 << 10),
            running: 10_000,
            parked: 1_000,
            cancel_grace: Duration::from_secs(2),
            after_giving_up: Duration::from_secs(60),
            watched_uris: 4_096,
        }
    }
}
