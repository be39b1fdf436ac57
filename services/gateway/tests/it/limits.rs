//! How much a caller may ask for and have under way, and how large a head may be.

use std::sync::Arc;

use api::session::Frame;
use gateway::Config;
use gateway::auth::{self, Gate, new_key};
use tokio::io::AsyncReadExt as _;
use tokio::task::yield_now;

use crate::kit::{Act, Connection, Gateway, Node, Request, Response, Seen, accepted, event, session, soon};

fn list() -> Request {
    Request::modern("tools/list", "")
}

fn listen() -> Request {
    Request::modern("subscriptions/listen", r#""notifications":{},"#)
}

fn get() -> Request {
    Request::new("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", session(1))
}

fn sse() -> Request {
    Request::new("GET").at("/sse").with("Accept", "text/event-stream")
}

fn stays() -> Act {
    Act::SayAndStay(vec![accepted(), Ok(Frame::Open), event(None, "{}")])
}

fn begins() -> Act {
    Act::SayAndStay(vec![Ok(Frame::Accepted { session: Some(session(9)) }), Ok(Frame::Open)])
}

/// R17 and R18: the status, the code, the reason, and when to come back.
fn is_refused(response: &Response, status: u16, reason: &str, id: Option<&str>) {
    assert_eq!(response.verdict(), (status, Some(-32603), id), "{}", response.body);
    assert_eq!(response.at(&["error", "data", "reason"]), Some(format!("\"{reason}\"").as_str()));
    let after: u32 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=4).contains(&after), "{after}");
    assert_eq!(response.header("content-type"), Some("application/json"));
}

async fn gateway(config: Config, node: &Arc<Node>) -> Gateway {
    Gateway::start(config, &[("a", node)], 1).await
}

#[tokio::test]
async fn requests_come_at_a_rate() {
    let node = Node::new([]);
    let gateway = gateway(Config { requests_per_s_per_principal: 1, ..Config::default() }, &node).await;
    let request = list();
    let responses = futures::future::join_all((0..9).map(|_| gateway.ask(&request))).await;
    let (good, refused): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
    assert!((1..9).contains(&good.len()), "{}", good.len());
    refused.iter().for_each(|response| is_refused(response, 429, "rate_limited", None));
    assert_eq!(node.seen().len(), good.len(), "nothing of a refused request gets through");
    // Later it may ask again.
    soon(async { while gateway.ask(&list()).await.status != 200 {} }).await;
}

#[tokio::test]
async fn a_caller_has_so_much_under_way() {
    let node = Node::new([Act::Hang, stays()]);
    let gateway = gateway(Config { max_requests_per_principal: 2, ..Config::default() }, &node).await;
    let waiting = gateway.send(&list()).await;
    node.streams_open(1).await;
    let mut streaming = gateway.send(&list()).await;
    streaming.until("data: {}").await;
    for request in [list(), get(), Request::older(&session(1), r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)]
    {
        is_refused(&gateway.ask(&request).await, 429, "rate_limited", None);
    }
    assert_eq!(node.seen().len(), 2);
    drop(waiting);
    node.streams_open(1).await;
    assert_eq!(gateway.ask(&list()).await.status, 200);
    drop(streaming);
    node.streams_open(0).await;
    assert_eq!(gateway.ask(&list()).await.status, 200);
}

#[tokio::test]
async fn one_caller_does_not_use_up_what_is_anothers() {
    let (ada, bob) = (new_key("ada", "", "", [1; 32]), new_key("bob", "", "", [2; 32]));
    let auth = auth::Config { keys: vec![ada.entry, bob.entry], ..auth::Config::default() };
    let node = Node::new([Act::Hang, stays()]);
    let config = Config {
        max_requests_per_principal: 1,
        max_streams_per_principal: 1,
        requests_per_s_per_principal: 5,
        ..Config::default()
    };
    let gate = Arc::new(Gate::new(&auth).unwrap());
    let gateway = Gateway::asking(gate, config, &[("a", &node)], 1).await;
    let of = |request: Request, key: &str| request.with("Authorization", format!("Bearer {key}"));
    let waiting = gateway.send(&of(list(), &ada.key)).await;
    node.streams_open(1).await;
    let mut held = gateway.send(&of(get(), &bob.key)).await;
    held.until("data: {}").await;
    // Ada has a call under way and no stream, Bob the other way round. They come over whichever connection.
    is_refused(&gateway.ask(&of(list(), &ada.key)).await, 429, "rate_limited", None);
    assert_eq!(gateway.ask(&of(list(), &bob.key)).await.status, 200);
    is_refused(&gateway.ask(&of(get(), &bob.key)).await, 429, "rate_limited", None);
    // Nobody's credentials count for nobody.
    for _ in 0..9 {
        assert_eq!(gateway.ask(&of(list(), "tlk_other")).await.status, 401);
    }
    let fast = async |key: &str| {
        let asked = (0..30).map(async |_| gateway.ask(&of(list(), key)).await.status);
        futures::future::join_all(asked).await.iter().filter(|status| **status == 429).count()
    };
    assert!(fast(&ada.key).await > 0);
    drop(waiting);
    let before = node.seen().len();
    soon(async { while gateway.ask(&of(list(), &bob.key)).await.status != 200 {} }).await;
    assert!(node.seen().len() > before);
}

