//! One step under way: what it changes, and what it wants done once that is committed.

use mcp::rpc::{self, Id, RpcError};
use mcp::{Json, Revision};

use super::phase::{self, Phase, Trigger};
use super::{Live, Owed};
use crate::effect::{Effect, Effects, StopReason};
use crate::input::{Input, Millis, StreamId};
use crate::settings::Settings;
use crate::snapshot::{CallChange, Change, Snapshot, StreamChange, StreamLog, Undo};
use crate::{input::CallId, wire};

/// Status of the answer to a message whose session is over.
const NOT_FOUND: u16 = 404;

/// See the module.
pub(super) struct Turn<'a> {
    pub(super) now: Millis,
    pub(super) settings: &'a Settings,
    pub(super) saved: &'a mut Snapshot,
    pub(super) live: &'a mut Live,
    /// Of the delivery that is being looked at, until a call takes it.
    pub(super) key: Option<String>,
    effects: Effects,
    changes: Vec<Change>,
    undo: Vec<Undo>,
}

/// What came of it.
pub(super) struct Done {
    pub(super) effects: Effects,
    pub(super) changes: Vec<Change>,
    pub(super) undo: Vec<Undo>,
}

impl<'a> Turn<'a> {
    pub(super) const fn new(
        now: Millis,
        settings: &'a Settings,
        saved: &'a mut Snapshot,
        live: &'a mut Live,
    ) -> Self {
        Self {
            now,
            settings,
            saved,
            live,
            key: None,
            effects: Vec::new(),
            changes: Vec::new(),
            undo: Vec::new(),
        }
    }

