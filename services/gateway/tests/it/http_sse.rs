//! 2024-11-05's two endpoints: what a session node gets to see of them, and what it does not.

use std::sync::Arc;

use api::session::{Attach, Event, Frame, Transport};
use api::{Code, Error, Principal};
use gateway::auth::Anonymous;
use gateway::{App, BuildError, Config, Deps};

use crate::kit::{Act, Gateway, Node, Request, Seen, accepted, answered, event, keys, refused, session};

type Case = (String, Request, u16, Option<i32>, Option<&'static str>);

const PING: &str = r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#;

pub(crate) fn case(name: &str, request: Request, status: u16, code: i32, id: Option<&'static str>) -> Case {
    (name.to_owned(), request, status, (code != 0).then_some(code), id)
}

fn open() -> Request {
    Request::new("GET").at("/sse").with("Accept", "text/event-stream")
}

fn message(id: &str) -> Request {
    Request::post(PING).without("Accept").at(&format!("/messages?sessionId={id}"))
}

#[tokio::test]
async fn the_stream_begins_with_where_to_post() {
    let id = session(9);
    let retried = Frame::Event(Event { retry_ms: Some(5), ..Event::default() });
    let node = Node::new([Act::Say(vec![
        Ok(Frame::Accepted { session: Some(id.clone()) }),
        Ok(Frame::Open),
        event(None, "{\"a\":\n1}"),
        Ok(retried),
    ])]);
    let gateway = Gateway::one(&node).await;
    let response = gateway.ask(&open()).await;
    let endpoint = format!("event: endpoint\ndata: /messages?sessionId={id}\n\n");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("mcp-session-id"), None);
    assert_eq!(response.body, format!("{endpoint}event: message\ndata: {{\"a\": 1}}\n\nretry: 5\n\n"));
    let attach = Attach {
        session: String::new(),
        revision: None,
        principal: Principal::default(),
        last_event_id: None,
        begin: true,
        carried: true,
    };
    assert_eq!(node.seen(), [Seen::Attached(attach)]);
}

#[tokio::test]
async fn a_reader_that_goes_away_lets_the_node_know() {
    let begun = vec![Ok(Frame::Accepted { session: Some(session(9)) }), Ok(Frame::Open)];
    let node = Node::new([Act::SayAndStay(begun)]);
    let gateway = Gateway::one(&node).await;
    let mut connection = gateway.send(&open()).await;
    connection.until("event: endpoint").await;
    node.streams_open(1).await;
    drop(connection);
    node.streams_open(0).await;
}

