//! One message out, and everything that comes back until its answer: in one piece, or as a stream that may be resumed.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http::{HeaderMap, HeaderValue};
use mcp::method::notification;
use mcp::rpc::{self, Id, Message, Request, RpcError};
use mcp::scan::Limits as JsonLimits;
use mcp::{Era, Json, header};

use crate::client::State;
use crate::error::{Error, Refusal};
use crate::headers;
use crate::listener::{Listener, Question};
use crate::sse::Parser;
use crate::wire::{Body, Media, Wire};

/// How long to wait before a stream is resumed, where the server does not say.
const RETRY: Duration = Duration::from_secs(1);

/// A request that is to be sent.
pub(crate) struct Outgoing<'a> {
    pub(crate) id: u64,
    pub(crate) method: &'a str,
    pub(crate) params: Json,
    pub(crate) headers: HeaderMap,
    /// Of the conversation it belongs to.
    pub(crate) state: &'a State,
    pub(crate) listener: &'a dyn Listener,
}

/// A result, and the session that came with it.
pub(crate) struct Answer {
    pub(crate) result: Json,
    pub(crate) session: Option<HeaderValue>,
}

impl Wire {
    /// Sends a request and reads until its answer. Dropping this ends the stream.
    pub(crate) async fn exchange(&self, out: Outgoing<'_>) -> Result<Answer, Error> {
        let id = Id::number(out.id);
        let message = rpc::request(&id, out.method, Some(&out.params));
        let mut reply = self.post(out.headers.clone(), &message).await?;
        let status = reply.status.as_u16();
        if !reply.status.is_success() {
            return Err(reply.refusal().await);
        }
        let session = reply.headers.get(header::SESSION_ID).cloned();
        let media = reply.media();
        let mut reading = Reading {
            wire: self,
            id,
            state: out.state,
            listener: out.listener,
            parser: Parser::new(self.limits.line, self.limits.event),
            answers: FuturesUnordered::new(),
        };
        let outcome = match media {
            Media::Json => {
                let bytes = reply.body.whole(self.limits.body).await?;
                let text = String::from_utf8(bytes.into())
                    .map_err(|_| Error::protocol("the answer is not UTF-8"))?;
                reading.hear(text)?.ok_or_else(|| Error::protocol("the body is not the answer"))?
            }
            Media::Events => reading.run(reply.body).await?,
            Media::Other => {
                return Err(Error::protocol(format!(
                    "status {status} with neither JSON nor an event stream"
                )));
            }
        };
        let refused = |error| {
            Error::Refused(Box::new(Refusal {
                status,
                error: Some(error),
                text: String::new(),
                challenge: None,
            }))
        };
        outcome.map(|result| Answer { result, session }).map_err(refused)
    }

    /// Sends what wants no answer.
    pub(crate) async fn tell(&self, state: &State, message: &Json) -> Result<(), Error> {
        let reply = self.post(headers::older(state), message).await?;
        if reply.status.is_success() { Ok(()) } else { Err(reply.refusal().await) }
    }
}

/// An answer that is being waited for.
struct Reading<'a> {
    wire: &'a Wire,
    id: Id,
    state: &'a State,
    listener: &'a dyn Listener,
    parser: Parser,
    /// Answers to the server's questions, on their way.
    answers: FuturesUnordered<BoxFuture<'a, Result<(), Error>>>,
}

type Outcome = Result<Json, RpcError>;

