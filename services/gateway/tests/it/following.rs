//! An owner breaks off at every point of every kind of answer, and another one goes on: what the client sees, what each node
//! is asked.

use api::session::{Again, Attach, Close, Event, Frame, Transport};
use api::{Code, Detail, Error};
use gateway::Config;

use crate::kit::{Act, Gateway, Node, Request, Response, Seen, accepted, answer, event, session};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":2,"result":{}}"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;

pub(crate) const PROGRESS: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#;
pub(crate) const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
pub(crate) const SECOND: &str = r#"{"jsonrpc":"2.0","id":2,"result":{}}"#;

pub(crate) type Frames = Vec<Result<Frame, Error>>;

fn older(body: &str) -> Request {
    Request::older(&session(1), body)
}

fn get() -> Request {
    Request::new("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", session(1))
}

fn delete() -> Request {
    Request::new("DELETE").with("Mcp-Session-Id", session(1))
}

/// The link broke under way.
pub(crate) fn broken() -> Error {
    let unknown = Detail::OutcomeUnknown { invocation: String::new() };
    Error::new(Code::Unavailable, "the link to 10.0.0.1 ended").with(unknown)
}

/// The link was never made.
fn not_reached() -> Error {
    Error::new(Code::Unavailable, "10.0.0.1 refused").with(Detail::NotReached)
}

pub(crate) fn moved(owner: &str) -> Error {
    Error::new(Code::Precondition, "not the owner").with(Detail::NotOwner { owner: owner.into(), epoch: 2 })
}

/// Every way in which an owner says, or shows, that it is none any more.
pub(crate) fn losses() -> [Error; 5] {
    let fenced = Error::new(Code::Unavailable, "the session was lost to another owner");
    [broken(), fenced, moved(""), moved("b"), Error::stale_epoch(2)]
}

pub(crate) fn open() -> Result<Frame, Error> {
    Ok(Frame::Open)
}

pub(crate) fn whole(status: u16, body: &str) -> Result<Frame, Error> {
    Ok(Frame::Answer(answer(status, body)))
}

fn priming() -> Result<Frame, Error> {
    Ok(Frame::Event(Event { id: Some("1.1-1.aa".into()), message: None, retry_ms: Some(500) }))
}

/// An answer as a stream.
fn streamed() -> Frames {
    vec![
        accepted(),
        open(),
        priming(),
        event(Some("1.1-2.aa"), PROGRESS),
        event(Some("1.1-3.aa"), PROGRESS),
        event(Some("1.1-4.aa"), RESULT),
    ]
}

pub(crate) fn ids(frames: &[Result<Frame, Error>]) -> Option<String> {
    frames.iter().rev().find_map(|frame| match frame {
        Ok(Frame::Event(event)) => event.id.clone(),
        Ok(Frame::Accepted { .. } | Frame::Refused(_) | Frame::Answer(_) | Frame::Open) | Err(_) => None,
    })
}

/// What is left to say after so many frames, by another owner.
fn rest(frames: &[Result<Frame, Error>], after: usize) -> Frames {
    let again = frames.iter().take(after.min(2)).cloned();
    again.chain(frames.iter().skip(after).cloned()).collect()
}

/// What the client sees of frames when nothing goes wrong.
pub(crate) async fn undisturbed(request: &Request, frames: &Frames) -> Response {
    let node = Node::new([Act::Say(frames.clone())]);
    Gateway::one(&node).await.ask(request).await
}

/// An owner `a` that breaks off, and says who is the owner now when it is asked again, and a next owner `b`.
pub(crate) struct Change {
    pub(crate) nodes: [std::sync::Arc<Node>; 2],
    pub(crate) gateway: Gateway,
}

impl Change {
    pub(crate) async fn new(first: Act, next: Frames) -> Self {
        let nodes = [Node::new([first, Act::Refuse(moved("b"))]), Node::new([Act::Say(next)])];
        let [a, b] = &nodes;
        let gateway = Gateway::start(Config::default(), &[("a", a), ("b", b)], 1).await;
        Self { nodes, gateway }
    }