#[tokio::test]
async fn another_node_is_asked_when_one_cannot_begin() {
    let busy = Node::new([Act::Refuse(Error::draining()), Act::Refuse(Error::draining())]);
    let lost = Act::Say(vec![Ok(Frame::Accepted { session: Some(session(9)) })]);
    let ready =
        Node::new([Act::Say(vec![Ok(Frame::Accepted { session: Some(session(9)) }), Ok(Frame::Open)])]);
    let gateway = Gateway::start(Config::default(), &[("a", &busy), ("b", &ready)], 2).await;
    assert_eq!(gateway.ask(&open()).await.status, 200);
    for act in [lost, Act::Refuse(Error::new(Code::Unavailable, "no")), Act::Say(vec![accepted()])] {
        let gateway = Gateway::one(&Node::new([act])).await;
        let response = gateway.ask(&open()).await;
        assert_eq!(response.verdict(), (503, Some(-32603), None));
        assert!(response.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn messages_reach_the_owner_of_the_session() {
    let node = Node::new([Act::Say(answered(202, "")), Act::Say(answered(202, ""))]);
    let gateway = Gateway::one(&node).await;
    let id = session(11);
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    for (body, version) in [(PING, None), (initialize, Some("2025-06-18"))] {
        let mut request = message(&id).body(body);
        if let Some(version) = version {
            request = request.with("MCP-Protocol-Version", version);
        }
        let response = gateway.ask(&request).await;
        assert_eq!((response.status, response.body.as_str()), (202, ""));
        let delivery = node.delivered().unwrap();
        assert_eq!(
            (delivery.session.as_deref(), delivery.transport),
            (Some(id.as_str()), Transport::HttpSse)
        );
        assert_eq!((delivery.message.as_str(), delivery.revision.as_deref()), (body, version));
    }
}

#[tokio::test]
async fn nobody_waits_for_what_may_never_come() {
    let call = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t"}}"#;
    let batch = format!("[{call}]");
    for (body, id) in [(call, Some("\"a\"")), (&batch, None)] {
        let unknown = Error::new(Code::OutcomeUnknown, "nobody knows");
        let gateway = Gateway::one(&Node::new([Act::Refuse(unknown)])).await;
        let response = gateway.ask(&message(&session(11)).body(body)).await;
        assert_eq!(response.verdict(), (504, Some(-32603), id), "{body}");
        assert!(response.body.contains(r#""outcome":"unknown""#), "{}", response.body);
    }
}

#[tokio::test]
async fn what_is_refused_reaches_nobody() {
    let good = session(3);
    let other = |method, target| Request::new(method).at(target).with("Accept", "text/event-stream");
    let body = |text: &str| message(&good).body(text);
    let claim = r#"{"jsonrpc":"2.0","id":4,"method":"x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let mut forged = good.clone().into_bytes();
    forged[20] ^= 1;
    let forged = String::from_utf8(forged).unwrap();
    let table = [
        case("POST to the stream", Request::post(PING).at("/sse"), 405, 0, None),
        case("HEAD", other("HEAD", "/sse"), 405, 0, None),
        case("DELETE of the stream", other("DELETE", "/sse"), 405, 0, None),
        case("GET of messages", other("GET", "/messages?sessionId=1"), 405, 0, None),
        case("OPTIONS", other("OPTIONS", "/messages"), 405, 0, None),
        case("below", other("GET", "/sse/"), 404, 0, None),
        case("Accept", open().set("Accept", "application/json"), 406, -32600, None),
        case("modern stream", open().with("MCP-Protocol-Version", "2026-07-28"), 400, -32600, None),
        case("Origin", open().with("Origin", "https://evil.example"), 403, -32600, None),
        case("Host", open().set("Host", "evil.example"), 403, -32600, None),
        case("Origin of a message", message(&good).with("Origin", "null"), 403, -32600, None),
        case("Host of a message", message(&good).set("Host", "evil.example"), 403, -32600, None),
        case("no session", message(&good).at("/messages"), 400, -32600, None),
        case("no session, query", message(&good).at("/messages?session=1&x"), 400, -32600, None),
        case("header alone", message(&good).at("/messages").with("Mcp-Session-Id", &good), 400, -32600, None),
        case("two", message(&good).at("/messages?sessionId=a&sessionId=a"), 400, -32600, None),
        case("forged", message(&forged), 404, -32600, None),
        case("forged and no JSON", message(&forged).body("{"), 404, -32600, None),
        case("empty id", message(""), 404, -32600, None),
        case("long id", message(&"x".repeat(1000)), 404, -32600, None),
        case("text", message(&good).set("Content-Type", "text/plain"), 415, -32600, None),
        case("no JSON", body("{"), 400, -32700, None),
        case("no message", body("1"), 400, -32600, None),
        case("no version", body(r#"{"id":3,"method":"ping"}"#), 400, -32600, Some("3")),
        case("a claim", body(claim), 400, -32600, Some("4")),
        case("modern", message(&good).with("MCP-Protocol-Version", "2026-07-28"), 400, -32600, Some("\"a\"")),
        case("unknown", message(&good).with("MCP-Protocol-Version", "v9"), 400, -32600, Some("\"a\"")),
        case("empty array", body("[]"), 400, -32600, None),
        case(
            "initialize in an array",
            body(r#"[{"jsonrpc":"2.0","id":3,"method":"initialize"}]"#),
            400,
            -32600,
            None,
        ),
    ];
    assert_eq!(refused(table).await, 29);
    let gateway = Gateway::one(&Node::new([])).await;
    for (request, allow) in [(other("PUT", "/sse"), "GET"), (other("GET", "/messages"), "POST")] {
        assert_eq!(gateway.ask(&request).await.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn paths_are_checked_and_may_be_moved() {
    let node =
        Node::new([Act::Say(vec![Ok(Frame::Accepted { session: Some(session(9)) }), Ok(Frame::Open)])]);
    let config =
        Config { sse_path: "/old/sse".into(), message_path: "/old/post".into(), ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let response = gateway.ask(&open().at("/old/sse")).await;
    assert!(response.body.starts_with("event: endpoint\ndata: /old/post?sessionId=v1."), "{}", response.body);
    assert_eq!(gateway.ask(&open()).await.status, 404);
    let build = |sse: &str, message: &str| {
        let config = Config { sse_path: sse.into(), message_path: message.into(), ..Config::default() };
        let deps = Deps::connect(
            &Config::default(),
            Default::default(),
            keys(),
            &chassis::tls::Dialler::default(),
            Arc::new(Anonymous),
        )
        .unwrap();
        App::build(&config, deps).err()
    };
    assert!(matches!(build("sse", "/m"), Some(BuildError::Path { key: "sse_path", .. })));
    assert!(matches!(build("/s", "/{m}"), Some(BuildError::Path { key: "message_path", .. })));
    for (sse, message) in [("/mcp", "/m"), ("/s", "/mcp"), ("/s", "/s")] {
        assert!(matches!(build(sse, message), Some(BuildError::SamePath(_))), "{sse} {message}");
    }
}
