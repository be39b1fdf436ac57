//! What a session node gets to see of a request, for every revision.

use api::Principal;
use api::session::{Delivery, Frame, Transport};
use bytes::Bytes;
use mcp::{Era, Json, Revision};

use crate::kit::{Act, Gateway, Node, Request, answer, session};

fn initialize(version: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{{"name":"c","version":"1"}}}}}}"#
    )
}

/// What is always the same, and a key that differs.
fn expected(body: &str, era: Era, key: &str) -> Delivery {
    Delivery {
        message: Json::trusted(body.to_owned()),
        read: None,
        era,
        session: None,
        revision: None,
        principal: Principal::default(),
        group: String::new(),
        param_headers: Vec::new(),
        request_key: key.to_owned(),
        transport: Transport::Streamable,
        again: None,
        in_batch: false,
    }
}

#[tokio::test]
async fn initialize_goes_to_a_node_and_brings_a_session_back() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let asked = Revision::ALL.map(Revision::as_str).into_iter().chain(["2099-01-01", ""]);
    for (number, version) in asked.enumerate() {
        let minted = session(u16::try_from(number).unwrap());
        node.then(Act::Say(vec![
            Ok(Frame::Accepted { session: Some(minted.clone()) }),
            Ok(Frame::Answer(answer(200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#))),
        ]));
        let body = initialize(version);
        // A session id on initialize is ignored, a version header of an older revision tolerated.
        let request = match number % 3 {
            0 => Request::post(body.as_str()),
            1 => Request::older(&session(9), &body),
            _ => Request::post(body.as_str()).with("MCP-Protocol-Version", "2025-11-25"),
        };
        let response = gateway.ask(&request).await;
        assert_eq!(response.status, 200, "{version}");
        assert_eq!(response.header("mcp-session-id"), Some(minted.as_str()), "{version}");
        assert_eq!(response.body, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        let delivery = node.delivered().unwrap();
        let mut expected = expected(&body, Era::Older, &delivery.request_key);
        expected.revision = (number % 3 == 2).then(|| "2025-11-25".to_owned());
        assert_eq!(delivery, expected, "{version}");
    }
}

#[tokio::test]
async fn messages_in_a_session_carry_it_and_their_version() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let id = session(17);
    let older = [None, Some("2024-11-05"), Some("2025-03-26"), Some("2025-06-18"), Some("2025-11-25")];
    for version in older {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
            r#"{"jsonrpc":"2.0","id":"x","method":"no/such","params":{"n":1.0,"n":1e400}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":4,"result":{"action":"accept"}}"#,
            "{\"jsonrpc\":\"2.0\",\n\"id\":4, \"error\":{\"code\":-1,\"message\":\"no\"}}",
        ] {
            let mut request = Request::older(&id, body);
            if let Some(version) = version {
                request = request.with("mcp-protocol-version", format!(" {version}\t"));
            }
            assert_eq!(gateway.ask(&request).await.status, 200);
            let delivery = node.delivered().unwrap();
            let mut expected = expected(body, Era::Older, &delivery.request_key);
            expected.session = Some(id.clone());
            expected.revision = version.map(str::to_owned);
            assert_eq!(delivery, expected);
        }
    }
}

#[tokio::test]
async fn modern_requests_belong_to_no_session_and_keep_their_param_headers() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let request = Request::modern("tools/call", r#""name":"echo","arguments":{"a":1},"#)
        .with("Mcp-Name", "echo")
        .with("Mcp-Session-Id", session(3))
        .with("Last-Event-ID", "1.1-1.0")
        .with("Mcp-Param-Region", "eu")
        .with("MCP-PARAM-REGION", "=?base64?ZXU=?=")
        .with("mcp-param-raw", b"\xff\xfe")
        .with("Mcp-Parameter", "no");
    let response = gateway.ask(&request).await;
    assert_eq!((response.status, response.header("mcp-session-id")), (200, None));
    let delivery = node.delivered().unwrap();
    let mut params = delivery.param_headers.clone();
    params.sort();
    let own = |name: &str, value: &'static [u8]| (name.to_owned(), Bytes::from_static(value));
    assert_eq!(
        params,
        [
            own("mcp-param-raw", b"\xff\xfe"),
            own("mcp-param-region", b"=?base64?ZXU=?="),
            own("mcp-param-region", b"eu"),
        ]
    );
    assert_eq!(
        (delivery.era, delivery.session, delivery.revision.as_deref()),
        (Era::Modern, None, Some("2026-07-28"))
    );
}

#[tokio::test]
async fn a_modern_answer_hands_out_no_session() {
    let node = Node::new([Act::Say(vec![
        Ok(Frame::Accepted { session: Some(session(1)) }),
        Ok(Frame::Answer(answer(200, "{}"))),
    ])]);
    let gateway = Gateway::one(&node).await;
    let response = gateway.ask(&Request::modern("tools/list", "")).await;
    assert_eq!((response.status, response.header("mcp-session-id")), (200, None));
}

#[tokio::test]
async fn every_request_has_a_key_of_its_own() {
    let node = Node::new([]);
    let (one, two) = (Gateway::one(&node).await, Gateway::one(&node).await);
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..20 {
        for gateway in [&one, &two] {
            gateway.ask(&Request::modern("tools/list", "")).await;
            keys.insert(node.delivered().unwrap().request_key);
        }
    }
    assert_eq!(keys.len(), 40);
}
