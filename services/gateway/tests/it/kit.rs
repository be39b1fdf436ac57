//! Scripted session nodes, a gateway in front of them, and a client that can send anything.

mod http;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use api::session::{Answer, Attach, Close, Delivery, Event, Frame, Frames};
use api::{Error, KeyRing, SessionHost, SessionId, Slot, SlotCount};
use async_trait::async_trait;
use chassis::drain::{self, Trigger};
use chassis::metrics::Metrics;
use chassis::process::Process;
use chassis::task::{self, Handle, Kind};
use futures::{Stream, StreamExt as _, stream};
use gateway::auth::{Anonymous, Authenticate};
use gateway::{App, Config, Deps, Peers, ServeError};
use mcp::Json;
use placement::{Locator, Peer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

pub(crate) use self::http::{Connection, Request, Response};

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
    /// Says these and ends when it is told to.
    SayUntil(Vec<Result<Frame, Error>>, oneshot::Receiver<()>),
    Hang,
}

/// A session node that follows a script. Without one it accepts and answers with an empty result.
pub(crate) struct Node {
    script: Mutex<VecDeque<Act>>,
    /// What it answers once the script is used up, if that is a refusal.
    after: Mutex<Option<Error>>,
    seen: Mutex<Vec<Seen>>,
    open: watch::Sender<usize>,
}

impl Node {
    pub(crate) fn new(script: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            after: Mutex::default(),
            seen: Mutex::default(),
            open: watch::Sender::new(0),
        })
    }

    pub(crate) fn then(&self, act: Act) {
        self.script.lock().unwrap().push_back(act);
    }

    /// Refuses everything beyond its script from now on, or nothing.
    pub(crate) fn always(&self, refusal: Option<Error>) {
        *self.after.lock().unwrap() = refusal;
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
        let act = self.script.lock().unwrap().pop_front().unwrap_or_else(|| {
            let refusal = self.after.lock().unwrap().clone();
            refusal.map_or_else(|| Act::Say(answered(200, "{}")), Act::Refuse)
        });
        let frames = match act {
            Act::Refuse(error) => return Err(error),
            Act::Say(frames) => stream::iter(frames).boxed(),
            Act::SayAndStay(frames) => stream::iter(frames).chain(stream::pending()).boxed(),
            Act::SayUntil(frames, end) => {
                let end = stream::once(end).filter_map(|_| std::future::ready(None));
                stream::iter(frames).chain(end).boxed()
            }
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

/// Nodes by name, and what the gateway is told of them: one owns every slot below 4000, nobody the others.
pub(crate) struct Names {
    nodes: BTreeMap<String, Arc<Node>>,
    ready: Vec<Peer>,
    owner: Mutex<Option<Peer>>,
    changes: watch::Sender<u64>,
    suspected: watch::Sender<Vec<String>>,
}

impl Names {
    /// Who owns the slots from now on.
    pub(crate) fn own(&self, name: Option<&str>) {
        *self.owner.lock().unwrap() = name.map(|name| Peer { address: name.into() });
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until this node has been reported.
    pub(crate) async fn suspected(&self, name: &str) {
        let named = |all: &Vec<String>| all.iter().any(|one| one == name);
        soon(self.suspected.subscribe().wait_for(named)).await.unwrap();
    }

    pub(crate) fn suspicions(&self) -> Vec<String> {
        self.suspected.borrow().clone()
    }
}

impl Locator for Names {
    fn slots(&self) -> SlotCount {
        SlotCount::Usual
    }

    fn owner(&self, slot: Slot) -> Option<Peer> {
        if slot.number() < 4000 { self.owner.lock().unwrap().clone() } else { None }
    }

    fn ready(&self) -> Vec<Peer> {
        self.ready.clone()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn suspect(&self, peer: &Peer, _why: &str) {
        self.suspected.send_modify(|all| all.push(peer.address.to_string()));
    }
}

impl Peers for Names {
    fn get(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        self.nodes.get(address).map(|node| node.clone() as Arc<dyn SessionHost>)
    }
}

/// A gateway that listens. Dropping it stops it.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) names: Arc<Names>,
    pub(crate) metrics: Metrics,
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
        let ready: Vec<Peer> =
            nodes.iter().take(ready).map(|(name, _)| Peer { address: (*name).into() }).collect();
        let names = Arc::new(Names {
            nodes: nodes.iter().map(|(name, node)| ((*name).to_owned(), Arc::clone(node))).collect(),
            owner: Mutex::new(ready.first().cloned()),
            ready,
            changes: watch::Sender::new(0),
            suspected: watch::Sender::default(),
        });
        let process = Process::default();
        let metrics = process.metrics.clone();
        let deps = Deps { keys: keys(), locator: names.clone(), peers: names.clone(), auth, process };
        let app = App::build(&config, deps).unwrap();
        let listener = TcpListener::bind(at).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let (trigger, shutdown) = drain::pair();
        let serving = task::spawn(Kind::Role, "gateway", async move { app.serve(listener, shutdown).await });
        Self { address, names, metrics, trigger, serving }
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
