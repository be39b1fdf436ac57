//! How long is waited for what, on a clock that the tests turn.

mod carried;
mod cut;
mod overtaken;
mod passed_on;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use api::session::{Again, Attach, Close, Delivery, Event, Request, Transport};
use api::{Epoch, Principal, SessionHost, SlotCount};
use async_trait::async_trait;
use futures::future::join_all;
use futures::{FutureExt as _, stream};
use mcp::{Era, Json};
use placement::{Incarnation, Owner};
use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep};

use super::*;

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

/// What a node does, whatever it is asked.
#[derive(Clone)]
enum Way {
    Refuse(Error),
    Say(Vec<Result<Frame, Error>>),
    /// Says these and then nothing, for ever.
    Stay(Vec<Result<Frame, Error>>),
    Hang,
}

/// Nodes, the table, and what happened when, in milliseconds.
struct Mesh {
    nodes: Mutex<BTreeMap<String, Way>>,
    owner: Mutex<Option<Peer>>,
    /// The epoch that it owns all slots in.
    epoch: AtomicU64,
    /// A slot that nobody owns.
    missing: Mutex<Option<Slot>>,
    changes: watch::Sender<u64>,
    start: Instant,
    asked: Mutex<Vec<(String, u128)>>,
    /// What each node does with what is to be passed on.
    passes: Mutex<BTreeMap<String, Way>>,
    /// Through whom, to whom, what is known of the attempt before, when.
    passed: Mutex<Vec<Passed>>,
    suspected: Mutex<Vec<(String, u128)>>,
    /// How often somebody wanted a node that is not soon taken for lost.
    patient: AtomicU64,
    /// When nodes answer this gateway, and when they answer other nodes; the rest answer at once.
    answers_at: Mutex<BTreeMap<String, [u64; 2]>>,
    given_up: Mutex<Vec<(String, u128)>>,
}

type Passed = (String, String, Option<Again>, u128);

struct Node(String, Arc<Mesh>);

fn peer(name: &str) -> Peer {
    Peer { address: name.into() }
}

