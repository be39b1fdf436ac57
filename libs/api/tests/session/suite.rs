//! What holds whichever way the node is reached.

use std::sync::atomic::Ordering;
use std::time::Duration;

use api::session::{Again, Answer, Attach, Close, Delivery, Frame, Frames, Request, Transport};
use api::{Code, Detail, Error, Principal};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use mcp::{Era, Json};

use crate::node::{DELUGE, FLOOD, accepted, answer, event};
use crate::ways::Way;

pub(crate) fn delivery(message: impl Into<String>) -> Delivery {
    Delivery {
        message: Json::trusted(message.into()),
        read: None,
        era: Era::Modern,
        session: None,
        revision: None,
        principal: Principal::default(),
        group: String::new(),
        param_headers: Vec::new(),
        request_key: String::new(),
        transport: Transport::Streamable,
        again: None,
        in_batch: false,
    }
}

pub(crate) fn method(name: &str) -> Delivery {
    delivery(format!("{{\"method\":\"{name}\"}}"))
}

pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.unwrap()
}

async fn all(frames: Frames) -> Vec<Result<Frame, Error>> {
    soon(frames.collect()).await
}

pub(crate) async fn an_answer_comes_as_it_was_given(way: Way) {
    let text = r#"{"method":"echo",  "x":1.0e1}"#;
    let frames = way.host.deliver(delivery(text)).await.unwrap();
    assert_eq!(all(frames).await, [Ok(accepted()), Ok(answer(text))]);
    way.node.open_is(0).await;
}

pub(crate) async fn every_field_of_a_request_arrives(way: Way) {
    let full = Delivery {
        era: Era::Older,
        session: Some("v1.k1.5.abc".into()),
        revision: Some("2025-06-18".into()),
        principal: Principal {
            subject: "ann".into(),
            issuer: "iss".into(),
            tenant: "t".into(),
            client: "c".into(),
        },
        group: "g".into(),
        param_headers: vec![("mcp-param-a".into(), Bytes::from_static(b"\xff"))],
        request_key: "key".into(),
        transport: Transport::HttpSse,
        again: Some(Again { accepted: true, last_event_id: Some("1.2-3.ff".into()) }),
        in_batch: true,
        ..method("describe")
    };
    drop(all(way.host.deliver(full.clone()).await.unwrap()).await);
    assert_eq!(*way.node.heard.borrow(), [format!("{full:?}")]);
}

pub(crate) async fn a_refusal_is_a_frame_and_not_an_error(way: Way) {
    let frames = way.host.deliver(method("refuse")).await.unwrap();
    let refused = Answer { retry_after_s: Some(3), ..Answer::new(429, None) };
    assert_eq!(all(frames).await, [Ok(Frame::Refused(refused))]);
}

pub(crate) async fn an_error_instead_of_frames_keeps_its_detail(way: Way) {
    let error = way.host.deliver(method("fail")).await.err().unwrap();
    let detail = Detail::NotOwner { owner: "other:1".into(), epoch: 9 };
    assert_eq!(error, Error::new(Code::Precondition, "not here").with(detail));
}

pub(crate) async fn events_come_in_order_and_then_the_end(way: Way) {
    let frames = all(way.host.deliver(method("events")).await.unwrap()).await;
    let events = (0..500).map(|i| Ok(event(Some(&format!("e{i}")), format!("{{\"n\":{i}}}"))));
    let expected: Vec<_> = [Ok(accepted()), Ok(Frame::Open)].into_iter().chain(events).collect();
    assert_eq!(frames, expected);
}

pub(crate) async fn an_error_among_frames_comes_behind_them(way: Way) {
    let frames = all(way.host.deliver(method("break")).await.unwrap()).await;
    assert_eq!(frames, [Ok(accepted()), Ok(Frame::Open), Err(Error::draining())]);
}

pub(crate) async fn letting_go_of_frames_reaches_the_node(way: Way) {
    let mut frames = way.host.deliver(method("hold")).await.unwrap();
    assert_eq!(soon(frames.next()).await, Some(Ok(accepted())));
    way.node.open_is(1).await;
    drop(frames);
    way.node.open_is(0).await;
}

pub(crate) async fn giving_up_before_the_first_frame_reaches_the_node(way: Way) {
    let waiting = way.host.deliver(method("never"));
    tokio::select! {
        _ = waiting => panic!("it never answers"),
        () = way.node.open_is(1) => {}
    }
    way.node.open_is(0).await;
}

pub(crate) async fn large_requests_and_frames_pass_unchanged(way: Way) {
    for size in [1, 60 << 10, 64 << 10, 65 << 10, 300 << 10, 4 << 20] {
        let text = format!("{{\"method\":\"echo\",\"x\":\"{}\"}}", "y".repeat(size));
        let frames = all(way.host.deliver(delivery(text.clone())).await.unwrap()).await;
        assert!(frames == [Ok(accepted()), Ok(answer(text))], "{size}");
    }
}

