//! Event streams: their lines, their silence, their ends.

use api::session::{Event, Frame};
use api::{Code, Error};
use gateway::Config;
use tokio::sync::oneshot;

use crate::kit::{Act, Gateway, Node, Request, accepted, answered, event, session, soon};

fn list() -> Request {
    Request::modern("tools/list", "")
}

fn get() -> Request {
    Request::new("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", session(1))
}

#[tokio::test]
async fn events_are_framed_line_by_line() {
    let priming = Event { id: Some("1.1-0.aa".into()), message: None, retry_ms: Some(500) };
    let node = Node::new([Act::Say(vec![
        Ok(Frame::Accepted { session: Some(session(5)) }),
        Ok(Frame::Open),
        Ok(Frame::Event(priming)),
        event(Some("1.1-1.bb"), "{\"jsonrpc\":\"2.0\",\r\n \"method\":\"a\\nb\"}"),
        event(None, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}"),
    ])]);
    let gateway = Gateway::one(&node).await;
    let request = Request::post(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#);
    let response = gateway.ask(&request).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("x-accel-buffering"), Some("no"));
    assert_eq!(response.header("mcp-session-id"), Some(session(5).as_str()));
    assert_eq!(
        response.body,
        ": \n\nid: 1.1-0.aa\nretry: 500\ndata: \n\n\
         id: 1.1-1.bb\ndata: {\"jsonrpc\":\"2.0\",   \"method\":\"a\\nb\"}\n\n\
         data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"
    );
}

