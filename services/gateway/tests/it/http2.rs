//! The same over HTTP/2, spoken without negotiation.

use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::kit::{self, Gateway, Node, soon};

async fn ask(target: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let body = kit::Request::modern("tools/list", "");
    let mut request = Request::post(target)
        .header("content-type", "application/json")
        .header("accept", "*/*")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/list");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.body_bytes()))).unwrap();
    let response = soon(client.request(request)).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_authority_is_the_host() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let target = format!("http://{}/mcp", gateway.address);
    assert_eq!(ask(&target, &[]).await, (StatusCode::OK, "{}".to_owned()));
    assert_eq!(ask(&target, &[("origin", "http://localhost:6274")]).await.0, StatusCode::OK);
    let port = gateway.address.port();
    let same = gateway.address.to_string();
    assert_eq!(ask(&target, &[("host", &same)]).await.0, StatusCode::OK);
    assert!(node.seen().len() == 3);
    let other = format!("localhost:{port}");
    for header in [
        ("host", "evil.example"),
        ("host", "localhost"),
        ("host", other.as_str()),
        ("host", ""),
        ("host", "127.0.0.1."),
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost."),
        ("origin", "http://user@localhost"),
        ("origin", "http://[::1%25lo]"),
    ] {
        let (status, body) = ask(&target, &[header]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{header:?}");
        assert!(body.contains("-32600"), "{body}");
    }
    assert_eq!(ask(&target, &[("host", &same), ("host", &same)]).await.0, StatusCode::FORBIDDEN);
    assert!(node.seen().len() == 3);
    assert_eq!(ask(&target.replace("/mcp", "/other"), &[]).await, (StatusCode::NOT_FOUND, String::new()));
}
