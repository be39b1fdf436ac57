//! A session that changes its owner: what the next one does with the calls that are under way, and with deliveries that a
//! gateway sends again.

use api::registry::{Operation, Start};
use api::session::{Again, Answer, Frame};
use chassis::telemetry::Scope;
use futures::{StreamExt as _, stream};
use machines::journal::{Entry, JournalState, Pickup};
use machines::{CallFrame, CallId, CommitRefusal, Cursor, Input, StopReason, StreamId};
use mcp::rpc::{self, Id, Message, Request, RpcError};
use mcp::{Json, Method, code, edit};

use crate::actor::{Actor, News, cursor_at};
use crate::calling;
use crate::reader::Reader;
use crate::registries::call::{Call, Heard};
use crate::store::Answered;

impl Actor {
    /// Takes a loaded session up again: its resources are watched here from now on, its calls are followed to their ends, and
    /// what changed in the lists while it had no owner, or was passive, is announced.
    pub(crate) fn restore(&mut self) {
        // Read behind its coming here: from then on it is told of changes like any other.
        self.resident.machine.serve(self.shared.settings());
        let saved = self.resident.machine.snapshot();
        self.pending.extend(self.resident.machine.unannounced().map(Input::CatalogChanged));
        for (call, entry) in &saved.journal {
            if let Some(key) = &entry.key {
                self.keys.insert(entry.stream, key.clone());
            }
            self.pick_up(*call, entry);
        }
        for uri in saved.subscriptions {
            let registries = self.shared.registries.clone();
            let route = registries.route(Operation::Read, &uri, false);
            let listener = self.listener();
            let renewed = async move {
                let subscribed = match route {
                    Ok(route) => registries.subscribe(&route, &uri, listener).await,
                    Err(error) => Err(error),
                };
                News::Renewed(uri, subscribed)
            };
            self.news.push(stream::once(renewed).boxed());
        }
    }

    /// Goes on with a call of the owner before. One that no registry has heard of ends as not executed; one whose invocation
    /// nobody knows any more has an unknown outcome.
    fn pick_up(&mut self, call: CallId, entry: &Entry) {
        if self.is_http_sse() && entry.is_repeatable() {
            return self.repeat(call, entry);
        }
        let lost = |not_executed| CallFrame::Lost { reason: "owner_failover", not_executed };
        let running = match entry.state {
            JournalState::Dispatched => self.call_of(call, entry),
            JournalState::Accepted
            | JournalState::Done
            | JournalState::Failed
            | JournalState::Cancelled
            | JournalState::Unknown => None,
        };
        let Some(running) = running else {
            let frame = lost(entry.state == JournalState::Accepted);
            return self.pending.push_back(Input::Frame { call, number: 0, frame });
        };
        self.calls.insert(call, running.clone());
        match entry.pickup() {
            Pickup::Wait => {}
            Pickup::Attach { .. } => {
                let frames = running.pick_up().map(move |heard| News::Heard(call, unknown_at_worst(heard)));
                self.listen_to(frames.boxed());
            }
            Pickup::Resume { round, responses, state } => self.resume(call, round, responses, state),
        }
    }

    /// Makes a call of the owner before again that executes nothing: in a session of HTTP+SSE nobody else does.
    fn repeat(&mut self, call: CallId, entry: &Entry) {
        if entry.method != Method::ResourcesSubscribe {
            let context = self.resident.machine.call_context(entry);
            return self.call_anew(call, entry.method, &entry.params, &context, entry.deadline);
        }
        match entry.params.text("uri") {
            Some(uri) => self.subscribe(call, uri),
            None => {
                let frame = CallFrame::Lost { reason: "owner_failover", not_executed: true };
                self.pending.push_back(Input::Frame { call, number: 0, frame });
            }
        }
    }

    /// A call as the owner before had it, not started; `None` if its registry is not known here.
    fn call_of(&self, call: CallId, entry: &Entry) -> Option<std::sync::Arc<Call>> {
        let operation = calling::operation(entry.method)?;
        let name = calling::target(operation, &entry.params).ok()?;
        let registries = &self.shared.registries;
        let route = registries.route_taken(operation, &name);
        let target = if operation == Operation::Read { name } else { route.entry.own.clone() };
        let begin = Start { operation, target, params: entry.params.clone(), continuation: None };
        let context = self.resident.machine.call_context(entry);
        let invocation = calling::invocation_of(&self.resident.id, entry.epoch, call, entry.generation);
        let deadline = Some(calling::instant(entry.deadline));
        let context = calling::registry_context(
            &self.caller,
            &route.entry.source.registry,
            &context,
            deadline,
            invocation,
        );
        Some(Call::taken_over(
            registries.observed(),
            route,
            begin,
            context,
            entry.instance.clone(),
            entry.heard,
        ))
    }

    /// Who asks again for a call that another owner began has brought the trace that it belongs to.
    pub(crate) fn show(&self, key: &str, hop: &Scope) {
        let is_it = |call: &CallId| self.resident.machine.key_of(*call) == Some(key);
        if let Some((_, call)) = self.calls.iter().find(|(call, _)| is_it(call)) {
            call.show(hop, key);
        }
    }

