//! Session ids: what is not one of ours reaches nobody.

use api::session::{Attach, Close, Frame, Transport};
use api::{Code, Error, KeyRing, Principal, SessionId, Slot};

use crate::kit::{Act, Gateway, Node, Request, Seen, accepted, answered, refused, session};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[tokio::test]
async fn no_changed_bit_gets_through() {
    let good = session(77);
    let mut table = Vec::new();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            // What cannot stand in a header is cut off by the HTTP parser.
            if matches!(bytes[at], 0x21..=0x7e | 0x80..) {
                let request = Request::post(PING).with("Mcp-Session-Id", &bytes);
                table.push((format!("bit {bit} of byte {at}"), request, 404, Some(-32600), None));
            }
        }
    }
    let count = refused(table).await;
    assert!(count > 300, "{count}");
}

#[tokio::test]
async fn ids_of_other_keys_and_other_forms_get_nowhere() {
    let mint = |name: &str, key: [u8; 32]| {
        SessionId::mint(&KeyRing::single(name, key), Slot::new(77).unwrap(), [5; 16]).as_str().to_owned()
    };
    let good = session(77);
    let forged = [
        mint("k1", [9; 32]),
        mint("k2", *b"0123456789abcdef0123456789abcdef"),
        good.to_uppercase(),
        format!("{good}x"),
        format!("{good}."),
        format!("{good}, {good}"),
        good[..good.len() - 1].to_owned(),
        good.replacen("v1", "v2", 1),
        format!("..{good}"),
        "x".repeat(4096),
        "../../etc/passwd".into(),
    ];
    refused(forged.map(|id| (id.clone(), Request::older(&id, PING), 404, Some(-32600), None))).await;
}

#[tokio::test]
async fn a_slot_that_the_mesh_does_not_have_is_asked_of_nobody() {
    let table = [session(4096), session(16_383)]
        .map(|id| (id.clone(), Request::older(&id, PING), 404, Some(-32600), None));
    assert_eq!(refused(table).await, 2);
}

#[tokio::test]
async fn an_unknown_session_looks_like_a_forged_one() {
    let node = Node::new([
        Act::Refuse(Error::not_found("no session v1.secret on node a")),
        Act::Say(vec![Err(Error::new(Code::NotFound, "gone"))]),
    ]);
    let gateway = Gateway::one(&node).await;
    let unknown = gateway.ask(&Request::older(&session(3), PING)).await;
    let late = gateway.ask(&Request::older(&session(3), PING)).await;
    let forged = gateway.ask(&Request::older("v1.k1.003.x.y", PING)).await;
    for response in [&unknown, &late, &forged] {
        assert_eq!(response.verdict(), (404, Some(-32600), None));
        assert_eq!(response.at(&["error", "message"]), Some("\"Session not found\""));
        assert_eq!(response.body, forged.body);
        let names = |r: &crate::kit::Response| r.headers.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        assert_eq!(names(response), names(&forged));
    }
}

#[tokio::test]
async fn get_and_delete_name_the_session_and_nothing_else() {
    let node = Node::new([
        Act::Say(vec![accepted(), Ok(Frame::Open)]),
        Act::Say(vec![accepted(), Ok(Frame::Open)]),
        Act::Say(answered(204, "")),
    ]);
    let gateway = Gateway::one(&node).await;
    let id = session(7);
    let get = Request::new("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", &id);
    assert_eq!(gateway.ask(&get).await.status, 200);
    let resumed = get.with("Last-Event-ID", " 1.1-5.abcd ").with("MCP-Protocol-Version", "2025-11-25");
    assert_eq!(gateway.ask(&resumed).await.status, 200);
    let delete =
        Request::new("DELETE").with("Mcp-Session-Id", &id).with("MCP-Protocol-Version", "2025-06-18");
    let deleted = gateway.ask(&delete).await;
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    let principal = Principal::default;
    let attach = |revision: Option<&str>, last: Option<&str>| {
        Seen::Attached(Attach {
            session: id.clone(),
            revision: revision.map(str::to_owned),
            principal: principal(),
            last_event_id: last.map(str::to_owned),
            begin: false,
            carried: false,
        })
    };
    let revision = Some("2025-06-18".into());
    let close = Close {
        session: id.clone(),
        revision,
        principal: principal(),
        when_idle: false,
        transport: Transport::Streamable,
    };
    assert_eq!(
        node.seen(),
        [attach(None, None), attach(Some("2025-11-25"), Some("1.1-5.abcd")), Seen::Closed(close)]
    );
}
