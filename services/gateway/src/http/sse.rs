//! Frames as server-sent events.

mod slot;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::Code;
use api::session::{Event, Frame, Frames};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use chassis::clock;
use chassis::drain::Shutdown;
use chassis::telemetry::Scope;
use mcp::rpc::Id;
use mcp::{Json, meta, scan};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use self::slot::Slot;
pub(crate) use self::slot::{Open, Stalls};
pub(super) use self::slot::{PIECE, Whole};
use super::http_sse::Client;
use super::reply;
use crate::auth::{Caller, Lent};
use crate::limits::Inside;
use crate::observe::{self, Operation};

/// Says nothing, and shows that somebody is there.
const COMMENT: Bytes = Bytes::from_static(b": \n\n");

/// How long an answer may go on after its gateway was asked to drain, if its client is ready to have the rest elsewhere.
const LINGER: Duration = Duration::from_secs(5);

/// The body of an event stream. Dropping it drops the frames, which tells the session node that the client has gone.
pub(super) struct Stream {
    slot: Arc<Slot>,
    /// Whether events say that they are messages, as 2024-11-05 has it.
    named: bool,
    keep_alive: Duration,
    /// Since when nothing was said.
    quiet: Instant,
    /// When the stream ends, whatever is said.
    until: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// Ends a stream that waits for news.
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Runs until the session node knows that the gateway drains; it ends the stream when that costs nothing.
    leaving: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The request that is answered when the stream is closed, if it answers one.
    listen: Option<Id>,
    /// The request whose answer ends the stream: the client hears of it if that never comes.
    owed: Option<Id>,
    /// The last message.
    last: Option<Json>,
    /// The requests of a batch that have not been answered; the same holds for them.
    members: Vec<Id>,
    /// What the client showed is good as long as this does not end.
    lent: Option<Lent>,
    /// Whether the client may continue elsewhere what it has seen of this stream.
    is_resumable: bool,
    /// Whether the client expects to be sent elsewhere for the rest: its revision begins streams with an id alone.
    is_primed: bool,
    /// Runs until such a client is sent elsewhere, because the gateway drains.
    moving: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether that time has come.
    is_due: bool,
    /// Open as long as the stream.
    scope: Scope,
    /// What is told of the request to operators.
    operation: Option<Operation>,
    /// Whose session ends with the stream.
    client: Option<Client>,
}

impl Stream {
    /// Events out of `frames`; with `shutdown`, until the gateway drains. `listen` is then answered, so that a modern client
    /// knows that its listen is over.
    pub(super) fn new(
        stalls: &Stalls,
        frames: Frames,
        keep_alive: Duration,
        shutdown: Option<Shutdown>,
        listen: Option<Id>,
    ) -> Self {
        let mut stream = Self::over(stalls.open(frames, shutdown.is_some()), keep_alive);
        if let Some(shutdown) = shutdown {
            stream.closing = Some(Box::pin(async move { shutdown.requested().await }));
        }
        stream.listen = listen;
        stream
    }

    fn over(slot: Arc<Slot>, keep_alive: Duration) -> Self {
        let quiet = Instant::now();
        slot.say(COMMENT);
        Self {
            slot,
            named: false,
            keep_alive,
            quiet,
            until: None,
            timer: Box::pin(sleep_until(quiet + keep_alive)),
            closing: None,
            leaving: None,
            listen: None,
            owed: None,
            last: None,
            members: Vec::new(),
            lent: None,
            is_resumable: false,
            is_primed: false,
            moving: None,
            is_due: false,
            scope: Scope::current(),
            operation: None,
            client: None,
        }
    }

    /// The answer to an older client, which may get the rest of it at another gateway when this one drains.
    pub(super) fn moving(mut self, shutdown: Option<Shutdown>) -> Self {
        if let Some(shutdown) = shutdown {
            self.moving = Some(Box::pin(async move {
                shutdown.requested().await;
                sleep(LINGER).await;
            }));
        }
        self
    }

    /// A place that is taken as long as the stream is open.
    pub(super) fn holding(self, place: Option<Inside>) -> Self {
        if let Some(place) = place {
            self.slot.keep(place);
        }
        self
    }

    /// Ends the stream at a moment, unless it has ended before. A client that may come back is asked to.
    pub(super) fn until(mut self, end: Option<Instant>) -> Self {
        self.until = self.until.into_iter().chain(end).min();
        if let Some(end) = self.until
            && end < self.timer.deadline()
        {
            self.timer.as_mut().reset(end);
        }
        self
    }

