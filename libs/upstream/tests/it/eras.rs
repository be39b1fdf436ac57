//! Which era is spoken, with which headers, and how a session begins and ends.

use mcp::{Era, Json, Method, Revision};
use upstream::{Error, Speak};

use crate::kit::{DISCOVERED, Ear, Say, Server, ask, initialized, result};

#[tokio::test]
async fn a_modern_server_gets_modern_requests() {
    let done = r#"{"resultType":"complete","content":[]}"#;
    let server = Server::start(vec![Say::json(DISCOVERED), Say::json(&result(100, done))]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    assert_eq!(client.server().revision, Revision::V2026_07_28);
    assert_eq!(client.server().info, Some(Json::trusted(r#"{"name":"s","version":"1"}"#)));
    assert_eq!(ask(&client, &Ear::default()).await.unwrap(), done);
    let seen = server.last();
    let headers = [
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "accept",
        "content-type",
        "user-agent",
        "mcp-session-id",
    ];
    assert_eq!(
        headers.map(|name| seen.header(name)),
        [
            Some("2026-07-28"),
            Some("tools/call"),
            Some("t"),
            Some("application/json, text/event-stream"),
            Some("application/json"),
            Some("tester/7"),
            None
        ]
    );
    let meta = |key: &str| mcp::scan::path(&seen.body, &["params", "_meta", key]).map(str::to_owned);
    assert_eq!(meta("io.modelcontextprotocol/protocolVersion").as_deref(), Some("\"2026-07-28\""));
    assert_eq!(meta("io.modelcontextprotocol/clientCapabilities").as_deref(), Some(r#"{"elicitation":{}}"#));
    assert_eq!(meta("progressToken").as_deref(), Some("100"));
    client.close().await;
    assert_eq!(server.seen().len(), 2, "there is no session to end");
}

#[tokio::test]
async fn every_older_server_is_met_with_a_handshake() {
    let refusals = [
        Say::error(
            "400 Bad Request",
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"no session"},"id":null}"#,
        ),
        Say::status("404 Not Found"),
        Say::status("405 Method Not Allowed"),
        Say::status("406 Not Acceptable").body("what?"),
        Say::status("500 Internal Server Error"),
        Say::json(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"unknown"}}"#),
        Say::status("200 OK").header("content-type: text/html").body("<html>"),
        Say::error("400 Bad Request", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"no"}}"#),
        Say::error(
            "400 Bad Request",
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"no","data":{"supported":["2025-06-18","x"]}}}"#,
        ),
    ];
    for refusal in refusals {
        let script = vec![
            refusal.clone(),
            initialized(),
            Say::accepted(),
            Say::json(&result(100, "{}")),
            Say::status("200 OK"),
        ];
        let server = Server::start(script).await;
        let client = server.connect(Speak::Auto).await.unwrap_or_else(|error| panic!("{refusal:?}: {error}"));
        assert_eq!(client.era(), Era::Older);
        ask(&client, &Ear::default()).await.unwrap();
        client.close().await;
        let seen = server.seen();
        let methods: Vec<String> =
            seen.iter().map(|seen| seen.member("method").unwrap_or_default()).collect();
        let told = "\"notifications/initialized\"";
        assert_eq!(methods, ["\"server/discover\"", "\"initialize\"", told, "\"tools/call\"", ""]);
        assert_eq!(seen[1].header("mcp-protocol-version"), None);
        for seen in &seen[2..] {
            assert_eq!(seen.header("mcp-session-id"), Some("s1"));
            assert_eq!(seen.header("mcp-protocol-version"), Some("2025-11-25"));
            assert_eq!(seen.header("mcp-method"), None);
        }
        assert_eq!(server.last().verb, "DELETE");
    }
}

#[tokio::test]
async fn what_is_no_sign_of_an_older_server_is_not_taken_for_one() {
    let table = [
        (Say::status("401 Unauthorized").header("www-authenticate: Bearer realm=x"), 401),
        (Say::status("403 Forbidden"), 403),
        (Say::status("503 Service Unavailable"), 503),
        (
            Say::error(
                "400 Bad Request",
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"header"}}"#,
            ),
            400,
        ),
    ];
    for (say, status) in table {
        let server = Server::start(vec![say]).await;
        let error = server.connect(Speak::Auto).await.unwrap_err();
        assert_eq!(error.refusal().map(|refusal| refusal.status), Some(status), "{error}");
        assert_eq!(server.seen().len(), 1);
        if status == 401 {
            assert_eq!(
                error.refusal().and_then(|refusal| refusal.challenge.as_deref()),
                Some("Bearer realm=x")
            );
        }
    }
}

