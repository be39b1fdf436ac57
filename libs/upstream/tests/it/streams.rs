//! Streams: how they are cut, and how they go on.

use mcp::Revision;
use upstream::{Error, Speak};

use crate::kit::{DISCOVERED, Ear, Say, Server, ask, event, initialized, result};

const OLDER: Speak = Speak::Older(Revision::V2025_11_25);

async fn modern(stream: Say) -> (Result<String, Error>, Vec<String>) {
    let server = Server::start(vec![Say::json(DISCOVERED), stream]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    let ear = Ear::default();
    (ask(&client, &ear).await, ear.heard())
}

#[tokio::test]
async fn every_form_of_a_stream_is_read() {
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":100,"progress":0.5}}"#;
    let answer = result(100, r#"{"text":"größer €"}"#);
    for end in ["\n", "\r", "\r\n"] {
        let text = format!(
            "\u{feff}: hi{end}{end}data: {progress}{end}{end}event: message{end}data: {answer}{end}{end}"
        );
        for size in [1, 7, 4096] {
            let stream = Say::events("").chunks(text.as_bytes().chunks(size));
            let (answered, heard) = modern(stream).await;
            assert_eq!(answered.as_deref(), Ok(r#"{"text":"größer €"}"#), "{end:?} {size}");
            assert_eq!(heard, ["progress 0.5"]);
        }
    }
}

#[tokio::test]
async fn only_its_own_progress_is_heard() {
    let other = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"100","progress":1}}"#;
    let strange = r#"{"jsonrpc":"2.0","method":"notifications/strange"}"#;
    let named = "event: ping\ndata: not for us\n\n";
    let stream = [&event(other), &event(strange), named, &event(&result(100, "{}"))].concat();
    let (answered, heard) = modern(Say::events(&stream)).await;
    assert_eq!((answered.as_deref(), heard), (Ok("{}"), vec!["notifications/strange".to_owned()]));
}

#[tokio::test]
async fn an_older_stream_goes_on_where_it_was_cut() {
    let first = "id: e1\ndata:\n\nretry: 1\nid: e2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}\n\ndata: {\"half";
    let rest = event(&result(100, "{\"ok\":true}"));
    let server = Server::start(vec![
        initialized(),
        Say::accepted(),
        Say::events(first),
        Say::events("id: e3\ndata:\n\n"),
        Say::events(&rest),
    ])
    .await;
    let client = server.connect(OLDER).await.unwrap();
    let ear = Ear::default();
    assert_eq!(ask(&client, &ear).await.as_deref(), Ok("{\"ok\":true}"));
    assert_eq!(ear.heard(), ["log 1"]);
    let seen = server.seen();
    let resumed: Vec<_> =
        seen[3..].iter().map(|seen| (seen.verb.as_str(), seen.header("last-event-id"))).collect();
    assert_eq!(resumed, [("GET", Some("e2")), ("GET", Some("e3"))]);
    assert_eq!(server.last().header("accept"), Some("text/event-stream"));
}

#[tokio::test]
async fn a_stream_that_cannot_go_on_is_lost() {
    let (answered, _) = modern(Say::events("id: e1\ndata:\n\n")).await;
    assert!(matches!(answered, Err(Error::Lost(_))), "a modern stream is its request");

    let server = Server::start(vec![initialized(), Say::accepted(), Say::events(": no id\n\n")]).await;
    let client = server.connect(OLDER).await.unwrap();
    assert!(matches!(ask(&client, &Ear::default()).await, Err(Error::Lost(_))));
    assert_eq!(server.last().verb, "POST");

    let cut = || Say::events("id: e1\nretry: 1\ndata:\n\n");
    let refused = Say::status("405 Method Not Allowed");
    let server = Server::start(vec![initialized(), Say::accepted(), cut(), refused]).await;
    let client = server.connect(OLDER).await.unwrap();
    assert!(matches!(ask(&client, &Ear::default()).await, Err(Error::Lost(_))));
    server.last();

    let empty = || Say::events(": nothing new\n\n");
    let server = Server::start(vec![initialized(), Say::accepted(), cut(), empty(), empty()]).await;
    let client = server.connect_with(OLDER, |options| options.limits.resumes = 2).await.unwrap();
    assert!(matches!(ask(&client, &Ear::default()).await, Err(Error::Lost(_))), "it is not asked for ever");
    server.last();
}

#[tokio::test]
async fn silence_is_the_end_of_a_stream() {
    let stream = Say::events(": hello\n\n").hold();
    let server = Server::start(vec![Say::json(DISCOVERED), stream]).await;
    let idle = std::time::Duration::from_millis(100);
    let client = server.connect_with(Speak::Auto, |options| options.limits.idle = idle).await.unwrap();
    assert_eq!(ask(&client, &Ear::default()).await, Err(Error::Lost("silence".to_owned())));
}
