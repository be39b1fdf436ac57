//! Which node gets a request, and what happens when it cannot take it.

use std::time::Duration;

use api::session::{Answer, Frame};
use api::{Code, Detail, Error};
use gateway::Config;

use crate::kit::{Act, Gateway, Node, Request, accepted, answer, answered, session, soon};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;

/// One that believes what it is told at once.
fn hasty() -> Config {
    Config { failover_wait_ms: 0, ..Config::default() }
}

fn list() -> Request {
    Request::modern("tools/list", "")
}

fn not_owner(owner: &str) -> Act {
    Act::Refuse(
        Error::new(Code::Precondition, "not here").with(Detail::NotOwner { owner: owner.into(), epoch: 2 }),
    )
}

fn down() -> Act {
    Act::Refuse(Error::new(Code::Unavailable, "connection refused by 10.0.0.1:7101"))
}

#[tokio::test]
async fn requests_of_no_session_go_round() {
    for count in 1..=4 {
        let nodes: Vec<_> = (0..count).map(|_| Node::new([])).collect();
        let named: Vec<_> = ["a", "b", "c", "d"].into_iter().zip(&nodes).collect();
        let gateway = Gateway::start(Config::default(), &named, count).await;
        for round in 1..=3 {
            for _ in 0..count {
                let request = if round == 2 { Request::post(INITIALIZE) } else { list() };
                assert_eq!(gateway.ask(&request).await.status, 200);
            }
            assert!(nodes.iter().all(|node| node.seen().len() == round), "{count} nodes, round {round}");
        }
        // What a session owns takes no turn.
        gateway.ask(&Request::older(&session(1), PING)).await;
        for _ in 0..count {
            gateway.ask(&list()).await;
        }
        assert!(nodes.iter().skip(1).all(|node| node.seen().len() == 4), "{count} nodes");
    }
}

#[tokio::test]
async fn only_a_node_that_is_away_is_passed_over() {
    let codes = Code::ALL.into_iter().filter(|code| *code != Code::Unavailable);
    for code in codes {
        let (a, b) = (Node::new([]), Node::new([]));
        for node in [&a, &b] {
            node.then(Act::Refuse(Error::new(code, "x")));
        }
        let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 2).await;
        let response = gateway.ask(&list()).await;
        assert!(response.at(&["error"]).is_some(), "{code:?}");
        assert_eq!(a.seen().len() + b.seen().len(), 1, "{code:?}");
    }
}

#[tokio::test]
async fn a_call_that_may_have_been_taken_on_is_not_sent_again() {
    let lost = || {
        let unknown = Detail::OutcomeUnknown { invocation: String::new() };
        Act::Refuse(Error::new(Code::Unavailable, "connection lost").with(unknown))
    };
    let call = Request::modern("tools/call", r#""name":"a","#).with("Mcp-Name", "a");
    for (request, asked) in [(call, 1), (list(), 2)] {
        let (a, b) = (Node::new([]), Node::new([]));
        a.then(lost());
        b.then(lost());
        let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b)], 2).await;
        let response = gateway.ask(&request).await;
        assert_eq!(a.seen().len() + b.seen().len(), asked);
        let unknown = asked == 1;
        assert_eq!(response.status, if unknown { 200 } else { 503 });
        let outcome = response.at(&["error", "data", "outcome"]);
        assert_eq!(outcome, unknown.then_some("\"unknown\""), "{outcome:?}");
    }
}

#[tokio::test]
async fn clients_that_were_refused_together_are_not_asked_back_together() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let mut waits = std::collections::BTreeSet::new();
    for _ in 0..40 {
        node.then(down());
        let response = gateway.ask(&list()).await;
        waits.insert(response.header("retry-after").unwrap().to_owned());
    }
    assert!(waits.len() > 1, "{waits:?}");
}

