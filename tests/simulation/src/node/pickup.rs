//! What the next owner does with calls that are under way, and with deliveries that come again. Mirrors
//! `services/session/src/pickup.rs`.

use std::rc::Rc;

use api::EventId;
use api::session::{Again, Answer, Frame};
use machines::journal::{Entry, JournalState, Pickup};
use machines::{CallFrame, CallId, Cursor, Input, StreamId};
use mcp::rpc::{Message, RpcError};

use super::actor::{Actor, Reply};
use super::call::Call;
use crate::ask::{outcome_unknown, refused};
use crate::registry::Wish;
use crate::sabotage::Known;
use crate::store::Answered;

impl Actor {
    /// Takes a loaded session up again.
    pub(crate) fn restore(&mut self) {
        let saved = self.machine.snapshot();
        for (call, entry) in &saved.journal {
            if let Some(key) = &entry.key {
                self.keys.insert(entry.stream, key.clone());
            }
            self.pick_up(*call, entry);
        }
    }

    fn pick_up(&mut self, call: CallId, entry: &Entry) {
        if entry.state != JournalState::Dispatched {
            let not_executed = entry.state == JournalState::Accepted;
            let frame = CallFrame::Lost { reason: "owner_failover", not_executed };
            return self.pending.push_back(Input::Frame { call, number: 0, frame });
        }
        let place = (entry.epoch, entry.generation);
        let running = Call::new(self, call, place, entry.params.clone(), entry.deadline);
        running.was_at(entry.instance.clone(), entry.heard);
        self.calls.insert(call, Rc::clone(&running));
        match entry.pickup() {
            Pickup::Wait => {}
            Pickup::Attach { after } => {
                running.pick_up(call, self.queue.clone(), Wish::Attach { after }, after);
            }
            Pickup::Resume { responses, .. } => {
                let wish = Wish::Resume { responses };
                running.pick_up(call, self.queue.clone(), wish, entry.heard);
            }
        }
    }

    /// Looks for what became of a delivery that was sent before. False if it is to be taken on now.
    pub(crate) async fn taken_on_before(
        &mut self,
        message: &Message,
        key: &str,
        again: &Again,
        reply: &Rc<Reply>,
    ) -> bool {
        let Message::Request(request) = message else { return false };
        if request.method != "tools/call" || key.is_empty() {
            return false;
        }
        if let Some(stream) = self.machine.delivered_before(key) {
            self.rejoin(stream, again, Rc::clone(reply)).await;
            return true;
        }
        let here = self.answered_here.get(key).filter(|answer| answer.status == 200);
        if let Some(answer) = here.filter(|_| !self.node.scene.has(Known::EndedUnsaved)) {
            reply.say(Ok(Frame::Answer(answer.clone())));
            return true;
        }
        match self.node.store.answered(&self.id, key).await {
            Ok(Some(Answered { body: None, .. })) => reply.say(Ok(Frame::Open)),
            Ok(Some(answered)) => {
                reply.say(Ok(Frame::Answer(Answer::new(answered.status, answered.body))));
            }
            Ok(None) if again.accepted => {
                let error = outcome_unknown(Some(&request.id), "owner_failover");
                reply.say(Ok(Frame::Answer(Answer::new(200, Some(error)))));
            }
            Ok(None) => return false,
            Err(_) => {
                let error = RpcError::reason("the session store cannot be reached", "store_down");
                reply.say(Ok(refused(503, Some(&request.id), &error)));
            }
        }
        true
    }

    async fn rejoin(&mut self, stream: StreamId, again: &Again, reply: Rc<Reply>) {
        let cursor = again.last_event_id.as_deref();
        let cursor = cursor.and_then(|id| EventId::parse(&self.node.scene.keys, &self.id, id));
        let seen = cursor.filter(|event| event.stream == stream.0);
        let after = seen.map_or(Cursor { epoch: 0, seq: 0 }, |event| self.cursor(event));
        self.add_reader(stream, reply);
        if self.machine.is_event_stream(stream) {
            self.replay(stream, Some(after)).await;
        } else {
            self.take(Input::ReaderAttached(stream)).await;
        }
    }
}