    /// The stream ends when what the caller showed is no longer good.
    pub(super) fn lent(mut self, caller: &Caller) -> Self {
        let end = caller.expires_in(clock::unix_millis()).map(|left| Instant::now() + left);
        self.lent = Some(caller.lent());
        self.until(end)
    }

    /// What this stream is the answer to, for operators.
    pub(super) fn observed(mut self, operation: Option<Operation>) -> Self {
        self.operation = operation;
        self
    }

    /// The session of this client ends with the stream.
    pub(super) fn of(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// The stream answers this request, once.
    pub(super) fn owing(mut self, request: Option<Id>) -> Self {
        self.owed = request;
        self
    }

    /// The stream answers these requests, in any order.
    pub(super) fn owing_all(mut self, members: Vec<Id>) -> Self {
        self.members = members;
        self
    }

    /// Everything that is said in a session of HTTP+SSE. It begins with where to post. When the gateway drains, `leaving` asks
    /// the session node to end it: the answers to all calls under way come on it.
    pub(super) fn of_session(
        stalls: &Stalls,
        frames: Frames,
        keep_alive: Duration,
        endpoint: &str,
        leaving: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let mut stream = Self::over(stalls.open(frames, true), keep_alive);
        stream.slot.say(Bytes::from(format!("event: endpoint\ndata: {endpoint}\n\n")));
        stream.leaving = Some(Box::pin(leaving));
        stream.named = true;
        stream
    }

    fn end(&mut self) {
        self.slot.finish();
        self.closing = None;
        self.until = None;
    }

    /// What is said when the session node is lost: that the outcome is not known, unless the answer has been given.
    fn lost(&mut self) -> Option<Bytes> {
        self.end();
        let last = self.last.take().filter(is_answer);
        let answered = last.is_some();
        observe::streamed(self.operation.take(), last.as_ref(), Some(Code::Unavailable));
        let request = self.owed.take().filter(|_| !answered);
        let mut text = Vec::new();
        for request in request.into_iter().chain(std::mem::take(&mut self.members)) {
            let message = Some(reply::unknown_outcome(Some(&request), "unavailable"));
            text.extend_from_slice(&encode(&Event { message, ..Event::default() }, self.named));
        }
        (!text.is_empty()).then(|| Bytes::from(text))
    }

    /// What is said when the stream ends before its time. What cannot be continued has an unknown outcome.
    fn part(&mut self) -> Option<Bytes> {
        if !self.is_resumable && (self.owed.is_some() || !self.members.is_empty()) {
            return self.lost();
        }
        self.end();
        (!self.named).then(|| farewell(self.listen.as_ref()))
    }

    /// Notes which member of a batch has been answered.
    fn settle(&mut self, event: &Event) {
        let Some(message) = event.message.as_ref().filter(|_| !self.members.is_empty()) else { return };
        if scan::member(message.as_str(), "method").is_none()
            && let Some(id) = scan::member(message.as_str(), "id")
            && let Some(at) = self.members.iter().position(|member| member.raw() == id)
        {
            self.members.swap_remove(at);
        }
    }

    /// What is said next, apart from what has been begun.
    fn say(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.until.is_some_and(|end| end <= self.quiet) {
            return Poll::Ready(self.part());
        }
        if self.lent.as_mut().is_some_and(|lent| lent.poll_ended(cx).is_ready()) {
            self.lent = None;
            return Poll::Ready(self.part());
        }
        match self.slot.poll(cx) {
            Poll::Ready(Some(Ok(Frame::Event(event)))) => {
                self.quiet = Instant::now();
                let text = encode(&event, self.named);
                self.is_resumable |= event.id.is_some();
                self.is_primed |= event.id.is_some() && event.message.is_none();
                self.settle(&event);
                self.last = event.message.or(self.last.take());
                return Poll::Ready(Some(text));
            }
            Poll::Ready(Some(Ok(
                Frame::Accepted { .. } | Frame::Refused(_) | Frame::Answer(_) | Frame::Open,
            ))) => {
                tracing::error!("a session node broke the order of frames");
                return Poll::Ready(self.lost());
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(code = ?error.code, error = %error.message, "an event stream was lost");
                return Poll::Ready(self.lost());
            }
            Poll::Ready(None) => {
                if let Some(client) = self.client.take() {
                    client.forget();
                }
                return Poll::Ready(None);
            }
            Poll::Pending => {}
        }
        if let Some(closing) = &mut self.closing
            && closing.as_mut().poll(cx).is_ready()
        {
            self.end();
            return Poll::Ready(Some(farewell(self.listen.as_ref())));
        }
        if self.moving.as_mut().is_some_and(|moving| moving.as_mut().poll(cx).is_ready()) {
            self.moving = None;
            self.is_due = true;
        }
        if self.is_due && self.is_primed {
            return Poll::Ready(self.part());
        }
        if self.leaving.as_mut().is_some_and(|leaving| leaving.as_mut().poll(cx).is_ready()) {
            self.leaving = None;
        }
        self.time(cx)
    }

    /// The timer is moved when it fires, not with every event.
    fn time(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let is_over = self.until.is_some_and(|end| end <= now);
            let is_quiet = self.quiet + self.keep_alive <= now;
            if is_over || is_quiet {
                self.quiet = now;
            }
            let next = self.quiet + self.keep_alive;
            self.timer.as_mut().reset(self.until.map_or(next, |end| next.min(end)));
            if is_over {
                return Poll::Ready(self.part());
            }
            if is_quiet {
                return Poll::Ready(Some(COMMENT));
            }
        }
        Poll::Pending
    }
}

