//! Web pages of other origins: what they may ask before, and what they may read.

use std::sync::Arc;

use gateway::Config;
use gateway::auth::{self, Gate, new_key};

use crate::kit::{Gateway, Node, Request, Response, session};

const PAGE: &str = "https://app.example.com";
const EXPOSED: &str = "mcp-session-id, www-authenticate, retry-after, mcp-protocol-version";

fn config() -> Config {
    Config { allowed_origins: vec![PAGE.into(), "http://localhost:3000".into()], ..Config::default() }
}

fn preflight(path: &str, origin: &str, method: &str, headers: &[&str]) -> Request {
    let request = Request::new("OPTIONS").at(path).with("Origin", origin);
    let request = request.with("Access-Control-Request-Method", method);
    headers.iter().fold(request, |request, value| request.with("Access-Control-Request-Headers", value))
}

/// Every header that says something about pages.
fn of_pages(response: &Response) -> Vec<&str> {
    let named = |name: &&str| name.starts_with("access-control-");
    response.headers.iter().map(|(name, _)| name.as_str()).filter(named).collect()
}

#[tokio::test]
async fn preflights_are_answered_for_what_is_listed_and_for_nothing_else() {
    let node = Node::new([]);
    let gateway = Gateway::start(config(), &[("a", &node)], 1).await;
    let all = "content-type, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, last-event-id, authorization, accept, \
               traceparent, tracestate, mcp-param-region";
    let mut count = 0;
    let mut check = async |path: &str, origin: &str, method: &str, headers: &[&str], status: u16| {
        let case = format!("{path} {origin} {method} {headers:?}");
        let response = gateway.ask(&preflight(path, origin, method, headers)).await;
        assert_eq!(response.status, status, "{case}");
        let allow = |name: &str| response.header(&format!("access-control-allow-{name}"));
        assert_eq!(allow("credentials"), None, "{case}");
        if status == 204 {
            assert_eq!(response.body, "", "{case}");
            assert_eq!(allow("origin"), Some(origin), "{case}");
            assert!(allow("methods").unwrap().split(", ").any(|one| one == method), "{case}");
            assert_eq!(allow("headers"), headers.first().copied(), "{case}");
            assert_eq!(response.header("access-control-max-age"), Some("600"), "{case}");
            let vary = "origin, access-control-request-method, access-control-request-headers";
            assert_eq!(response.header("vary"), Some(vary), "{case}");
        } else {
            assert_eq!(of_pages(&response), Vec::<&str>::new(), "{case}");
        }
        count += 1;
    };
    // Paths x methods.
    for (path, offered) in [("/mcp", "GET POST DELETE"), ("/sse", "GET"), ("/messages", "POST")] {
        for method in ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "post", "*", ""] {
            let listed = offered.split(' ').any(|one| one == method);
            check(path, PAGE, method, &[], if listed { 204 } else { 403 }).await;
        }
    }
    for path in ["/", "/other", "/mcp/", "/MCP"] {
        check(path, PAGE, "POST", &[], 404).await;
    }
    // Headers.
    for headers in [all, "Content-Type", "Mcp-Param-A,MCP-PARAM-B", " content-type ,\taccept "] {
        check("/mcp", PAGE, "POST", &[headers.trim()], 204).await;
    }
    for headers in [
        "*",
        "cookie",
        "x-forwarded-for",
        "content-type, x-other",
        "mcp-param-",
        "mcp-param-a b",
        "host",
        "origin",
        "",
    ] {
        check("/mcp", PAGE, "POST", &[headers], 403).await;
    }
    check("/mcp", PAGE, "POST", &["accept", "accept"], 403).await;
    // Origins: those that may call without being listed get no answer to a preflight, others are refused before.
    check("/mcp", "http://localhost:3000", "POST", &["content-type"], 204).await;
    for near in
        ["http://localhost", "http://localhost:3001", "https://localhost:3000", "http://127.0.0.1:3000"]
    {
        check("/mcp", near, "POST", &[], 405).await;
    }
    for far in [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://sub.app.example.com",
        "null",
        "*",
    ] {
        check("/mcp", far, "POST", &[], 403).await;
    }
    println!("{count} preflights");
    assert_eq!(count, 30 + 4 + 4 + 9 + 1 + 1 + 4 + 6);
    // What is no preflight is a method that is not offered.
    let plain = Request::new("OPTIONS").with("Origin", PAGE);
    assert_eq!(gateway.ask(&plain).await.status, 405);
    let twice = preflight("/mcp", PAGE, "POST", &[]).with("Access-Control-Request-Method", "POST");
    assert_eq!(gateway.ask(&twice).await.status, 403);
    assert_eq!(node.seen(), []);
}

