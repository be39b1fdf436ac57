//! Streams of the machine without an HTTP response of their own: those of a session of HTTP+SSE. What is said on them goes to the
//! one reader that stands for them.
//!
//! The machine of such a session says everything on the session's own stream, where it is kept; a reader that goes on at the next
//! owner is given ids to go on from.

use api::session::{Again, Answer, Event, Frame, Transport};
use api::{Code, Detail, Error, EventId};
use machines::{Cursor, Input, StopReason, StreamId};
use mcp::rpc::{self, Malformed, Message, Request, RpcError};
use mcp::{Json, Revision, scan};

use crate::actor::{Actor, cursor_at};
use crate::pickup::refuse_for_now;
use crate::reader::Reader;

/// What is carried for whom.
#[derive(Default)]
pub(crate) struct Carried {
    /// Whether the reader of a session of HTTP+SSE goes on at the next owner; `None` before there was one.
    goes_on: Option<bool>,
    /// The node or the gateway drains: a session of HTTP+SSE is over with its last call.
    leaving: bool,
    /// Key of the delivery that is being taken on in such a session.
    pub(crate) accepting: Option<String>,
}

impl Carried {
    /// Whether there is a reader, or was, that goes on at the next owner.
    pub(crate) fn goes_on(&self) -> bool {
        self.goes_on == Some(true)
    }

    /// A session of HTTP+SSE ends with its last call.
    pub(crate) const fn leave(&mut self) {
        self.leaving = true;
    }
}

impl Actor {
    /// Whether everything is said to one reader, as HTTP+SSE has it.
    pub(crate) fn is_http_sse(&self) -> bool {
        self.resident.transport == Transport::HttpSse
    }

    /// The whole answer to a POST or DELETE.
    pub(crate) fn answer(&mut self, stream: StreamId, answer: Answer) {
        self.keys.remove(&stream);
        if self.is_http_sse() && !self.readers.contains_key(&stream) {
            // A member of a batch, whose POST has its answer.
            return self.pass_on(StreamId::OWN, response_in(answer));
        }
        self.send(stream, Frame::Answer(answer));
        self.readers.remove(&stream);
    }

    /// An event of a stream.
    pub(crate) fn tell(&mut self, stream: StreamId, event: machines::Event) {
        if self.is_http_sse() && !self.carried.goes_on() {
            return self.pass_on(stream, event.message);
        }
        let event = self.sign(stream, event);
        self.send(stream, Frame::Event(event));
    }

    /// A stream is over.
    pub(crate) fn finish(&mut self, stream: StreamId) {
        self.keys.remove(&stream);
        self.close(stream);
    }

    fn pass_on(&mut self, reader: StreamId, message: Option<Json>) {
        if message.is_some() {
            self.send(reader, Frame::Event(Event { message, ..Event::default() }));
        }
    }

    /// Whether its client may post several messages at once.
    pub(crate) fn takes_batches(&self) -> bool {
        self.resident.machine.revision() == Some(Revision::V2025_03_26)
    }

    /// Several messages at once in a session of HTTP+SSE: each is handled as if it had come alone.
    pub(crate) async fn batch(&mut self, messages: Vec<Result<Message, Malformed>>, reply: Reader) {
        if !self.takes_batches() {
            return refuse_batch(&reply);
        }
        for message in messages {
            match message {
                Ok(message) => {
                    let stream = self.resident.machine.reserve_stream();
                    self.take(Input::Client { stream, message, key: None }).await;
                }
                Err(bad) => {
                    let error = rpc::error(bad.id.as_ref(), &RpcError::new(bad.code, bad.message));
                    self.pass_on(StreamId::OWN, Some(error));
                }
            }
            if self.stopped == Some(StopReason::Lost) {
                // What was begun may stand in the store; the next owner has no key to find it by.
                let lost = Detail::OutcomeUnknown { invocation: String::new() };
                let error = Error::new(Code::Unavailable, "the session has moved during a batch").with(lost);
                let _heard = reply.say(Err(error));
                return;
            }
        }
        // Not before, since only now all of them are written down.
        let _heard = reply.say(Ok(Frame::Accepted { session: None }));
        acknowledge(&reply);
    }