/// What a message is that is neither a request nor a notification.
fn is_answer(message: &Json) -> bool {
    scan::member(message.as_str(), "method").is_none()
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.operation.is_some() {
            observe::streamed(self.operation.take(), self.last.take().filter(is_answer).as_ref(), None);
        }
        self.slot.let_go();
    }
}

/// The response to a request whose answer is a stream.
pub(super) fn response(stream: Stream) -> Response {
    let open = Open(stream.slot.clone());
    let mut response = Response::new(Body::from_stream(stream));
    response.extensions_mut().insert(open);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies must not collect events before they pass them on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl futures::Stream for Stream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // Whoever asks has written what was handed out before.
        this.slot.wait();
        if let Some(piece) = this.slot.piece() {
            return Poll::Ready(Some(Ok(piece)));
        }
        let _inside = this.scope.clone().enter();
        match this.say(cx) {
            Poll::Ready(Some(text)) => {
                this.slot.say(text);
                Poll::Ready(this.slot.piece().map(Ok))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Asks the client to come back to another gateway, though not together with all the others. A modern listen is answered
/// (2026-07-28, "subscriptions": the server should send the response before it closes the stream).
fn farewell(listen: Option<&Id>) -> Bytes {
    if let Some(id) = listen {
        let result =
            format!(r#"{{"resultType":"complete","_meta":{{"{}":{}}}}}"#, meta::SUBSCRIPTION_ID, id.raw());
        let message = Some(mcp::rpc::result(id, &Json::trusted(result)));
        return encode(&Event { message, ..Event::default() }, false);
    }
    let draw = u16::from_le_bytes(clock::random().unwrap_or_default());
    Bytes::from(format!("retry: {}\n\n", 1000 + draw % 4001))
}

/// The lines of one event. Its data is one line: JSON has line breaks only between tokens, where a space does as well.
fn encode(event: &Event, named: bool) -> Bytes {
    let mut text =
        Vec::with_capacity(64 + event.message.as_ref().map_or(0, |message| message.as_str().len()));
    // Ids are of our own alphabet; one that is not would end the line it stands in.
    if let Some(id) = event.id.as_ref().filter(|id| id.bytes().all(|c| c.is_ascii_graphic())) {
        text.extend_from_slice(b"id: ");
        text.extend_from_slice(id.as_bytes());
        text.push(b'\n');
    }
    if let Some(retry) = event.retry_ms {
        text.extend_from_slice(format!("retry: {retry}\n").as_bytes());
    }
    match &event.message {
        Some(message) => {
            if named {
                text.extend_from_slice(b"event: message\n");
            }
            text.extend_from_slice(b"data: ");
            let start = text.len();
            text.extend_from_slice(message.as_str().as_bytes());
            for c in &mut text[start..] {
                if matches!(c, b'\n' | b'\r') {
                    *c = b' ';
                }
            }
            text.push(b'\n');
        }
        // Without data an id would never reach the client's memory.
        None if event.id.is_some() => text.extend_from_slice(b"data: \n"),
        None => {}
    }
    text.push(b'\n');
    Bytes::from(text)
}

#[cfg(test)]
mod tests;