#[tokio::test]
async fn a_connection_goes_on_behind_a_long_stream() {
    let (end, ended) = oneshot::channel();
    let node = Node::new([Act::SayUntil(vec![accepted(), Ok(Frame::Open)], ended)]);
    let config = Config { keep_alive_s: 1, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let mut connection = gateway.send(&get()).await;
    connection.until("\r\n\r\n").await;
    for _ in 0..2 {
        connection.until("4\r\n: \n\n\r\n").await;
    }
    // Asked before the answer is over, and then once more.
    let ask = list();
    let length = format!("Content-Length: {}\r\n\r\n", ask.body_bytes().len());
    let ask = [ask.head().as_slice(), length.as_bytes(), ask.body_bytes()].concat();
    connection.write(&ask[..100]).await;
    connection.until("4\r\n: \n\n\r\n").await;
    connection.write(&ask[100..]).await;
    end.send(()).unwrap();
    connection.until("0\r\n\r\n").await;
    assert_eq!(connection.response().await.status, 200);
    connection.write(&ask).await;
    assert_eq!(connection.response().await.status, 200);
    assert_eq!(node.seen().len(), 3);
}

#[tokio::test]
async fn a_connection_is_idle_behind_a_stream_however_long_that_was() {
    let opened = || vec![accepted(), Ok(Frame::Open), event(None, "{}")];
    let (end, ended) = oneshot::channel();
    let node = Node::new([Act::Say(opened()), Act::SayUntil(opened(), ended)]);
    let config = Config { idle_timeout_s: 1, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    for (request, end) in [(get(), None), (get().with("Connection", "keep-alive"), Some(end))] {
        let mut connection = gateway.send(&request).await;
        connection.until("data: {}\n\n").await;
        if let Some(end) = end {
            end.send(()).unwrap();
        }
        connection.until("0\r\n\r\n").await;
        node.streams_open(0).await;
        assert_eq!(connection.rest().await, "", "it is closed when its time is over");
    }
}

#[tokio::test]
async fn a_comment_comes_at_once_and_then_in_every_silence() {
    let stays = async |request: Request| {
        let node = Node::new([Act::SayAndStay(vec![accepted(), Ok(Frame::Open)])]);
        let config = Config { keep_alive_s: 1, ..Config::default() };
        let gateway = Gateway::start(config, &[("a", &node)], 1).await;
        let mut connection = gateway.send(&request).await;
        connection.until("\r\n\r\n").await;
        for _ in 0..3 {
            connection.until(": \n\n").await;
        }
    };
    let listen = Request::modern("subscriptions/listen", r#""notifications":{},"#);
    tokio::join!(stays(get()), stays(listen), stays(list()));
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_before_and_after_the_stream_opens() {
    let opened = || Act::SayAndStay(vec![accepted(), Ok(Frame::Open), event(None, "{}")]);
    let silent = || Act::SayAndStay(vec![accepted()]);
    for request in
        [list(), Request::older(&session(1), r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#), get()]
    {
        let node = Node::new([opened(), silent(), Act::Hang]);
        let gateway = Gateway::one(&node).await;
        let mut connection = gateway.send(&request).await;
        connection.until("data: {}\n\n").await;
        node.streams_open(1).await;
        drop(connection);
        node.streams_open(0).await;
        for _ in 0..2 {
            let connection = gateway.send(&request).await;
            node.streams_open(1).await;
            drop(connection);
            node.streams_open(0).await;
        }
        assert_eq!(node.seen().len(), 3);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_ends_without_another_word() {
    let broken = [Err(Error::new(Code::Unavailable, "x")), Ok(Frame::Open), accepted()];
    for bad in broken {
        for request in [list(), get()] {
            let node = Node::new([Act::SayAndStay(vec![
                accepted(),
                Ok(Frame::Open),
                event(None, "{}"),
                bad.clone(),
            ])]);
            let gateway = Gateway::one(&node).await;
            let response = gateway.ask(&request).await;
            assert_eq!((response.status, response.body.as_str()), (200, ": \n\ndata: {}\n\n"));
            node.streams_open(0).await;
        }
    }
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let mut connection = gateway.send(&list()).await;
    for round in 0..3 {
        assert_eq!(connection.response().await.status, 200, "{round}");
        let again = [list().head(), b"Content-Length: 2\r\n\r\n{}".to_vec()].concat();
        connection.write(&again).await;
        assert_eq!(connection.response().await.status, 400, "{round}");
        let head = [get().set("Mcp-Session-Id", "x").head(), b"\r\n".to_vec()].concat();
        connection.write(&head).await;
        assert_eq!(connection.response().await.status, 404, "{round}");
        let list = list();
        connection
            .write(&[list.head(), b"Transfer-Encoding: chunked\r\n\r\n".to_vec(), chunked(&list)].concat())
            .await;
    }
    assert_eq!(connection.response().await.status, 200);
    assert_eq!(node.seen().len(), 4);
}

fn chunked(request: &Request) -> Vec<u8> {
    let body = request.body_bytes();
    let (first, second) = body.split_at(body.len() / 2);
    let mut out = Vec::new();
    for part in [first, second, b""] {
        out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[tokio::test]
async fn draining_closes_what_waits_and_finishes_what_works() {
    let stay = || Act::SayAndStay(vec![accepted(), Ok(Frame::Open), event(None, "{}")]);
    let node = Node::new([stay(), stay(), stay()]);
    let gateway = Gateway::one(&node).await;
    let mut own = gateway.send(&get()).await;
    own.until("data: {}\n\n").await;
    let mut listen = gateway.send(&Request::modern("subscriptions/listen", r#""notifications":{},"#)).await;
    listen.until("data: {}\n\n").await;
    let mut call = gateway.send(&list()).await;
    call.until("data: {}\n\n").await;
    let idle = gateway.connect().await;
    gateway.trigger.drain();
    // An older client is asked to come back, a modern listen is answered.
    for (waiting, last) in [(&mut own, "retry: "), (&mut listen, "\"resultType\":\"complete\"")] {
        let rest = waiting.rest().await;
        assert!(rest.contains(last) && rest.ends_with("0\r\n\r\n"), "{rest}");
    }
    node.streams_open(1).await;
    drop(idle);
    assert!(!gateway.serving.is_finished());
    assert!(tokio::net::TcpStream::connect(gateway.address).await.is_err());
    gateway.trigger.expire();
    assert!(soon(gateway.serving).await.unwrap().is_ok());
    call.rest().await;
    node.streams_open(0).await;
}

#[tokio::test]
async fn who_has_connected_before_a_drain_is_answered() {
    let done = || Act::Say(answered(200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    let node = Node::new([done(), done()]);
    let gateway = Gateway::one(&node).await;
    // One that has been taken, and one that may still wait to be.
    let mut early = gateway.connect().await;
    tokio::task::yield_now().await;
    let mut late = gateway.connect().await;
    gateway.trigger.drain();
    for connection in [&mut early, &mut late] {
        connection.write(&list().bytes()).await;
        let response = soon(connection.response()).await;
        assert_eq!(response.status, 200, "{}", response.body);
    }
    assert!(soon(gateway.serving).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_let_go() {
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(1 << 20));
    let mut frames = vec![accepted(), Ok(Frame::Open)];
    frames.extend((0..32).map(|_| event(None, &large)));
    let node =
        Node::new([Act::SayAndStay(frames), Act::Say(vec![accepted(), Ok(Frame::Open), event(None, "{}")])]);
    let config = Config { write_stall_s: 1, ..Config::default() };
    let gateway = Gateway::start(config, &[("node", &node)], 1).await;
    let mut stalled = gateway.send(&list()).await;
    stalled.until("data: ").await;
    // Nothing more is read, and the connection stays open on this side.
    node.streams_open(0).await;
    let mut other = gateway.send(&list()).await;
    other.until("data: {}").await;
}