#[tokio::test]
async fn a_session_stays_with_its_owner() {
    let (a, b) = (Node::new([]), Node::new([]));
    let gateway = Gateway::start(hasty(), &[("a", &a), ("b", &b)], 2).await;
    for slot in [0, 1, 3999] {
        assert_eq!(gateway.ask(&Request::older(&session(slot), PING)).await.status, 200);
    }
    assert_eq!((a.seen().len(), b.seen().len()), (3, 0));
    // Nobody owns this one.
    let response = gateway.ask(&Request::older(&session(4000), PING)).await;
    assert_eq!(response.verdict(), (503, Some(-32603), Some("1")));
    assert_eq!(response.at(&["error", "data"]), Some(r#"{"reason":"unavailable"}"#));
    assert_eq!((a.seen().len(), b.seen().len()), (3, 0));
}

#[tokio::test]
async fn the_next_node_takes_over_until_one_has_accepted() {
    for request in [list(), Request::post(INITIALIZE)] {
        let (a, b, c) = (Node::new([]), Node::new([]), Node::new([]));
        for node in [&a, &b, &c] {
            node.then(down());
        }
        let gateway = Gateway::start(Config::default(), &[("a", &a), ("b", &b), ("c", &c)], 3).await;
        let response = gateway.ask(&request).await;
        assert_eq!(response.status, 503);
        assert_eq!([&a, &b, &c].map(|node| node.seen().len()), [1, 1, 1]);
        // Up to the first frame, the key is the same, so that a node can tell.
        let keys = [&a, &b, &c].map(|node| node.delivered().unwrap().request_key);
        assert!(keys.iter().all(|key| *key == keys[0]));
        for act in
            [down(), Act::Refuse(Error::draining()), Act::Say(vec![]), Act::Say(vec![Err(Error::draining())])]
        {
            a.then(act);
            b.then(Act::Say(answered(200, "{\"by\":\"b\"}")));
            c.then(Act::Say(answered(200, "{\"by\":\"c\"}")));
            // Whoever begins, an answer comes.
            for _ in 0..3 {
                assert_eq!(gateway.ask(&request).await.status, 200);
            }
            for node in [&a, &b, &c] {
                assert!(!node.seen().is_empty());
                while node.delivered().is_some() {}
            }
        }
    }
}

#[tokio::test]
async fn a_session_has_no_second_node() {
    let (a, b) = (Node::new([down()]), Node::new([]));
    let gateway = Gateway::start(hasty(), &[("a", &a), ("b", &b)], 2).await;
    let response = gateway.ask(&Request::older(&session(1), PING)).await;
    assert_eq!(response.verdict(), (503, Some(-32603), Some("1")));
    let wait: u32 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait));
    assert!(!response.body.contains("10.0.0.1"), "{}", response.body);
    assert_eq!((a.seen().len(), b.seen().len()), (1, 0));
}

#[tokio::test]
async fn two_redirections_are_followed_and_no_third() {
    let nodes = [Node::new([not_owner("b")]), Node::new([not_owner("c")]), Node::new([]), Node::new([])];
    let [a, b, c, d] = &nodes;
    let gateway = Gateway::start(hasty(), &[("a", a), ("b", b), ("c", c), ("d", d)], 1).await;
    assert_eq!(gateway.ask(&Request::older(&session(1), PING)).await.status, 200);
    assert_eq!([a, b, c, d].map(|node| node.seen().len()), [1, 1, 1, 0]);

    a.then(not_owner("b"));
    b.then(not_owner("c"));
    c.then(not_owner("d"));
    let response = gateway.ask(&Request::older(&session(1), PING)).await;
    assert_eq!(response.verdict(), (503, Some(-32603), Some("1")));
    assert_eq!([a, b, c, d].map(|node| node.seen().len()), [2, 2, 2, 0]);

    for owner in ["", "nobody"] {
        a.then(not_owner(owner));
        assert_eq!(gateway.ask(&Request::older(&session(1), PING)).await.status, 503, "{owner}");
    }
    assert_eq!([a, b, c, d].map(|node| node.seen().len()), [4, 2, 2, 0]);
    // A redirection as the first frame is one, too.
    let Act::Refuse(error) = not_owner("d") else { unreachable!() };
    a.then(Act::Say(vec![Err(error)]));
    assert_eq!(gateway.ask(&Request::older(&session(1), PING)).await.status, 200);
    assert_eq!(d.seen().len(), 1);
}

