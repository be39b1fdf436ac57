//! Cancelling, deadlines, and refusals.

use std::time::Duration;

use mcp::{Json, Revision};
use upstream::{Ask, Error, Speak};

use crate::kit::{DISCOVERED, Ear, Say, Server, ask, call, event, initialized};

const OLDER: Speak = Speak::Older(Revision::V2025_11_25);

#[tokio::test]
async fn an_older_server_is_told_of_a_cancellation() {
    let progress = event(
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":100,"progress":1}}"#,
    );
    let stream = Say::events(&progress).hold();
    let server = Server::start(vec![initialized(), Say::accepted(), stream, Say::accepted()]).await;
    let client = server.connect(OLDER).await.unwrap();
    let ear = Ear::default();
    let heard = async {
        while ear.heard().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(client.ask(&call(), &ear, heard).await, Err(Error::Cancelled));
    let told = server.last();
    assert_eq!(told.member("method").as_deref(), Some("\"notifications/cancelled\""));
    assert_eq!(told.member("params/requestId").as_deref(), Some("100"));
    assert_eq!(told.header("mcp-session-id"), Some("s1"));
}

#[tokio::test]
async fn a_modern_server_hears_it_by_the_end_of_the_stream() {
    let server = Server::start(vec![Say::json(DISCOVERED), Say::events(": hello\n\n").hold()]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    let started = async {
        while server.seen().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(client.ask(&call(), &Ear::default(), started).await, Err(Error::Cancelled));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_deadline_ends_what_goes_on_and_on() {
    let tick = event(
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":100,"progress":1}}"#,
    );
    let server = Server::start(vec![Say::json(DISCOVERED), Say::events(&tick.repeat(100)).hold()]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    let ask = Ask { deadline: Duration::from_millis(200), ..call() };
    let ear = Ear::default();
    assert_eq!(client.ask(&ask, &ear, std::future::pending()).await, Err(Error::Timeout));
    assert_eq!(ear.heard().len(), 100);
}

#[tokio::test]
async fn refusals_keep_what_was_said() {
    let body =
        r#"{"jsonrpc":"2.0","id":100,"error":{"code":-32602,"message":"unknown tool","data":{"a":1}}}"#;
    for (say, status) in
        [(Say::json(body), 200), (Say::error("400 Bad Request", body), 400), (Say::events(&event(body)), 200)]
    {
        let server = Server::start(vec![Say::json(DISCOVERED), say]).await;
        let client = server.connect(Speak::Auto).await.unwrap();
        let error = ask(&client, &Ear::default()).await.unwrap_err();
        let refusal = error.refusal().unwrap();
        assert_eq!((refusal.status, error.code()), (status, Some(-32602)));
        assert_eq!(refusal.error.as_ref().unwrap().data, Some(Json::trusted(r#"{"a":1}"#)));
    }
    let server =
        Server::start(vec![Say::json(DISCOVERED), Say::status("502 Bad Gateway").body("<h1>proxy</h1>")])
            .await;
    let client = server.connect(Speak::Auto).await.unwrap();
    let error = ask(&client, &Ear::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "HTTP status 502: <h1>proxy</h1>");
}

#[tokio::test]
async fn a_server_that_is_not_there_was_not_asked() {
    let server = Server::start(Vec::new()).await;
    let url = server.url.clone();
    drop(server);
    let options = upstream::Options::new(url.parse().unwrap(), "t", "1");
    let host = std::sync::Arc::new(crate::kit::Tasks::default());
    let error = upstream::Client::connect(&options, host).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
}