#[tokio::test]
async fn a_pinned_era_is_kept() {
    let server = Server::start(vec![Say::json(DISCOVERED)]).await;
    assert_eq!(server.connect(Speak::Modern).await.unwrap().era(), Era::Modern);
    let server = Server::start(vec![Say::status("404 Not Found")]).await;
    assert_eq!(server.connect(Speak::Modern).await.unwrap_err().refusal().unwrap().status, 404);

    let older = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-03-26","capabilities":{}}}"#;
    let server = Server::start(vec![Say::json(older), Say::accepted(), Say::json(&result(100, "{}"))]).await;
    let client = server.connect(Speak::Older(Revision::V2025_06_18)).await.unwrap();
    assert_eq!(server.seen()[0].member("params/protocolVersion").as_deref(), Some("\"2025-06-18\""));
    assert_eq!(client.server().revision, Revision::V2025_03_26);
    ask(&client, &Ear::default()).await.unwrap();
    assert_eq!(server.last().header("mcp-protocol-version"), None, "2025-03-26 has no such header");
}

#[tokio::test]
async fn a_revision_nobody_knows_is_refused() {
    let strange = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2031-01-01","capabilities":{}}}"#;
    let server = Server::start(vec![Say::json(strange)]).await;
    let error = server.connect(Speak::Older(Revision::V2025_11_25)).await.unwrap_err();
    assert_eq!(error, Error::Revision("2031-01-01".to_owned()));
}

#[tokio::test]
async fn a_lost_session_is_opened_again_once() {
    for lost in [
        Say::error(
            "404 Not Found",
            r#"{"jsonrpc":"2.0","id":100,"error":{"code":-32001,"message":"unknown session"}}"#,
        ),
        Say::error(
            "400 Bad Request",
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"no valid session"},"id":null}"#,
        ),
    ] {
        let again = Say::json(
            r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{}}}"#,
        )
        .header("mcp-session-id: s2");
        let script = vec![
            initialized(),
            Say::accepted(),
            lost.clone(),
            again,
            Say::accepted(),
            Say::json(&result(101, "{}")),
        ];
        let server = Server::start(script).await;
        let client = server.connect(Speak::Older(Revision::V2025_11_25)).await.unwrap();
        assert_eq!(ask(&client, &Ear::default()).await.unwrap(), "{}");
        assert_eq!(server.last().header("mcp-session-id"), Some("s2"));
        assert_eq!(server.seen()[3].header("mcp-session-id"), None);
    }
    let lost = || Say::status("404 Not Found");
    let server =
        Server::start(vec![initialized(), Say::accepted(), lost(), initialized(), Say::accepted(), lost()])
            .await;
    let client = server.connect(Speak::Older(Revision::V2025_11_25)).await.unwrap();
    let error = ask(&client, &Ear::default()).await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.status), Some(404));
    server.last();
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let page =
        |id, tools: &str, next: &str| Say::json(&result(id, &format!("{{\"tools\":[{tools}]{next}}}")));
    let bad = r#"{"name":"bad","inputSchema":{"type":"object","properties":{"x":{"type":"number","x-mcp-header":"X"}}}}"#;
    let server = Server::start(vec![
        Say::json(DISCOVERED),
        page(100, r#"{"name":"a"}"#, r#","nextCursor":"""#),
        page(101, &format!("{bad},{{\"name\":\"b\"}}"), r#","nextCursor":"c2""#),
        page(102, "", ""),
    ])
    .await;
    let client = server.connect(Speak::Auto).await.unwrap();
    let listed = client.list(Method::ToolsList, std::time::Duration::from_secs(20)).await.unwrap();
    assert_eq!(listed.entries.iter().map(|tool| tool.text("name").unwrap()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(listed.dropped[0].0, "bad");
    assert_eq!(server.seen()[2].member("params/cursor").as_deref(), Some("\"\""), "the empty cursor is one");
    assert_eq!(server.last().member("params/cursor").as_deref(), Some("\"c2\""));
}

#[tokio::test]
async fn a_list_without_end_is_left() {
    let page = |id| Say::json(&result(id, r#"{"tools":[],"nextCursor":"same"}"#));
    let server = Server::start(vec![Say::json(DISCOVERED), page(100), page(101)]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    let error = client.list(Method::ToolsList, std::time::Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");

    let page = |id| Say::json(&result(id, &format!("{{\"tools\":[{{}}],\"nextCursor\":\"{id}\"}}")));
    let server = Server::start(vec![Say::json(DISCOVERED), page(100), page(101), page(102)]).await;
    let client = server.connect_with(Speak::Auto, |options| options.limits.pages = 3).await.unwrap();
    let error = client.list(Method::ToolsList, std::time::Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge(_)), "{error}");
    server.last();
}
