//! Clients that take their time: for a head, a body, an answer, or nothing at all.

use std::time::Duration;

use api::session::Frame;
use axum::http;
use bytes::Bytes;
use gateway::Config;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval};

use crate::kit::{Act, Connection, Gateway, Node, Request, accepted, answered, event, session, soon};

fn list() -> Request {
    Request::modern("tools/list", "")
}

fn whole(request: &Request) -> Vec<u8> {
    let length = format!("Content-Length: {}\r\n\r\n", request.body_bytes().len()).into_bytes();
    [request.head(), length, request.body_bytes().to_vec()].concat()
}

/// Sends one piece after the other, at this pace, until the other side has had enough.
async fn dribble(connection: &mut Connection, pieces: impl Iterator<Item = &[u8]>, pace: Duration) {
    let mut pace = interval(pace);
    for piece in pieces {
        pace.tick().await;
        if !connection.try_write(piece).await {
            return;
        }
    }
}

/// Says and does nothing for so long.
async fn idle(pause: Duration) {
    let mut clock = interval(pause);
    clock.tick().await;
    clock.tick().await;
}

#[tokio::test]
async fn a_head_that_does_not_end_and_a_client_that_says_nothing_are_let_go() {
    let node = Node::new([]);
    let config = Config { header_timeout_s: 1, idle_timeout_s: 60, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let start = Instant::now();
    let silent = async { gateway.connect().await.rest().await };
    let dribbling = async {
        let mut connection = gateway.connect().await;
        let head = list().head();
        dribble(&mut connection, head.chunks(1), Duration::from_millis(50)).await;
        connection.rest().await
    };
    let later = async {
        // After a request, silence may last longer than a head.
        let mut connection = gateway.send(&list()).await;
        assert_eq!(connection.response().await.status, 200);
        idle(Duration::from_millis(1500)).await;
        connection.write(&whole(&list())).await;
        assert_eq!(connection.response().await.status, 200);
        connection.write(b"POST /mcp HT").await;
        connection.rest().await
    };
    let half_a_preface = async {
        let mut connection = gateway.connect().await;
        connection.write(b"PRI * HTTP/2.0\r\n").await;
        connection.rest().await
    };
    let said = soon(async { tokio::join!(silent, dribbling, later, half_a_preface) }).await;
    assert_eq!((said.0.as_str(), said.1.as_str(), said.2.as_str(), said.3.as_str()), ("", "", "", ""));
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(node.seen().len(), 2);
}

#[tokio::test]
async fn a_connection_that_is_idle_for_long_is_closed() {
    let node = Node::new([]);
    let config = Config { idle_timeout_s: 1, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let mut connection = gateway.send(&list()).await;
    assert_eq!(connection.response().await.status, 200);
    assert_eq!(connection.rest().await, "");
    // HTTP/2: the preface, and settings; then nothing.
    let mut connection = gateway.connect().await;
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut said = Vec::new();
    connection.all(&mut said).await;
    assert!(said.windows(9).any(|w| w[3] == 7), "a GOAWAY: {}", said.escape_ascii());
}

#[tokio::test]
async fn a_body_that_pauses_or_takes_too_long_is_answered_with_408() {
    let node = Node::new([]);
    let config = Config { body_idle_s: 1, body_total_s: 2, body_min_bytes_per_s: 0, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let head = [list().head(), b"Content-Length: 100000\r\n\r\n".to_vec()].concat();
    let mut connections = Vec::new();
    for dribbles in [false, true] {
        let mut connection = gateway.connect().await;
        connection.write(&head).await;
        let start = Instant::now();
        if dribbles {
            // Never a pause, and never an end.
            dribble(&mut connection, [b" ".as_slice(); 9].into_iter(), Duration::from_millis(200)).await;
        }
        connections.push((connection, start, if dribbles { 2 } else { 1 }));
    }
    for (mut connection, start, seconds) in connections {
        let response = connection.response().await;
        assert_eq!(response.verdict(), (408, Some(-32600), None));
        assert_eq!(response.header("connection"), Some("close"));
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(connection.rest().await, "");
        assert!(start.elapsed() >= Duration::from_secs(seconds));
    }
    assert_eq!(node.seen(), []);
}

/// A stream of events, large enough that nothing buffers all of them.
fn endless() -> Act {
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(1 << 20));
    let mut frames = vec![accepted(), Ok(Frame::Open)];
    frames.extend((0..32).map(|_| event(None, &large)));
    Act::SayAndStay(frames)
}

#[tokio::test]
async fn a_reader_of_http1_that_stops_gives_back_what_it_held() {
    let node = Node::new([endless()]);
    let config = Config { write_stall_s: 1, max_requests: 1, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let mut stalled = gateway.send(&list()).await;
    stalled.until("data: ").await;
    node.streams_open(0).await;
    // Its place, too.
    soon(async { while gateway.ask(&list()).await.status != 200 {} }).await;
}

#[tokio::test]
async fn a_reader_of_http2_that_stops_loses_its_stream_and_no_other() {
    let live = vec![accepted(), Ok(Frame::Open), event(None, "{\"n\":1}")];
    let node = Node::new([endless(), Act::SayAndStay(live)]);
    let config = Config { write_stall_s: 1, keep_alive_s: 1, max_requests: 2, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 16)
        .initial_connection_window_size(8 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let driver = chassis::task::spawn(chassis::task::Kind::Call, "client", async move {
        connection.await.ok();
    });
    let mut ask = async || {
        let request = http::Request::post(format!("http://{}/mcp", gateway.address))
            .header("content-type", "application/json")
            .header("accept", "*/*")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/list");
        let body = Full::new(Bytes::copy_from_slice(list().body_bytes()));
        soon(send.send_request(request.body(body).unwrap())).await.unwrap()
    };
    // Its body is never read: the window of the stream fills up, that of the connection does not.
    let stalled = ask().await;
    let mut live = ask().await.into_body();
    node.streams_open(2).await;
    soon(live.frame()).await.unwrap().unwrap();
    node.streams_open(1).await;
    // The other one goes on, and there is a place again.
    for _ in 0..2 {
        soon(live.frame()).await.unwrap().unwrap();
    }
    assert_eq!(ask().await.status(), 200);
    drop((stalled, live, driver));
}

#[tokio::test]
async fn a_large_answer_is_whole_for_who_reads_it_and_dropped_for_who_does_not() {
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(4 << 20));
    let node = Node::new([Act::Say(answered(200, &large)), Act::Say(answered(200, &large))]);
    let config = Config { write_stall_s: 1, max_requests: 1, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let response = gateway.ask(&list()).await;
    assert_eq!(response.header("content-length"), Some(large.len().to_string().as_str()));
    assert_eq!(response.header("transfer-encoding"), None);
    assert!(response.body == large);
    // HTTP/2, with a window that is never opened.
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut send, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
    let driver = chassis::task::spawn(chassis::task::Kind::Call, "client", async move {
        connection.await.ok();
    });
    let request = http::Request::post(format!("http://{}/mcp", gateway.address))
        .header("content-type", "application/json")
        .header("accept", "*/*")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/list")
        .body(Full::new(Bytes::copy_from_slice(list().body_bytes())))
        .unwrap();
    let stalled = soon(send.send_request(request)).await.unwrap();
    assert_eq!(stalled.status(), 200);
    assert_eq!(gateway.ask(&list()).await.status, 503, "it is under way as long as it is written");
    soon(async { while gateway.ask(&list()).await.status != 200 {} }).await;
    drop((stalled, driver));
}

#[tokio::test]
async fn an_older_client_is_asked_to_come_back_after_an_age() {
    let stay = || Act::SayAndStay(vec![accepted(), Ok(Frame::Open), event(None, "{}")]);
    let node = Node::new([stay(), stay()]);
    let config = Config { stream_max_age_s: 1, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let get = Request::new("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", session(1));
    let old = gateway.ask(&get).await;
    assert_eq!(old.status, 200);
    assert!(old.body.contains("data: {}\n\nretry: ") && old.body.ends_with("\n\n"), "{}", old.body);
    // The answer to a call is no such stream.
    let mut call = gateway.send(&list()).await;
    call.until("data: {}\n\n").await;
    idle(Duration::from_millis(1500)).await;
    node.streams_open(1).await;
}
