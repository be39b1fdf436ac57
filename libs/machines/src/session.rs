//! The session machine: a conversation with a client of an older revision.

use std::sync::Arc;

use mcp::{Json, Revision};

use crate::effect::{Effects, Event};
use crate::input::{Input, Millis, StreamId};
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing has been said.
    Uninitialised,
    /// `initialize` was answered.
    Initialising,
    /// The client has the answer; no call is under way.
    Initialised,
    /// At least one call is under way.
    Processing,
    /// The handshake was refused, or the session was lost to another owner.
    Failed,
    /// It is over.
    Terminated,
}

/// A session.
#[derive(Debug, Clone)]
pub struct Session {
    settings: Arc<Settings>,
    saved: Snapshot,
}

/// What a late reader is given before it is attached.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// Events behind the cursor, oldest first.
    pub events: Vec<Event>,
    /// Events between the cursor and these are no longer kept.
    pub gap: bool,
    /// Nothing follows: the stream is over.
    pub finished: bool,
}

#[allow(unused_variables, clippy::unused_self, reason = "signatures first")]
impl Session {
    /// A session nobody has spoken in yet. The host arms a timer for [`Session::next_wake`].
    #[must_use]
    pub fn new(settings: impl Into<Arc<Settings>>, now: Millis) -> Self {
        Self { settings: settings.into(), saved: Snapshot::default() }
    }

    /// A session taken over from its last owner. The host arms a timer for [`Session::next_wake`], attaches to the calls
    /// in the snapshot's journal and watches its subscriptions.
    #[must_use]
    pub fn restore(settings: impl Into<Arc<Settings>>, snapshot: Snapshot, now: Millis) -> Self {
        Self { settings: settings.into(), saved: snapshot }
    }

    /// A number for the answer to the next POST or DELETE.
    pub fn reserve_stream(&mut self) -> StreamId {
        StreamId(1)
    }

    /// Takes one input and says what is to be done.
    pub fn step(&mut self, now: Millis, input: Input) -> Effects {
        Effects::new()
    }

    /// The host may say that the last commit succeeded; frees the memory kept for its refusal.
    pub fn settle(&mut self) {}

    /// The durable state: what folding all committed changes yields.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.saved.clone()
    }

    /// What a reader that knows `after` has missed; `None` as cursor: what no reader has been given (own stream).
    /// `None` as answer: the stream is not known (any more). Asked before [`Input::ReaderAttached`], in the same turn.
    #[must_use]
    pub fn replay(&self, stream: StreamId, after: Option<u64>) -> Option<Replay> {
        None
    }

    /// When it wants [`Input::DeadlineReached`] at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Millis> {
        None
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::Uninitialised
    }

    /// The negotiated revision.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.saved.handshake.as_ref().map(|h| h.revision)
    }

    /// The client's capabilities object.
    #[must_use]
    pub fn client_capabilities(&self) -> Option<&Json> {
        self.saved.handshake.as_ref().map(|h| &h.capabilities)
    }

    /// The client's Implementation object.
    #[must_use]
    pub fn client_info(&self) -> Option<&Json> {
        self.saved.handshake.as_ref().map(|h| &h.client_info)
    }

    /// Watched resources.
    pub fn subscriptions(&self) -> impl Iterator<Item = &str> {
        self.saved.subscriptions.iter().map(String::as_str)
    }

    /// Number of calls under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        0
    }
}

/// The invariants of a session, for `debug_assert!` and tests.
///
/// # Errors
/// The first one that does not hold.
#[allow(clippy::missing_const_for_fn, reason = "signatures first")]
pub fn check(session: &Session) -> Result<(), String> {
    let _settings = &session.settings;
    Ok(())
}
