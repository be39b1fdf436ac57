//! A refused commit: the step did not happen. If the session is still ours, whoever waits for it is told.

use mcp::Method;
use mcp::rpc::{self, Id, Message, RpcError};

use super::phase::{Phase, Trigger};
use super::turn::Turn;
use super::{Live, Owed, Session};
use crate::effect::{Effect, Effects, Event, StopReason};
use crate::input::{CallFrame, CallId, CommitRefusal, Input, ListKind, Millis, StreamId};
use crate::journal::JournalState;
use crate::snapshot::Undo;
use crate::wire::{self, Outcome};

/// How to go back to before the last step, and who was waiting for it.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) live: Live,
    pub(super) undo: Vec<Undo>,
    pub(super) cause: Cause,
}

/// Who waits for a step.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// A POST, with the id of its request.
    Post(StreamId, Option<Id>),
    /// A DELETE.
    Close(StreamId),
    /// A call that has ended in the registry.
    Ended(CallId),
    /// A call whose registry wants to know something.
    Asking(CallId),
    /// Nobody: what was to be sent before the ending of a call may be lost, and whoever brings a request again comes once more.
    Chatter,
    /// A reader.
    Attached(StreamId),
    /// Nobody, nothing.
    Gone(StreamId),
    /// Everybody who reads the session's own stream.
    Changed(ListKind),
    /// Everybody who reads the session's own stream.
    Updated(Box<mcp::Json>),
    /// Whoever is due.
    Deadline,
    /// The node.
    Drain,
}

impl Cause {
    pub(super) fn of(input: &Input) -> Self {
        match input {
            Input::Client { stream, message, .. } => {
                let id = match message {
                    Message::Request(request) => Some(request.id.clone()),
                    Message::Notification(_) | Message::Response(_) => None,
                };
                Self::Post(*stream, id)
            }
            Input::ReaderAttached(stream) => Self::Attached(*stream),
            Input::ReaderGone(stream) => Self::Gone(*stream),
            Input::Frame { call, frame, .. } => match frame {
                CallFrame::Accepted { .. }
                | CallFrame::Progress(_)
                | CallFrame::Log(_)
                | CallFrame::Notice { .. }
                | CallFrame::Detach { .. } => Self::Chatter,
                CallFrame::Result(_) | CallFrame::Error(_) | CallFrame::Task(_) | CallFrame::Lost { .. } => {
                    Self::Ended(*call)
                }
                CallFrame::InputRequired { .. } => Self::Asking(*call),
            },
            Input::CatalogChanged(kind) => Self::Changed(*kind),
            Input::ResourceUpdated { params, .. } => Self::Updated(Box::new(params.clone())),
            Input::Forgotten { .. } | Input::CommitRefused(_) => Self::Chatter,
            Input::DeadlineReached => Self::Deadline,
            Input::Close { stream } => Self::Close(*stream),
            Input::Drain => Self::Drain,
        }
    }
}

impl Session {
    /// Goes back to before the last step and tells those who wait for it. Commits nothing itself.
    pub(super) fn refused(
        &mut self,
        now: Millis,
        refusal: CommitRefusal,
        mark: Option<Box<Mark>>,
    ) -> Effects {
        let cause = mark.map(|mark| self.roll_back(*mark, refusal));
        let mut turn = Turn::new(now, &self.settings, &mut self.saved, &mut self.live);
        match refusal {
            CommitRefusal::Stale | CommitRefusal::Regress | CommitRefusal::Conflict => {
                turn.lose();
            }
            CommitRefusal::Down => {
                if let Some(cause) = cause {
                    turn.do_without_store(cause);
                }
            }
        }
        turn.conclude().effects
    }

    fn roll_back(&mut self, mark: Mark, refusal: CommitRefusal) -> Cause {
        let used = match refusal {
            // The store may have it all the same.
            CommitRefusal::Down => self.used(&mark.undo),
            CommitRefusal::Stale | CommitRefusal::Regress | CommitRefusal::Conflict => Vec::new(),
        };
        for undo in mark.undo.into_iter().rev() {
            self.saved.undo(undo);
        }
        let reserved = self.live.next_stream;
        self.live = mark.live;
        self.live.next_stream = self.live.next_stream.max(reserved);
        for (stream, seq) in used {
            let highest = self.live.used.entry(stream).or_default();
            *highest = (*highest).max(seq);
        }
        mark.cause
    }

    /// The numbers that events of a step had, one for each stream.
    fn used(&self, undo: &[Undo]) -> Vec<(StreamId, u64)> {
        let appended = |undo: &Undo| match undo {
            Undo::Appended { stream, .. } => self.saved.streams.get(stream).map(|log| (*stream, log.last)),
            Undo::Handshake(_)
            | Undo::Level(_)
            | Undo::Subscription { .. }
            | Undo::Call { .. }
            | Undo::Stream { .. }
            | Undo::Delivered { .. }
            | Undo::Trimmed { .. }
            | Undo::Unfinished { .. }
            | Undo::All(_) => None,
        };
        undo.iter().filter_map(appended).collect()
    }
}