impl Reading<'_> {
    async fn run(&mut self, mut body: Body) -> Result<Outcome, Error> {
        let mut fruitless = 0;
        let mut seen = None;
        loop {
            let lost = match self.read(&mut body).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => Error::Lost("the stream ended".to_owned()),
                Err(lost @ Error::Lost(_)) => lost,
                Err(other) => return Err(other),
            };
            let last = self.parser.last_id().map(str::to_owned);
            fruitless = if last == seen { fruitless + 1 } else { 1 };
            let Some(last) = last.filter(|_| self.may_resume() && fruitless <= self.wire.limits.resumes)
            else {
                return Err(lost);
            };
            body = self.resume(&last).await?;
            seen = Some(last);
        }
    }

    /// A modern stream is its request: one that is cut is over.
    fn may_resume(&self) -> bool {
        match self.state.revision.era() {
            Era::Older => self.state.session.is_some(),
            Era::Modern => false,
        }
    }

    /// Reads to the answer, or to the end of the stream.
    async fn read(&mut self, body: &mut Body) -> Result<Option<Outcome>, Error> {
        loop {
            while let Some(event) = self.parser.event() {
                // An event without data only carries an id; kinds of other names are not of the protocol.
                if event.name != "message" || event.data.is_empty() {
                    continue;
                }
                if let Some(outcome) = self.hear(event.data)? {
                    return Ok(Some(outcome));
                }
            }
            let chunk = tokio::select! {
                chunk = body.chunk() => chunk?,
                Some(sent) = self.answers.next() => {
                    sent?;
                    continue;
                }
            };
            let Some(chunk) = chunk else { return Ok(None) };
            self.parser.feed(&chunk)?;
        }
    }

    /// Comes back for the rest.
    async fn resume(&mut self, last: &str) -> Result<Body, Error> {
        let value =
            HeaderValue::from_str(last).map_err(|_| Error::protocol("an event id is not visible ASCII"))?;
        let mut pause = self.wire.sleep(self.parser.retry().unwrap_or(RETRY));
        loop {
            tokio::select! {
                () = &mut pause => break,
                Some(sent) = self.answers.next() => sent?,
            }
        }
        let mut headers = headers::older(self.state);
        headers.insert(header::LAST_EVENT_ID, value);
        let reply = match self.wire.get(headers).await {
            Ok(reply) => reply,
            // Perhaps it is coming back: the next attempt tells.
            Err(Error::Unreachable(cause)) => return Err(Error::Lost(cause)),
            Err(other) => return Err(other),
        };
        if !reply.status.is_success() || reply.media() != Media::Events {
            let refusal = reply.refusal().await;
            return Err(Error::Lost(format!("the stream cannot be resumed: {refusal}")));
        }
        self.parser.restart();
        Ok(reply.body)
    }

    /// Takes one message. Returns the answer, if it is that.
    fn hear(&mut self, text: String) -> Result<Option<Outcome>, Error> {
        let message = Message::parse_within(&text.into(), &JsonLimits::RESULT)
            .map_err(|malformed| Error::protocol(malformed.message))?;
        match message {
            Message::Response(response) if response.id == self.id => return Ok(Some(response.outcome)),
            Message::Response(response) => {
                return Err(Error::protocol(format!(
                    "it answers {}, which was not asked",
                    response.id.raw()
                )));
            }
            Message::Notification(notice) => self.notice(&notice.method, notice.params.as_ref()),
            Message::Request(request) => self.asked(request)?,
        }
        Ok(None)
    }

    fn notice(&self, method: &str, params: Option<&Json>) {
        match (method, params) {
            (notification::PROGRESS, Some(params)) => {
                let token = params.member(mcp::meta::PROGRESS_TOKEN);
                if token.is_some_and(|token| token.as_str() == self.id.raw()) {
                    self.listener.progress(params);
                }
            }
            (notification::MESSAGE, Some(params)) => self.listener.log(params),
            (other, params) => self.listener.notice(other, params),
        }
    }

    fn asked(&mut self, request: Request) -> Result<(), Error> {
        match self.state.revision.era() {
            Era::Modern => return Err(Error::protocol("it sends a request, which this revision has not")),
            Era::Older => {}
        }
        let (wire, state, listener) = (self.wire, self.state.clone(), self.listener);
        let answer = async move {
            let outcome = match request.method.as_str() {
                "ping" => Ok(Json::empty_object()),
                _ => listener.answer(&Question { method: request.method, params: request.params }).await,
            };
            let message = match outcome {
                Ok(result) => rpc::result(&request.id, &result),
                Err(error) => rpc::error(Some(&request.id), &error),
            };
            wire.tell(&state, &message).await
        };
        self.answers.push(Box::pin(answer));
        Ok(())
    }
}
