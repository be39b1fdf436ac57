//! A client that shows exactly what happens to a request: refused before it was sent, answered, streamed, or broken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Takes gateways in turn, request by request. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    gateways: Arc<[SocketAddr]>,
    turn: Arc<AtomicUsize>,
    authorization: Arc<str>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nobody was reached: nothing was sent.
    NotSent,
    /// It was sent, and the connection ended.
    Broken,
}

/// An answer whose body may still come.
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// HTTP headers.
    pub headers: HeaderMap,
    body: Incoming,
}

/// A server-sent event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// `id:`
    pub id: Option<String>,
    /// `retry:`
    pub retry_ms: Option<u64>,
    /// `data:`
    pub data: String,
}

/// What comes next on an event stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// An event.
    Event(Event),
    /// The stream was closed in order.
    End,
    /// The connection broke.
    Broken,
}

/// Events, one by one.
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Http {
    /// Speaks to these gateways on behalf of the owner of `key`.
    #[must_use]
    pub fn new(gateways: &[SocketAddr], key: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(std::time::Duration::from_secs(2)));
        Self {
            client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(4).build(connector),
            gateways: gateways.into(),
            turn: Arc::default(),
            authorization: format!("Bearer {key}").into(),
        }
    }

    /// Sends a request to the gateway whose turn it is; where nobody listens, to the next one, as a balancer would.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(
        &self,
        method: Method,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Lost> {
        self.send_to("/mcp", method, headers, body).await
    }

    /// The same, to another path.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send_to(
        &self,
        path: &str,
        method: Method,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Lost> {
        let body = body.into();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for offset in 0..self.gateways.len() {
            let at = (turn + offset) % self.gateways.len();
            let Some(gateway) = self.gateways.get(at) else { break };
            let mut request =
                Request::builder().method(method.clone()).uri(format!("http://{gateway}{path}"));
            request = request.header("authorization", &*self.authorization);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::new(body.clone())).map_err(|_malformed| Lost::NotSent)?;
            match self.client.request(request).await {
                Ok(answer) => {
                    let (parts, body) = answer.into_parts();
                    return Ok(Answer { status: parts.status, headers: parts.headers, body });
                }
                Err(error) if error.is_connect() => {}
                Err(_broken) => return Err(Lost::Broken),
            }
        }
        Err(Lost::NotSent)
    }

    /// A POST of a message.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer, Lost> {
        let mut all =
            vec![("accept", "application/json, text/event-stream"), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(Method::POST, &all, body).await
    }
}

impl Answer {
    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether events will come.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.header("content-type").is_some_and(|value| value.starts_with("text/event-stream"))
    }

    /// The whole body.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn text(self) -> Result<String, Lost> {
        let whole = self.body.collect().await.map_err(|_broken| Lost::Broken)?.to_bytes();
        String::from_utf8(whole.to_vec()).map_err(|_garbled| Lost::Broken)
    }

    /// The body as events.
    #[must_use]
    pub fn events(self) -> Events {
        Events { body: self.body, buffer: BytesMut::new() }
    }
}

impl Events {
    /// The next event; comments are skipped.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\n\n") {
                let block = self.buffer.split_to(end + 2);
                if let Some(event) = parse(&String::from_utf8_lossy(&block)) {
                    return Next::Event(event);
                }
                continue;
            }
            match self.body.frame().await {
                None => return Next::End,
                Some(Err(_broken)) => return Next::Broken,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// An event; `None` for a comment.
fn parse(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut is_event = false;
    for line in block.lines().filter(|line| !line.starts_with(':')) {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value);
        is_event = true;
        match field {
            "id" => event.id = Some(value.to_owned()),
            "retry" => event.retry_ms = value.parse().ok(),
            "data" => event.data.push_str(value),
            _other => {}
        }
    }
    is_event.then_some(event)
}
