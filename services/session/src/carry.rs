//! Streams of the machine without an HTTP response of their own: those of a session of HTTP+SSE, and those of the members of a
//! batch. What is said on them goes to the one reader that stands for them.
//!
//! In a session of HTTP+SSE the machine says everything on the session's own stream, where it is kept; a reader that goes on at
//! the next owner is given ids to go on from. A batch's events have no ids: a response that carries several streams cannot be
//! continued as one of them.

use std::collections::{BTreeMap, BTreeSet};

use api::session::{Again, Answer, Event, Frame, Transport};
use api::{Code, Error, EventId};
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
    /// Batches under way, by the stream of their response.
    batches: BTreeMap<StreamId, Batch>,
}

/// A batch whose response is not complete.
struct Batch {
    /// Streams of the members that are not over.
    members: BTreeSet<StreamId>,
    /// Whether the response is an event stream; a batch that wants no answer gets a status alone.
    opened: bool,
    /// The first refusal of a member that wants no answer.
    refused: Option<Answer>,
}

/// Whose reader gets what is said on a stream.
enum Carrier {
    Itself,
    Batch(StreamId),
}

impl Carried {
    /// A session of HTTP+SSE ends with its last call.
    /// Whether there is a reader, or was, that goes on at the next owner.
    pub(crate) fn goes_on(&self) -> bool {
        self.goes_on == Some(true)
    }

    pub(crate) const fn leave(&mut self) {
        self.leaving = true;
    }

    fn carrier(&self, stream: StreamId) -> Carrier {
        let mut batches = self.batches.iter();
        let found = batches.find(|(_, batch)| batch.members.contains(&stream));
        found.map_or(Carrier::Itself, |(response, _)| Carrier::Batch(*response))
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
        match self.carried.carrier(stream) {
            Carrier::Itself => {
                if self.is_http_sse() && !self.readers.contains_key(&stream) {
                    // A member of a batch, whose POST has its answer.
                    return self.pass_on(StreamId::OWN, response_in(answer));
                }
                self.send(stream, Frame::Answer(answer));
                self.readers.remove(&stream);
            }
            Carrier::Batch(response) => {
                let batch = self.carried.batches.get_mut(&response);
                match batch.filter(|batch| !batch.opened) {
                    Some(batch) if answer.status >= 400 => {
                        batch.refused.get_or_insert(answer);
                    }
                    Some(_) => {}
                    None => self.pass_on(response, response_in(answer)),
                }
                self.leave_batch(response, stream);
            }
        }
    }

    /// The answer becomes an event stream.
    pub(crate) fn open(&mut self, stream: StreamId) {
        match self.carried.carrier(stream) {
            Carrier::Itself => self.send(stream, Frame::Open),
            Carrier::Batch(_) => {}
        }
    }

    /// An event of a stream.
    pub(crate) fn tell(&mut self, stream: StreamId, event: machines::Event) {
        match self.carried.carrier(stream) {
            Carrier::Itself if self.is_http_sse() && !self.carried.goes_on() => {
                self.pass_on(stream, event.message);
            }
            Carrier::Itself => {
                let event = self.sign(stream, event);
                self.send(stream, Frame::Event(event));
            }
            Carrier::Batch(response) => self.pass_on(response, event.message),
        }
    }

    /// The reader is asked to come back, which a reader of several streams cannot do for one of them.
    pub(crate) fn pause(&mut self, stream: StreamId) {
        match self.carried.carrier(stream) {
            Carrier::Itself => self.close(stream),
            // Before anything else happens, so that nothing is said without a reader.
            Carrier::Batch(_) => self.pending.push_front(Input::ReaderAttached(stream)),
        }
    }

    /// A stream is over.
    pub(crate) fn finish(&mut self, stream: StreamId) {
        self.keys.remove(&stream);
        match self.carried.carrier(stream) {
            Carrier::Itself => self.close(stream),
            Carrier::Batch(response) => self.leave_batch(response, stream),
        }
    }

    fn pass_on(&mut self, reader: StreamId, message: Option<Json>) {
        if message.is_some() {
            self.send(reader, Frame::Event(Event { message, ..Event::default() }));
        }
    }

    fn leave_batch(&mut self, response: StreamId, member: StreamId) {
        let Some(batch) = self.carried.batches.get_mut(&response) else { return };
        batch.members.remove(&member);
        self.end_batch(response);
    }

    /// Ends the response to a batch once its last member is over.
    fn end_batch(&mut self, response: StreamId) {
        if self.carried.batches.get(&response).is_none_or(|batch| !batch.members.is_empty()) {
            return;
        }
        if let Some(batch) = self.carried.batches.remove(&response).filter(|batch| !batch.opened) {
            let answer = batch.refused.unwrap_or_else(|| Answer::new(202, None));
            self.send(response, Frame::Answer(answer));
        }
        self.readers.remove(&response);
    }

    /// Several messages at once: each is handled as if it had come alone.
    pub(crate) async fn batch(&mut self, messages: Vec<Result<Message, Malformed>>, reply: Reader) {
        if self.resident.machine.revision() != Some(Revision::V2025_03_26) {
            let bare = Malformed::bare();
            let error = rpc::error(None, &RpcError::new(bare.code, bare.message));
            let refused = Frame::Refused(Answer::new(400, Some(error)));
            // A reader that is gone does not want to know.
            let _heard = reply.say(Ok(refused));
            return;
        }
        let mut members: Vec<(StreamId, Result<Message, Malformed>)> = Vec::with_capacity(messages.len());
        for message in messages {
            members.push((self.resident.machine.reserve_stream(), message));
        }
        let is_carried = self.is_http_sse();
        let reader = if is_carried { StreamId::OWN } else { self.begin_batch(&members, reply.clone()) };
        for (stream, message) in members {
            match message {
                Ok(message) => self.take(Input::Client { stream, message, key: None }).await,
                Err(bad) => {
                    let error = rpc::error(bad.id.as_ref(), &RpcError::new(bad.code, bad.message));
                    self.pass_on(reader, Some(error));
                }
            }
        }
        if is_carried {
            // Not before, since only now all of them are written down.
            let _heard = reply.say(Ok(Frame::Accepted { session: None }));
            return acknowledge(&reply);
        }
        self.end_batch(reader);
    }

    /// Says whose reader gets the answers.
    fn begin_batch(&mut self, members: &[(StreamId, Result<Message, Malformed>)], reply: Reader) -> StreamId {
        let response = self.resident.machine.reserve_stream();
        self.add_reader(response, reply);
        self.send(response, Frame::Accepted { session: None });
        let quiet = |message: &Result<Message, Malformed>| match message {
            Ok(Message::Notification(_) | Message::Response(_)) => true,
            Ok(Message::Request(_)) | Err(_) => false,
        };
        let opened = !members.iter().all(|(_, message)| quiet(message));
        if opened {
            self.send(response, Frame::Open);
        }
        let valid = members.iter().filter(|(_, message)| message.is_ok()).map(|(stream, _)| *stream);
        let batch = Batch { members: valid.collect(), opened, refused: None };
        self.carried.batches.insert(response, batch);
        response
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
            Err(refusal) => {
                tracing::warn!(?refusal, "a repeated delivery could not be looked up");
                refuse_for_now(Some(&request.id), reply);
            }
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
