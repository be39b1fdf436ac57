//! A batch of 2025-03-26: each member goes its own way through the mesh, with its own key, owner, span and ending, and what
//! comes of all of them is one response. On HTTP+SSE it goes whole, because its answers come on the stream of the session.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use api::session::batch::{Member, merged};
use api::session::{Answer, Delivery, Event, Frame, Frames, Transport};
use api::{Code, Error};
use axum::http::request::Parts;
use axum::response::Response;
use chassis::telemetry::Scope;
use futures::{Stream, StreamExt as _, stream};
use mcp::rpc::Id;
use mcp::{Era, scan};

use super::admit::{Batch, Letter};
use super::post::delivery;
use super::reply::{self, Asked, Lost};
use crate::app::Edge;
use crate::auth::Caller;
use crate::forward::{Call, Taken, first_of};
use crate::observe::{self, Operation};

/// Delivers the members of a batch, and answers with what comes of them.
pub(super) async fn deliver(edge: &Edge, parts: &Parts, caller: &Caller, batch: Batch) -> Response {
    let owed = batch.members.iter().filter_map(Letter::id).cloned().collect();
    let members = batch.members.into_iter().map(|letter| member(edge, parts, caller, letter)).collect();
    let taken = first_of(merged(members, batch.malformed)).await;
    reply::batch(edge, caller, owed, taken).await
}

/// Delivers a batch of a session of HTTP+SSE.
pub(super) async fn deliver_whole(edge: &Edge, parts: &Parts, caller: &Caller, batch: Batch) -> Response {
    let scope = observe::batch(parts);
    let slot = batch.session.slot();
    let call = Call::Deliver(Box::new(Delivery {
        message: batch.raw,
        read: None,
        era: Era::Older,
        session: Some(batch.session.as_str().to_owned()),
        revision: batch.revision,
        principal: caller.principal.clone(),
        group: String::new(),
        param_headers: Vec::new(),
        request_key: edge.forward().request_key(),
        transport: Transport::HttpSse,
        again: None,
        in_batch: false,
    }));
    let asked = Asked {
        id: None,
        lost: Lost::Nothing,
        waits: false,
        moves: false,
        begins: false,
        place: None,
        caller,
        operation: None,
    };
    let answering = async {
        let taken = edge.forward().send(call, Some(slot)).await;
        reply::taken(edge, asked, taken).await
    };
    scope.within(answering).await
}

/// What comes of one member.
fn member(edge: &Edge, parts: &Parts, caller: &Caller, letter: Letter) -> Member {
    let operation = Operation::begin(edge.observed(), edge.keys(), &letter, parts);
    let scope = operation.as_ref().map_or_else(Scope::current, Operation::scope);
    let (id, slot, forward) = (letter.id().cloned(), letter.slot(), edge.forward().clone());
    let call = Call::Deliver(Box::new(Delivery { in_batch: true, ..delivery(edge, caller, letter) }));
    let begun = async move {
        match forward.send(call, slot).await {
            Ok(Taken::Accepted { session, frames }) => {
                stream::iter([Ok(Frame::Accepted { session })]).chain(frames).boxed()
            }
            Ok(Taken::Refused(answer)) => stream::iter([Ok(Frame::Refused(answer))]).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    };
    let frames = stream::once(begun).flatten().boxed();
    let ending = Ending { id: id.clone(), scope, operation, frames, is_accepted: false, last: None };
    Member { id, frames: ending.boxed() }
}

/// The frames of a member, which end with one answer whatever happens to its owner.
struct Ending {
    id: Option<Id>,
    scope: Scope,
    /// What is told of it to operators, until it is answered.
    operation: Option<Operation>,
    frames: Frames,
    is_accepted: bool,
    /// What is said in place of everything that should have come.
    last: Option<Frame>,
}

impl Ending {
    fn note(&mut self, frame: &Frame) {
        match frame {
            Frame::Accepted { .. } => self.is_accepted = true,
            Frame::Refused(answer) | Frame::Answer(answer) => {
                observe::answered(self.operation.take(), answer);
            }
            Frame::Event(Event { message: Some(message), .. })
                if scan::member(message.as_str(), "method").is_none() =>
            {
                observe::streamed(self.operation.take(), Some(message), None);
            }
            Frame::Event(_) | Frame::Open => {}
        }
    }

    /// What is said of a member that was lost, or that nobody took on.
    fn lose(&mut self, error: &Error) -> Frame {
        tracing::warn!(code = ?error.code, error = %error.message, "a member of a batch was lost");
        observe::failed(self.operation.take(), error.code);
        self.frames = stream::empty().boxed();
        let may_have_begun = self.is_accepted || error.code == Code::OutcomeUnknown;
        match &self.id {
            Some(id) if may_have_begun => {
                let reason = if error.code == Code::Deadline { "timeout" } else { "unavailable" };
                let answer = Answer::new(200, Some(reply::unknown_outcome(Some(id), reason)));
                if self.is_accepted {
                    return Frame::Answer(answer);
                }
                self.is_accepted = true;
                self.last = Some(Frame::Answer(answer));
                Frame::Accepted { session: None }
            }
            // What wants no answer does no harm twice.
            Some(_) | None if self.is_accepted => Frame::Answer(reply::not_now(None)),
            id => Frame::Refused(reply::declined(id.as_ref(), error)),
        }
    }
}

impl Stream for Ending {
    type Item = Result<Frame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(Ok(last)));
        }
        let _inside = this.scope.clone().enter();
        let frame = match ready!(this.frames.poll_next_unpin(cx)) {
            Some(Ok(frame)) => {
                this.note(&frame);
                frame
            }
            Some(Err(error)) => this.lose(&error),
            None => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }
}
