//! A client that can send anything.

use mcp::scan;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::soon;

/// A connection of a client.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(super) read: Vec<u8>,
}

impl Connection {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Whether it could be written.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Says that nothing more will come.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.ok();
    }

    /// Reads until the other side closes, whatever it says.
    pub(crate) async fn all(&mut self, into: &mut Vec<u8>) {
        soon(async { while self.more().await > 0 {} }).await;
        into.append(&mut self.read);
    }

    /// Exactly so many bytes.
    pub(crate) async fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            assert!(soon(self.more()).await > 0, "ended early");
        }
        let rest = self.read.split_off(length);
        std::mem::replace(&mut self.read, rest)
    }

    /// Reads until this text has come; gives everything up to its end and forgets it.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        soon(async {
            loop {
                if let Some(at) = self.read.windows(text.len()).position(|w| w == text.as_bytes()) {
                    let rest = self.read.split_off(at + text.len());
                    return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
                }
                assert!(self.more().await > 0, "ended before {text:?}: {}", self.read.escape_ascii());
            }
        })
        .await
    }

    async fn more(&mut self) -> usize {
        self.stream.read_buf(&mut self.read).await.unwrap_or(0)
    }

    /// Reads one response, whichever way its end is marked.
    pub(crate) async fn response(&mut self) -> Response {
        let head = self.until("\r\n\r\n").await;
        let mut lines = head.trim_end().split("\r\n");
        let status =
            lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status");
        let header =
            |line: &str| line.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).unwrap();
        let mut response = Response { status, headers: lines.map(header).collect(), body: String::new() };
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.until("\r\n").await;
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                let chunk = self.exactly(size + 2).await;
                response.body.push_str(&chunk[..size]);
                if size == 0 {
                    return response;
                }
            }
        }
        let length = response.header("content-length").map_or(0, |v| v.parse().unwrap());
        response.body = self.exactly(length).await;
        response
    }

    async fn exactly(&mut self, length: usize) -> String {
        while self.read.len() < length {
            assert!(self.more().await > 0, "ended early");
        }
        let rest = self.read.split_off(length);
        String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap()
    }

    /// Reads until the other side closes.
    pub(crate) async fn rest(&mut self) -> String {
        soon(async { while self.more().await > 0 {} }).await;
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }
}

/// A request, as bytes go out.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &'static str) -> Self {
        let host = ("Host".to_owned(), b"localhost".to_vec());
        Self { method, target: "/mcp".to_owned(), headers: vec![host], body: Vec::new() }
    }

    /// With the headers every POST needs.
    pub(crate) fn post(body: impl Into<Vec<u8>>) -> Self {
        let request = Self::new("POST").with("Content-Type", "application/json");
        let mut request = request.with("Accept", "application/json, text/event-stream");
        request.body = body.into();
        request
    }

    /// A message in a session.
    pub(crate) fn older(session: &str, body: &str) -> Self {
        Self::post(body).with("Mcp-Session-Id", session)
    }

    /// A modern request that lacks nothing. `params` are members, with a comma at the end of each.
    pub(crate) fn modern(method: &str, params: &str) -> Self {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
        let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{{params}{meta}}}}}"#);
        Self::post(body).with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", method)
    }

    pub(crate) fn at(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    /// One more header.
    pub(crate) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// The header with this value instead.
    pub(crate) fn set(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.without(name).with(name, value)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The same request with this text of its body replaced.
    pub(crate) fn replace(self, from: &str, to: &str) -> Self {
        let text = String::from_utf8(self.body.clone()).unwrap();
        assert!(text.contains(from), "{text} has no {from}");
        self.body(text.replace(from, to))
    }

    pub(crate) fn body_bytes(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.head();
        if !self.body.is_empty() || self.method == "POST" {
            out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// A whole response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn at(&self, path: &[&str]) -> Option<&str> {
        scan::path(&self.body, path)
    }

    /// Status, error code and id, as one value to compare.
    pub(crate) fn verdict(&self) -> (u16, Option<i32>, Option<&str>) {
        (self.status, self.at(&["error", "code"]).map(|c| c.parse().unwrap()), self.at(&["id"]))
    }
}
