//! Does what a session machine wants, in order. Behind a refused commit nothing is done; the refusal is the next input.

use api::registry::{InputResponse, Operation, Round};
use api::session::Answer;
use chassis::telemetry::Scope;
use futures::{StreamExt as _, stream};
use machines::journal::JournalState;
use machines::{CallContext, CallFrame, CallId, Effect, Effects, Input, Millis};
use mcp::rpc::RpcError;
use mcp::telemetry::attribute;
use mcp::{Json, Method, Revision};

use crate::actor::{Actor, News};
use crate::calling::{self, Opened, Wish};
use crate::observe::Asking;
use crate::registries::call::{Call, Heard};
use crate::registries::watches::Listener;
use crate::store::Commit;

impl Actor {
    /// Performs effects in order.
    pub(crate) async fn perform(&mut self, effects: Effects) {
        let mut left = std::collections::VecDeque::from(effects);
        while let Some(effect) = left.pop_front() {
            match effect {
                Effect::Commit(changes) => {
                    let (id, epoch, version) =
                        (&self.resident.id, self.resident.epoch, self.resident.version);
                    let commit = Commit::new(&changes, self.resident.machine.saved());
                    match self.shared.store.commit(id, epoch, version, commit).await {
                        Ok(()) => {
                            self.resident.version += 1;
                            self.resident.machine.settle();
                        }
                        Err(refusal) => {
                            Scope::current().describe(|to| _ = to.set(attribute::JOURNAL_OUTCOME, "refused"));
                            let now = chassis::clock::unix_millis();
                            left = self.resident.machine.step(now, Input::CommitRefused(refusal)).into();
                        }
                    }
                }
                Effect::Answer { stream, status, body } => {
                    // Who has the answer that a session is over must not find it any more.
                    if left.iter().any(|later| matches!(later, Effect::Stop(_))) {
                        self.leave();
                    }
                    self.answer(stream, answer(status, body));
                }
                Effect::Open { stream } => self.open(stream),
                Effect::Send { stream, event } => self.tell(stream, event),
                Effect::Pause { stream } => self.pause(stream),
                Effect::Finish { stream } => self.finish(stream),
                Effect::Call { call, method, params, context, deadline } => {
                    self.call(call, method, &params, &context, deadline);
                }
                Effect::Resume { call, round, responses, state } => {
                    self.resume(call, round, responses, state)
                }
                Effect::CancelCall { call, reason } => self.cancel(call, reason),
                Effect::Release { call } => self.release(call),
                Effect::Subscribe { call, uri } => self.subscribe(call, uri),
                Effect::Unsubscribe { uri } => {
                    self.resident.subscriptions.remove(&uri);
                }
                Effect::WakeAt(at) => self.wake = Some(at),
                Effect::Stop(reason) => self.stopped = Some(reason),
            }
        }
    }

    fn call(&mut self, call: CallId, method: Method, params: &Json, context: &CallContext, deadline: Millis) {
        let deadline = Some(calling::instant(deadline));
        let wish = Wish {
            method,
            params,
            context,
            deadline,
            brought: None,
            invocation: Some(self.invocation(call)),
        };
        match calling::open(&self.shared.registries, &self.caller, wish) {
            Opened::Now(frame) => self.pending.push_back(Input::Frame { call, number: 0, frame }),
            Opened::Once(answer) => {
                let news = stream::once(answer).map(move |frame| News::Heard(call, Heard::Frame(frame)));
                self.listen_to(news.boxed());
            }
            Opened::Frames(running, frames) => {
                self.calls.insert(call, running);
                self.listen_to(frames.map(move |heard| News::Heard(call, heard)).boxed());
            }
        }
    }

    /// What a call's invocation is called, for the registry and for the next owner.
    fn invocation(&self, call: CallId) -> String {
        let (epoch, generation) = self.resident.machine.place_in_journal(call);
        calling::invocation_of(&self.resident.id, epoch, call, generation)
    }

    fn listen_to(&mut self, news: stream::BoxStream<'static, News>) {
        self.news.push(Scope::current().within(news).boxed());
    }

    fn resume(
        &mut self,
        call: CallId,
        round: u32,
        responses: Vec<(String, Result<Json, RpcError>)>,
        state: Option<bytes::Bytes>,
    ) {
        let Some(running) = self.calls.get(&call).cloned() else { return };
        let responses: Vec<InputResponse> =
            responses.into_iter().map(|(key, answer)| InputResponse { key, answer }).collect();
        let frames = match state {
            None => running.resume(round, responses),
            Some(state) => {
                let (epoch, _) = self.resident.machine.place_in_journal(call);
                let invocation = calling::invocation_of(&self.resident.id, epoch, call, round);
                running.restart(invocation, Round { state, round, responses })
            }
        };
        self.listen_to(frames.map(move |heard| News::Heard(call, heard)).boxed());
    }

    fn cancel(&self, call: CallId, reason: String) {
        if let Some(running) = self.calls.get(&call) {
            running.cancel(reason);
        }
    }

    fn release(&mut self, call: CallId) {
        if let Some(running) = self.calls.remove(&call) {
            running.release();
        }
    }

    fn subscribe(&mut self, call: CallId, uri: String) {
        let registries = self.shared.registries.clone();
        let route = match registries.route(Operation::Read, &uri, false) {
            Ok(route) => route,
            Err(error) => {
                return self.pending.push_back(Input::Frame {
                    call,
                    number: 0,
                    frame: CallFrame::Error(error),
                });
            }
        };
        let listener = self.listener();
        let revision = self.resident.machine.revision().unwrap_or(Revision::LATEST_OLDER);
        let asking = Asking::begin(&self.shared.observed, &route, Method::ResourcesSubscribe, &uri, revision);
        let scope = asking.scope();
        let outcome = scope.within(async move {
            let subscribed = registries.subscribe(&route, &uri, listener).await;
            asking.finish(&subscribed);
            News::Subscribed(call, uri, subscribed)
        });
        self.news.push(stream::once(outcome).boxed());
    }

    /// Takes a loaded session up again: its resources are watched here from now on, and its calls, whose streams went with
    /// their owner, end: not executed where no registry had heard of them, else with an unknown outcome.
    pub(crate) fn restore(&mut self) {
        let saved = self.resident.machine.snapshot();
        for (call, entry) in &saved.journal {
            let not_executed = entry.state == JournalState::Accepted;
            let frame = CallFrame::Lost { reason: "owner_lost", not_executed };
            self.pending.push_back(Input::Frame { call: *call, number: 0, frame });
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

    /// Puts updates into this session's queue, idle or not.
    fn listener(&self) -> Listener {
        let (shared, id) = (std::sync::Arc::downgrade(&self.shared), self.resident.id.clone());
        std::sync::Arc::new(move |uri: &str, params: &Json| {
            let Some(shared) = shared.upgrade() else { return };
            shared.notify_updated(&id, uri, params);
        })
    }
}

/// "Too much" and "not now" say when to come again.
fn answer(status: u16, body: Option<Json>) -> Answer {
    let retry_after_s = matches!(status, 429 | 503).then_some(1);
    Answer { status, body, retry_after_s }
}

impl Call {
    /// Calls a handler that has returned again, with the state it returned.
    fn restart(
        self: std::sync::Arc<Self>,
        invocation: String,
        round: Round,
    ) -> stream::BoxStream<'static, Heard> {
        self.renew(invocation);
        let begin = self.again(round);
        self.start(begin)
    }
}