#[tokio::test]
async fn more_than_the_process_bears_is_shed() {
    let node = Node::new([Act::Hang]);
    let gateway = gateway(Config { max_requests: 1, ..Config::default() }, &node).await;
    let waiting = gateway.send(&list()).await;
    node.streams_open(1).await;
    is_refused(&gateway.ask(&list()).await, 503, "overloaded", None);
    // Not who may call at all, and not what is no request.
    assert_eq!(gateway.ask(&list().set("Host", "evil.example")).await.status, 403);
    assert_eq!(node.seen().len(), 1);
    drop(waiting);
    node.streams_open(0).await;
    assert_eq!(gateway.ask(&list()).await.status, 200);
}

#[tokio::test]
async fn a_request_that_begins_and_is_slow_is_under_way() {
    let node = Node::new([]);
    let gateway = gateway(Config { max_requests: 1, ..Config::default() }, &node).await;
    let mut slow = gateway.connect().await;
    slow.write(&[list().head(), b"Content-Length: 1000\r\n\r\n".to_vec()].concat()).await;
    soon(async { while gateway.ask(&list()).await.status != 503 {} }).await;
    drop(slow);
    soon(async { while gateway.ask(&list()).await.status != 200 {} }).await;
}

#[tokio::test]
async fn a_caller_holds_so_many_streams() {
    for (first, act, is_carried) in
        [(get(), stays(), false), (listen(), stays(), false), (sse(), begins(), true)]
    {
        let node = Node::new([act]);
        let config = Config { max_streams_per_principal: 1, max_requests: 1, ..Config::default() };
        let gateway = gateway(config, &node).await;
        let mut held: Connection = gateway.send(&first).await;
        held.until("\r\n\r\n").await;
        node.streams_open(1).await;
        is_refused(&gateway.ask(&get()).await, 429, "rate_limited", None);
        is_refused(&gateway.ask(&listen()).await, 429, "rate_limited", Some("7"));
        is_refused(&gateway.ask(&sse()).await, 429, "rate_limited", None);
        assert_eq!(node.seen().len(), 1, "no session was begun, no stream taken over");
        // What waits for news is not under way.
        assert_eq!(gateway.ask(&list()).await.status, 200);
        drop(held);
        node.streams_open(0).await;
        if is_carried {
            // That its client has gone is said a moment later.
            let is_said = || node.seen().iter().any(|seen| matches!(seen, Seen::Closed(_)));
            soon(async {
                while !is_said() {
                    yield_now().await
                }
            })
            .await;
        }
        node.then(stays());
        gateway.send(&get()).await.until("data: {}").await;
    }
}

#[tokio::test]
async fn there_are_so_many_connections() {
    let node = Node::new([]);
    let gateway = gateway(Config { max_connections: 2, ..Config::default() }, &node).await;
    let (mut one, mut two) = (gateway.send(&list()).await, gateway.send(&list()).await);
    assert_eq!((one.response().await.status, two.response().await.status), (200, 200));
    // Closed at once, without a word.
    assert_eq!(gateway.connect().await.rest().await, "");
    assert_eq!(node.seen().len(), 2);
    drop(one);
    let again = async || {
        let mut third = gateway.connect().await;
        third.try_write(&[list().head(), b"Content-Length: 1\r\n\r\n{".to_vec()].concat()).await
            && soon(third.stream.read_u8()).await.is_ok()
    };
    soon(async { while !again().await {} }).await;
}

#[tokio::test]
async fn heads_are_as_large_as_configured() {
    let node = Node::new([]);
    let config = Config {
        max_header_bytes: 1000,
        max_headers: 10,
        max_target_bytes: 100,
        max_body_bytes: 300,
        ..Config::default()
    };
    let gateway = gateway(config, &node).await;
    let ask = async |request: Request| gateway.ask(&request).await.verdict().0;
    // Host, Content-Type, Accept, version, method, and the length that is added.
    let bytes: usize = 4 + 9 + 12 + 16 + 6 + 35 + 20 + 10 + 10 + 10 + 14 + 3;
    let filled = |more: usize| list().with("X", "x".repeat(1000 - bytes - 1 + more));
    assert_eq!(ask(filled(0)).await, 200);
    assert_eq!(ask(filled(1)).await, 431);
    let counted =
        |count: usize| (0..count - 6).fold(list(), |request, n| request.with(&format!("X-{n}"), "x"));
    assert_eq!(ask(counted(10)).await, 200);
    assert_eq!(ask(counted(11)).await, 431);
    let target = |length: usize| list().at(&format!("/mcp?{}", "q".repeat(length - 5)));
    assert_eq!(ask(target(100)).await, 200);
    assert_eq!(ask(target(101)).await, 414);
    let sized = |size: usize| {
        let mut body = list().body_bytes().to_vec();
        body.resize(size, b' ');
        list().body(body)
    };
    assert_eq!(ask(sized(300)).await, 200);
    let response = gateway.ask(&sized(301)).await;
    assert_eq!(response.verdict(), (413, Some(-32600), None));
    assert_eq!(response.at(&["error", "message"]), Some("\"the body exceeds 300 bytes\""));
    assert_eq!(node.seen().len(), 4);
}

#[tokio::test]
async fn more_headers_than_usual_may_be_allowed() {
    let node = Node::new([]);
    let gateway = gateway(Config { max_headers: 200, ..Config::default() }, &node).await;
    let many = |count: usize| (0..count - 6).fold(list(), |request, n| request.with(&format!("X-{n}"), "x"));
    assert_eq!(gateway.ask(&many(200)).await.status, 200);
    assert_eq!(gateway.ask(&many(201)).await.status, 431);
}