impl Mesh {
    fn new(nodes: &[(&str, Way)], owner: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            nodes: Mutex::new(nodes.iter().map(|(name, way)| ((*name).to_owned(), way.clone())).collect()),
            owner: Mutex::new(owner.map(peer)),
            epoch: AtomicU64::new(1),
            missing: Mutex::default(),
            changes: watch::Sender::new(0),
            start: Instant::now(),
            asked: Mutex::default(),
            passes: Mutex::default(),
            passed: Mutex::default(),
            suspected: Mutex::default(),
            patient: AtomicU64::new(0),
            answers_at: Mutex::default(),
            given_up: Mutex::default(),
        })
    }

    fn forward(self: &Arc<Self>) -> Arc<Forward> {
        let patience = Patience { request: Duration::from_secs(60), owner: Duration::from_secs(7) };
        let (locator, peers) = (Arc::new(Handle(self.clone())), Arc::new(Handle(self.clone())));
        Arc::new(Forward::new(locator, peers, patience, 1, &Metrics::default()))
    }

    fn now(&self) -> u128 {
        self.start.elapsed().as_millis()
    }

    fn set(&self, name: &str, way: Way) {
        self.nodes.lock().unwrap().insert(name.to_owned(), way);
    }

    fn own(&self, name: Option<&str>) {
        *self.owner.lock().unwrap() = name.map(peer);
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.changes.send_modify(|count| *count += 1);
    }

    fn asked(&self, name: &str) -> Vec<u128> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(node, _)| node == name).map(|(_, at)| *at).collect()
    }

    fn suspected(&self) -> Vec<(String, u128)> {
        self.suspected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Handle(Arc<Mesh>);

impl Locator for Handle {
    fn slots(&self) -> SlotCount {
        SlotCount::Usual
    }

    fn owner(&self, slot: Slot) -> Option<Peer> {
        let owner = self.0.owner.lock().unwrap().clone();
        owner.filter(|_| *self.0.missing.lock().unwrap() != Some(slot))
    }

    fn ready(&self) -> Vec<Peer> {
        self.0.nodes.lock().unwrap().keys().map(|name| peer(name)).collect()
    }

    fn holder(&self, slot: Slot) -> Option<Owner> {
        let epoch = Epoch(self.0.epoch.load(Ordering::Relaxed));
        let of = |peer: Peer| Owner { node: peer.address.clone(), peer, incarnation: Incarnation(0), epoch };
        self.owner(slot).map(of)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn suspect(&self, peer: &Peer, _why: &str) {
        self.0.suspected.lock().unwrap().push((peer.address.to_string(), self.0.now()));
    }
}

impl Peers for Handle {
    fn get(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        Some(Arc::new(Node(address.to_owned(), self.0.clone())))
    }

    fn patient(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        self.0.patient.fetch_add(1, Ordering::Relaxed);
        self.get(address)
    }

    fn give_up(&self, address: &str) {
        self.0.given_up.lock().unwrap().push((address.to_owned(), self.0.now()));
    }
}

impl Node {
    async fn act(&self) -> Result<Frames, Error> {
        let Self(name, mesh) = self;
        mesh.asked.lock().unwrap().push((name.clone(), mesh.now()));
        let way = mesh.nodes.lock().unwrap()[name].clone();
        way.go().await
    }
}

impl Way {
    async fn go(self) -> Result<Frames, Error> {
        match self {
            Self::Refuse(error) => Err(error),
            Self::Say(frames) => Ok(stream::iter(frames).boxed()),
            Self::Stay(frames) => Ok(stream::iter(frames).chain(stream::pending()).boxed()),
            Self::Hang => std::future::pending().await,
        }
    }
}

#[async_trait]
impl SessionHost for Node {
    async fn deliver(&self, _delivery: Delivery) -> Result<Frames, Error> {
        self.act().await
    }

    async fn attach(&self, _attach: Attach) -> Result<Frames, Error> {
        self.act().await
    }

    async fn close(&self, _close: Close) -> Result<Frames, Error> {
        self.act().await
    }

    async fn probe(&self, to: Option<&str>) -> Result<(), Error> {
        let Self(name, mesh) = self;
        let at = mesh.answers_at.lock().unwrap().get(to.unwrap_or(name)).copied().unwrap_or_default();
        sleep_until(mesh.start + Duration::from_millis(at[usize::from(to.is_some())])).await;
        Ok(())
    }

    async fn relay(&self, to: &str, request: Request) -> Result<Frames, Error> {
        let Self(name, mesh) = self;
        let again = match request {
            Request::Deliver(delivery) => delivery.again,
            Request::Attach(_) | Request::Close(_) => None,
        };
        mesh.passed.lock().unwrap().push((name.clone(), to.to_owned(), again, mesh.now()));
        let way = mesh.passes.lock().unwrap().get(name).cloned();
        way.unwrap_or(Way::Refuse(Error::new(Code::Unimplemented, "no"))).go().await
    }
}

fn deliver(message: &'static str) -> Call {
    Call::Deliver(Box::new(Delivery {
        message: Json::trusted(message),
        read: None,
        era: Era::Older,
        session: Some("s".into()),
        revision: None,
        principal: Principal::default(),
        group: String::new(),
        param_headers: Vec::new(),
        request_key: "k".into(),
        transport: Transport::Streamable,
        again: None,
        in_batch: false,
    }))
}

fn attach() -> Call {
    Call::Attach(Attach {
        session: "s".into(),
        revision: None,
        principal: Principal::default(),
        last_event_id: None,
        begin: false,
        carried: false,
    })
}

fn slot() -> Option<Slot> {
    Slot::new(1)
}

fn not_reached() -> Error {
    Error::new(Code::Unavailable, "refused").with(Detail::NotReached)
}

fn broken() -> Error {
    uncertain("the link broke")
}

fn accepted() -> Result<Frame, Error> {
    Ok(Frame::Accepted { session: None })
}

fn answered() -> Way {
    Way::Say(vec![accepted(), Ok(Frame::Answer(Answer::new(200, None)))])
}

/// The frames of a request that was accepted.
async fn frames(forward: &Arc<Forward>, call: Call) -> Frames {
    match forward.send(call, slot()).await {
        Ok(Taken::Accepted { frames, .. }) => frames,
        Ok(Taken::Refused(answer)) => panic!("{answer:?}"),
        Err(error) => panic!("{error:?}"),
    }
}

fn code(taken: Result<Taken, Error>) -> Option<Code> {
    taken.err().map(|error| error.code)
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_received_waits_three_seconds_for_an_owner_that_only_we_miss() {
    let mesh = Mesh::new(&[("a", Way::Refuse(not_reached()))], Some("a"));
    let forward = mesh.forward();
    let requests = [CALL, LIST, CALL].map(|message| forward.send(deliver(message), slot()));
    let ends: Vec<_> = join_all(requests.map(|send| send.map(|taken| (code(taken), mesh.now())))).await;
    assert_eq!(ends, [(Some(Code::Unavailable), 3000); 3]);
    // One of them tries at a time, and others hear of it.
    assert!((10..20).contains(&mesh.asked("a").len()), "{:?}", mesh.asked("a"));
    let reports: Vec<_> = mesh.suspected().into_iter().map(|(_, at)| at / 1000).collect();
    assert_eq!(reports, [0, 1, 2]);
    // Who comes later need not wait for what is known.
    sleep(Duration::from_secs(7)).await;
    let before = mesh.now();
    let ends = join_all((0..100).map(|_| forward.send(deliver(CALL), slot()))).await;
    assert!(ends.into_iter().all(|taken| code(taken) == Some(Code::Unavailable)));
    assert_eq!(mesh.now(), before);
    // As soon as it is back, it is asked.
    mesh.set("a", answered());
    sleep(Duration::from_millis(200)).await;
    assert!(forward.send(deliver(CALL), slot()).await.is_ok());
    assert_eq!(forward.reach.since(&peer("a")), None);
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_received_waits_as_long_as_there_is_hope() {
    for (message, end) in [(CALL, Code::OutcomeUnknown), (LIST, Code::Unavailable)] {
        let mesh = Mesh::new(&[("a", Way::Refuse(broken()))], Some("a"));
        let forward = mesh.forward();
        assert_eq!(code(forward.send(deliver(message), slot()).await), Some(end));
        assert_eq!(mesh.now(), 7000);
        let mesh = Mesh::new(&[("a", Way::Say(vec![accepted(), Err(broken())]))], Some("a"));
        let forward = mesh.forward();
        let mut frames = frames(&forward, deliver(message)).await;
        mesh.set("a", Way::Refuse(not_reached()));
        assert_eq!(frames.next().await.map(|end| end.map_err(|error| error.code)), Some(Err(end)));
        assert_eq!(frames.next().await, None);
        assert_eq!(mesh.now(), 7000);
    }
}

#[tokio::test(start_paused = true)]
async fn owners_that_break_off_one_after_the_other_are_enough_at_some_time() {
    let mesh = Mesh::new(&[("a", Way::Say(vec![accepted(), Err(broken())]))], Some("a"));
    let forward = mesh.forward();
    let mut frames = frames(&forward, deliver(LIST)).await;
    assert!(matches!(frames.next().await, Some(Err(_))));
    assert!((6900..=7100).contains(&mesh.now()), "{}", mesh.now());
    assert!((60..=80).contains(&mesh.asked("a").len()), "{}", mesh.asked("a").len());
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_lost_after_a_while_is_a_loss_of_its_own() {
    let begun = Way::Stay(vec![accepted(), Ok(Frame::Open)]);
    let mesh = Mesh::new(&[("a", begun.clone()), ("b", begun)], Some("a"));
    let forward = mesh.forward();
    let lose = || async {
        sleep(Duration::from_secs(6)).await;
        Err(broken())
    };
    // Six seconds each: together more than patience.
    let later = stream::once(lose()).boxed();
    let node = peer("a");
    let Call::Deliver(delivery) = deliver(LIST) else { unreachable!() };
    let following = Following::new(forward.clone(), Call::Deliver(delivery), slot().unwrap(), node, later);
    mesh.own(None);
    let mut following = following.boxed();
    let owned = async {
        sleep(Duration::from_millis(12_500)).await;
        mesh.own(Some("b"));
    };
    let ((), first) = tokio::join!(owned, following.next());
    assert_eq!((first, mesh.now()), (Some(Ok(Frame::Open)), 12_500));
}

#[tokio::test(start_paused = true)]
async fn a_new_owner_is_asked_as_soon_as_it_is_one() {
    let mesh = Mesh::new(&[("a", Way::Refuse(not_reached())), ("b", answered())], Some("a"));
    let forward = mesh.forward();
    let moving = async {
        sleep(Duration::from_millis(1234)).await;
        mesh.own(None);
        sleep(Duration::from_millis(4000)).await;
        mesh.own(Some("b"));
    };
    let ((), taken) = tokio::join!(moving, forward.send(deliver(CALL), slot()));
    assert!(taken.is_ok());
    assert_eq!(mesh.asked("b"), [5234]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_owner_is_reported_and_left_when_another_one_is_named() {
    let mesh = Mesh::new(&[("a", Way::Say(vec![accepted(), Err(broken())])), ("b", answered())], Some("a"));
    let forward = mesh.forward();
    let mut frames = frames(&forward, deliver(CALL)).await;
    mesh.set("a", Way::Hang);
    let moving = async {
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(mesh.suspected(), [("a".to_owned(), 1200)]);
        mesh.own(Some("b"));
    };
    let ((), answer) = tokio::join!(moving, frames.next());
    assert!(matches!(answer, Some(Ok(Frame::Answer(_)))), "{answer:?}");
    assert_eq!((mesh.asked("a").len(), mesh.asked("b")), (2, vec![1500]));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_merely_broke_is_nothing_to_report() {
    let mesh = Mesh::new(&[("a", Way::Say(vec![accepted(), Err(broken())]))], Some("a"));
    let forward = mesh.forward();
    let mut all = Vec::new();
    for _ in 0..200 {
        all.push(frames(&forward, deliver(CALL)).await);
    }
    mesh.set("a", answered());
    let answers = join_all(all.iter_mut().map(|frames| frames.next())).await;
    assert!(answers.iter().all(|answer| matches!(answer, Some(Ok(Frame::Answer(_))))));
    assert_eq!((mesh.now(), mesh.asked("a").len(), mesh.suspected().len()), (0, 400, 0));
}

#[tokio::test(start_paused = true)]
async fn requests_come_to_the_next_owner_at_once_and_idle_streams_spread_out() {
    let mesh = Mesh::new(&[("a", Way::Say(vec![accepted(), Err(broken())]))], Some("a"));
    let forward = mesh.forward();
    let mut streams = Vec::new();
    for _ in 0..200 {
        streams.push(frames(&forward, attach()).await);
    }
    let mut call = frames(&forward, deliver(CALL)).await;
    mesh.asked.lock().unwrap().clear();
    mesh.set("a", answered());
    let streams = join_all(streams.iter_mut().map(|frames| frames.next()));
    tokio::join!(streams, call.next());
    let times = mesh.asked("a");
    assert_eq!((times.len(), times[0]), (201, 0));
    assert!(times.iter().all(|at| *at <= 501), "{times:?}");
    for half in [0..=250, 251..=501] {
        assert!(times.iter().filter(|at| half.contains(*at)).count() > 50, "{times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_next_owner_that_is_not_ready_yet_is_asked_again() {
    let later = Way::Say(vec![Ok(Frame::Refused(Answer::new(503, None)))]);
    for way in [later, Way::Refuse(Error::new(Code::Unavailable, "it is starting"))] {
        let mesh = Mesh::new(&[("a", Way::Say(vec![accepted(), Err(broken())]))], Some("a"));
        let forward = mesh.forward();
        let mut frames = frames(&forward, deliver(CALL)).await;
        mesh.set("a", way.clone());
        let ready = async {
            sleep(Duration::from_secs(2)).await;
            mesh.set("a", answered());
        };
        let ((), answer) = tokio::join!(ready, frames.next());
        assert!(matches!(answer, Some(Ok(Frame::Answer(_)))), "{answer:?}");
        assert!((2000..=2300).contains(&mesh.now()), "{}", mesh.now());
        // Whoever has asked for nothing yet is told so.
        mesh.set("a", way);
        let before = mesh.now();
        assert!(!matches!(forward.send(deliver(CALL), slot()).await, Ok(Taken::Accepted { .. })));
        assert_eq!(mesh.now(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait_for_an_owner() {
    let mesh = Mesh::new(&[("a", answered())], None);
    let forward = mesh.forward();
    let mut waiting: Vec<_> = (0..MAX_HELD).map(|_| forward.send(deliver(CALL), slot()).boxed()).collect();
    for send in &mut waiting {
        assert!(futures::poll!(send).is_pending());
    }
    assert_eq!(code(forward.send(deliver(CALL), slot()).await), Some(Code::Unavailable));
    assert_eq!(mesh.now(), 0);
    mesh.own(Some("a"));
    assert!(join_all(waiting).await.into_iter().all(|taken| taken.is_ok()));
    assert!(forward.send(deliver(CALL), slot()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_no_session_owns_goes_to_a_node_in_doubt_only_as_the_last_resort() {
    let mesh = Mesh::new(&[("a", Way::Refuse(not_reached())), ("b", answered())], None);
    let forward = mesh.forward();
    for _ in 0..10 {
        assert!(forward.send(deliver(LIST), None).await.is_ok());
    }
    assert_eq!((mesh.asked("a").len(), mesh.asked("b").len()), (1, 10));
    advance(Duration::from_secs(5)).await;
    mesh.set("a", answered());
    for _ in 0..10 {
        assert!(forward.send(deliver(LIST), None).await.is_ok());
    }
    assert!(mesh.asked("a").len() >= 5, "{:?}", mesh.asked("a"));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_said_is_never_said_again() {
    let event = |id: &str| Ok(Frame::Event(Event { id: Some(id.into()), ..Event::default() }));
    let first = vec![accepted(), Ok(Frame::Open), event("1"), event("2"), Err(broken())];
    let mesh = Mesh::new(&[("a", Way::Say(first))], Some("a"));
    let forward = mesh.forward();
    let mut frames = frames(&forward, deliver(CALL)).await;
    mesh.set("a", Way::Say(vec![accepted(), Ok(Frame::Open), event("3")]));
    let mut said = Vec::new();
    while let Some(frame) = frames.next().await {
        said.push(frame);
    }
    assert_eq!(said, [Ok(Frame::Open), event("1"), event("2"), event("3")]);
}
