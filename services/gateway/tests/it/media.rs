//! `Accept` and `Content-Type` of messages.

use crate::kit::{Request, admitted, refused};

#[tokio::test]
async fn accept_must_allow_both_kinds_of_answer() {
    let with = |accept: &[&str]| {
        let request = Request::modern("tools/list", "").without("Accept");
        (format!("{accept:?}"), accept.iter().fold(request, |request, value| request.with("Accept", value)))
    };
    let good: [&[&str]; 12] = [
        &[],
        &["application/json, text/event-stream"],
        &["text/event-stream,application/json"],
        &["application/json", "text/event-stream"],
        &["Application/JSON;charset=utf-8, TEXT/event-stream"],
        &["*/*"],
        &["application/*, text/*"],
        &["text/html, */*;q=0.1"],
        &["application/json;q=0.5, text/event-stream;q=0.001"],
        &["application/json;q=0, application/json, text/*"],
        &["nonsense, application/json, text/event-stream"],
        &["application/json;v=\"a,b\", text/event-stream"],
    ];
    admitted(good.map(with)).await;
    let bad: [&[&str]; 14] = [
        &[""],
        &["application/json"],
        &["text/event-stream"],
        &["text/html"],
        &["application/*"],
        &["*/*;q=0"],
        &["*/*, application/json;q=0"],
        &["*/*, text/event-stream;q=0.000"],
        &["application/jsonl, text/event-stream"],
        &["application/json text/event-stream"],
        &["application/json; text/event-stream"],
        &["application/json, text/event-stream;q=nonsense"],
        &["application/json, text/event-stream;q=1.1"],
        &["*/json, */event-stream"],
    ];
    refused(bad.map(|accept| {
        let (name, request) = with(accept);
        (name, request, 406, Some(-32600), None)
    }))
    .await;
}

#[tokio::test]
async fn the_body_must_be_plain_json() {
    let with = |kind: &[&str]| {
        let request = Request::modern("tools/list", "").without("Content-Type");
        (format!("{kind:?}"), kind.iter().fold(request, |request, value| request.with("Content-Type", value)))
    };
    let good: [&[&str]; 4] = [
        &["application/json"],
        &["APPLICATION/json;charset=UTF-8"],
        &["application/json; charset=\"utf-8\""],
        &["application/json ;"],
    ];
    admitted(good.map(with)).await;
    let bad: [&[&str]; 13] = [
        &[],
        &[""],
        &["text/plain"],
        &["text/json"],
        &["application/x-www-form-urlencoded"],
        &["multipart/form-data; boundary=application/json"],
        &["application/json-patch+json"],
        &["application/jsonx"],
        &["application/json, text/plain"],
        &["application/json; charset=utf-16"],
        &["application/json", "application/json"],
        &["application/json", "text/plain"],
        &["*/*"],
    ];
    refused(bad.map(|kind| {
        let (name, request) = with(kind);
        (name, request, 415, Some(-32600), None)
    }))
    .await;
    let compressed = |coding| Request::modern("tools/list", "").with("Content-Encoding", coding);
    refused(["gzip", "br", "identity, gzip"].map(|c| (c.to_owned(), compressed(c), 415, Some(-32600), None)))
        .await;
    admitted([("identity".to_owned(), compressed("identity"))]).await;
}

#[tokio::test]
async fn what_is_wrong_first_is_said() {
    let both = Request::post("{").set("Accept", "text/html").set("Content-Type", "text/plain");
    let body = Request::post("{").set("Content-Type", "text/plain");
    refused([
        ("Accept before Content-Type".to_owned(), both, 406, Some(-32600), None),
        ("Content-Type before the body".to_owned(), body, 415, Some(-32600), None),
    ])
    .await;
}