    /// Dispatches one input; a refused commit is not a turn.
    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Client { stream, message, key } => self.client(stream, message, key),
            Input::Forgotten { stream, id } => self.forgotten(stream, &id),
            Input::ReaderAttached(stream) => self.attached(stream),
            Input::ReaderGone(stream) => self.gone(stream),
            Input::Frame { call, number, frame } => self.frame(call, number, frame),
            Input::CatalogChanged(kind) => self.catalog_changed(kind),
            Input::ResourceUpdated { uri, params } => self.resource_updated(&uri, &params),
            Input::CommitRefused(_) => {}
            Input::DeadlineReached => self.deadline_reached(),
            Input::Close { stream } => self.close(stream),
            Input::Drain => self.drain(),
        }
    }

    /// Ends the turn: what the store is owed goes along with a commit, and the next wake-up is asked for.
    pub(super) fn conclude(mut self) -> Done {
        if !self.changes.is_empty() {
            self.pay_owed();
        }
        self.arm();
        Done { effects: self.effects, changes: self.changes, undo: self.undo }
    }

    /// Whether something is to be committed.
    pub(super) const fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Makes a durable change.
    pub(super) fn change(&mut self, change: Change) {
        if self.undo.iter().any(|undo| undo.covers(&change)) {
            self.saved.apply(&change);
        } else {
            self.undo.push(self.saved.alter(&change));
        }
        self.changes.push(change);
    }

    pub(super) fn change_call(&mut self, call: CallId, change: CallChange) {
        if let CallChange::Ended(state) = &change {
            let from = self.saved.journal.get(&call).map(|entry| entry.state);
            debug_assert!(
                from.is_some_and(|from| from.may_become(*state)),
                "{from:?} cannot become {state:?}"
            );
        }
        self.change(Change::Call(call, change));
    }

    pub(super) fn change_stream(&mut self, stream: StreamId, change: StreamChange) {
        self.change(Change::Stream(stream, change));
    }

    /// Wants something done.
    pub(super) fn want(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Moves to another phase. A trigger that does not belong into the phase leaves it.
    pub(super) fn advance(&mut self, trigger: Trigger) {
        let next = phase::next(self.live.phase, trigger);
        debug_assert!(next.is_some(), "{trigger:?} in {:?}", self.live.phase);
        self.live.phase = next.unwrap_or(self.live.phase);
    }

    /// The negotiated revision; before the handshake the one every client can read.
    pub(super) fn revision(&self) -> Revision {
        self.saved.handshake.as_ref().map_or(Revision::V2024_11_05, |h| h.revision)
    }

    /// Answers a POST or DELETE as a whole. The response to a message of a carried session is said where everything is; one that
    /// found no session has nobody to be said to.
    pub(super) fn answer(&mut self, stream: StreamId, status: u16, body: Option<Json>) {
        if self.live.carried && status != NOT_FOUND {
            if let Some(response) = body.filter(|body| body.member("id").is_some()) {
                self.emit(stream, response);
            }
            return self.acknowledge(stream);
        }
        self.answer_itself(stream, status, body);
    }

    /// A message of a carried session is taken.
    pub(super) fn acknowledge(&mut self, stream: StreamId) {
        if self.live.readers.contains(&stream) {
            self.answer_itself(stream, 202, None);
        }
    }

    /// Answers a POST or DELETE itself, whoever else is told.
    pub(super) fn answer_itself(&mut self, stream: StreamId, status: u16, body: Option<Json>) {
        self.live.readers.remove(&stream);
        self.want(Effect::Answer { stream, status, body });
    }

    /// Answers with an error, at once.
    pub(super) fn refuse(&mut self, stream: StreamId, status: u16, id: Option<&Id>, error: &RpcError) {
        self.answer(stream, status, Some(rpc::error(id, error)));
    }

    /// Ends the session. Whoever waits for a call hears that its outcome is not known; nothing of that is kept.
    pub(super) fn end_session(&mut self, reason: StopReason) {
        let calls: Vec<CallId> = self.live.calls.keys().copied().collect();
        for call in calls {
            self.stop_upstream(call, "the session is over");
            self.tell_loss(call, "session_ended");
            self.end_unsaved(call, "session_ended");
        }
        self.let_go_of_readers();
        self.live.owed.clear();
        self.change(Change::Ended);
        self.advance(Trigger::SessionEnded);
        self.want(Effect::Stop(reason));
    }

    /// Nothing more is said to anybody.
    pub(super) fn let_go_of_readers(&mut self) {
        for stream in std::mem::take(&mut self.live.readers) {
            self.want(Effect::Finish { stream });
        }
    }

    /// The client ends the session.
    fn close(&mut self, stream: StreamId) {
        match self.live.phase {
            Phase::Failed => {
                self.advance(Trigger::CleanedUp);
                self.refuse(stream, 404, None, &wire::session_not_found());
            }
            Phase::Terminated => self.refuse(stream, 404, None, &wire::session_not_found()),
            Phase::Uninitialised | Phase::Initialising | Phase::Initialised | Phase::Processing => {
                self.answer_itself(stream, 200, None);
                self.end_session(StopReason::Closed);
            }
        }
    }

    /// The node drains: calls under way go on to their end, new ones are refused, and a client that listens is asked to
    /// connect again, elsewhere.
    fn drain(&mut self) {
        match self.live.phase {
            Phase::Failed => self.advance(Trigger::CleanedUp),
            Phase::Terminated => {}
            Phase::Uninitialised | Phase::Initialising | Phase::Initialised | Phase::Processing => {
                self.live.draining = true;
                if !self.live.carried {
                    self.pause(StreamId::OWN);
                }
            }
        }
    }

    /// Tells the store what it could not be told before.
    pub(super) fn pay_owed(&mut self) {
        for owed in std::mem::take(&mut self.live.owed) {
            match owed {
                Owed::Notify(message) => self.notify(message),
                Owed::Ending { call, stream, message, state } => {
                    if let Some(call) = call.filter(|call| self.saved.journal.contains_key(call)) {
                        self.change_call(call, CallChange::Ended(state));
                    }
                    if self.live.carried {
                        self.emit(stream, message);
                    } else if self.saved.streams.get(&stream).is_some_and(StreamLog::is_open) {
                        self.emit(stream, message);
                        self.finish(stream);
                    }
                }
            }
        }
    }
}
