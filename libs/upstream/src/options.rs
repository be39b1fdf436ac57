//! What a connection is made with.

use std::time::Duration;

use http::{HeaderMap, Uri};
use mcp::{Json, Revision};

/// Which revisions to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speak {
    /// The newest that the server knows: 2026-07-28 is tried first, then a handshake.
    Auto,
    /// 2026-07-28 and nothing else.
    Modern,
    /// A handshake that asks for this revision, and takes an older one if the server offers that.
    Older(Revision),
}

/// Where to connect, as whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// The MCP endpoint.
    pub url: Uri,
    /// Which revisions to speak.
    pub speak: Speak,
    /// Sent with every request, for example `authorization`. Those of the protocol cannot be set here.
    pub headers: HeaderMap,
    /// Name of this client.
    pub name: String,
    /// Version of this client.
    pub version: String,
    /// Capabilities of this client, as a JSON object: what the [`Listener`](crate::Listener) can answer.
    pub capabilities: Json,
    /// Bounds.
    pub limits: Limits,
}

impl Options {
    /// Connects to `url` as `name`, without any capability.
    #[must_use]
    pub fn new(url: Uri, name: &str, version: &str) -> Self {
        Self {
            url,
            speak: Speak::Auto,
            headers: HeaderMap::new(),
            name: name.to_owned(),
            version: version.to_owned(),
            capabilities: Json::empty_object(),
            limits: Limits::default(),
        }
    }
}

/// What a server may make of this client's memory and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest answer in one piece, in bytes.
    pub body: usize,
    /// Longest event of a stream, in bytes.
    pub event: usize,
    /// Longest line of a stream, in bytes.
    pub line: usize,
    /// Silence after which a stream is given up and, where that is possible, resumed. Servers send comments.
    pub idle: Duration,
    /// Time for a connection.
    pub connect: Duration,
    /// Time for the first answer of the server, which tells its era.
    pub probe: Duration,
    /// Most pages of a list.
    pub pages: usize,
    /// Most entries of a list.
    pub entries: usize,
    /// Most times a request may be answered with a wish for input.
    pub rounds: usize,
    /// Most times a stream is resumed in a row without anything new coming.
    pub resumes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 16 << 20,
            event: 4 << 20,
            line: 1 << 20,
            idle: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            probe: Duration::from_secs(10),
            pages: 1_000,
            entries: 100_000,
            rounds: 10,
            resumes: 5,
        }
    }
}
