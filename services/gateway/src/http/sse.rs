//! Frames as server-sent events.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use api::session::{Event, Frame, Frames};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use chassis::clock;
use chassis::drain::Shutdown;
use futures::StreamExt as _;
use mcp::rpc::Id;
use mcp::{Json, meta, scan};
use tokio::time::{Instant, Sleep, sleep};
use tracing::Span;

use super::reply;

/// Says nothing, and shows that somebody is there.
const COMMENT: Bytes = Bytes::from_static(b": \n\n");

/// The body of an event stream. Dropping it drops the frames, which tells the session node that the client has gone.
pub(super) struct Stream {
    frames: Frames,
    /// What is said first.
    greeting: Option<Bytes>,
    /// Whether events say that they are messages, as 2024-11-05 has it.
    named: bool,
    keep_alive: Duration,
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
    /// Open as long as the stream.
    span: Span,
}

impl Stream {
    /// Events out of `frames`; with `shutdown`, until the gateway drains. `listen` is then answered, so that a modern client
    /// knows that its listen is over.
    pub(super) fn new(
        frames: Frames,
        keep_alive: Duration,
        shutdown: Option<Shutdown>,
        listen: Option<Id>,
    ) -> Self {
        let closing = shutdown.map(|shutdown| {
            let closing: Pin<Box<dyn Future<Output = ()> + Send>> =
                Box::pin(async move { shutdown.requested().await });
            closing
        });
        let timer = Box::pin(sleep(keep_alive));
        let (greeting, span) = (Some(COMMENT), Span::current());
        Self {
            frames,
            greeting,
            named: false,
            keep_alive,
            timer,
            closing,
            leaving: None,
            listen,
            owed: None,
            last: None,
            members: Vec::new(),
            span,
        }
    }

    /// The stream answers this request, once.
    pub(super) fn owing(self, request: Option<Id>) -> Self {
        Self { owed: request, ..self }
    }

    /// The stream answers these requests, in any order.
    pub(super) fn owing_all(self, members: Vec<Id>) -> Self {
        Self { members, ..self }
    }

    /// Everything that is said in a session of HTTP+SSE. It begins with where to post. When the gateway drains, `leaving` asks
    /// the session node to end it: the answers to all calls under way come on it.
    pub(super) fn of_session(
        frames: Frames,
        keep_alive: Duration,
        endpoint: &str,
        leaving: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let greeting = Some(Bytes::from(format!("event: endpoint\ndata: {endpoint}\n\n")));
        let leaving: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = Some(Box::pin(leaving));
        Self { greeting, named: true, leaving, ..Self::new(frames, keep_alive, None, None) }
    }

    fn end(&mut self) {
        self.frames = futures::stream::empty().boxed();
        self.closing = None;
    }

