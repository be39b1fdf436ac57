//! Batches of 2025-03-26: what session nodes get to see of them, and what their clients do, wherever an owner breaks off.

use api::session::{Again, Delivery, Frame, Transport};
use api::{Code, Error};

use crate::following::{PROGRESS, RESULT, SECOND, broken, moved, open};
use crate::http_sse::case;
use crate::kit::{Act, Gateway, Node, Request, Seen, accepted, answered, event, refused, session};
use gateway::Config;

const PING: &str = r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"n"}"#;

fn deliveries(node: &Node) -> Vec<Delivery> {
    let delivered = |seen| match seen {
        Seen::Delivered(delivery) => Some(delivery),
        Seen::Attached(_) | Seen::Closed(_) => None,
    };
    node.seen().into_iter().filter_map(delivered).collect()
}

/// The events of a response, sorted.
fn events(body: &str) -> Vec<&str> {
    let mut events: Vec<&str> = body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    events.sort_unstable();
    events
}

fn unknown(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"the outcome of this request is not known","data":{{"reason":"unavailable","outcome":"unknown"}}}}}}"#
    )
}

#[tokio::test]
async fn each_member_is_delivered_for_itself() {
    let node = Node::new([
        Act::Say(answered(200, RESULT)),
        Act::Say(answered(202, "")),
        Act::Say(vec![
            accepted(),
            open(),
            event(Some("1.1-1.aa"), PROGRESS),
            event(Some("1.1-2.aa"), SECOND),
        ]),
    ]);
    let gateway = Gateway::one(&node).await;
    let id = session(12);
    let second = CALL.replace("\"id\":1", "\"id\":2");
    let request = Request::older(&id, &format!(" [ {CALL} , {NOTE}, 1.0e400,{second} ]"));
    let response = gateway.ask(&request.with("MCP-Protocol-Version", "2025-03-26")).await;
    let malformed = r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"a member of a batch must be a JSON-RPC message"}}"#;
    assert_eq!((response.status, response.header("mcp-session-id")), (200, None));
    assert!(!response.body.contains("id: "), "{}", response.body);
    let mut expected = [malformed, RESULT, SECOND, PROGRESS];
    expected.sort_unstable();
    assert_eq!(events(&response.body), expected);
    let seen = deliveries(&node);
    let texts: Vec<&str> = seen.iter().map(|delivery| delivery.message.as_str()).collect();
    assert_eq!(texts, [CALL, NOTE, second.as_str()]);
    for delivery in &seen {
        assert_eq!(
            (
                delivery.session.as_deref(),
                delivery.transport,
                delivery.in_batch,
                delivery.revision.as_deref()
            ),
            (Some(id.as_str()), Transport::Streamable, true, Some("2025-03-26"))
        );
    }
    let mut keys: Vec<&str> = seen.iter().map(|delivery| delivery.request_key.as_str()).collect();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn on_http_sse_a_batch_is_delivered_whole() {
    let node = Node::new([Act::Say(answered(202, ""))]);
    let gateway = Gateway::one(&node).await;
    let body = format!(" [ {PING} , 1.0e400 ]");
    let request = Request::new("POST").at(&format!("/messages?sessionId={}", session(12)));
    let response = gateway.ask(&request.with("Content-Type", "application/json").body(body.as_str())).await;
    assert_eq!((response.status, response.body.as_str()), (202, ""));
    let delivery = node.delivered().unwrap();
    assert_eq!((delivery.message.as_str(), delivery.transport), (body.as_str(), Transport::HttpSse));
    assert!(!delivery.in_batch);
}

#[tokio::test]
async fn a_member_goes_on_with_the_next_owner() {
    let second = CALL.replace("\"id\":1", "\"id\":2");
    let body = format!("[{CALL},{second}]");
    let begun = [accepted(), open(), event(Some("1.1-1.aa"), PROGRESS)];
    for at in 0..=begun.len() {
        for loss in [broken(), moved("b"), moved("")] {
            let case = format!("after {at}: {loss:?}");
            let first = begun.iter().take(at).cloned().chain([Err(loss)]).collect();
            let a = Node::new([Act::Say(answered(200, RESULT)), Act::Say(first), Act::Refuse(moved("b"))]);
            let rest = begun.iter().take(2).chain(&begun[at.max(2)..]).cloned();
            let b = Node::new([Act::Say(rest.chain([event(Some("1.2-1.aa"), SECOND)]).collect())]);
            let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 1).await;
            let response = gateway.ask(&Request::older(&session(1), &body)).await;
            assert_eq!(response.status, 200, "{case}");
            let mut expected = [RESULT, PROGRESS, SECOND];
            expected.sort_unstable();
            assert_eq!(events(&response.body), expected, "{case}");
            let (first, next) = (deliveries(&a).swap_remove(1), deliveries(&b).swap_remove(0));
            let last_event_id = (at == 3).then(|| "1.1-1.aa".to_owned());
            let again = if at == 0 { Again::default() } else { Again { accepted: true, last_event_id } };
            assert_eq!(next, Delivery { again: Some(again), ..first }, "{case}");
            assert_eq!(b.seen().len(), 1, "{case}");
        }
    }
}

