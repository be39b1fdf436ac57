//! What comes of the members of a batch of 2025-03-26, as one answer.
//!
//! Each member is delivered for itself ([`Delivery::in_batch`](super::Delivery::in_batch)), so that it is journaled, goes on at the
//! next owner and ends as any other message does. Here their frames become those of one delivery: accepted with the first
//! member that is, refused only if all are. If anything in the batch wants an answer, the answer is an event stream with an
//! event for each, in the order in which they come, and without ids: several streams cannot be continued as one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt as _};
use mcp::edit::ObjectEditor;
use mcp::rpc::Id;
use mcp::{Json, scan};

use super::{Answer, Event, Frame, Frames};
use crate::error::Error;

/// One message of a batch.
pub struct Member {
    /// Id of a request; `None` = it wants no answer.
    pub id: Option<Id>,
    /// What comes of it.
    pub frames: Frames,
}

/// The frames of the whole batch. `malformed` are the answers to members that are no messages. An error of a member is one of
/// the whole batch.
#[must_use]
pub fn merged(members: Vec<Member>, malformed: Vec<Json>) -> Frames {
    let is_answered = !malformed.is_empty() || members.iter().any(|member| member.id.is_some());
    let mut all = SelectAll::new();
    for Member { id, frames } in members {
        all.push(frames.map(move |frame| (id.clone(), frame)).boxed());
    }
    let state = State { is_answered, begun: false, malformed, refused: Vec::new(), complaint: None };
    Merged { members: all, state, next: VecDeque::new(), is_over: false }.boxed()
}

type Said = (Option<Id>, Result<Frame, Error>);

struct Merged {
    members: SelectAll<BoxStream<'static, Said>>,
    state: State,
    next: VecDeque<Frame>,
    is_over: bool,
}

/// What has been said of the batch so far.
struct State {
    /// Whether anything in it wants an answer.
    is_answered: bool,
    /// Whether a member was taken on.
    begun: bool,
    malformed: Vec<Json>,
    /// Refusals of members, until one is taken on.
    refused: Vec<(Option<Id>, Answer)>,
    /// The first refusal of a member that wants no answer.
    complaint: Option<Answer>,
}

impl State {
    /// A member says something.
    fn hear(&mut self, id: Option<&Id>, frame: Frame, next: &mut VecDeque<Frame>) {
        match frame {
            Frame::Accepted { .. } => self.begin(next),
            Frame::Refused(answer) if !self.begun => self.refused.push((id.cloned(), answer)),
            Frame::Refused(answer) | Frame::Answer(answer) => self.answer(id, answer, next),
            Frame::Open | Frame::Event(Event { message: None, .. }) => {}
            Frame::Event(Event { message, .. }) => next.extend(message.map(event)),
        }
    }

    fn begin(&mut self, next: &mut VecDeque<Frame>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        next.push_back(Frame::Accepted { session: None });
        if self.is_answered {
            next.push_back(Frame::Open);
        }
        next.extend(self.malformed.drain(..).map(event));
        for (id, answer) in std::mem::take(&mut self.refused) {
            self.answer(id.as_ref(), answer, next);
        }
    }

    fn answer(&mut self, id: Option<&Id>, answer: Answer, next: &mut VecDeque<Frame>) {
        match id {
            Some(id) => next.extend(answer.body.map(|body| event(with_id(&body, id)))),
            None if answer.status >= 400 => _ = self.complaint.get_or_insert(answer),
            None => {}
        }
    }

    /// What is said when all members are over.
    fn end(&mut self) -> Option<Frame> {
        if !self.begun {
            let (_, mut answer) = self.refused.drain(..).next()?;
            answer.body = answer.body.map(|body| without_id(&body));
            return Some(Frame::Refused(answer));
        }
        if self.is_answered {
            return None;
        }
        Some(Frame::Answer(self.complaint.take().unwrap_or_else(|| Answer::new(202, None))))
    }
}

impl Stream for Merged {
    type Item = Result<Frame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.next.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            match ready!(this.members.poll_next_unpin(cx)) {
                Some((id, Ok(frame))) => this.state.hear(id.as_ref(), frame, &mut this.next),
                Some((_, Err(error))) => {
                    this.is_over = true;
                    this.members.clear();
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.is_over = true;
                    this.next.extend(this.state.end());
                }
            }
        }
    }
}

fn event(message: Json) -> Frame {
    Frame::Event(Event { message: Some(message), ..Event::default() })
}

/// The response to a member: what refuses a whole request does not always say which.
fn with_id(body: &Json, id: &Id) -> Json {
    if scan::member(body.as_str(), "id").is_some() {
        return body.clone();
    }
    ObjectEditor::new(body.as_str()).set("id", id.raw()).finish_json()
}

