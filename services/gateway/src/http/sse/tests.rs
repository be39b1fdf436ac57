use futures::{StreamExt as _, stream};
use mcp::Json;
use tokio::time::sleep;

use super::*;

fn event(id: Option<&str>, retry_ms: Option<u32>, message: Option<&'static str>) -> Event {
    Event { id: id.map(str::to_owned), message: message.map(Json::trusted), retry_ms }
}

#[test]
fn an_event_is_lines_with_data_on_one() {
    let table = [
        (event(None, None, Some("{\"a\":1}")), "data: {\"a\":1}\n\n"),
        (event(Some("1.1-2.abcd"), Some(500), Some("{}")), "id: 1.1-2.abcd\nretry: 500\ndata: {}\n\n"),
        (event(Some("1.1-0.abcd"), Some(500), None), "id: 1.1-0.abcd\nretry: 500\ndata: \n\n"),
        (event(None, Some(500), None), "retry: 500\n\n"),
        (event(None, None, Some("{\n\r\n \"a\\n\" :\r1}")), "data: {    \"a\\n\" : 1}\n\n"),
        (event(Some("x\ndata: evil"), None, Some("{}")), "data: {}\n\n"),
    ];
    for (event, text) in table {
        assert_eq!(encode(&event, false), text);
    }
    let named = encode(&event(None, None, Some("{}")), true);
    assert_eq!(named, "event: message\ndata: {}\n\n");
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_comments_and_events_pass_at_once() {
    let slow = stream::iter([40, 10]).then(|pause| async move {
        sleep(Duration::from_secs(pause)).await;
        Ok(Frame::Event(event(None, None, Some("{}"))))
    });
    let mut body = Stream::new(&Stalls::new(), slow.boxed(), Duration::from_secs(15), None, None);
    let start = Instant::now();
    let mut seen = Vec::new();
    while let Some(Ok(part)) = body.next().await {
        seen.push((start.elapsed().as_secs(), part));
    }
    let (comment, data) = (COMMENT, Bytes::from_static(b"data: {}\n\n"));
    let silence = [(0, comment.clone()), (15, comment.clone()), (30, comment)];
    let expected = [&silence[..], &[(40, data.clone()), (50, data)]].concat();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn an_answer_that_is_lost_with_its_node_is_said_to_be_unknown_once() {
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
    let result = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    let unknown = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"the outcome of this request is not known","data":{"reason":"unavailable","outcome":"unknown"}}}"#;
    let id = Id::read(&Json::trusted("7"));
    let table = [
        (vec![], id.clone(), vec![unknown]),
        (vec![progress], id.clone(), vec![progress, unknown]),
        (vec![progress, result], id, vec![progress, result]),
        // A stream of a session, which answers nothing.
        (vec![progress], None, vec![progress]),
    ];
    for (messages, owed, expected) in table {
        let events = messages.into_iter().map(|text| Ok(Frame::Event(event(None, None, Some(text)))));
        let lost = api::Error::new(Code::Unavailable, "node lost");
        let frames = stream::iter(events.chain([Err(lost)]).collect::<Vec<_>>());
        let body =
            Stream::new(&Stalls::new(), frames.boxed(), Duration::from_secs(15), None, None).owing(owed);
        let parts: Vec<_> = body.map(Result::unwrap).skip(1).collect().await;
        let expected: Vec<_> = expected.into_iter().map(|text| format!("data: {text}\n\n")).collect();
        assert_eq!(parts, expected);
    }
}

