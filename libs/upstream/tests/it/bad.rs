//! Servers that do not keep the protocol: the client says so, in bounded time and memory.

use mcp::Revision;
use upstream::{Error, Speak};

use crate::kit::{DISCOVERED, Ear, Say, Server, ask, event, initialized, result};

async fn answered(say: Say) -> Result<String, Error> {
    let server = Server::start(vec![Say::json(DISCOVERED), say]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    ask(&client, &Ear::default()).await
}

#[tokio::test]
async fn answers_to_nothing_that_was_asked() {
    for body in [
        result(99, "{}"),
        result(100, "{}").replace("100", "\"100\""),
        result(100, "{}").replace("100", "100.0"),
        "{\"jsonrpc\":\"2.0\",\"id\":100}".to_owned(),
        "{\"jsonrpc\":\"2.0\",\"id\":100,\"id\":100,\"result\":{}}".to_owned(),
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}".to_owned(),
        format!("[{}]", result(100, "{}")),
        "hello".to_owned(),
        String::new(),
    ] {
        let as_json = answered(Say::json(&body)).await;
        assert!(matches!(as_json, Err(Error::Protocol(_))), "{body}: {as_json:?}");
        if !body.is_empty() && !body.contains("method") {
            let as_event = answered(Say::events(&event(&body))).await;
            assert!(matches!(as_event, Err(Error::Protocol(_))), "{body}: {as_event:?}");
        }
    }
}

#[tokio::test]
async fn of_two_answers_the_first_counts() {
    let stream = [event(&result(100, "{\"n\":1}")), event(&result(100, "{\"n\":2}"))].concat();
    assert_eq!(answered(Say::events(&stream).hold()).await.as_deref(), Ok("{\"n\":1}"));
}

#[tokio::test]
async fn a_modern_server_may_not_ask_by_a_request() {
    let asks = event("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"elicitation/create\",\"params\":{}}");
    assert!(matches!(answered(Say::events(&asks).hold()).await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn unknown_results_and_media_are_refused() {
    let task = Say::json(&result(100, "{\"resultType\":\"task\"}"));
    assert!(matches!(answered(task).await, Err(Error::Protocol(_))));
    let nothing = Say::json(&result(100, "{\"resultType\":\"input_required\"}"));
    assert!(matches!(answered(nothing).await, Err(Error::Protocol(_))));
    let page = Say::status("200 OK").header("content-type: text/html").body("<html>");
    assert!(matches!(answered(page).await, Err(Error::Protocol(_))));
    assert!(matches!(answered(Say::accepted()).await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start(vec![Say::json(DISCOVERED)]).await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let say = Say::status(status).header(&format!("location: {}", elsewhere.url));
        let server = Server::start(vec![say]).await;
        let error = server.connect(Speak::Auto).await.unwrap_err();
        assert!(matches!(&error, Error::Redirect { location, .. } if *location == elsewhere.url), "{error}");
    }
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn what_is_too_long_is_not_taken() {
    let giant = vec![b'x'; 1 << 16];
    let endless_line = Say::events("").chunks(std::iter::repeat_n(&giant, 64)).hold();
    assert!(matches!(answered(endless_line).await, Err(Error::TooLarge(_))));
    let line = format!("data: {}\n", "x".repeat(1 << 19));
    let endless_event = Say::events("").chunks(std::iter::repeat_n(&line, 12)).hold();
    assert!(matches!(answered(endless_event).await, Err(Error::TooLarge(_))));
    let endless_body = Say::status("200 OK")
        .header("content-type: application/json")
        .chunks(std::iter::repeat_n(&giant, 300))
        .hold();
    assert!(matches!(answered(endless_body).await, Err(Error::TooLarge(_))));
    let not_text = Say::events("").chunks([&b"data: \xff\xfe\n\n"[..]]);
    assert!(matches!(answered(not_text).await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn a_connection_that_breaks_is_lost() {
    let half = Say::status("200 OK")
        .header("content-type: application/json")
        .header("content-length: 100")
        .body("{");
    assert!(matches!(answered(half).await, Err(Error::Lost(_))));
    let server = Server::start(vec![Say::json(DISCOVERED)]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    assert!(matches!(ask(&client, &Ear::default()).await, Err(Error::Lost(_))), "no answer at all");
}

#[tokio::test]
async fn a_refused_answer_ends_the_call() {
    let asks = event("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"elicitation/create\",\"params\":{}}");
    let script =
        vec![initialized(), Say::accepted(), Say::events(&asks).hold(), Say::status("400 Bad Request")];
    let server = Server::start(script).await;
    let client = server.connect(Speak::Older(Revision::V2025_11_25)).await.unwrap();
    let error = ask(&client, &Ear::answering(&["{\"action\":\"decline\"}"])).await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.status), Some(400));
}