    /// Looks for what became of a delivery that was sent before: its reader is given that. False if there is nothing, and it is
    /// to be taken on now.
    pub(crate) async fn taken_on_before(
        &mut self,
        message: &Message,
        key: &str,
        again: &Again,
        reply: &Reader,
    ) -> bool {
        let Message::Request(request) = message else { return false };
        if self.is_http_sse() {
            return self.carried_before(request, key, again, reply).await;
        }
        if request.method != Method::ToolsCall.as_str() || key.is_empty() {
            // The first copy may still be under way here: then its answer is the answer, else it is made again.
            let stream = self.resident.machine.under_way(&request.id);
            if let Some(stream) = stream {
                self.rejoin(stream, again, reply).await;
            }
            return stream.is_some();
        }
        self.resident.repeated.note(key);
        if let Some(stream) = self.resident.machine.delivered_before(key) {
            self.rejoin(stream, again, reply).await;
            return true;
        }
        let unsaved = self.resident.unsaved.iter().find(|(_, answered)| answered.key == key);
        let answered = match unsaved {
            Some((_, answered)) => Ok(Some(answered.clone())),
            None => self.shared.store.answered(&self.resident.id, key).await,
        };
        let answer = match answered {
            Ok(Some(Answered { body: None, .. })) => {
                // It was taken back by its client: no answer follows.
                let _heard = reply.say(Ok(Frame::Open));
                return true;
            }
            Ok(Some(answered)) => Answer::new(answered.status, answered.body),
            Ok(None) if again.accepted => Answer::new(200, Some(unknown_outcome(&request.id))),
            Ok(None) => return false,
            Err(refusal) => {
                self.not_looked_up(refusal, request, reply);
                return true;
            }
        };
        let _heard = reply.say(Ok(Frame::Answer(answer)));
        true
    }

    /// Says that the store does not say what became of a delivery, or where it is to be asked if that is elsewhere by now.
    pub(crate) fn not_looked_up(&mut self, refusal: CommitRefusal, request: &Request, reply: &Reader) {
        tracing::warn!(?refusal, "a repeated delivery could not be looked up");
        if self.is_given_away() {
            let _heard = reply.say(Err(self.shared.not_owner(self.resident.id.slot())));
            self.stopped = Some(StopReason::Lost);
        } else {
            refuse_for_now(Some(&request.id), reply);
        }
    }

    /// Whether this is the first copy of a delivery that has come again before it: bytes that lay in a connection which was given
    /// up. Nobody waits for its answer.
    pub(crate) fn is_late_copy(&self, message: &Message, key: &str) -> bool {
        let is_call = message.method() == Some(Method::ToolsCall.as_str());
        (is_call || self.is_http_sse())
            && !key.is_empty()
            && (self.resident.repeated.knows(key) || self.resident.machine.delivered_before(key).is_some())
    }

    /// A reader comes back to the answer that it was waiting for.
    async fn rejoin(&mut self, stream: StreamId, again: &Again, reply: &Reader) {
        let cursor = again.last_event_id.as_deref();
        let cursor = cursor.and_then(|id| api::EventId::parse(&self.shared.keys, &self.resident.id, id));
        let seen = cursor.filter(|event| event.stream == stream.0);
        let after = seen.as_ref().map_or(Cursor { epoch: 0, seq: 0 }, cursor_at);
        self.add_reader(stream, reply.clone());
        if self.resident.machine.is_event_stream(stream) {
            self.replay(stream, Some(after)).await;
        } else {
            self.take(Input::ReaderAttached(stream)).await;
        }
    }
}

/// What is said of a request that was taken on, and of which nothing is found.
fn unknown_outcome(id: &Id) -> Json {
    let error = RpcError {
        code: code::INTERNAL_ERROR,
        message: "the outcome of the request is not known".to_owned(),
        data: Some(Json::trusted(format!(
            "{{\"reason\":{},\"outcome\":\"unknown\"}}",
            edit::quote("owner_failover")
        ))),
    };
    rpc::error(Some(id), &error)
}

/// Says that the store does not say what became of a delivery.
pub(crate) fn refuse_for_now(id: Option<&Id>, reply: &Reader) {
    let error = RpcError::reason("the session store cannot be reached", "store_down");
    let answer = Answer { status: 503, body: Some(rpc::error(id, &error)), retry_after_s: Some(1) };
    // A reader that is gone does not want to know.
    let _heard = reply.say(Ok(Frame::Refused(answer)));
}

/// A registry that does not know the invocation cannot say that it was never executed: another replica, or the one before a
/// restart, may have done so.
fn unknown_at_worst(heard: Heard) -> Heard {
    match heard {
        Heard::Frame(CallFrame::Lost { not_executed: true, .. }) => {
            Heard::Frame(CallFrame::Lost { reason: "owner_failover", not_executed: false })
        }
        Heard::Frame(_) | Heard::InputRequired(_) => heard,
    }
}