    /// How often each node was asked.
    pub(crate) fn asked(&self) -> [usize; 2] {
        self.nodes.each_ref().map(|node| node.seen().len())
    }

    /// What the gateway told the next owner of the attempt before; the key must be that of the first.
    fn again(&self) -> Option<Again> {
        let [first, next] = self.nodes.each_ref().map(|node| node.seen().swap_remove(0));
        let (Seen::Delivered(first), Seen::Delivered(next)) = (first, next) else {
            unreachable!("no deliveries")
        };
        assert_eq!(first.again, None);
        assert_eq!(api::session::Delivery { again: None, ..next.clone() }, first);
        next.again
    }

    fn count(&self, metric: &str) -> u64 {
        let text = self.gateway.metrics.text();
        let name = format!("trunkline_gateway_{metric}");
        let line = text.lines().find(|line| line.starts_with(&name));
        line.and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap()
    }
}

pub(crate) fn same(seen: &Response, expected: &Response, case: &str) {
    assert_eq!((seen.status, seen.body.as_str()), (expected.status, expected.body.as_str()), "{case}");
    let plain = |response: &Response| {
        let mut headers = response.headers.clone();
        headers.retain(|(name, _)| name != "date");
        headers
    };
    assert_eq!(plain(seen), plain(expected), "{case}");
}

/// Every kind of request, and all that is said to it.
fn dialogues() -> Vec<(&'static str, Request, Frames)> {
    let json = |status, body: &str| vec![accepted(), whole(status, body)];
    vec![
        ("call, JSON", older(CALL), json(200, RESULT)),
        ("call, refused by its tool", older(CALL), json(400, RESULT)),
        ("call, stream", older(CALL), streamed()),
        ("list, JSON", older(LIST), json(200, RESULT)),
        ("list, stream", older(LIST), streamed()),
        ("notification", older(NOTE), json(202, "")),
        ("answer", older(ANSWER), json(202, "")),
    ]
}

