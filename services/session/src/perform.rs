//! Does what a session machine wants, in order. Behind a refused commit nothing is done; the refusal is the next input.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::registry::{InputResponse, Operation, Round};
use api::session::{Answer, Frame};
use chassis::telemetry::Scope;
use futures::{Stream, StreamExt as _, stream};
use machines::journal::JournalState;
use machines::snapshot::CallChange;
use machines::{
    CallContext, CallFrame, CallId, Change, CommitRefusal, Effect, Effects, Input, Millis, StopReason,
    StreamId,
};
use mcp::rpc::{self, RpcError};
use mcp::telemetry::attribute;
use mcp::{Json, Method, Revision};
use tokio::time::Instant;

use crate::actor::{Actor, News};
use crate::calling::{self, Opened, Wish};
use crate::letter::Letter;
use crate::observe::Asking;
use crate::ownership::Certainty;
use crate::registries::call::{Call, Heard};
use crate::registries::watches::Listener;
use crate::store::{Answered, Commit, Fenced, Stored};

/// How long the end of a call waits for a store that does not answer, before its client hears that the outcome is not known.
const HOLD: Duration = Duration::from_secs(3);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(100);

fn ends(change: &Change) -> bool {
    matches!(change, Change::Call(_, CallChange::Ended(_)))
}