impl Turn<'_> {
    /// Another owner is at work, or the store and this owner disagree: no more effects of ours. What is under way goes on
    /// with the next owner, so nothing is cancelled and no stream is finished: the host tells all readers to ask there.
    fn lose(&mut self) {
        if !self.live.phase.is_alive() {
            return;
        }
        self.live.readers.clear();
        self.live.calls.clear();
        self.live.owed.clear();
        self.advance(Trigger::OwnershipLost);
        self.want(Effect::Stop(StopReason::Lost));
    }

    /// The store cannot be reached.
    fn do_without_store(&mut self, cause: Cause) {
        self.live.blocked_until = Some(self.now.saturating_add(self.settings.store_retry_ms));
        match cause {
            Cause::Post(stream, id) => self.unavailable(stream, id.as_ref()),
            Cause::Close(stream) => self.unavailable(stream, None),
            Cause::Ended(call) => {
                let watches =
                    self.live.calls.get(&call).is_some_and(|c| c.method == Method::ResourcesSubscribe);
                if watches {
                    self.stop_upstream(call, "store_down");
                } else {
                    self.want(Effect::Release { call });
                }
                self.end_unsaved(call, "store_down");
            }
            Cause::Asking(call) => {
                self.stop_upstream(call, "store_down");
                self.end_unsaved(call, "store_down");
            }
            Cause::Chatter | Cause::Drain => {}
            Cause::Attached(stream) => {
                self.live.readers.insert(stream);
            }
            Cause::Gone(stream) => self.gone(stream),
            Cause::Changed(kind) => self.owe(rpc::notification(wire::list_changed(kind), None)),
            Cause::Updated(params) => {
                self.owe(rpc::notification(mcp::method::notification::RESOURCE_UPDATED, Some(&params)));
            }
            Cause::Deadline => self.due_unsaved(),
        }
    }

    fn unavailable(&mut self, stream: StreamId, id: Option<&Id>) {
        let error = RpcError::reason("the session store cannot be reached", "store_down");
        // Nothing of it is written down, so nothing of it can be said elsewhere.
        self.answer_itself(stream, 503, Some(rpc::error(id, &error)));
    }

    fn owe(&mut self, message: mcp::Json) {
        let owed = Owed::Notify(message);
        if !self.live.owed.contains(&owed) {
            self.live.owed.push(owed);
        }
    }

    /// Ends a call although that cannot be written down yet. The client hears that the outcome is not known: it could not
    /// come back for it.
    pub(super) fn end_unsaved(&mut self, call: CallId, reason: &str) {
        let Some(ended) = self.live.calls.remove(&call) else { return };
        let message = rpc::error(Some(&ended.id), &wire::lost(reason, Outcome::Unknown));
        let stream = ended.stream;
        let owed =
            Owed::Ending { call: Some(call), stream, message: message.clone(), state: JournalState::Unknown };
        if self.live.carried {
            // Said once it is written down: a next owner that does not know of it would say it again.
        } else if !ended.opened() {
            self.answer(stream, 200, Some(message));
        } else if self.live.readers.remove(&stream) {
            let event = Event { seq: None, epoch: 0, message: Some(message), retry_ms: None };
            self.want(Effect::Send { stream, event });
            self.want(Effect::Finish { stream });
        }
        if self.saved.journal.contains_key(&call) || self.saved.streams.contains_key(&stream) {
            self.live.owed.push(owed);
        }
        self.one_call_less();
    }

    /// Tells the reader of a carried session what becomes of a call with the session's end.
    pub(super) fn tell_loss(&mut self, call: CallId, reason: &str) {
        let Some(ended) = self.live.calls.get(&call).filter(|_| self.live.carried) else { return };
        let message = rpc::error(Some(&ended.id), &wire::lost(reason, Outcome::Unknown));
        if self.live.readers.contains(&StreamId::OWN) {
            let event = Event { seq: None, epoch: 0, message: Some(message), retry_ms: None };
            self.want(Effect::Send { stream: StreamId::OWN, event });
        }
    }

    /// What is due and cannot wait for the store: endings, and the end of the session.
    fn due_unsaved(&mut self) {
        self.live.armed = None;
        let init = self.live.began.saturating_add(self.settings.init_timeout_ms) <= self.now;
        if self.is_left_alone() {
            let calls: Vec<CallId> = self.live.calls.keys().copied().collect();
            for call in calls {
                self.stop_upstream(call, "the session is over");
            }
            return self.stop_unsaved(StopReason::Closed);
        }
        match self.live.phase {
            Phase::Uninitialised | Phase::Initialising if init => self.stop_unsaved(StopReason::InitTimeout),
            Phase::Initialised | Phase::Processing if self.is_expired() => {
                self.stop_unsaved(StopReason::Expired);
            }
            Phase::Initialised if self.is_idle() => self.stop_unsaved(StopReason::Idle),
            Phase::Initialised | Phase::Processing => {
                let asking = |call: &CallId| self.saved.journal.get(call).is_some_and(|e| e.round.is_some());
                let calls =
                    self.live.calls.iter().filter(|(call, c)| c.deadline <= self.now && !asking(call));
                let late: Vec<CallId> = calls.map(|(call, _)| *call).collect();
                for call in late {
                    self.stop_upstream(call, "timeout");
                    self.end_unsaved(call, "timeout");
                }
            }
            Phase::Uninitialised | Phase::Initialising | Phase::Failed | Phase::Terminated => {}
        }
    }

    fn stop_unsaved(&mut self, reason: StopReason) {
        self.let_go_of_readers();
        self.live.calls.clear();
        self.live.owed.clear();
        self.advance(Trigger::SessionEnded);
        self.want(Effect::Stop(reason));
    }
}