#[tokio::test]
async fn a_stream_that_waits_for_news_ends_when_the_gateway_drains() {
    let (trigger, shutdown) = chassis::drain::pair();
    let mut body =
        Stream::new(&Stalls::new(), stream::pending().boxed(), Duration::from_secs(15), Some(shutdown), None);
    assert_eq!(body.next().await, Some(Ok(COMMENT)));
    trigger.drain();
    let farewell = body.next().await.unwrap().unwrap();
    let text = std::str::from_utf8(&farewell).unwrap();
    let wait: u32 =
        text.strip_prefix("retry: ").and_then(|t| t.strip_suffix("\n\n")).unwrap().parse().unwrap();
    assert!((1000..=5000).contains(&wait));
    assert_eq!(body.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_moves_elsewhere_if_its_client_expects_that() {
    let progress = || Ok(Frame::Event(event(Some("1.1-2.aa"), None, Some("{\"method\":\"x\"}"))));
    let priming = || Ok(Frame::Event(event(Some("1.1-1.aa"), Some(500), None)));
    for (frames, moves) in [(vec![priming(), progress()], true), (vec![progress()], false)] {
        let (trigger, shutdown) = chassis::drain::pair();
        let count = frames.len();
        let frames = stream::iter(frames).chain(stream::pending()).boxed();
        let id = Id::read(&Json::trusted("7"));
        let body = Stream::new(&Stalls::new(), frames, Duration::from_secs(900), None, None);
        let mut body = body.owing(id).moving(Some(shutdown));
        for _ in 0..=count {
            assert!(body.next().await.is_some());
        }
        trigger.drain();
        let start = Instant::now();
        let farewell = body.next().await.unwrap().unwrap();
        if moves {
            assert_eq!(start.elapsed(), LINGER);
            assert!(farewell.starts_with(b"retry: "), "{farewell:?}");
            assert_eq!(body.next().await, None);
        } else {
            // It is waited for: the client may not come back.
            assert_eq!((start.elapsed().as_secs(), farewell), (900, COMMENT));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_old_asks_its_client_to_come_back() {
    let events = stream::iter(0..).then(|_| async {
        sleep(Duration::from_secs(40)).await;
        Ok(Frame::Event(event(None, None, Some("{}"))))
    });
    for (frames, said) in [(stream::pending().boxed(), 1 + 6), (events.boxed(), 1 + 2 + 5)] {
        let start = Instant::now();
        let body = Stream::new(&Stalls::new(), frames, Duration::from_secs(15), None, None)
            .until(Some(start + Duration::from_secs(100)));
        let parts: Vec<_> = body.map(Result::unwrap).collect().await;
        assert_eq!(start.elapsed().as_secs(), 100);
        assert_eq!(parts.len(), said + 1, "{parts:?}");
        assert!(parts[said].starts_with(b"retry: "), "{parts:?}");
    }
}

#[tokio::test]
async fn a_large_event_is_handed_out_in_pieces() {
    let text: &'static str = format!("\"{}\"", "x".repeat(100 << 10)).leak();
    let frames = stream::iter([Ok(Frame::Event(event(None, None, Some(text))))]);
    let body = Stream::new(&Stalls::new(), frames.boxed(), Duration::from_secs(15), None, None);
    let parts: Vec<_> = body.map(Result::unwrap).skip(1).collect().await;
    assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>()[..3], [PIECE, PIECE, PIECE]);
    assert_eq!(parts.concat(), format!("data: {text}\n\n").into_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_is_let_go() {
    let stalls = Stalls::new();
    let gauge = crate::limits::Limits::new(&crate::Config { max_requests: 1, ..Default::default() });
    let frames = stream::iter([Ok(Frame::Event(event(None, None, Some("{}"))))]).chain(stream::pending());
    let mut body =
        Stream::new(&stalls, frames.boxed(), Duration::from_secs(900), None, None).holding(gauge.request());
    assert!(gauge.request().is_none());
    let watch = stalls.watch(Duration::from_secs(20));
    tokio::pin!(watch);
    let mut pass = async |seconds| {
        let _still_watching =
            tokio::time::timeout(Duration::from_secs(seconds), watch.as_mut()).await.is_err();
    };
    // It waits for news: that may take as long as it likes.
    assert!(body.next().await.is_some() && body.next().await.is_some());
    assert!(futures::poll!(body.next()).is_pending());
    pass(300).await;
    assert!(gauge.request().is_none(), "still open");
    drop(body);
    assert!(gauge.request().is_some());
    // It handed something out that nobody takes.
    let frames = stream::iter([Ok(Frame::Event(event(None, None, Some("{}"))))]).chain(stream::pending());
    let mut body =
        Stream::new(&stalls, frames.boxed(), Duration::from_secs(900), None, None).holding(gauge.request());
    assert!(body.next().await.is_some());
    pass(19).await;
    assert!(gauge.request().is_none());
    pass(7).await;
    assert!(gauge.request().is_some(), "let go");
    assert_eq!(body.next().await, None);
}