#[tokio::test]
async fn refusals_before_acceptance_have_a_status_each() {
    let overloaded = Error::overloaded("mailbox of v1.secret is full", Duration::from_millis(4200));
    let table = [
        (overloaded, 429, Some(-32603), Some(r#"{"reason":"rate_limited"}"#), Some(5)),
        (
            Error::new(Code::Overloaded, "full"),
            429,
            Some(-32603),
            Some(r#"{"reason":"rate_limited"}"#),
            Some(1),
        ),
        (Error::draining(), 503, Some(-32603), Some(r#"{"reason":"draining"}"#), Some(1)),
        (Error::new(Code::Unavailable, "x"), 503, Some(-32603), Some(r#"{"reason":"unavailable"}"#), Some(1)),
        (Error::stale_epoch(9), 503, Some(-32603), Some(r#"{"reason":"unavailable"}"#), Some(1)),
        (Error::new(Code::Cancelled, "x"), 503, Some(-32603), Some(r#"{"reason":"unavailable"}"#), Some(1)),
        (Error::new(Code::Deadline, "x"), 503, Some(-32603), Some(r#"{"reason":"timeout"}"#), Some(1)),
        (
            Error::new(Code::OutcomeUnknown, "x"),
            200,
            Some(-32603),
            Some(r#"{"reason":"unavailable","outcome":"unknown"}"#),
            None,
        ),
        (Error::new(Code::InvalidRequest, "x"), 400, Some(-32600), None, None),
        (Error::new(Code::Unauthenticated, "x"), 401, Some(-32600), None, None),
        (Error::new(Code::Denied, "x"), 403, Some(-32600), None, None),
        (Error::new(Code::Unimplemented, "x"), 500, Some(-32603), None, None),
        (Error::new(Code::Internal, "secret of node a"), 500, Some(-32603), None, None),
    ];
    let node = Node::new([]);
    let gateway = Gateway::start(hasty(), &[("a", &node)], 1).await;
    for (error, status, code, data, after) in table {
        for act in [Act::Refuse(error.clone()), Act::Say(vec![Err(error.clone())])] {
            node.then(act);
            let response = gateway.ask(&Request::older(&session(1), PING)).await;
            assert_eq!(response.verdict(), (status, code, Some("1")), "{error:?}");
            if status == 500 {
                // The trace to look at, and nothing else.
                let told = response.at(&["error", "data"]).unwrap_or_default();
                assert!(told.starts_with("{\"traceId\":\"") && told.len() == 46, "{told}");
            } else {
                assert_eq!(response.at(&["error", "data"]), data, "{error:?}");
            }
            assert!(!response.body.contains("secret"), "{}", response.body);
            let wait = response.header("retry-after").map(|v| v.parse::<u32>().unwrap());
            assert_eq!(wait.is_some(), after.is_some(), "{error:?}");
            if let (Some(wait), Some(after)) = (wait, after) {
                assert!((after..after + 3).contains(&wait), "{error:?}: {wait}");
            }
        }
    }
}

#[tokio::test]
async fn a_nodes_own_refusal_and_answer_pass_as_they_are() {
    let body = "{\"jsonrpc\":\"2.0\",\n\"id\":1,\"x\":1.0}";
    let whole = Answer { retry_after_s: Some(9), ..answer(429, body) };
    let node = Node::new([
        Act::Say(vec![Ok(Frame::Refused(whole))]),
        Act::Say(answered(202, "")),
        Act::Say(answered(404, body)),
    ]);
    let gateway = Gateway::one(&node).await;
    let refused = gateway.ask(&list()).await;
    assert_eq!(
        (refused.status, refused.body.as_str(), refused.header("retry-after")),
        (429, body, Some("9"))
    );
    let noted = gateway.ask(&list()).await;
    assert_eq!((noted.status, noted.body.as_str(), noted.header("content-type")), (202, "", None));
    assert_eq!((gateway.ask(&list()).await.status, node.seen().len()), (404, 3));
}

#[tokio::test]
async fn what_was_accepted_is_never_sent_again() {
    let broken = || vec![accepted(), Err(Error::new(Code::Unavailable, "reset by 10.0.0.1"))];
    let late = || vec![accepted(), Err(Error::new(Code::Deadline, "x"))];
    let unknown = |reason: &str| format!(r#"{{"reason":"{reason}","outcome":"unknown"}}"#);
    for request in [
        list().replace("\"id\":7", "\"id\":\"q\""),
        Request::older(&session(1), &PING.replace("1}", "\"q\"}").replace(":1,", ":\"q\",")),
    ] {
        let (a, b) = (Node::new([]), Node::new([]));
        let gateway = Gateway::start(hasty(), &[("a", &a), ("b", &b)], 2).await;
        for (frames, reason) in [
            (broken(), "unavailable"),
            (vec![accepted()], "unavailable"),
            (late(), "timeout"),
            (vec![accepted(), accepted()], "unavailable"),
        ] {
            let before = a.seen().len() + b.seen().len();
            let again = frames.clone();
            a.then(Act::Say(frames));
            b.then(Act::Say(again));
            let response = gateway.ask(&request).await;
            assert_eq!(response.verdict(), (200, Some(-32603), Some("\"q\"")), "{}", response.body);
            assert_eq!(response.at(&["error", "data"]), Some(unknown(reason).as_str()));
            assert_eq!(response.header("retry-after"), None);
            assert_eq!(a.seen().len() + b.seen().len(), before + 1);
            // The other node's script is used up before the next round.
            gateway.ask(&request).await;
            while a.delivered().is_some() || b.delivered().is_some() {}
        }
    }
}

#[tokio::test]
async fn a_lost_message_without_an_id_and_a_lost_visit_may_be_sent_again() {
    let lost = || Act::Say(vec![accepted(), Err(Error::new(Code::Unavailable, "x"))]);
    let node = Node::new([lost(), lost(), lost(), lost()]);
    let gateway = Gateway::start(hasty(), &[("a", &node)], 1).await;
    for body in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    ] {
        let response = gateway.ask(&Request::older(&session(1), body)).await;
        assert_eq!(response.verdict(), (503, Some(-32603), None));
        assert!(response.header("retry-after").is_some());
    }
    for method in ["GET", "DELETE"] {
        let request =
            Request::new(method).with("Accept", "text/event-stream").with("Mcp-Session-Id", session(1));
        assert_eq!(gateway.ask(&request).await.verdict(), (503, Some(-32603), None));
    }
}

#[tokio::test]
async fn a_node_that_says_nothing_in_time_costs_a_503() {
    let node = Node::new([Act::Hang]);
    let config = Config { request_timeout_s: 1, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let response = gateway.ask(&list()).await;
    assert_eq!(response.verdict(), (503, Some(-32603), Some("7")));
    assert_eq!(response.at(&["error", "data"]), Some(r#"{"reason":"timeout"}"#));
    node.streams_open(0).await;
}

#[tokio::test]
async fn without_nodes_there_is_nobody_to_ask() {
    let gateway = Gateway::start(Config::default(), &[], 0).await;
    assert_eq!(soon(gateway.ask(&list())).await.verdict(), (503, Some(-32603), Some("7")));
}