/// The refusal of a whole batch, of which no request is meant more than another.
fn without_id(body: &Json) -> Json {
    ObjectEditor::new(body.as_str()).remove("id").finish_json()
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::stream;

    use super::*;
    use crate::error::Code;

    const SAYS: &str = r#""error":{}"#;

    fn id(number: u32) -> Option<Id> {
        Id::read(&Json::trusted(number.to_string()))
    }

    fn text(id: u32, what: &str) -> Json {
        Json::trusted(format!(r#"{{"jsonrpc":"2.0","id":{id},{what}}}"#))
    }

    fn result(number: u32) -> Json {
        text(number, r#""result":{}"#)
    }

    fn accepted() -> Frame {
        Frame::Accepted { session: None }
    }

    fn answer(number: u32) -> Frame {
        Frame::Answer(Answer::new(200, Some(result(number))))
    }

    fn refusal(status: u16, body: &'static str) -> Frame {
        Frame::Refused(Answer::new(status, Some(Json::trusted(body))))
    }

    fn member(id: Option<Id>, frames: impl IntoIterator<Item = Frame>) -> Member {
        let frames: Vec<Result<Frame, Error>> = frames.into_iter().map(Ok).collect();
        Member { id, frames: stream::iter(frames).boxed() }
    }

    fn all(members: Vec<Member>, malformed: Vec<Json>) -> Vec<Result<Frame, Error>> {
        block_on(merged(members, malformed).collect())
    }

    fn said(frames: impl IntoIterator<Item = Frame>) -> Vec<Result<Frame, Error>> {
        frames.into_iter().map(Ok).collect()
    }

    #[test]
    fn each_request_is_answered_by_an_event() {
        let numbered = Event { id: Some("1.1-1.aa".into()), message: Some(text(9, SAYS)), retry_ms: Some(5) };
        let primed = Event { message: None, ..numbered.clone() };
        let streamed = [
            accepted(),
            Frame::Open,
            Frame::Event(primed),
            Frame::Event(numbered),
            Frame::Event(Event { message: Some(result(2)), ..Event::default() }),
        ];
        let members = vec![
            member(id(1), [accepted(), answer(1)]),
            member(None, [accepted(), Frame::Answer(Answer::new(202, None))]),
            member(id(2), streamed),
            // One that was cancelled.
            member(id(3), [accepted()]),
        ];
        let frames = all(members, vec![text(4, SAYS)]);
        let mut events: Vec<String> = frames.iter().skip(2).map(|frame| format!("{frame:?}")).collect();
        events.sort();
        let mut expected: Vec<String> = [result(1), text(9, SAYS), result(2), text(4, SAYS)]
            .map(event)
            .map(|e| format!("{:?}", Ok::<_, Error>(e)))
            .into();
        expected.sort();
        assert_eq!(frames[..2], said([accepted(), Frame::Open]));
        assert_eq!(events, expected);
    }

    #[test]
    fn what_wants_no_answer_is_answered_with_a_status() {
        let quiet = |status| member(None, [accepted(), Frame::Answer(Answer::new(status, None))]);
        let whole = |status| said([accepted(), Frame::Answer(Answer::new(status, None))]);
        assert_eq!(all(vec![quiet(202), quiet(202)], vec![]), whole(202));
        assert_eq!(all(vec![quiet(202), quiet(400)], vec![]), whole(400));
    }

    #[test]
    fn a_batch_is_refused_if_nothing_of_it_is_taken_on() {
        let one = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"later"}}"#;
        let bare = r#"{"jsonrpc":"2.0","error":{"code":-32603,"message":"later"}}"#;
        let refused = || member(id(1), [refusal(503, one)]);
        assert_eq!(all(vec![refused(), refused()], vec![text(2, SAYS)]), said([refusal(503, bare)]));
        // Else it is the member's own answer, whether it came before or after.
        for first in [true, false] {
            let mut members =
                vec![member(id(1), [refusal(404, bare)]), member(id(2), [accepted(), answer(2)])];
            if !first {
                members.reverse();
            }
            let mut frames = all(members, vec![]);
            assert_eq!(frames.drain(..2).collect::<Vec<_>>(), said([accepted(), Frame::Open]));
            let told = Json::trusted(r#"{"jsonrpc":"2.0","error":{"code":-32603,"message":"later"},"id":1}"#);
            assert_eq!(frames.len(), 2);
            assert!(
                frames.contains(&Ok(event(told))) && frames.contains(&Ok(event(result(2)))),
                "{frames:?}"
            );
        }
    }

    #[test]
    fn the_error_of_a_member_is_that_of_the_batch() {
        let error = || Error::new(Code::Unavailable, "gone");
        let lost = Member { id: id(1), frames: stream::iter([Ok(accepted()), Err(error())]).boxed() };
        let waits = Member { id: id(2), frames: stream::pending().boxed() };
        let expected = [Ok(accepted()), Ok(Frame::Open), Err(error())];
        assert_eq!(all(vec![lost, waits], vec![]), expected);
    }
}
