//! A raw client: says exactly what a test tells it to, and shows exactly what comes back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Takes the gateways in turn, request by request.
pub struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    gateways: Vec<SocketAddr>,
    turn: AtomicUsize,
    /// Sent with every request once it is set.
    pub session: Option<String>,
    /// Sent with every request once it is set.
    pub revision: Option<String>,
    /// Sent with every request once it is set.
    pub authorization: Option<String>,
}

/// Status, headers, and a body that has not been read yet.
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// HTTP headers.
    pub headers: HeaderMap,
    body: Incoming,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// `event:`
    pub name: Option<String>,
    /// `id:`
    pub id: Option<String>,
    /// `retry:`
    pub retry: Option<u64>,
    /// `data:`; an event without data has the empty text.
    pub data: String,
}

/// Reads events one by one.
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
    /// Comments seen so far.
    pub comments: usize,
}

impl Client {
    /// A client that has said nothing yet.
    #[must_use]
    pub fn new(gateways: Vec<SocketAddr>) -> Self {
        let http = Http::builder(TokioExecutor::new()).build_http();
        Self { http, gateways, turn: AtomicUsize::new(0), session: None, revision: None, authorization: None }
    }

    /// Any request. `headers` come after those of the session.
    pub async fn send(
        &self,
        method: Method,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        self.send_to("/mcp", method, headers, body).await
    }

    /// The same at another path.
    pub async fn send_to(
        &self,
        target: &str,
        method: Method,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let gateway = self.gateways.get(turn % self.gateways.len()).context("no gateway")?;
        let mut request = Request::builder().method(method).uri(format!("http://{gateway}{target}"));
        let own = [
            ("mcp-session-id", &self.session),
            ("mcp-protocol-version", &self.revision),
            ("authorization", &self.authorization),
        ];
        for (name, value) in own {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let answer = tokio::time::timeout(DEADLINE, self.http.request(request))
            .await
            .context("no answer in time")??;
        let (parts, body) = answer.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// A POST with the headers every client sends.
    pub async fn post(&self, body: impl Into<Bytes>) -> Result<Answer> {
        self.post_with(&[], body).await
    }

    /// The same with more headers.
    pub async fn post_with(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer> {
        let mut all =
            vec![("accept", "application/json, text/event-stream"), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(Method::POST, &all, body).await
    }

    /// Opens the session's own stream, or continues one.
    pub async fn get(&self, last_event_id: Option<&str>) -> Result<Answer> {
        let mut headers = vec![("accept", "text/event-stream")];
        if let Some(id) = last_event_id {
            headers.push(("last-event-id", id));
        }
        self.send(Method::GET, &headers, Bytes::new()).await
    }

    /// Ends the session.
    pub async fn delete(&self) -> Result<Answer> {
        self.send(Method::DELETE, &[], Bytes::new()).await
    }

    /// Shakes hands in a revision; the answer to `initialize`.
    pub async fn initialize(&mut self, revision: &str, capabilities: &str) -> Result<String> {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"init","method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{capabilities},"clientInfo":{{"name":"raw","version":"1"}}}}}}"#
        );
        let answer = self.post(body).await?;
        let session =
            answer.headers.get("mcp-session-id").map(|v| v.to_str().map(str::to_owned)).transpose()?;
        if answer.status != StatusCode::OK {
            let status = answer.status;
            bail!("initialize: {status} {}", answer.text().await?);
        }
        self.session = Some(session.context("no session id")?);
        let text = answer.text().await?;
        if revision >= "2025-06-18" {
            self.revision = Some(revision.to_owned());
        }
        let done = self.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await?;
        if done.status != StatusCode::ACCEPTED {
            bail!("initialized: {}", done.status);
        }
        Ok(text)
    }

    /// A request of the 2026-07-28 revision, with the headers and `_meta` it needs. `params` is an object without `_meta`.
    pub async fn modern(&self, id: &str, method: &str, params: &str, capabilities: &str) -> Result<Answer> {
        self.modern_with(&[], id, method, params, capabilities, "").await
    }

    /// The same with more headers and more `_meta` (`,"key":value`).
    pub async fn modern_with(
        &self,
        headers: &[(&str, &str)],
        id: &str,
        method: &str,
        params: &str,
        capabilities: &str,
        meta: &str,
    ) -> Result<Answer> {
        let inner = params.trim().trim_start_matches('{');
        let comma = if inner == "}" { "" } else { "," };
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{capabilities}{meta}}}{comma}{inner}}}"#
        );
        let named = match method {
            "tools/call" | "prompts/get" => mcp::scan::member(params, "name").and_then(mcp::scan::string),
            "resources/read" => mcp::scan::member(params, "uri").and_then(mcp::scan::string),
            _ => None,
        };
        let mut all = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        if let Some(name) = &named {
            all.push(("mcp-name", name));
        }
        all.extend_from_slice(headers);
        self.post_with(&all, body).await
    }
}

impl Answer {
    /// The whole body.
    pub async fn text(self) -> Result<String> {
        let body =
            tokio::time::timeout(DEADLINE, self.body.collect()).await.context("body not read in time")??;
        Ok(String::from_utf8(body.to_bytes().to_vec())?)
    }

    /// The one JSON-RPC response, whether it comes as JSON or as the last event.
    pub async fn response(self) -> Result<String> {
        if !self.is_stream() {
            return self.text().await;
        }
        let mut events = self.events();
        let mut last = None;
        while let Some(event) = events.next().await? {
            if !event.data.is_empty() {
                last = Some(event.data);
            }
        }
        last.context("the stream had no message")
    }

    /// Whether the answer is an event stream.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.headers.get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"))
    }

    /// Reads the body event by event.
    #[must_use]
    pub fn events(self) -> Events {
        Events { body: self.body, buffer: BytesMut::new(), comments: 0 }
    }
}

impl Events {
    /// The next event; `None` at the end of the stream. Comments are counted and skipped.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        tokio::time::timeout(DEADLINE, self.read()).await.context("no event in time")?
    }

    /// The next event that carries a message.
    pub async fn message(&mut self) -> Result<String> {
        loop {
            match self.next().await? {
                Some(event) if !event.data.is_empty() => return Ok(event.data),
                Some(_) => {}
                None => bail!("the stream ended"),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let block = self.buffer.split_to(end + 2);
                if let Some(event) = self.parse(std::str::from_utf8(&block)?)? {
                    return Ok(Some(event));
                }
                continue;
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn parse(&mut self, block: &str) -> Result<Option<Event>> {
        let mut event = Event::default();
        let mut real = false;
        for line in block.lines() {
            if line.starts_with(':') {
                self.comments += 1;
            } else if let Some((field, value)) = line.split_once(':') {
                let value = value.strip_prefix(' ').unwrap_or(value);
                real = true;
                match field {
                    "id" => event.id = Some(value.to_owned()),
                    "retry" => event.retry = Some(value.parse()?),
                    "data" => event.data.push_str(value),
                    "event" => event.name = Some(value.to_owned()),
                    other => bail!("unknown field {other:?}"),
                }
            } else if !line.is_empty() {
                bail!("not a line of an event: {line:?}");
            }
        }
        Ok(real.then_some(event))
    }
}
