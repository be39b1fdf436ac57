//! The stream of a session of HTTP+SSE goes on from owner to owner behind its client's open response.

use api::session::{Attach, Close, Event, Frame, Transport};

use crate::following::{
    Change, Frames, PROGRESS, RESULT, SECOND, broken, ids, losses, open, same, undisturbed, whole,
};
use crate::kit::{Act, Gateway, Node, Request, Seen, accepted, event, session, soon};

/// A client that begins a session of HTTP+SSE.
fn begin() -> Request {
    Request::new("GET").at("/sse").with("Accept", "text/event-stream")
}

/// All that is said in such a session, if ids are given in it.
fn carried() -> Frames {
    let place = Ok(Frame::Event(Event { id: Some("0.1-0.aa".into()), message: None, retry_ms: None }));
    vec![
        Ok(Frame::Accepted { session: Some(session(1)) }),
        open(),
        place,
        event(Some("0.1-1.aa"), RESULT),
        event(Some("0.1-2.aa"), PROGRESS),
        event(Some("0.1-3.aa"), SECOND),
    ]
}

#[tokio::test]
async fn a_session_of_http_sse_goes_on_with_the_next_owner() {
    let frames = carried();
    let expected = undisturbed(&begin(), &frames).await;
    let message = |text| format!("event: message\ndata: {text}\n\n");
    let said = [RESULT, PROGRESS, SECOND].map(message).concat();
    assert!(expected.body.ends_with(&said), "no ids are shown: {}", expected.body);
    for at in 3..=frames.len() {
        for loss in losses() {
            let case = format!("lost after {at} frames: {loss:?}");
            let first = frames.iter().take(at).cloned().chain([Err(loss.clone())]).collect();
            let next = [accepted(), open()].into_iter().chain(frames.iter().skip(at).cloned()).collect();
            let change = Change::new(Act::Say(first), next).await;
            same(&change.gateway.ask(&begin()).await, &expected, &case);
            let [a, b] = change.nodes.each_ref().map(|node| node.seen());
            let attach = |session: String, last: Option<String>, begin| {
                let (revision, principal) = (None, api::Principal::default());
                Attach { session, revision, principal, last_event_id: last, begin, carried: true }
            };
            assert_eq!(a[0], Seen::Attached(attach(String::new(), None, true)), "{case}");
            let again = Seen::Attached(attach(session(1), ids(&frames[..at]), false));
            assert_eq!(b.first(), Some(&again), "{case}");
        }
    }
}

#[tokio::test]
async fn a_session_of_http_sse_without_ids_ends_with_its_owner() {
    let begun = || Ok(Frame::Accepted { session: Some(session(1)) });
    let frames = vec![begun(), open(), event(None, RESULT), Err(broken())];
    let change = Change::new(Act::Say(frames), Vec::new()).await;
    let response = change.gateway.ask(&begin()).await;
    assert!(response.body.ends_with(&format!("event: message\ndata: {RESULT}\n\n")), "{}", response.body);
    let again = |seen: &Seen| matches!(seen, Seen::Attached(_));
    assert!(!change.nodes[1].seen().iter().any(again), "the next owner could not go on with it");
}

#[tokio::test]
async fn a_client_of_http_sse_that_goes_ends_its_session() {
    let node = Node::new([Act::SayAndStay(carried()), Act::Say(vec![accepted(), whole(200, "")])]);
    let gateway = Gateway::one(&node).await;
    let mut connection = gateway.send(&begin()).await;
    connection.until("event: endpoint").await;
    node.streams_open(1).await;
    drop(connection);
    node.streams_open(0).await;
    let close = Close {
        session: session(1),
        revision: None,
        principal: api::Principal::default(),
        when_idle: false,
        transport: Transport::HttpSse,
    };
    let told = async {
        while !node.seen().contains(&Seen::Closed(close.clone())) {
            tokio::task::yield_now().await;
        }
    };
    soon(told).await;
}
