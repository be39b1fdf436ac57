//! Does what a session machine wants, in order. Mirrors `services/session/src/perform.rs`.

use std::collections::VecDeque;

use machines::journal::JournalState;
use machines::snapshot::CallChange;
use machines::{CallFrame, Change, CommitRefusal, Effect, Effects, Input, StopReason};
use mcp::rpc::{self, RpcError};

use super::actor::Actor;
use super::call::Call;
use super::slots::Certainty;
use crate::ask::answer;
use crate::registry::Wish;
use crate::sabotage::{Known, Sabotage};
use crate::store::{Answered, Commit, Fenced};
use crate::trap::Point;

impl Actor {
    pub(crate) async fn perform(&mut self, effects: Effects) {
        if !self.may_be_seen(&effects).await {
            return;
        }
        let mut left = VecDeque::from(effects);
        if self.node.scene.is(Sabotage::SendBeforeCommit) {
            self.send_first(&mut left);
        }
        while let Some(effect) = left.pop_front() {
            match effect {
                Effect::Commit(changes) => {
                    if let Err(refusal) = self.commit(changes, &left).await {
                        let now = self.node.ctx.wall_ms();
                        left = self.machine.step(now, Input::CommitRefused(refusal)).into();
                    }
                }
                Effect::Answer { stream, status, body } => {
                    if left.iter().any(|later| matches!(later, Effect::Stop(_))) {
                        self.node.leave(&self.id, self.number);
                    }
                    self.answer(stream, answer(status, body));
                }
                Effect::Open { stream } => self.send(stream, api::session::Frame::Open),
                Effect::Send { stream, event } => {
                    let event = self.sign(stream, event);
                    self.send(stream, api::session::Frame::Event(event));
                }
                Effect::Pause { stream } => self.close(stream),
                Effect::Finish { stream } => {
                    self.keys.remove(&stream);
                    self.close(stream);
                }
                Effect::Call { call, params, deadline, .. } => {
                    self.node.scene.trap.pass(&self.node.ctx, Point::Send).await;
                    let (epoch, generation) = self.machine.place_in_journal(call);
                    let running = Call::new(self, call, (epoch, generation), params, deadline);
                    self.calls.insert(call, running.clone());
                    running.follow(call, self.queue.clone(), Wish::Start, 0);
                }
                Effect::Resume { call, responses, .. } => self.resume(call, responses),
                Effect::CancelCall { call, .. } => {
                    if let Some(running) = self.calls.get(&call) {
                        running.tell_all(&Wish::Cancel);
                    }
                }
                Effect::Release { call } => {
                    if let Some(running) = self.calls.remove(&call) {
                        running.let_go();
                        running.release();
                    }
                }
                Effect::Subscribe { call, .. } => {
                    let frame = CallFrame::Error(RpcError::new(-32602, "no resources here"));
                    self.pending.push_back(Input::Frame { call, number: 0, frame });
                }
                Effect::Unsubscribe { .. } => {}
                Effect::WakeAt(at) => self.wake = Some(at),
                Effect::Stop(reason) => self.stopped = Some(reason),
            }
        }
    }

    /// Sabotage: what a client sees goes out before it is stored.
    fn send_first(&mut self, left: &mut VecDeque<Effect>) {
        let now: Vec<Effect> = left
            .iter()
            .filter(|effect| matches!(effect, Effect::Open { .. } | Effect::Send { .. }))
            .cloned()
            .collect();
        left.retain(|effect| !matches!(effect, Effect::Open { .. } | Effect::Send { .. }));
        for effect in now {
            match effect {
                Effect::Send { stream, event } => {
                    let event = self.sign(stream, event);
                    self.send(stream, api::session::Frame::Event(event));
                }
                Effect::Open { stream } => self.send(stream, api::session::Frame::Open),
                _ => {}
            }
        }
    }

    pub(crate) fn resume(
        &mut self,
        call: machines::CallId,
        mut responses: Vec<(String, machines::journal::Answer)>,
    ) {
        let Some(running) = self.calls.get(&call).cloned() else { return };
        if self.node.scene.is(Sabotage::DropInbox) {
            for (_, response) in &mut responses {
                *response = Err(RpcError::reason("lost", "lost"));
            }
        }
        let after = running.last();
        running.follow(call, self.queue.clone(), Wish::Resume { responses }, after);
    }

