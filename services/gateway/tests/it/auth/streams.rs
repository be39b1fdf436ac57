//! Streams end with what their clients showed.

use std::sync::Arc;

use api::session::Frame;
use gateway::auth::{ApiKey, Config, Gate, new_key};
use mcp::scan;

use super::asking;
use super::forge::{Forge, claims_until, now};
use crate::kit::{Act, Connection, Gateway, Node, Request, accepted, event, session};

fn stream() -> Act {
    Act::SayAndStay(vec![accepted(), Ok(Frame::Open)])
}

/// One of each stream: a session's own, a listen, HTTP+SSE, an older answer that can be continued, a modern one that cannot.
async fn open(gateway: &Gateway, node: &Arc<Node>, credentials: &str) -> Vec<(&'static str, Connection)> {
    let begun = Frame::Accepted { session: Some(session(1)) };
    let resumable = vec![accepted(), Ok(Frame::Open), event(Some("1.1-1.aa"), "{}")];
    for act in [
        stream(),
        stream(),
        Act::SayAndStay(vec![Ok(begun), Ok(Frame::Open)]),
        Act::SayAndStay(resumable),
        stream(),
    ] {
        node.then(act);
    }
    let events = |request: Request| request.with("Accept", "text/event-stream");
    let id = session(1);
    let requests = [
        ("get", events(Request::new("GET")).with("Mcp-Session-Id", &id)),
        ("listen", Request::modern("subscriptions/listen", r#""notifications":{},"#)),
        ("sse", events(Request::new("GET")).at("/sse")),
        (
            "older",
            Request::older(&id, r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"t"}}"#),
        ),
        ("modern", Request::modern("tools/call", r#""name":"t","#).with("Mcp-Name", "t")),
    ];
    let mut open = Vec::new();
    for (name, request) in requests {
        let request = request.with("Authorization", format!("Bearer {credentials}"));
        let mut connection = gateway.send(&request.with("Connection", "close")).await;
        let head = connection.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{name}: {head}");
        open.push((name, connection));
    }
    open
}

/// Reads each to its end, and checks what was said last.
async fn ended(open: Vec<(&'static str, Connection)>) {
    for (name, mut connection) in open {
        let rest = connection.rest().await;
        let last =
            rest.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default().to_owned();
        match name {
            "get" | "older" => assert!(rest.contains("retry: "), "{name}: it may come back: {rest}"),
            "listen" => {
                assert_eq!(scan::path(&last, &["result", "resultType"]), Some("\"complete\""), "{rest}")
            }
            "sse" => assert!(!rest.contains("retry: "), "there is nothing to come back to: {rest}"),
            "modern" => {
                assert_eq!(scan::path(&last, &["error", "data", "outcome"]), Some("\"unknown\""), "{rest}");
            }
            other => assert_eq!(other, "one of the five"),
        }
    }
}

#[tokio::test]
async fn streams_end_with_the_token() {
    let forge = Forge::new();
    let node = Node::new([]);
    let gateway = asking(Arc::new(forge.gate()), &node).await;
    // With the leeway for clocks it is good for five more seconds.
    let token = forge.ec.token(&claims_until(now() - 25));
    let open = open(&gateway, &node, &token).await;
    node.streams_open(5).await;
    ended(open).await;
    node.streams_open(0).await;
}

#[tokio::test]
async fn streams_end_when_a_key_is_removed_and_others_stay() {
    let made = |name: &str, seed| {
        let new = new_key(name, "", "", [seed; 32]);
        let hash = new.line.split('"').nth(3).unwrap().to_owned();
        (new.key, ApiKey { name: name.into(), hash, ..ApiKey::default() })
    };
    let ((kept, line_kept), (removed, line_removed)) = (made("kept", 1), made("removed", 2));
    let config = |keys: Vec<ApiKey>| Config { keys, ..Config::default() };
    let gate = Arc::new(Gate::new(&config(vec![line_kept.clone(), line_removed])).unwrap());
    let node = Node::new([]);
    let gateway = asking(gate.clone(), &node).await;
    let stays = open(&gateway, &node, &kept).await;
    let ends = open(&gateway, &node, &removed).await;
    node.streams_open(10).await;
    gate.replace(&config(vec![line_kept])).unwrap();
    ended(ends).await;
    node.streams_open(5).await;
    let again = Request::modern("tools/list", "").with("Authorization", format!("Bearer {removed}"));
    assert_eq!(gateway.ask(&again).await.status, 401);
    gate.replace(&config(Vec::new())).unwrap();
    ended(stays).await;
}

#[tokio::test]
async fn streams_of_an_issuer_end_when_it_is_no_longer_configured() {
    let forge = Forge::new();
    let gate = Arc::new(forge.gate());
    let node = Node::new([]);
    let gateway = asking(gate.clone(), &node).await;
    let token = forge.ec.token(&super::forge::claims());
    let open = open(&gateway, &node, &token).await;
    gate.replace(&forge.config()).unwrap();
    node.streams_open(5).await;
    let mut without = forge.config();
    without.issuers.remove(0);
    assert!(
        gate.replace(&Config { resource: String::new(), ..without.clone() }).is_err(),
        "and nothing has changed"
    );
    node.streams_open(5).await;
    gate.replace(&without).unwrap();
    ended(open).await;
}

#[tokio::test]
async fn streams_of_strangers_end_when_credentials_are_asked_for() {
    let gate = Arc::new(Gate::new(&Config::default()).unwrap());
    let node = Node::new([]);
    let gateway = asking(gate.clone(), &node).await;
    let open = open(&gateway, &node, "ignored").await;
    let new = new_key("team-a", "", "", [1; 32]);
    gate.replace(&Config { anonymous: true, keys: vec![new.entry.clone()], ..Config::default() }).unwrap();
    node.streams_open(5).await;
    gate.replace(&Config { keys: vec![new.entry], ..Config::default() }).unwrap();
    ended(open).await;
    assert_eq!(gateway.ask(&Request::modern("tools/list", "")).await.status, 401);
}
