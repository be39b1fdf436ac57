//! Streams of the machine without an HTTP response of their own: all those of a session of HTTP+SSE, and those of the members
//! of a batch. What is said on them goes to the one reader that stands for them.
//!
//! The events have no ids: a response that carries several streams cannot be continued as one of them.

use std::collections::{BTreeMap, BTreeSet};

use api::session::{Answer, Event, Frame};
use machines::{Input, StopReason, StreamId};
use mcp::rpc::{self, Malformed, Message, RpcError};
use mcp::{Json, Revision, scan};

use crate::actor::Actor;
use crate::reader::Reader;

/// What is carried for whom.
#[derive(Default)]
pub(crate) struct Carried {
    /// Of a session of HTTP+SSE, once its reader is there.
    http_sse: Option<HttpSse>,
    /// Batches under way, by the stream of their response.
    batches: BTreeMap<StreamId, Batch>,
}

#[derive(Default)]
struct HttpSse {
    /// Whether the machine has been told of the reader.
    listening: bool,
    /// The node or the gateway drains: over with the last call.
    leaving: bool,
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
    Session,
    Batch(StreamId),
}

impl Carried {
    /// Whether the session is one of HTTP+SSE whose reader has come.
    pub(crate) const fn is_http_sse(&self) -> bool {
        self.http_sse.is_some()
    }

    /// A session of HTTP+SSE ends with its last call.
    pub(crate) fn leave(&mut self) {
        if let Some(session) = &mut self.http_sse {
            session.leaving = true;
        }
    }

    fn carrier(&self, stream: StreamId) -> Carrier {
        if self.is_http_sse() {
            return Carrier::Session;
        }
        let mut batches = self.batches.iter();
        let found = batches.find(|(_, batch)| batch.members.contains(&stream));
        found.map_or(Carrier::Itself, |(response, _)| Carrier::Batch(*response))
    }
}

impl Actor {
    /// The whole answer to a POST or DELETE.
    pub(crate) fn answer(&mut self, stream: StreamId, answer: Answer) {
        self.keys.remove(&stream);
        match self.carried.carrier(stream) {
            Carrier::Itself => {
                self.send(stream, Frame::Answer(answer));
                self.readers.remove(&stream);
            }
            Carrier::Session => self.pass_on(StreamId::OWN, response_in(answer)),
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
            Carrier::Session | Carrier::Batch(_) => {}
        }
    }

    /// An event of a stream.
    pub(crate) fn tell(&mut self, stream: StreamId, event: machines::Event) {
        match self.carried.carrier(stream) {
            Carrier::Itself => {
                let event = self.sign(stream, event);
                self.send(stream, Frame::Event(event));
            }
            Carrier::Session => self.pass_on(StreamId::OWN, event.message),
            Carrier::Batch(response) => self.pass_on(response, event.message),
        }
    }

    /// The reader is asked to come back, which a reader of several streams cannot do for one of them.
    pub(crate) fn pause(&mut self, stream: StreamId) {
        match self.carried.carrier(stream) {
            Carrier::Itself => self.close(stream),
            Carrier::Session if stream == StreamId::OWN => {}
            // Before anything else happens, so that nothing is said without a reader.
            Carrier::Session | Carrier::Batch(_) => self.pending.push_front(Input::ReaderAttached(stream)),
        }
    }

    /// A stream is over.
    pub(crate) fn finish(&mut self, stream: StreamId) {
        self.keys.remove(&stream);
        match self.carried.carrier(stream) {
            Carrier::Itself => self.close(stream),
            Carrier::Session => {}
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
        let reader = self.begin_batch(&members, reply);
        for (stream, message) in members {
            match message {
                Ok(message) => self.take(Input::Client { stream, message, key: None }).await,
                Err(bad) => {
                    let error = rpc::error(bad.id.as_ref(), &RpcError::new(bad.code, bad.message));
                    self.pass_on(reader, Some(error));
                }
            }
        }
        self.end_batch(reader);
    }

    /// Says whose reader gets the answers.
    fn begin_batch(&mut self, members: &[(StreamId, Result<Message, Malformed>)], reply: Reader) -> StreamId {
        if self.carried.is_http_sse() {
            let _heard = reply.say(Ok(Frame::Accepted { session: None }));
            acknowledge(&reply);
            return StreamId::OWN;
        }
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

    /// A session of HTTP+SSE begins: its reader is there.
    pub(crate) fn begin_http_sse(&mut self, reader: Reader) {
        self.carried.http_sse = Some(HttpSse::default());
        self.add_reader(StreamId::OWN, reader);
        self.send(StreamId::OWN, Frame::Open);
    }

    /// Tells the machine of the reader of an HTTP+SSE session as soon as the handshake is answered; nothing but answers may
    /// be said before.
    pub(crate) async fn listen_to_all(&mut self) {
        let ready = self.resident.machine.revision().is_some();
        let Some(session) = self.carried.http_sse.as_mut().filter(|s| ready && !s.listening) else { return };
        session.listening = true;
        let waiting = self.resident.machine.replay(StreamId::OWN, None);
        for event in waiting.into_iter().flat_map(|replay| replay.events) {
            self.pass_on(StreamId::OWN, event.message);
        }
        self.take(Input::ReaderAttached(StreamId::OWN)).await;
    }

    /// The node drains.
    pub(crate) async fn drain(&mut self) {
        self.carried.leave();
        self.take(Input::Drain).await;
    }

    /// Ends a session of HTTP+SSE whose reader is gone, or that has nothing left to do on a node that drains.
    pub(crate) async fn end_with_reader(&mut self) {
        let Some(session) = &self.carried.http_sse else { return };
        let idle = session.leaving && self.resident.machine.calls() == 0;
        if self.stopped.is_some() || (self.readers.contains_key(&StreamId::OWN) && !idle) {
            return;
        }
        let stream = self.resident.machine.reserve_stream();
        self.take(Input::Close { stream }).await;
        // Nobody can come back to it, whatever the store says.
        self.stopped.get_or_insert(StopReason::Closed);
    }
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