#[tokio::test]
async fn a_delivery_goes_on_wherever_its_owner_broke_off() {
    for (name, request, frames) in dialogues() {
        let expected = undisturbed(&request, &frames).await;
        for at in 1..=frames.len() {
            for loss in losses() {
                let case = format!("{name}, lost after {at} frames: {loss:?}");
                let first = frames.iter().take(at).cloned().chain([Err(loss.clone())]).collect();
                let change = Change::new(Act::Say(first), rest(&frames, at)).await;
                same(&change.gateway.ask(&request).await, &expected, &case);
                let is_whole = matches!(frames[at - 1], Ok(Frame::Answer(_)));
                if is_whole || at == frames.len() {
                    assert_eq!(change.asked(), [1, 0], "{case}");
                    continue;
                }
                let is_named = loss == moved("b");
                assert_eq!(change.asked(), [if is_named { 1 } else { 2 }, 1], "{case}");
                let again = Again { accepted: true, last_event_id: ids(&frames[..at]) };
                assert_eq!(change.again(), Some(again), "{case}");
                assert_eq!(change.count("reattached_total"), 1, "{case}");
                assert_eq!(change.count("redirects_total"), u64::from(!is_named), "{case}");
                assert_eq!(change.gateway.names.suspicions(), [""; 0], "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_delivery_that_was_not_accepted_is_sent_again_as_such() {
    for (name, request, frames) in dialogues() {
        let expected = undisturbed(&request, &frames).await;
        // The owner says at last who is the owner, in words that it may use of what it has begun.
        for (how, first) in [
            ("never sent", Act::Refuse(not_reached())),
            ("lost under way", Act::Refuse(broken())),
            ("lost as the first word", Act::Say(vec![Err(broken())])),
            ("nothing said", Act::Say(vec![])),
            ("draining", Act::Refuse(Error::draining())),
            ("no owner, nobody named", Act::Refuse(moved(""))),
            ("no owner, as the first word", Act::Say(vec![Err(moved(""))])),
            ("an older epoch", Act::Refuse(Error::stale_epoch(3))),
        ] {
            let case = format!("{name}, {how}");
            let change = Change::new(first, frames.clone()).await;
            same(&change.gateway.ask(&request).await, &expected, &case);
            assert_eq!(change.asked(), [2, 1], "{case}");
            assert_eq!(change.again(), Some(Again::default()), "{case}");
            assert_eq!(change.count("reattached_total"), 0, "{case}");
        }
    }
}

#[tokio::test]
async fn the_next_owner_decides_the_shape_unless_the_client_has_seen_it() {
    let rest = vec![open(), event(Some("1.2-1.aa"), RESULT)];
    let stream = [vec![accepted()], rest].concat();
    let change = Change::new(Act::Say(vec![accepted(), Err(moved("b"))]), stream.clone()).await;
    same(&change.gateway.ask(&older(CALL)).await, &undisturbed(&older(CALL), &stream).await, "opened later");
    // What was a stream stays one: an answer is its last event.
    let begun = || Act::Say(vec![accepted(), open(), event(Some("1.1-1.aa"), PROGRESS), Err(moved("b"))]);
    let change = Change::new(begun(), vec![accepted(), whole(200, RESULT)]).await;
    let response = change.gateway.ask(&older(CALL)).await;
    let expected = format!(": \n\nid: 1.1-1.aa\ndata: {PROGRESS}\n\ndata: {RESULT}\n\n");
    assert_eq!((response.status, response.body), (200, expected));
}

#[tokio::test]
async fn owners_may_change_many_times() {
    let frames = streamed();
    let expected = undisturbed(&older(CALL), &frames).await;
    let (a, b) = (Node::new([]), Node::new([]));
    let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 1).await;
    for at in 1..frames.len() {
        let (node, next) = if at % 2 == 1 { (&a, "b") } else { (&b, "a") };
        let head = [accepted(), open()].into_iter().take(at.min(2));
        let said = head.chain(frames.get(at - 1).filter(|_| at > 2).cloned());
        node.then(Act::Say(said.chain([Err(moved(next))]).collect()));
    }
    let last = [accepted(), open(), frames[frames.len() - 1].clone()];
    (if frames.len() % 2 == 1 { &a } else { &b }).then(Act::Say(last.into()));
    same(&gateway.ask(&older(CALL)).await, &expected, "many owners");
    assert_eq!(a.seen().len() + b.seen().len(), frames.len());
}

fn attached(last: Option<&str>) -> Seen {
    Seen::Attached(Attach {
        session: session(1),
        revision: None,
        principal: api::Principal::default(),
        last_event_id: last.map(str::to_owned),
        begin: false,
        carried: false,
    })
}

#[tokio::test]
async fn a_stream_goes_on_with_the_next_owner() {
    let note = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let frames = vec![
        accepted(),
        open(),
        priming(),
        event(Some("0.1-2.aa"), note),
        event(Some("0.1-3.aa"), PROGRESS),
        event(Some("0.1-4.aa"), note),
    ];
    let expected = undisturbed(&get(), &frames).await;
    for resumed in [None, Some("0.1-0.aa")] {
        let request = resumed.map_or_else(get, |id| get().with("Last-Event-ID", id));
        let lost: Vec<_> = (0..=frames.len()).map(|at| (at, broken())).collect();
        for (at, loss) in lost.into_iter().chain([(3, moved("")), (4, moved("b"))]) {
            let case = format!("lost after {at} frames: {loss:?}");
            let first = frames.iter().take(at).cloned().chain([Err(loss.clone())]).collect();
            let change = Change::new(Act::Say(first), rest(&frames, at)).await;
            same(&change.gateway.ask(&request).await, &expected, &case);
            let [a, b] = change.nodes.each_ref().map(|node| node.seen());
            let last = ids(&frames[..at]);
            let last = last.as_deref().or(resumed);
            assert_eq!(a[0], attached(resumed), "{case}");
            assert_eq!(b, [attached(last)], "{case}");
            assert_eq!(a.len(), if loss == moved("b") { 1 } else { 2 }, "{case}");
        }
    }
}

#[tokio::test]
async fn a_session_is_ended_by_the_next_owner() {
    let done = vec![accepted(), whole(204, "")];
    let expected = undisturbed(&delete(), &done).await;
    for first in [
        Act::Refuse(not_reached()),
        Act::Refuse(broken()),
        Act::Say(vec![Err(moved(""))]),
        Act::Say(vec![accepted(), Err(broken())]),
        Act::Say(vec![accepted()]),
    ] {
        let change = Change::new(first, done.clone()).await;
        same(&change.gateway.ask(&delete()).await, &expected, "DELETE");
        let close = Close {
            session: session(1),
            revision: None,
            principal: api::Principal::default(),
            when_idle: false,
            transport: Transport::Streamable,
        };
        assert_eq!(change.nodes[1].seen(), [Seen::Closed(close)]);
    }
}

#[tokio::test]
async fn a_handshake_goes_to_another_node_until_one_has_accepted_it() {
    let done = || Act::Say(vec![Ok(Frame::Accepted { session: Some(session(2)) }), whole(200, RESULT)]);
    let request = Request::post(INITIALIZE);
    let firsts = || {
        [
            Act::Refuse(not_reached()),
            Act::Refuse(broken()),
            Act::Refuse(Error::draining()),
            Act::Say(vec![Err(broken())]),
            Act::Say(vec![]),
        ]
    };
    for first in firsts() {
        let (a, b) = (Node::new([first]), Node::new([done()]));
        let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 2).await;
        let response = gateway.ask(&request).await;
        assert_eq!((response.status, response.body.as_str()), (200, RESULT));
        assert_eq!(response.header("mcp-session-id"), Some(session(2).as_str()));
        let [first, next] = [&a, &b].map(|node| node.delivered().unwrap());
        assert_eq!((first.again.as_ref(), &next), (None, &first));
    }
    let (a, b) = (Node::new([Act::Say(vec![accepted(), Err(broken())])]), Node::new([done()]));
    let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 2).await;
    let response = gateway.ask(&request).await;
    assert_eq!(response.at(&["error", "data", "outcome"]), Some("\"unknown\""));
    assert_eq!((a.seen().len(), b.seen().len()), (1, 0));
}

#[tokio::test]
async fn what_no_session_owns_ends_with_its_node() {
    let lost = || Act::Say(vec![accepted(), Err(broken())]);
    let (a, b) = (Node::new([lost(), lost()]), Node::new([]));
    let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 1).await;
    let modern = gateway.ask(&Request::modern("tools/list", "")).await;
    assert_eq!(modern.at(&["error", "data", "outcome"]), Some("\"unknown\""));
    let begin = Request::new("GET").at("/sse").with("Accept", "text/event-stream");
    assert_eq!(gateway.ask(&begin).await.status, 503);
    assert_eq!((a.seen().len(), b.seen().len()), (2, 0));
}