    /// The reader of a session of HTTP+SSE is there, for the first time or after a change of owner: it is given what it has not
    /// had, and then what is new. One that goes on elsewhere should this owner be lost has a place to go on from at once.
    pub(crate) async fn carry(&mut self, visit: Visit, reader: Reader) {
        let Visit { cursor, goes_on } = visit;
        self.carried.goes_on = Some(goes_on);
        if let Some(before) = self.readers.get(&StreamId::OWN) {
            // Of two copies of one request, the gateway may go on with the first: then it has to come once more.
            let error = Error::new(Code::Unavailable, "the session has another reader");
            let _heard = before.reader.say(Err(error));
        }
        self.add_reader(StreamId::OWN, reader);
        match &cursor {
            Some(_) => self.send(StreamId::OWN, Frame::Accepted { session: None }),
            None if goes_on => {
                self.send(StreamId::OWN, Frame::Open);
                let place = machines::Event {
                    seq: Some(0),
                    epoch: self.resident.epoch.0,
                    message: None,
                    retry_ms: None,
                };
                self.tell(StreamId::OWN, place);
                return self.take(Input::ReaderAttached(StreamId::OWN)).await;
            }
            None => {}
        }
        let after = cursor.as_ref().map_or(Cursor { epoch: 0, seq: 0 }, cursor_at);
        self.replay(StreamId::OWN, Some(after)).await;
    }

    /// The node drains.
    pub(crate) async fn drain(&mut self) {
        self.carried.leave();
        self.take(Input::Drain).await;
    }

    /// Ends a session of HTTP+SSE that has nothing left to do on a node or for a gateway that drains, or whose reader is gone
    /// and does not come back. For one that may come back the machine waits.
    pub(crate) async fn end_with_reader(&mut self) {
        if !self.is_http_sse() || self.stopped.is_some() {
            return;
        }
        let idle = self.carried.leaving && self.resident.machine.calls() == 0;
        let forsaken = self.carried.goes_on == Some(false) && !self.readers.contains_key(&StreamId::OWN);
        if !idle && !forsaken {
            return;
        }
        let stream = self.resident.machine.reserve_stream();
        self.take(Input::Close { stream }).await;
        // Nobody can come back to it, whatever the store says.
        self.stopped.get_or_insert(StopReason::Closed);
    }

    /// Looks for what became of a delivery to a session of HTTP+SSE that was sent before. Its answer is on the stream of the
    /// session, once; whoever brings it again is told that it was taken. False if it was not, and is to be taken on now.
    pub(crate) async fn carried_before(
        &mut self,
        request: &Request,
        key: &str,
        again: &Again,
        reply: &Reader,
    ) -> bool {
        if key.is_empty() {
            return false;
        }
        self.resident.repeated.note(key);
        if self.resident.machine.delivered_before(key).is_some() {
            acknowledge(reply);
            return true;
        }
        match self.shared.store.answered(&self.resident.id, key).await {
            Ok(Some(_)) => acknowledge(reply),
            Ok(None) if again.accepted => {
                // Written down like any other answer, so that it is said once, whoever the owner is.
                let stream = self.resident.machine.reserve_stream();
                self.add_reader(stream, reply.clone());
                self.carried.accepting = Some(key.to_owned());
                self.take(Input::Forgotten { stream, id: request.id.clone() }).await;
                self.carried.accepting = None;
                if self.stopped.is_none() && self.readers.remove(&stream).is_some() {
                    // It could not be. That nothing was done must not be said.
                    refuse_for_now(Some(&request.id), reply);
                }
            }
            Ok(None) => return false,
            Err(refusal) => self.not_looked_up(refusal, request, reply),
        }
        true
    }
}

/// Whoever reads a session of HTTP+SSE.
pub(crate) struct Visit {
    /// Up to where it knows the stream; `None` = it is the first.
    pub(crate) cursor: Option<EventId>,
    /// Whether it goes on at the next owner.
    pub(crate) goes_on: bool,
}

/// The whole answer to a POST of HTTP+SSE.
pub(crate) fn acknowledge(reply: &Reader) {
    // A client that does not wait for it misses nothing.
    let _heard = reply.say(Ok(Frame::Answer(Answer::new(202, None))));
}

/// Says that an array of messages is none of a session of this revision.
pub(crate) fn refuse_batch(reply: &Reader) {
    let bare = Malformed::bare();
    let error = rpc::error(None, &RpcError::new(bare.code, bare.message));
    // A reader that is gone does not want to know.
    let _heard = reply.say(Ok(Frame::Refused(Answer::new(400, Some(error)))));
}

/// The response to a request. A complaint about a message that wants no answer is none.
fn response_in(answer: Answer) -> Option<Json> {
    answer.body.filter(|body| scan::member(body.as_str(), "id").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_without_id_are_no_responses() {
        let body = |text: &'static str| Answer::new(400, Some(Json::trusted(text)));
        assert!(response_in(body(r#"{"jsonrpc":"2.0","id":1,"error":{}}"#)).is_some());
        assert_eq!(response_in(body(r#"{"jsonrpc":"2.0","error":{}}"#)), None);
        assert_eq!(response_in(Answer::new(202, None)), None);
    }
}