    /// What is said when the session node is lost: that the outcome is not known, unless the answer has been given.
    fn lost(&mut self) -> Option<Bytes> {
        self.end();
        let is_answer = |message: Json| scan::member(message.as_str(), "method").is_none();
        let answered = self.last.take().is_some_and(is_answer);
        let request = self.owed.take().filter(|_| !answered);
        let mut text = Vec::new();
        for request in request.into_iter().chain(std::mem::take(&mut self.members)) {
            let message = Some(reply::unknown_outcome(Some(&request), "unavailable"));
            text.extend_from_slice(&encode(&Event { message, ..Event::default() }, self.named));
        }
        (!text.is_empty()).then(|| Bytes::from(text))
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

    fn rearm(&mut self) {
        let next = Instant::now() + self.keep_alive;
        self.timer.as_mut().reset(next);
    }
}

/// The response to a request whose answer is a stream.
pub(super) fn response(stream: Stream) -> Response {
    let mut response = Response::new(Body::from_stream(stream));
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
        let span = this.span.clone();
        let _entered = span.enter();
        if let Some(greeting) = this.greeting.take() {
            return Poll::Ready(Some(Ok(greeting)));
        }
        match this.frames.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(Frame::Event(event)))) => {
                this.rearm();
                let text = encode(&event, this.named);
                this.settle(&event);
                this.last = event.message.or(this.last.take());
                return Poll::Ready(Some(Ok(text)));
            }
            Poll::Ready(Some(Ok(
                Frame::Accepted { .. } | Frame::Refused(_) | Frame::Answer(_) | Frame::Open,
            ))) => {
                tracing::error!("a session node broke the order of frames");
                return Poll::Ready(this.lost().map(Ok));
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(code = ?error.code, error = %error.message, "an event stream was lost");
                return Poll::Ready(this.lost().map(Ok));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if let Some(closing) = &mut this.closing
            && closing.as_mut().poll(cx).is_ready()
        {
            this.end();
            return Poll::Ready(Some(Ok(farewell(this.listen.as_ref()))));
        }
        if this.leaving.as_mut().is_some_and(|leaving| leaving.as_mut().poll(cx).is_ready()) {
            this.leaving = None;
        }
        if this.timer.as_mut().poll(cx).is_ready() {
            this.rearm();
            return Poll::Ready(Some(Ok(COMMENT)));
        }
        Poll::Pending
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
mod tests {
    use futures::stream;
    use mcp::Json;

    use super::*;

    fn event(id: Option<&str>, retry_ms: Option<u32>, message: Option<&'static str>) -> Event {
        Event { id: id.map(str::to_owned), message: message.map(Json::trusted), retry_ms }
    }

    #[test]
    fn an_event_is_lines_with_data_on_one() {
        let table = [
            (event(None, None, Some("{\"a\":1}")), "data: {\"a\":1}\n\n"),
            (event(Some("1.1-2.abcd"), Some(500), Some("{}")), "id: 1.1-2.abcd\nretry: 500\ndata: {}\n\n"),
            (event(Some("1.1-0.abcd"), Some(500), None), "id: 1.1-0.abcd\nretry: 500\ndata: \n\n"),
            (event(None, Some(500), None), "retry: 500\n\n"),
            (event(None, None, Some("{\n\r\n \"a\\n\" :\r1}")), "data: {    \"a\\n\" : 1}\n\n"),
            (event(Some("x\ndata: evil"), None, Some("{}")), "data: {}\n\n"),
        ];
        for (event, text) in table {
            assert_eq!(encode(&event, false), text);
        }
        let named = encode(&event(None, None, Some("{}")), true);
        assert_eq!(named, "event: message\ndata: {}\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_comments_and_events_pass_at_once() {
        let slow = stream::iter([40, 10]).then(|pause| async move {
            sleep(Duration::from_secs(pause)).await;
            Ok(Frame::Event(event(None, None, Some("{}"))))
        });
        let mut body = Stream::new(slow.boxed(), Duration::from_secs(15), None, None);
        let start = Instant::now();
        let mut seen = Vec::new();
        while let Some(Ok(part)) = body.next().await {
            seen.push((start.elapsed().as_secs(), part));
        }
        let (comment, data) = (COMMENT, Bytes::from_static(b"data: {}\n\n"));
        let silence = [(0, comment.clone()), (15, comment.clone()), (30, comment)];
        let expected = [&silence[..], &[(40, data.clone()), (50, data)]].concat();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_with_its_node_is_said_to_be_unknown_once() {
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
        let result = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
        let unknown = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"the outcome of this request is not known","data":{"reason":"unavailable","outcome":"unknown"}}}"#;
        let id = Id::read(&Json::trusted("7"));
        let table = [
            (vec![], id.clone(), vec![unknown]),
            (vec![progress], id.clone(), vec![progress, unknown]),
            (vec![progress, result], id, vec![progress, result]),
            // A stream of a session, which answers nothing.
            (vec![progress], None, vec![progress]),
        ];
        for (messages, owed, expected) in table {
            let events = messages.into_iter().map(|text| Ok(Frame::Event(event(None, None, Some(text)))));
            let lost = api::Error::new(api::Code::Unavailable, "node lost");
            let frames = stream::iter(events.chain([Err(lost)]).collect::<Vec<_>>());
            let body = Stream::new(frames.boxed(), Duration::from_secs(15), None, None).owing(owed);
            let parts: Vec<_> = body.map(Result::unwrap).skip(1).collect().await;
            let expected: Vec<_> = expected.into_iter().map(|text| format!("data: {text}\n\n")).collect();
            assert_eq!(parts, expected);
        }
    }

    #[tokio::test]
    async fn a_stream_that_waits_for_news_ends_when_the_gateway_drains() {
        let (trigger, shutdown) = chassis::drain::pair();
        let mut body = Stream::new(stream::pending().boxed(), Duration::from_secs(15), Some(shutdown), None);
        assert_eq!(body.next().await, Some(Ok(COMMENT)));
        trigger.drain();
        let farewell = body.next().await.unwrap().unwrap();
        let text = std::str::from_utf8(&farewell).unwrap();
        let wait: u32 =
            text.strip_prefix("retry: ").and_then(|t| t.strip_suffix("\n\n")).unwrap().parse().unwrap();
        assert!((1000..=5000).contains(&wait));
        assert_eq!(body.next().await, None);
    }
}