#[tokio::test]
async fn a_preflight_says_nothing_about_the_request() {
    let node = Node::new([]);
    let gateway = Gateway::start(config(), &[("a", &node)], 1).await;
    let mut connection = gateway.send(&preflight("/mcp", PAGE, "POST", &["content-type"])).await;
    assert_eq!(connection.response().await.status, 204);
    // On the same connection: every check of the request itself.
    let bad = Request::post("{").with("Origin", PAGE);
    connection.write(&[bad.head(), b"Content-Length: 1\r\n\r\n{".to_vec()].concat()).await;
    assert_eq!(connection.response().await.verdict(), (400, Some(-32700), None));
    assert_eq!(node.seen(), []);
}

#[tokio::test]
async fn a_preflight_needs_no_credentials_and_gives_none() {
    let key = new_key("team-a", "", "", [1; 32]);
    let auth = auth::Config { keys: vec![key.entry], ..auth::Config::default() };
    let node = Node::new([]);
    let gate = Arc::new(Gate::new(&auth).unwrap());
    let gateway = Gateway::asking(gate, config(), &[("a", &node)], 1).await;
    let preflight = preflight("/mcp", PAGE, "POST", &["authorization, content-type"]);
    assert_eq!(gateway.ask(&preflight).await.status, 204);
    let call = Request::modern("tools/list", "").with("Origin", PAGE);
    for request in [call.clone(), call.clone().with("Authorization", "Bearer tlk_wrong")] {
        let response = gateway.ask(&request).await;
        assert_eq!((response.status, response.body.as_str()), (401, ""));
        assert!(response.header("www-authenticate").unwrap().starts_with("Bearer"));
        assert_eq!(response.header("access-control-allow-origin"), Some(PAGE), "the page sees why");
        assert_eq!(response.header("access-control-expose-headers"), Some(EXPOSED));
    }
    // Nor do credentials help a page that is not listed.
    let known = format!("Bearer {}", key.key);
    let strange = call.clone().set("Origin", "https://evil.example").with("Authorization", &known);
    assert_eq!(gateway.ask(&strange).await.status, 403);
    assert_eq!(node.seen(), []);
    assert_eq!(gateway.ask(&call.with("Authorization", &known)).await.status, 200);
}

#[tokio::test]
async fn listed_pages_may_read_answers_and_refusals() {
    let node = Node::new([]);
    let gateway = Gateway::start(config(), &[("a", &node)], 1).await;
    let list = || Request::modern("tools/list", "");
    let table = [
        (list(), 200),
        (list().set("Mcp-Method", "other"), 400),
        (Request::older(&session(3), "{"), 400),
        (list().set("Content-Type", "text/plain"), 415),
        (list().at("/other"), 404),
        (Request::new("PUT"), 405),
        (Request::new("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", "x"), 404),
    ];
    for (request, status) in table {
        let response = gateway.ask(&request.clone().with("Origin", PAGE)).await;
        assert_eq!(response.status, status);
        assert_eq!(of_pages(&response), ["access-control-allow-origin", "access-control-expose-headers"]);
        assert_eq!(response.header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(response.header("access-control-expose-headers"), Some(EXPOSED));
        assert_eq!(response.header("vary"), Some("origin"));
        // The same for others.
        for request in [request.clone(), request.with("Origin", "http://localhost:9")] {
            let response = gateway.ask(&request).await;
            assert_eq!((response.status, of_pages(&response)), (status, Vec::new()));
            assert_eq!(response.header("vary"), Some("origin"));
        }
    }
    let refused = gateway.ask(&list().with("Origin", "https://evil.example")).await;
    assert_eq!((refused.status, of_pages(&refused)), (403, Vec::new()));
}

#[tokio::test]
async fn without_a_list_there_is_no_cors() {
    let gateway = Gateway::one(&Node::new([])).await;
    let own = "http://localhost:3000";
    let response = gateway.ask(&preflight("/mcp", own, "POST", &[])).await;
    assert_eq!((response.status, of_pages(&response), response.header("vary")), (405, Vec::new(), None));
    let response = gateway.ask(&Request::modern("tools/list", "").with("Origin", own)).await;
    assert_eq!((response.status, of_pages(&response), response.header("vary")), (200, Vec::new(), None));
}
