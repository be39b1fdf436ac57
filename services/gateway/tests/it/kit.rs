//! Scripted session nodes, a gateway in front of them, and a client that can send anything.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use api::session::{Answer, Attach, Close, Delivery, Event, Frame, Frames};
use api::{Error, KeyRing, SessionHost, SessionId, Slot};
use async_trait::async_trait;
use chassis::drain::{self, Trigger};
use chassis::task::{self, Handle, Kind};
use futures::{Stream, StreamExt as _, stream};
use gateway::auth::{Anonymous, Authenticate};
use gateway::{App, Config, Deps, Peers, ServeError};
use mcp::{Json, scan};
use placement::{Locator, Peer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    timeout(PATIENCE, what).await.expect("took too long")
}

/// What reached a session node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    Delivered(Delivery),
    Attached(Attach),
    Closed(Close),
}

/// What a session node does with one thing that reaches it.
pub(crate) enum Act {
    Refuse(Error),
    Say(Vec<Result<Frame, Error>>),
    /// Says these and then neither ends nor goes on.
    SayAndStay(Vec<Result<Frame, Error>>),
    Hang,
}

/// A session node that follows a script. Without one it accepts and answers with an empty result.
pub(crate) struct Node {
    script: Mutex<VecDeque<Act>>,
    seen: Mutex<Vec<Seen>>,
    open: watch::Sender<usize>,
}

impl Node {
    pub(crate) fn new(script: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            seen: Mutex::default(),
            open: watch::Sender::new(0),
        })
    }

    pub(crate) fn then(&self, act: Act) {
        self.script.lock().unwrap().push_back(act);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What was delivered since the last time, if it was one message.
    pub(crate) fn delivered(&self) -> Option<Delivery> {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        match (seen.pop(), seen.is_empty()) {
            (Some(Seen::Delivered(delivery)), true) => Some(delivery),
            _ => None,
        }
    }

    /// Waits until this many frame streams are held by somebody.
    pub(crate) async fn streams_open(&self, count: usize) {
        soon(self.open.subscribe().wait_for(|open| *open == count)).await.unwrap();
    }

    fn act(&self, seen: Seen) -> Result<Frames, Error> {
        self.seen.lock().unwrap().push(seen);
        let act = self.script.lock().unwrap().pop_front().unwrap_or_else(|| Act::Say(answered(200, "{}")));
        let frames = match act {
            Act::Refuse(error) => return Err(error),
            Act::Say(frames) => stream::iter(frames).boxed(),
            Act::SayAndStay(frames) => stream::iter(frames).chain(stream::pending()).boxed(),
            Act::Hang => stream::pending().boxed(),
        };
        self.open.send_modify(|open| *open += 1);
        Ok(Counted { frames, open: self.open.clone() }.boxed())
    }
}

struct Counted {
    frames: Frames,
    open: watch::Sender<usize>,
}

impl Stream for Counted {
    type Item = Result<Frame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.frames.poll_next_unpin(cx)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open -= 1);
    }
}

#[async_trait]
impl SessionHost for Node {
    async fn deliver(&self, delivery: Delivery) -> Result<Frames, Error> {
        // The same message twice.
        self.act(Seen::Delivered(Delivery { read: None, ..delivery }))
    }

    async fn attach(&self, attach: Attach) -> Result<Frames, Error> {
        self.act(Seen::Attached(attach))
    }

    async fn close(&self, close: Close) -> Result<Frames, Error> {
        self.act(Seen::Closed(close))
    }
}

pub(crate) fn accepted() -> Result<Frame, Error> {
    Ok(Frame::Accepted { session: None })
}

pub(crate) fn answer(status: u16, body: &str) -> Answer {
    Answer::new(status, (!body.is_empty()).then(|| Json::trusted(body.to_owned())))
}

/// Accepted, and answered with this.
pub(crate) fn answered(status: u16, body: &str) -> Vec<Result<Frame, Error>> {
    vec![accepted(), Ok(Frame::Answer(answer(status, body)))]
}

pub(crate) fn event(id: Option<&str>, message: &str) -> Result<Frame, Error> {
    Ok(Frame::Event(Event {
        id: id.map(str::to_owned),
        message: Some(Json::trusted(message.to_owned())),
        retry_ms: None,
    }))
}

pub(crate) fn keys() -> KeyRing {
    KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef")
}

pub(crate) fn session(slot: u16) -> String {
    SessionId::mint(&keys(), Slot::new(slot).unwrap(), *b"fedcba9876543210").as_str().to_owned()
}

