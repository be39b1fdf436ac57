//! A session without an owner: its requests wait, go to the next one, or end as honestly as can be.

use api::session::{Again, Frame};
use api::{Code, Detail, Error};
use gateway::Config;
use tokio::task::yield_now;

use crate::kit::{Act, Gateway, Node, Request, Seen, accepted, answered, event, session, soon};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const BATCH: &str =
    r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":"b","method":"ping"}]"#;

fn older(body: &str) -> Request {
    Request::older(&session(1), body)
}

fn visit(method: &'static str) -> Request {
    Request::new(method).with("Accept", "text/event-stream").with("Mcp-Session-Id", session(1))
}

fn broken() -> Error {
    let unknown = Detail::OutcomeUnknown { invocation: String::new() };
    Error::new(Code::Unavailable, "the link to 10.0.0.1 ended").with(unknown)
}

fn not_reached() -> Error {
    Error::new(Code::Unavailable, "10.0.0.1 refused").with(Detail::NotReached)
}

/// Waits until so many requests are held.
async fn held(gateway: &Gateway, count: usize) {
    let line = format!("trunkline_gateway_held_requests{{role=\"gateway\"}} {count}\n");
    soon(async {
        while !gateway.metrics.text().contains(&line) {
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_wait_for_an_owner_and_go_to_it_when_it_is_there() {
    let requests = || [older(CALL), older(NOTE), older(BATCH), visit("GET"), visit("DELETE")];
    let nobody = Detail::NotOwner { owner: String::new(), epoch: 0 };
    let refusals = [
        (None, None),
        (Some(not_reached()), None),
        (Some(Error::draining()), None),
        // An owner that gives a session up may have begun.
        (Some(Error::new(Code::Precondition, "x").with(nobody)), Some(Again::default())),
    ];
    for (refusal, again) in refusals {
        let (a, b) = (Node::new([]), Node::new([]));
        let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 1).await;
        if refusal.is_none() {
            gateway.names.own(None);
        }
        a.always(refusal.clone());
        let mut waiting = Vec::new();
        for request in requests() {
            waiting.push(gateway.send(&request).await);
        }
        // A batch is two deliveries.
        held(&gateway, 6).await;
        assert_eq!(b.seen(), []);
        gateway.names.own(Some("b"));
        for mut connection in waiting {
            assert_eq!(soon(connection.response()).await.status, 200);
        }
        assert_eq!(b.seen().len(), 6);
        for seen in b.seen() {
            if let Seen::Delivered(delivery) = seen {
                assert_eq!(delivery.again, again, "{refusal:?}");
            }
        }
        held(&gateway, 0).await;
        let suspicions = gateway.names.suspicions();
        assert_eq!(suspicions.is_empty(), refusal != Some(not_reached()), "{suspicions:?}");
    }
}

#[tokio::test]
async fn without_a_next_owner_every_request_ends_as_it_must() {
    let unknown = |id: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"the outcome of this request is not known","data":{{"reason":"unavailable","outcome":"unknown"}}}}}}"#
        )
    };
    let later = |id: &str| {
        format!(
            r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-32603,"message":"temporarily unavailable, try again","data":{{"reason":"unavailable"}}}}}}"#
        )
    };
    let begun =
        || Act::Say(vec![accepted(), Ok(Frame::Open), event(None, "{\"method\":\"x\"}"), Err(broken())]);
    let opened = ": \n\ndata: {\"method\":\"x\"}\n\n";
    let never = || Act::Refuse(not_reached());
    let perhaps = || Act::Refuse(broken());
    let lost = || Act::Say(vec![accepted(), Err(broken())]);
    let table = [
        (older(CALL), never(), 503, later("\"id\":1,")),
        (older(CALL), perhaps(), 200, unknown("1")),
        (older(CALL), lost(), 200, unknown("1")),
        (older(CALL), begun(), 200, format!("{opened}data: {}\n\n", unknown("1"))),
        (older(LIST), never(), 503, later("\"id\":1,")),
        (older(LIST), perhaps(), 503, later("\"id\":1,")),
        (older(LIST), lost(), 200, unknown("1")),
        (older(LIST), begun(), 200, format!("{opened}data: {}\n\n", unknown("1"))),
        (older(BATCH), never(), 503, later("")),
        (older(BATCH), perhaps(), 503, later("")),
        (older(NOTE), never(), 503, later("")),
        (older(NOTE), perhaps(), 503, later("")),
        (older(NOTE), lost(), 503, later("")),
        (visit("GET"), never(), 503, later("")),
        (visit("GET"), lost(), 503, later("")),
        (visit("GET"), begun(), 200, opened.to_owned()),
        (visit("DELETE"), never(), 503, later("")),
        (visit("DELETE"), lost(), 503, later("")),
    ];
    for (number, (request, first, status, body)) in table.into_iter().enumerate() {
        let node = Node::new([first]);
        node.always(Some(not_reached()));
        let config = Config { failover_wait_ms: 100, ..Config::default() };
        let gateway = Gateway::start(config, &[("a", &node)], 1).await;
        let response = gateway.ask(&request).await;
        assert_eq!((response.status, response.body), (status, body), "line {number}");
        let waits = response.headers.iter().any(|(name, _)| name == "retry-after");
        assert_eq!(waits, status == 503, "line {number}");
        // What was lost with the node that had accepted it, and is of no use to another one, tells nobody anything.
        if number != 9 {
            gateway.names.suspected("a").await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_waits_no_longer() {
    let node = Node::new([Act::Say(vec![accepted(), Ok(Frame::Open), event(None, NOTE), Err(broken())])]);
    let gateway = Gateway::one(&node).await;
    gateway.names.own(None);
    let unsent = gateway.send(&older(CALL)).await;
    held(&gateway, 1).await;
    drop(unsent);
    held(&gateway, 0).await;
    gateway.names.own(Some("a"));
    node.always(Some(not_reached()));
    let mut open = gateway.send(&older(CALL)).await;
    open.until("data: {").await;
    held(&gateway, 1).await;
    drop(open);
    held(&gateway, 0).await;
}

#[tokio::test]
async fn sessions_of_other_owners_and_modern_requests_do_not_wait() {
    let (a, b) = (Node::new([]), Node::new([]));
    let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 2).await;
    a.always(Some(not_reached()));
    let _waiting = gateway.send(&older(CALL)).await;
    held(&gateway, 1).await;
    for _ in 0..4 {
        b.then(Act::Say(answered(200, "{}")));
        assert_eq!(soon(gateway.ask(&Request::modern("tools/list", ""))).await.status, 200);
    }
    assert_eq!(b.seen().len(), 4);
}