pub(crate) async fn a_reader_who_stalls_stops_nobody_else_and_fills_nothing(way: Way) {
    stalls(way, "flood", FLOOD).await;
}

pub(crate) async fn a_reader_who_stalls_before_large_frames_fills_nothing(way: Way) {
    stalls(way, "deluge", DELUGE).await;
}

async fn stalls(way: Way, what: &str, size: usize) {
    let mut stalled = way.host.deliver(method(what)).await.unwrap();
    assert_eq!(soon(stalled.next()).await, Some(Ok(accepted())));
    for _ in 0..50 {
        let frames = all(way.host.deliver(method("echo")).await.unwrap()).await;
        assert_eq!(frames.len(), 2);
    }
    let taken = way.node.taken.load(Ordering::Relaxed);
    assert!(taken * size < 2 << 20, "{taken} frames were made for somebody who reads none");
    // It goes on where it was, for longer than any window.
    assert_eq!(soon(stalled.next()).await, Some(Ok(Frame::Open)));
    for _ in 0..100 {
        let Some(Ok(Frame::Event(event))) = soon(stalled.next()).await else { panic!("an event") };
        assert_eq!(event.message.unwrap().as_str().len(), size + 2);
    }
    drop(stalled);
    way.node.open_is(0).await;
}

pub(crate) async fn many_calls_at_a_time_get_their_own_answers(way: Way) {
    let calls = (0..300).map(|i| {
        let host = way.host.clone();
        async move {
            let text = format!("{{\"method\":\"echo\",\"i\":{i}}}");
            let frames = all(host.deliver(delivery(text.clone())).await.unwrap()).await;
            assert_eq!(frames, [Ok(accepted()), Ok(answer(text))]);
        }
    });
    soon(join_all(calls)).await;
    way.node.open_is(0).await;
}

pub(crate) async fn attaching_and_closing_are_calls_like_any_other(way: Way) {
    let principal = Principal { subject: "ann".into(), ..Principal::default() };
    let attach = Attach {
        session: "s".into(),
        revision: Some("2025-11-25".into()),
        principal: principal.clone(),
        last_event_id: Some("1.1-2.x".into()),
        begin: true,
        carried: false,
    };
    let frames = all(way.host.attach(attach.clone()).await.unwrap()).await;
    assert_eq!(frames, [Ok(accepted()), Ok(Frame::Open)]);
    let close = Close {
        session: "s".into(),
        revision: None,
        principal,
        when_idle: true,
        transport: Transport::Streamable,
    };
    let frames = all(way.host.close(close.clone()).await.unwrap()).await;
    assert_eq!(frames, [Ok(accepted()), Ok(answer("{}"))]);
    assert_eq!(*way.node.heard.borrow(), [format!("{attach:?}"), format!("{close:?}")]);
}

pub(crate) async fn what_is_passed_on_arrives_whole(way: Way) {
    let principal = Principal::default();
    let attach = Attach {
        session: "s".into(),
        revision: None,
        principal: principal.clone(),
        last_event_id: None,
        begin: false,
        carried: false,
    };
    let close = Close {
        session: "s".into(),
        revision: None,
        principal,
        when_idle: false,
        transport: Transport::Streamable,
    };
    let delivery = Delivery { session: Some("s".into()), ..method("describe") };
    for request in [
        Request::Deliver(Box::new(delivery.clone())),
        Request::Attach(attach.clone()),
        Request::Close(close.clone()),
    ] {
        assert_eq!(all(way.host.relay("b:1", request).await.unwrap()).await.len(), 2);
    }
    let told = [format!("{delivery:?}"), format!("{attach:?}"), format!("{close:?}")];
    let told: Vec<_> = told.into_iter().flat_map(|one| ["to b:1".to_owned(), one]).collect();
    assert_eq!(*way.node.heard.borrow(), told);
    let error = way.host.relay("b:1", Request::Deliver(Box::new(method("fail")))).await.err().unwrap();
    assert!(matches!(error.detail, Some(Detail::NotOwner { .. })), "{error:?}");
}

pub(crate) async fn who_is_there_says_so_and_knows_who_else_is(way: Way) {
    way.host.probe(None).await.unwrap();
    way.host.probe(Some("b:1")).await.unwrap();
    let error = way.host.probe(Some("gone:1")).await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable, "{error:?}");
    assert_eq!(*way.node.heard.borrow(), ["None", r#"Some("b:1")"#, r#"Some("gone:1")"#]);
}