    /// Makes changes durable. What the store has lost of the session meanwhile is written anew: this owner has all of it.
    async fn commit(&mut self, changes: Vec<Change>, left: &VecDeque<Effect>) -> Result<(), CommitRefusal> {
        let answered = self.answered(&changes, left);
        let after = self.machine.snapshot();
        let commit = |answered| Commit { changes: changes.clone(), after: after.clone(), answered };
        self.node.scene.trap.pass(&self.node.ctx, Point::of(&changes)).await;
        let (version, principal) = (self.version, self.principal.clone());
        let store = &self.node.store;
        let asked = self.node.ctx.now_ms();
        let committed = store.commit(&self.id, self.epoch, (version, &principal), commit(answered)).await;
        let committed = match committed {
            Err(CommitRefusal::Regress) => match store.fence(&[(self.id.slot(), self.epoch)]).await.first() {
                // The store has lost the fence, too. To raise it again is no claim: a rival has a higher one.
                Some(Fenced::Done) => {
                    store.repair(&self.id, self.epoch, ((&principal, version + 1), true), commit(None)).await
                }
                Some(Fenced::Higher(_)) => Err(CommitRefusal::Stale),
                Some(Fenced::Down) | None => Err(CommitRefusal::Down),
            },
            Err(CommitRefusal::Conflict) => {
                store.repair(&self.id, self.epoch, ((&principal, version + 1), false), commit(None)).await
            }
            Ok(()) | Err(CommitRefusal::Stale | CommitRefusal::Down) => committed,
        };
        match committed {
            Ok(()) => {
                self.version += 1;
                self.machine.settle();
                self.node.agreed(self.id.slot(), asked);
            }
            Err(CommitRefusal::Stale) => self.node.overtaken(self.id.slot(), self.epoch),
            Err(CommitRefusal::Regress | CommitRefusal::Conflict | CommitRefusal::Down) => {}
        }
        committed
    }

    /// The answer that leaves with the end of a journaled call, for a gateway that never gets it.
    fn answered(&self, changes: &[Change], left: &VecDeque<Effect>) -> Option<Answered> {
        let ends = |change: &Change| matches!(change, Change::Call(_, CallChange::Ended(_)));
        if !changes.iter().any(ends) {
            return None;
        }
        let taken_back = changes.iter().find_map(|change| match change {
            Change::Call(call, CallChange::Ended(JournalState::Cancelled)) => self.machine.key_of(*call),
            _ => None,
        });
        if let Some(key) = taken_back.filter(|_| !self.node.scene.has(Known::CancelledAgain)) {
            return Some(Answered { key: key.to_owned(), status: 200, body: None });
        }
        left.iter().find_map(|effect| match effect {
            Effect::Answer { stream, status, body } => {
                let key = self.keys.get(stream)?.clone();
                Some(Answered { key, status: *status, body: body.clone() })
            }
            _ => None,
        })
    }

    /// What is seen without being written down needs a sign that the session is still this node's.
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
        match self.node.certainty(self.id.slot(), self.epoch).await {
            Certainty::Owner => true,
            Certainty::Lost => {
                self.stopped = Some(StopReason::Lost);
                false
            }
            Certainty::Unknown => {
                self.without_store(effects);
                false
            }
        }
    }

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
                Effect::Open { stream } => self.send(*stream, api::session::Frame::Open),
                Effect::Finish { stream } | Effect::Pause { stream } => self.close(*stream),
                Effect::CancelCall { call, .. } => {
                    if let Some(running) = self.calls.get(call) {
                        running.tell_all(&Wish::Cancel);
                    }
                }
                Effect::Release { call } => {
                    if let Some(running) = self.calls.remove(call) {
                        running.let_go();
                        running.release();
                    }
                }
                Effect::Send { stream, event } => {
                    let event = self.sign(*stream, event.clone());
                    self.send(*stream, api::session::Frame::Event(event));
                }
                Effect::Commit(_)
                | Effect::Resume { .. }
                | Effect::Subscribe { .. }
                | Effect::Unsubscribe { .. } => {}
            }
        }
    }
}