#[tokio::test]
async fn a_next_owner_that_will_not_go_on_is_believed_as_far_as_is_honest() {
    let gone = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}"#;
    let refusal = || vec![Ok(Frame::Refused(answer(404, gone)))];
    let unknown = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"the outcome of this request is not known","data":{"reason":"unavailable","outcome":"unknown"}}}"#;
    let lost = || vec![accepted(), Err(moved("b"))];
    let begun = || vec![accepted(), open(), event(Some("1.1-1.aa"), PROGRESS), Err(moved("b"))];
    let progress = format!(": \n\nid: 1.1-1.aa\ndata: {PROGRESS}\n\n");
    for (request, first, status, body) in [
        (older(CALL), lost(), 200, unknown.to_owned()),
        (older(LIST), lost(), 404, gone.to_owned()),
        (older(NOTE), lost(), 404, gone.to_owned()),
        (delete(), lost(), 404, gone.to_owned()),
        (get(), lost(), 404, gone.to_owned()),
        (older(CALL), begun(), 200, format!("{progress}data: {unknown}\n\n")),
        (older(LIST), begun(), 200, format!("{progress}data: {unknown}\n\n")),
        (get(), begun(), 200, progress),
    ] {
        let change = Change::new(Act::Say(first), refusal()).await;
        let response = change.gateway.ask(&request).await;
        assert_eq!((response.status, response.body), (status, body));
        assert_eq!(change.count("given_up_total{role=\"gateway\",outcome=\"refused\"}"), 1);
    }
}
