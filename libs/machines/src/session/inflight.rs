//! Calls under way: begun by the client, fed by frames, ended exactly once.

use std::sync::Arc;

use mcp::log::Level;
use mcp::rpc::{self, Request, RpcError};
use mcp::{Json, Method, Revision, code, scan};

use super::Call;
use super::handshake::offers;
use super::phase::Trigger;
use super::turn::Turn;
use crate::effect::{CallContext, Effect};
use crate::input::{CallFrame, CallId, StreamId};
use crate::journal::{Entry, JournalState};
use crate::settings::Settings;
use crate::snapshot::{CallChange, Snapshot};
use crate::wire::{self, Outcome};

/// Level of a session whose client has not set one.
const DEFAULT_LEVEL: Level = Level::Info;

/// What registries are told of the client.
pub(super) fn context(settings: &Settings, saved: &Snapshot, progress: bool) -> CallContext {
    let handshake = saved.handshake.as_ref();
    CallContext {
        revision: handshake.map_or(Revision::V2024_11_05, |h| h.revision),
        client_capabilities: handshake.map(|h| h.capabilities.clone()),
        log_level: log_level(settings, saved),
        progress,
    }
}

/// Least severe level wanted; nothing is wanted from a server that has not declared to log.
fn log_level(settings: &Settings, saved: &Snapshot) -> Option<Level> {
    offers(settings, &["logging"]).then(|| saved.level.unwrap_or(DEFAULT_LEVEL))
}