/// Nodes by name; the first one owns every slot below 4000, nobody the others.
struct Names(BTreeMap<String, Arc<Node>>, Vec<Peer>);

impl Locator for Names {
    fn owner(&self, slot: Slot) -> Option<Peer> {
        (slot.number() < 4000).then(|| self.1.first().cloned())?
    }

    fn ready(&self) -> Vec<Peer> {
        self.1.clone()
    }
}

impl Peers for Names {
    fn get(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        self.0.get(address).map(|node| node.clone() as Arc<dyn SessionHost>)
    }
}

/// A gateway that listens. Dropping it stops it.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) trigger: Trigger,
    pub(crate) serving: Handle<Result<(), ServeError>>,
}

impl Gateway {
    /// In front of one node.
    pub(crate) async fn one(node: &Arc<Node>) -> Self {
        Self::start(Config::default(), &[("a", node)], 1).await
    }

    /// In front of several nodes, of which the first `ready` are in the table.
    pub(crate) async fn start(config: Config, nodes: &[(&str, &Arc<Node>)], ready: usize) -> Self {
        Self::asking(Arc::new(Anonymous), config, nodes, ready).await
    }

    /// The same, with another way to tell who asks.
    pub(crate) async fn asking(
        auth: Arc<dyn Authenticate>,
        config: Config,
        nodes: &[(&str, &Arc<Node>)],
        ready: usize,
    ) -> Self {
        Self::listening("127.0.0.1:0", auth, config, nodes, ready).await
    }

    /// The same, at another address of this machine.
    pub(crate) async fn listening(
        at: &str,
        auth: Arc<dyn Authenticate>,
        config: Config,
        nodes: &[(&str, &Arc<Node>)],
        ready: usize,
    ) -> Self {
        let peers = nodes.iter().take(ready).map(|(name, _)| Peer { address: (*name).into() }).collect();
        let by_name = nodes.iter().map(|(name, node)| ((*name).to_owned(), Arc::clone(node))).collect();
        let names = Arc::new(Names(by_name, peers));
        let deps =
            Deps { keys: keys(), locator: names.clone(), peers: names, auth, process: Default::default() };
        let app = App::build(&config, deps).unwrap();
        let listener = TcpListener::bind(at).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let (trigger, shutdown) = drain::pair();
        let serving = task::spawn(Kind::Role, "gateway", async move { app.serve(listener, shutdown).await });
        Self { address, trigger, serving }
    }

    /// Sends a request on a connection of its own and reads the whole response.
    pub(crate) async fn ask(&self, request: &Request) -> Response {
        let mut connection = self.send(request).await;
        soon(connection.response()).await
    }

    /// Sends a request and leaves the response to be read.
    pub(crate) async fn send(&self, request: &Request) -> Connection {
        let mut connection = self.connect().await;
        connection.write(&request.bytes()).await;
        connection
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection { stream: TcpStream::connect(self.address).await.unwrap(), read: Vec::new() }
    }
}

/// A connection of a client.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
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
    body: Vec<u8>,
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

    fn bytes(&self) -> Vec<u8> {
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

/// Sends each request, compares the verdict, and checks that nothing reached the node.
pub(crate) async fn refused(
    table: impl IntoIterator<Item = (String, Request, u16, Option<i32>, Option<&str>)>,
) -> usize {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let mut count = 0;
    for (name, request, status, code, id) in table {
        let response = gateway.ask(&request).await;
        assert_eq!(response.verdict(), (status, code, id), "{name}: {}", response.body);
        assert_eq!(node.seen(), [], "{name}");
        assert_eq!(response.header("mcp-session-id"), None, "{name}");
        if response.body.is_empty() {
            assert_eq!(response.header("content-type"), None, "{name}");
        } else {
            assert_eq!(response.header("content-type"), Some("application/json"), "{name}");
            assert_eq!(response.at(&["jsonrpc"]), Some("\"2.0\""), "{name}");
        }
        count += 1;
    }
    count
}

/// Sends each request and checks that exactly it reached the node.
pub(crate) async fn admitted(table: impl IntoIterator<Item = (String, Request)>) -> usize {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let mut count = 0;
    for (name, request) in table {
        let response = gateway.ask(&request).await;
        assert_eq!(response.status, 200, "{name}: {}", response.body);
        let delivery = node.delivered().expect(&name);
        assert_eq!(delivery.message.as_str().as_bytes(), request.body, "{name}");
        count += 1;
    }
    count
}
