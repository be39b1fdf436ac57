//! A session node that does what the message says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::session::{Answer, Attach, Close, Delivery, Event, Frame, Frames, Request, SessionHost};
use api::{Code, Detail, Error};
use async_trait::async_trait;
use futures::stream::{self, StreamExt as _};
use mcp::Json;
use tokio::sync::watch;

/// Payload of one event of a flood.
pub(crate) const FLOOD: usize = 10 << 10;
/// The same for events that a link sends in pieces.
pub(crate) const DELUGE: usize = 100 << 10;

pub(crate) struct Node {
    /// Everything that was asked, in words.
    pub(crate) heard: watch::Sender<Vec<String>>,
    /// Calls that were begun and not let go of.
    pub(crate) open: watch::Sender<usize>,
    /// Frames taken out of floods.
    pub(crate) taken: AtomicUsize,
}

impl Node {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            heard: watch::channel(Vec::new()).0,
            open: watch::channel(0).0,
            taken: AtomicUsize::new(0),
        })
    }

    /// Waits until this many calls are open.
    pub(crate) async fn open_is(&self, count: usize) {
        let mut open = self.open.subscribe();
        let reached = open.wait_for(|open| *open == count);
        tokio::time::timeout(std::time::Duration::from_secs(10), reached).await.unwrap().unwrap();
    }

    fn enter(self: &Arc<Self>) -> Visit {
        self.open.send_modify(|open| *open += 1);
        Visit(self.clone())
    }
}

/// Counts a call until it is dropped.
struct Visit(Arc<Node>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// The handle.
pub(crate) struct Host(pub(crate) Arc<Node>);

pub(crate) fn event(id: Option<&str>, text: impl Into<String>) -> Frame {
    let message = Some(Json::trusted(text.into()));
    Frame::Event(Event { id: id.map(str::to_owned), message, retry_ms: Some(7) })
}

pub(crate) fn accepted() -> Frame {
    Frame::Accepted { session: Some("s1".into()) }
}

pub(crate) fn answer(text: impl Into<String>) -> Frame {
    Frame::Answer(Answer::new(200, Some(Json::trusted(text.into()))))
}

#[async_trait]
impl SessionHost for Host {
    async fn deliver(&self, delivery: Delivery) -> Result<Frames, Error> {
        let node = self.0.clone();
        let visit = node.enter();
        let method = delivery.message.text("method").unwrap();
        if method == "describe" {
            self.0.heard.send_modify(|heard| heard.push(format!("{delivery:?}")));
        }
        let frames: Vec<Result<Frame, Error>> = match method.as_str() {
            "echo" | "describe" => vec![Ok(accepted()), Ok(answer(delivery.message.as_str()))],
            "refuse" => vec![Ok(Frame::Refused(Answer { retry_after_s: Some(3), ..Answer::new(429, None) }))],
            "fail" => {
                let detail = Detail::NotOwner { owner: "other:1".into(), epoch: 9 };
                return Err(Error::new(Code::Precondition, "not here").with(detail));
            }
            "panic" => panic!("on purpose"),
            "events" => {
                let events = (0..500).map(|i| Ok(event(Some(&format!("e{i}")), format!("{{\"n\":{i}}}"))));
                [Ok(accepted()), Ok(Frame::Open)].into_iter().chain(events).collect()
            }
            "break" => vec![Ok(accepted()), Ok(Frame::Open), Err(Error::draining())],
            "never" => std::future::pending().await,
            "hold" => {
                let frames = stream::iter([Ok(accepted())]).chain(stream::pending());
                return Ok(visited(frames.boxed(), visit));
            }
            "flood" | "deluge" => {
                let size = if method == "flood" { FLOOD } else { DELUGE };
                let events = stream::repeat_with(move || {
                    node.taken.fetch_add(1, Ordering::Relaxed);
                    Ok(event(None, format!("\"{}\"", "x".repeat(size))))
                });
                let frames = stream::iter([Ok(accepted()), Ok(Frame::Open)]).chain(events);
                return Ok(visited(frames.boxed(), visit));
            }
            other => panic!("{other}"),
        };
        Ok(visited(stream::iter(frames).boxed(), visit))
    }

    async fn attach(&self, attach: Attach) -> Result<Frames, Error> {
        let visit = self.0.enter();
        self.0.heard.send_modify(|heard| heard.push(format!("{attach:?}")));
        Ok(visited(stream::iter([Ok(accepted()), Ok(Frame::Open)]).boxed(), visit))
    }

    async fn close(&self, close: Close) -> Result<Frames, Error> {
        let visit = self.0.enter();
        self.0.heard.send_modify(|heard| heard.push(format!("{close:?}")));
        Ok(visited(stream::iter([Ok(accepted()), Ok(answer("{}"))]).boxed(), visit))
    }

    async fn probe(&self, to: Option<&str>) -> Result<(), Error> {
        self.0.heard.send_modify(|heard| heard.push(format!("{to:?}")));
        match to {
            Some("gone:1") => Err(Error::new(Code::Unavailable, "nobody is there")),
            Some(_) | None => Ok(()),
        }
    }

    async fn relay(&self, to: &str, request: Request) -> Result<Frames, Error> {
        self.0.heard.send_modify(|heard| heard.push(format!("to {to}")));
        match request {
            Request::Deliver(delivery) => self.deliver(*delivery).await,
            Request::Attach(attach) => self.attach(attach).await,
            Request::Close(close) => self.close(close).await,
        }
    }
}

/// Frames during which the call counts as open.
fn visited(frames: Frames, visit: Visit) -> Frames {
    frames
        .map(move |frame| {
            let _open = &visit;
            frame
        })
        .boxed()
}