impl Turn<'_> {
    /// Whether another call may begin; answers if not.
    pub(super) fn has_room(&mut self, stream: StreamId, request: &Request) -> bool {
        if self.live.draining {
            let error = RpcError::reason("this node is being drained", "draining");
            self.refuse(stream, 503, Some(&request.id), &error);
            return false;
        }
        if self.live.calls.len() >= self.settings.max_inflight {
            self.refuse(
                stream,
                429,
                Some(&request.id),
                &wire::rate_limited("too many requests are under way"),
            );
            return false;
        }
        true
    }

    /// Begins a call of a registry.
    pub(super) fn start(&mut self, stream: StreamId, method: Method, request: Request) {
        if !self.has_room(stream, &request) {
            return;
        }
        let (params, token) = wire::without_token(request.params.clone());
        let context = self.context(token.is_some());
        let (call, deadline) = self.take_on(stream, method, &request, params.clone(), token);
        self.want(Effect::Call { call, method, params, context, deadline });
    }

    /// Enters a call into the table.
    pub(super) fn take_on(
        &mut self,
        stream: StreamId,
        method: Method,
        request: &Request,
        params: Json,
        token: Option<Json>,
    ) -> (CallId, u64) {
        let call = CallId(self.live.next_call);
        self.live.next_call = self.live.next_call.saturating_add(1);
        let deadline = self.now.saturating_add(self.settings.call_timeout_ms);
        let opens = !self.live.carried;
        let open_at = opens.then(|| self.now.saturating_add(self.settings.open_after_ms));
        let id = request.id.clone();
        let key = self.key.take();
        let entry = Call {
            id,
            method,
            stream,
            params,
            token,
            progress: None,
            deadline,
            open_at,
            rounds: 0,
            key,
            instance: None,
        };
        self.live.calls.insert(call, Arc::new(entry));
        self.advance(Trigger::CallStarted);
        if method == Method::ToolsCall || self.live.carried {
            self.journal(call);
        }
        (call, deadline)
    }

    /// Writes a call down, unless it is.
    pub(super) fn journal(&mut self, call: CallId) {
        if self.saved.journal.contains_key(&call) {
            return;
        }
        let Some(under_way) = self.live.calls.get(&call) else { return };
        let entry = Entry {
            id: under_way.id.clone(),
            method: under_way.method,
            stream: under_way.stream,
            key: under_way.key.clone(),
            epoch: self.live.epoch,
            generation: 0,
            heard: 0,
            params: under_way.params.clone(),
            token: under_way.token.clone(),
            deadline: under_way.deadline,
            state: JournalState::Accepted,
            instance: under_way.instance.clone(),
            round: None,
            answered: None,
        };
        self.change_call(call, CallChange::Accepted(Arc::new(entry)));
        self.change_call(call, CallChange::Dispatched);
    }

    fn context(&self, progress: bool) -> CallContext {
        context(self.settings, self.saved, progress)
    }

    fn log_level(&self) -> Option<Level> {
        log_level(self.settings, self.saved)
    }

    /// What a registry says. A call that has ended hears nothing more.
    pub(super) fn frame(&mut self, call: CallId, number: u64, frame: CallFrame) {
        self.hear(call, frame);
        if number > 0 && self.has_changes() {
            self.note_heard(call, number);
        }
    }

    /// What goes along with a commit, for the next owner: how far the invocation was heard, and where it runs.
    fn note_heard(&mut self, call: CallId, number: u64) {
        let (Some(entry), Some(under_way)) = (self.saved.journal.get(&call), self.live.calls.get(&call))
        else {
            return;
        };
        let moved = under_way.instance.clone().filter(|at| entry.instance.as_ref() != Some(at));
        let heard = entry.heard < number || entry.answered.is_some();
        if let Some(instance) = moved {
            self.change_call(call, CallChange::Placed(instance));
        }
        if heard {
            self.change_call(call, CallChange::Heard(number));
        }
    }

    fn hear(&mut self, call: CallId, frame: CallFrame) {
        let Some(under_way) = self.live.calls.get_mut(&call) else { return };
        let method = under_way.method;
        match frame {
            CallFrame::Accepted { instance } => Arc::make_mut(under_way).instance = Some(instance),
            CallFrame::Progress(params) => {
                let under_way = Arc::make_mut(under_way);
                let message = wire::progress(&params, under_way.token.as_ref(), &mut under_way.progress);
                self.say(call, message);
            }
            CallFrame::Log(params) => {
                let message = self.log_level().and_then(|least| wire::log(&params, least));
                self.say(call, message);
            }
            CallFrame::Notice { method, params } => {
                let message = wire::notice(&method, &params, self.revision());
                self.say(call, message);
            }
            CallFrame::Detach { retry_ms } => self.detach(call, retry_ms),
            CallFrame::Result(result) if method == Method::ResourcesSubscribe => {
                self.subscribed(call, &result)
            }
            CallFrame::Result(result) => {
                let result = wire::older_result(method, result, self.revision());
                self.end(call, Ok(result), JournalState::Done);
                self.want(Effect::Release { call });
            }
            CallFrame::Error(error) => {
                self.end(call, Err(wire::older_error(method, error)), JournalState::Failed);
                self.release(call, method);
            }
            CallFrame::InputRequired { requests, round, continuation } => {
                self.input_required(call, &requests, round, continuation);
            }
            CallFrame::Task(_) => self.give_up(call, "task_unsupported"),
            CallFrame::Lost { reason, not_executed } => {
                let (outcome, state) = if not_executed {
                    (Outcome::NotExecuted, JournalState::Failed)
                } else {
                    (Outcome::Unknown, JournalState::Unknown)
                };
                self.end(call, Err(wire::lost(reason, outcome)), state);
                self.release(call, method);
            }
        }
    }

    /// Sends something before the ending: the answer becomes an event stream.
    pub(super) fn say(&mut self, call: CallId, message: Option<Json>) {
        let Some(message) = message else { return };
        self.open(call);
        if let Some(stream) = self.live.calls.get(&call).map(|c| c.stream) {
            self.emit(stream, message);
        }
    }

    /// A registry asks the client to come back; only the newest older revision can.
    fn detach(&mut self, call: CallId, retry_ms: u32) {
        let Some(stream) = self.live.calls.get(&call).map(|c| c.stream) else { return };
        if self.revision() < Revision::V2025_11_25 || !self.live.readers.contains(&stream) {
            return;
        }
        self.open(call);
        self.prime(stream, retry_ms);
        self.pause(stream);
    }

    /// The one ending of a call. Journaled with its state, answered as a whole or as last event.
    pub(super) fn end(&mut self, call: CallId, outcome: Result<Json, RpcError>, state: JournalState) {
        self.withdraw(call, "the request is over");
        let Some(ended) = self.live.calls.remove(&call) else { return };
        if self.saved.journal.contains_key(&call) {
            self.change_call(call, CallChange::Ended(state));
        }
        let message = match outcome {
            Ok(result) => rpc::result(&ended.id, &result),
            Err(error) => rpc::error(Some(&ended.id), &error),
        };
        if ended.opened() {
            self.emit(ended.stream, message);
            self.finish(ended.stream);
        } else {
            self.answer(ended.stream, 200, Some(message));
        }
        self.one_call_less();
    }

    /// What was called is released once its last frame is here. A subscription was not called.
    pub(super) fn release(&mut self, call: CallId, method: Method) {
        if method != Method::ResourcesSubscribe {
            self.want(Effect::Release { call });
        }
    }

    pub(super) fn one_call_less(&mut self) {
        self.live.active = self.now;
        if self.live.calls.is_empty() {
            self.advance(Trigger::LastCallEnded);
        }
    }

    /// Stops waiting for a call that may still be running.
    pub(super) fn give_up(&mut self, call: CallId, reason: &str) {
        self.stop_upstream(call, reason);
        self.end(call, Err(wire::lost(reason, Outcome::Unknown)), JournalState::Unknown);
    }

    /// Asks the registry to stop; nothing more is expected of it.
    pub(super) fn stop_upstream(&mut self, call: CallId, reason: &str) {
        let Some(under_way) = self.live.calls.get(&call) else { return };
        if under_way.method != Method::ResourcesSubscribe {
            self.want(Effect::CancelCall { call, reason: reason.to_owned() });
            return self.want(Effect::Release { call });
        }
        // What another request has subscribed to meanwhile stays.
        let uri = under_way.params.text("uri").filter(|uri| !self.saved.subscriptions.contains(uri));
        if let Some(uri) = uri {
            self.want(Effect::Unsubscribe { uri });
        }
    }

    /// `notifications/cancelled`: a request of this client that is under way gets no answer.
    pub(super) fn cancelled(&mut self, params: Option<&Json>) {
        let Some(id) = params.and_then(|p| p.member("requestId")) else { return };
        let found = self.live.calls.iter().find(|(_, c)| c.id.json() == &id).map(|(call, _)| *call);
        let Some(call) = found else { return };
        let said = params.and_then(|p| scan::member(p.as_str(), "reason")).and_then(scan::string);
        self.stop_upstream(call, said.as_deref().unwrap_or("cancelled by the client"));
        self.withdraw(call, "the request was cancelled");
        let Some(ended) = self.live.calls.remove(&call) else { return };
        if self.saved.journal.contains_key(&call) {
            self.change_call(call, CallChange::Ended(JournalState::Cancelled));
        }
        self.finish(ended.stream);
        self.one_call_less();
    }

    /// The error for a message that makes no sense here.
    pub(super) fn bad_params(&mut self, stream: StreamId, request: &Request, message: &str) {
        self.refuse(stream, 200, Some(&request.id), &RpcError::new(code::INVALID_PARAMS, message));
    }
}