impl Actor {
    /// Performs effects in order.
    pub(crate) async fn perform(&mut self, effects: Effects) {
        if !self.may_be_seen(&effects).await {
            return;
        }
        let mut left = VecDeque::from(effects);
        while let Some(effect) = left.pop_front() {
            match effect {
                Effect::Commit(changes) => {
                    if let Err(refusal) = self.commit(&changes, &left).await {
                        Scope::current().describe(|to| _ = to.set(attribute::JOURNAL_OUTCOME, "refused"));
                        let now = chassis::clock::dated_millis();
                        left = self.resident.machine.step(now, Input::CommitRefused(refusal)).into();
                    }
                }
                Effect::Answer { stream, status, body } => {
                    // Who has the answer that a session is over must not find it any more.
                    if left.iter().any(|later| matches!(later, Effect::Stop(_))) {
                        self.leave();
                    }
                    self.note_unsaved(stream, status, body.as_ref());
                    self.answer(stream, answer(status, body));
                }
                Effect::Open { stream } => self.send(stream, Frame::Open),
                Effect::Send { stream, event } => self.tell(stream, event),
                Effect::Pause { stream } => self.close(stream),
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

    /// Makes changes durable. What the store has lost of the session meanwhile is written anew: this owner has all of it.
    async fn commit(&mut self, changes: &[Change], left: &VecDeque<Effect>) -> Result<(), CommitRefusal> {
        let (id, epoch, version) = (&self.resident.id, self.resident.epoch, self.resident.version);
        let answered = self.answered(changes, left);
        // A message of HTTP+SSE is answered with that it was taken.
        let taken = self.carried.accepting.take().map(|key| Answered { key, status: 202, body: None });
        let commit = Commit { changes, after: self.resident.machine.saved(), answered: taken.or(answered) };
        // One call after the other would wait as long, each for those before it, too.
        let holds = changes.iter().any(ends) && !self.gave_up;
        let until = holds.then(|| Instant::now() + HOLD);
        let (mut asked, mut is_late) = (self.shared.slots.now(), self.is_given_away());
        let committed = loop {
            let committed = if is_late {
                Err(CommitRefusal::Stale)
            } else if self.gave_up && !self.shared.reaches_store.load(Ordering::Relaxed) {
                Err(CommitRefusal::Down)
            } else {
                self.shared.store.commit(id, epoch, version, commit.clone()).await
            };
            is_late |= committed == Err(CommitRefusal::Down) && self.is_given_away();
            if is_late {
                break Err(CommitRefusal::Stale);
            }
            if committed != Err(CommitRefusal::Down) || until.is_none_or(|until| Instant::now() >= until) {
                break committed;
            }
            // The same commit again is no second one, even if the first was done.
            tokio::time::sleep(AGAIN).await;
            (asked, is_late) = (self.shared.slots.now(), self.is_given_away());
        };
        self.gave_up = committed == Err(CommitRefusal::Down) && (self.gave_up || holds);
        let committed = match committed {
            Err(CommitRefusal::Regress) => self.fence_and_repair().await,
            // One that the store does not have at all was ended by somebody: it stays so.
            Err(CommitRefusal::Conflict) => self.repair(false).await,
            Ok(()) | Err(CommitRefusal::Stale | CommitRefusal::Down) => committed,
        };
        self.resident.is_in_doubt = committed == Err(CommitRefusal::Down);
        match committed {
            Ok(()) => {
                self.resident.version += 1;
                self.resident.machine.settle();
                let journal = &self.resident.machine.saved().journal;
                self.resident.unsaved.retain(|(call, _)| journal.contains_key(call));
                self.shared.slots.agreed(self.resident.id.slot(), asked);
            }
            // The store has not said so.
            Err(CommitRefusal::Stale) if is_late => {}
            Err(CommitRefusal::Stale) => self.shared.overtaken(self.resident.id.slot(), self.resident.epoch),
            Err(CommitRefusal::Regress | CommitRefusal::Conflict | CommitRefusal::Down) => {}
        }
        committed
    }

    /// Whether the slot has left this node, which does not reach the store: whoever waits here goes on at the next owner, and what is under
    /// way finishes nothing here (`Tenant::hand_over` does not wait for it).
    pub(crate) fn is_given_away(&self) -> bool {
        !self.shared.reaches_store.load(Ordering::Relaxed)
            && self.shared.slots.epoch(self.resident.id.slot()) != Some(self.resident.epoch)
    }

    /// The store has lost the fence, too. To raise it again is no claim: whoever came since has a higher one.
    async fn fence_and_repair(&mut self) -> Result<(), CommitRefusal> {
        let (slot, epoch) = (self.resident.id.slot(), self.resident.epoch);
        match self.shared.store.is_fenced(slot, epoch).await {
            Fenced::Done => self.repair(true).await,
            Fenced::Higher(_) => Err(CommitRefusal::Stale),
            Fenced::Down => Err(CommitRefusal::Down),
        }
    }

    /// Writes the session anew; whether the store may have lost all of it is known by its fence.
    async fn repair(&mut self, may_be_lost: bool) -> Result<(), CommitRefusal> {
        let stored = Stored {
            principal: self.resident.principal.as_ref().clone(),
            transport: self.resident.transport,
            snapshot: self.resident.machine.snapshot(),
            version: self.resident.version + 1,
        };
        let (store, id, epoch) = (&self.shared.store, &self.resident.id, self.resident.epoch);
        if may_be_lost {
            store.repair(id, epoch, &stored).await?;
        } else {
            store.repair_what_is_there(id, epoch, &stored).await?;
        }
        self.shared.observed.repaired();
        tracing::warn!(slot = %self.resident.id.slot(), "the store had lost the end of a session: written anew");
        Ok(())
    }

    /// The answer that leaves with the end of a journaled call, for a gateway that never gets it. One that is an event is kept
    /// with its stream.
    fn answered(&self, changes: &[Change], left: &VecDeque<Effect>) -> Option<Answered> {
        if !changes.iter().any(ends) {
            return None;
        }
        let paid = self.resident.unsaved.iter().find(|(call, _)| {
            changes
                .iter()
                .any(|change| matches!(change, Change::Call(ended, CallChange::Ended(_)) if ended == call))
        });
        if let Some((_, answered)) = paid {
            return Some(answered.clone());
        }
        // There is no answer to what the client took back, but it is no new request when it comes again.
        let taken_back = changes.iter().find_map(|change| {
            let Change::Call(call, CallChange::Ended(JournalState::Cancelled)) = change else { return None };
            self.resident.machine.key_of(*call)
        });
        if let Some(key) = taken_back {
            return Some(Answered { key: key.to_owned(), status: 200, body: None });
        }
        left.iter().find_map(|effect| match effect {
            Effect::Answer { stream, status, body } => {
                let key = self.keys.get(stream)?.clone();
                Some(Answered { key, status: *status, body: body.clone() })
            }
            Effect::Commit(_)
            | Effect::Open { .. }
            | Effect::Send { .. }
            | Effect::Pause { .. }
            | Effect::Finish { .. }
            | Effect::Call { .. }
            | Effect::Resume { .. }
            | Effect::CancelCall { .. }
            | Effect::Release { .. }
            | Effect::Subscribe { .. }
            | Effect::Unsubscribe { .. }
            | Effect::WakeAt(_)
            | Effect::Stop(_) => None,
        })
    }

    /// Remembers how a call ended that is still in the journal: its client was answered, and whoever asks again is told the same.
    fn note_unsaved(&mut self, stream: StreamId, status: u16, body: Option<&Json>) {
        let Some(key) = self.keys.get(&stream) else { return };
        let mut journal = self.resident.machine.saved().journal.iter();
        let Some((call, _)) = journal.find(|(_, entry)| entry.stream == stream) else { return };
        let answered = Answered { key: key.clone(), status, body: body.cloned() };
        self.resident.unsaved.push((*call, answered));
    }

    /// What is seen without being written down needs a sign that the session is still this node's. Without one, whoever waits is
    /// sent to the owner.
    async fn may_be_seen(&mut self, effects: &Effects) -> bool {
        let is_seen = |effect: &Effect| {
            matches!(
                effect,
                Effect::Answer { .. } | Effect::Send { .. } | Effect::Open { .. } | Effect::Call { .. }
            )
        };
        let is_written = matches!(effects.first(), Some(Effect::Commit(_)));
        if is_written || !effects.iter().any(is_seen) {
            return true;
        }
        match self.shared.certainty(self.resident.id.slot(), self.resident.epoch).await {
            Certainty::Owner => true,
            Certainty::Lost => {
                self.stopped = Some(StopReason::Lost);
                false
            }
            Certainty::Unknown if self.is_given_away() => {
                self.stopped = Some(StopReason::Lost);
                false
            }
            // Nothing is ended by what the store does not say: the answers that can be given wait for nothing.
            Certainty::Unknown => {
                self.without_store(effects);
                false
            }
        }
    }

    /// Tells those whom these effects would have answered to come again.
    fn without_store(&mut self, effects: &Effects) {
        for effect in effects {
            match effect {
                Effect::Answer { stream, body, .. } => {
                    let id =
                        body.as_ref().and_then(|body| body.member("id")).and_then(|id| rpc::Id::read(&id));
                    let error = RpcError::reason("the session store cannot be reached", "store_down");
                    self.answer(*stream, answer(503, Some(rpc::error(id.as_ref(), &error))));
                }
                Effect::Call { call, .. } => {
                    let frame = CallFrame::Lost { reason: "store_down", not_executed: true };
                    self.pending.push_back(Input::Frame { call: *call, number: 0, frame });
                }
                Effect::WakeAt(at) => self.wake = Some(*at),
                Effect::Stop(reason) => self.stopped = Some(*reason),
                Effect::Open { stream } => self.send(*stream, Frame::Open),
                Effect::Finish { stream } => self.finish(*stream),
                Effect::Pause { stream } => self.close(*stream),
                Effect::CancelCall { call, reason } => self.cancel(*call, reason.clone()),
                Effect::Release { call } => self.release(*call),
                // What is kept for a later reader stands behind a commit; this is not, and would be lost.
                Effect::Send { stream, event } => self.tell(*stream, event.clone()),
                Effect::Commit(_)
                | Effect::Resume { .. }
                | Effect::Subscribe { .. }
                | Effect::Unsubscribe { .. } => {}
            }
        }
    }

    fn call(&mut self, call: CallId, method: Method, params: &Json, context: &CallContext, deadline: Millis) {
        let deadline = Some(calling::instant(deadline));
        let invocation = Some(self.invocation(call));
        let wish = Wish { method, params, context, deadline, brought: None, invocation, found: None };
        self.wish(call, wish);
    }

    /// The same, as an invocation that no owner before has begun.
    pub(crate) fn call_anew(
        &mut self,
        call: CallId,
        method: Method,
        params: &Json,
        context: &CallContext,
        deadline: Millis,
    ) {
        let deadline = Some(calling::instant(deadline));
        let wish = Wish { method, params, context, deadline, brought: None, invocation: None, found: None };
        self.wish(call, wish);
    }

    fn wish(&mut self, call: CallId, wish: Wish<'_>) {
        match calling::open(&self.shared.registries, &self.caller, wish) {
            Opened::Now(frame) => self.pending.push_back(Input::Frame { call, number: 0, frame }),
            Opened::Once(answer) => {
                let news = stream::once(answer).map(move |frame| News::Heard(call, Heard::Frame(frame)));
                self.listen_to(news);
            }
            Opened::Frames(running, frames) => {
                self.calls.insert(call, running);
                self.follow(call, frames);
            }
        }
    }

    /// What a call's invocation is called, for the registry and for the next owner.
    fn invocation(&self, call: CallId) -> String {
        let (epoch, generation) = self.resident.machine.place_in_journal(call);
        calling::invocation_of(&self.resident.id, epoch, call, generation)
    }

    pub(crate) fn listen_to(&mut self, news: impl Stream<Item = News> + Send + 'static) {
        self.news.push(Scope::current().within(news).boxed());
    }

    /// The same for a call, which has a scope of its own: that of this hop only has to last as long.
    fn follow(&mut self, call: CallId, frames: stream::BoxStream<'static, Heard>) {
        let hop = Some(Scope::current()).filter(Scope::is_recorded);
        let heard = move |heard| {
            let _lasts = &hop;
            News::Heard(call, heard)
        };
        self.news.push(frames.map(heard).boxed());
    }

    pub(crate) fn resume(
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
        self.follow(call, frames);
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

    pub(crate) fn subscribe(&mut self, call: CallId, uri: String) {
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

    /// Puts updates into this session's queue, idle or not.
    pub(crate) fn listener(&self) -> Listener {
        let (shared, id) = (std::sync::Arc::downgrade(&self.shared), self.resident.id.clone());
        std::sync::Arc::new(move |uri: &str, params: &Json| {
            let Some(shared) = shared.upgrade() else { return };
            let letter = Letter::Updated { uri: uri.to_owned(), params: params.clone() };
            // A session that is gone does not want to know.
            let _gone = shared.post(&id, None, letter).is_err();
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
        self.start(begin.into())
    }
}