#[tokio::test]
async fn every_request_of_a_lost_batch_is_answered_for_itself() {
    let gone = || Err(Error::new(Code::Unavailable, "node lost"));
    let asked = r#"{"jsonrpc":"2.0","id":"b","method":"roots/list"}"#;
    let done = r#"{"jsonrpc":"2.0","id":"b","result":{}}"#;
    let node = Node::new([
        Act::Say(vec![accepted(), gone()]),
        Act::Say(vec![accepted(), gone()]),
        Act::Say(vec![accepted(), gone()]),
        Act::Say(vec![accepted(), open(), event(None, asked), event(None, done)]),
    ]);
    node.always(Some(broken()));
    let config = Config { failover_wait_ms: 0, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let id = session(12);
    let notes = gateway.ask(&Request::older(&id, &format!("[{NOTE}]"))).await;
    assert_eq!(notes.verdict(), (503, Some(-32603), None));
    let batch = format!("[{CALL},{NOTE},{},1]", PING.replace("\"a\"", "\"b\""));
    let response = gateway.ask(&Request::older(&id, &batch)).await;
    let lost = unknown("1");
    let seen = events(&response.body);
    assert_eq!((response.status, seen.len()), (200, 4), "{}", response.body);
    for expected in [asked, done, &lost] {
        assert!(seen.contains(&expected), "{}", response.body);
    }
}

#[tokio::test]
async fn a_batch_that_nobody_takes_on_is_refused_as_one() {
    let later =
        r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32603,"message":"x","data":{"reason":"store_down"}}}"#;
    let refused = |status, body: &str| Act::Say(vec![Ok(Frame::Refused(crate::kit::answer(status, body)))]);
    let bare = r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"}}"#;
    for (status, body, code) in [(503, later, -32603), (404, bare, -32600), (400, bare, -32600)] {
        let node = Node::new([refused(status, body), refused(status, body)]);
        let gateway = Gateway::one(&node).await;
        let response = gateway.ask(&Request::older(&session(1), &format!("[{PING},{PING},7]"))).await;
        assert_eq!(response.verdict(), (status, Some(code), None));
    }
    // With one that is taken on, the refusal of another is its answer.
    let node = Node::new([Act::Say(answered(200, RESULT)), refused(503, later)]);
    let gateway = Gateway::one(&node).await;
    let response = gateway.ask(&Request::older(&session(1), &format!("[{CALL},{PING}]"))).await;
    let mut expected = [RESULT, later];
    expected.sort_unstable();
    assert_eq!((response.status, events(&response.body)), (200, expected.to_vec()));
}

#[tokio::test]
async fn batches_that_are_refused_reach_nobody() {
    let id = session(3);
    let array = |members: &[&str]| format!("[{}]", members.join(","));
    let many = |count: usize| Request::older(&id, &array(&vec![PING; count]));
    let claim = r#"{"jsonrpc":"2.0","method":"x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    let version = |text: &str| many(2).with("MCP-Protocol-Version", text);
    let mut table = vec![
        case("no session", Request::post(array(&[PING])), 400, -32600, None),
        case("no session, initialize", Request::post(array(&[initialize])), 400, -32600, None),
        case("two sessions", many(1).with("Mcp-Session-Id", &id), 400, -32600, None),
        case("forged session", many(1).set("Mcp-Session-Id", "v1.k1.003.x.y"), 404, -32600, None),
        case("empty", many(0), 400, -32600, None),
        case("no message", Request::older(&id, "[1,{}]"), 400, -32600, None),
        case("51", many(51), 400, -32600, None),
        case("initialize", Request::older(&id, &array(&[PING, initialize])), 400, -32600, None),
        case("a modern member", Request::older(&id, &array(&[PING, claim])), 400, -32600, None),
        case("broken", Request::older(&id, &format!("[{PING},")), 400, -32700, None),
        case(
            "two versions",
            version("2025-03-26").with("MCP-Protocol-Version", "2025-03-26"),
            400,
            -32600,
            None,
        ),
    ];
    for text in ["2024-11-05", "2025-06-18", "2025-11-25", "2026-07-28", "2099-01-01", ""] {
        table.push(case(text, version(text), 400, -32600, None));
    }
    assert_eq!(refused(table).await, 17);
}
