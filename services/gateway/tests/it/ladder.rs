//! Every rung between a request and a session node, with its status, code and id; nothing that is refused gets through.

use mcp::{Method, Revision};

use crate::kit::{Gateway, Node, Request, admitted, refused, session};

const META: &str = "_meta";
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

type Case = (String, Request, u16, Option<i32>, Option<&'static str>);

fn case(name: &str, request: Request, status: u16, code: i32, id: Option<&'static str>) -> Case {
    (name.to_owned(), request, status, (code != 0).then_some(code), id)
}

fn list() -> Request {
    Request::modern("tools/list", "")
}

fn call() -> Request {
    Request::modern("tools/call", r#""name":"echo","arguments":{},"#).with("Mcp-Name", "echo")
}

fn ping() -> Request {
    Request::older(&session(3), r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#)
}

#[tokio::test]
async fn paths_and_methods() {
    let other = |method| Request::new(method).with("Accept", "text/event-stream");
    refused([
        case("another path", ping().at("/"), 404, 0, None),
        case("a longer path", ping().at("/mcp/"), 404, 0, None),
        case("a path in another case", ping().at("/MCP"), 404, 0, None),
        case("PUT", other("PUT"), 405, 0, None),
        case("PATCH", other("PATCH"), 405, 0, None),
        case("OPTIONS", other("OPTIONS"), 405, 0, None),
        case("TRACE", other("TRACE"), 405, 0, None),
        case("modern GET", other("GET").with("MCP-Protocol-Version", "2026-07-28"), 405, 0, None),
        case("modern DELETE", other("DELETE").with("MCP-Protocol-Version", "2026-07-28"), 405, 0, None),
        case(
            "modern GET with a session",
            other("GET").with("MCP-Protocol-Version", " 2026-07-28\t").with("Mcp-Session-Id", session(3)),
            405,
            0,
            None,
        ),
    ])
    .await;
    let gateway = Gateway::one(&Node::new([])).await;
    let allow = async |request: Request| gateway.ask(&request).await.header("allow").map(str::to_owned);
    assert_eq!(allow(other("PUT")).await.as_deref(), Some("GET, POST, DELETE"));
    assert_eq!(allow(other("GET").with("MCP-Protocol-Version", "2026-07-28")).await.as_deref(), Some("POST"));
    assert_eq!(
        allow(other("DELETE").with("MCP-Protocol-Version", "2026-07-28")).await.as_deref(),
        Some("POST")
    );
}

#[tokio::test]
async fn bodies_that_are_no_message() {
    let body = |text: &str| ping().body(text);
    refused([
        case("empty", body(""), 400, -32700, None),
        case("not JSON", body("{\"jsonrpc\":"), 400, -32700, None),
        case("not UTF-8", ping().body(&b"{\"a\":\"\xff\"}"[..]), 400, -32700, None),
        case("a byte order mark", body("\u{feff}{}"), 400, -32700, None),
        case(
            "half a surrogate pair",
            body(r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#),
            400,
            -32700,
            None,
        ),
        case("a bare value", body("1"), 400, -32600, None),
        case("an empty array", body("[]"), 400, -32600, None),
        case("no version", body(r#"{"id":1,"method":"ping"}"#), 400, -32600, Some("1")),
        case("a null id", body(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#), 400, -32600, None),
        case("a float id", body(r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#), 400, -32600, None),
        case(
            "array params",
            body(r#"{"jsonrpc":"2.0","id":"x","method":"ping","params":[]}"#),
            400,
            -32600,
            Some("\"x\""),
        ),
        case(
            "two methods",
            body(r#"{"jsonrpc":"2.0","id":5,"method":"ping","method":"x"}"#),
            400,
            -32600,
            Some("5"),
        ),
        case(
            "method and result",
            body(r#"{"jsonrpc":"2.0","id":5,"method":"ping","result":{}}"#),
            400,
            -32600,
            Some("5"),
        ),
        case("too deep", body(&format!("{}{}", "[".repeat(65), "]".repeat(65))), 400, -32600, None),
        case("modern array", list().body("[]"), 400, -32600, None),
    ])
    .await;
}

#[tokio::test]
async fn modern_rungs_up_to_the_metadata() {
    let without_meta = |request: Request| request.replace(META, "other");
    refused([
        // (a) no responses
        case("a response", list().body(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#), 400, -32600, None),
        // (c) a claim needs the header
        case("no version header", list().without("MCP-Protocol-Version"), 400, -32020, Some("7")),
        case(
            "claim of an older version alone",
            list().without("MCP-Protocol-Version").replace("2026-07-28", "2025-11-25"),
            400,
            -32020,
            Some("7"),
        ),
        case(
            "two version headers",
            list().with("MCP-Protocol-Version", "2026-07-28"),
            400,
            -32020,
            Some("7"),
        ),
        case(
            "two older version headers and a claim",
            list().set("MCP-Protocol-Version", "2025-11-25").with("MCP-Protocol-Version", "2025-11-25"),
            400,
            -32020,
            Some("7"),
        ),
        case(
            "no version header and incomplete metadata",
            list().without("MCP-Protocol-Version").replace(CAPABILITIES, "x"),
            400,
            -32020,
            Some("7"),
        ),
        // (d) the header needs complete metadata
        case("no `_meta`", without_meta(list()), 400, -32602, Some("7")),
        case(
            "no params",
            list().body(r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#),
            400,
            -32602,
            Some("7"),
        ),
        case(
            "`_meta` is no object",
            list().body(r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":7}}"#),
            400,
            -32602,
            Some("7"),
        ),
        case("no version in `_meta`", list().replace(VERSION, "x"), 400, -32602, Some("7")),
        case("a version that is no text", list().replace("\"2026-07-28\"", "7"), 400, -32602, Some("7")),
        case("no capabilities", list().replace(CAPABILITIES, "x"), 400, -32602, Some("7")),
        case("capabilities that are no object", list().replace(":{}}", ":[]}"), 400, -32602, Some("7")),
        case("null capabilities", list().replace(":{}}", ":null}"), 400, -32602, Some("7")),
        case(
            "unknown version in the header alone",
            without_meta(list()).set("MCP-Protocol-Version", "v9"),
            400,
            -32602,
            Some("7"),
        ),
        case(
            "an empty version header alone",
            without_meta(list()).set("MCP-Protocol-Version", ""),
            400,
            -32602,
            Some("7"),
        ),
        case(
            "initialize under a modern header",
            Request::post(r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{}}"#)
                .with("MCP-Protocol-Version", "2026-07-28"),
            400,
            -32602,
            Some("7"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn modern_rungs_after_the_metadata() {
    refused([
        // (e) header and metadata agree
        case(
            "another version in `_meta`",
            list().replace("2026-07-28", "2025-11-25"),
            400,
            -32020,
            Some("7"),
        ),
        case(
            "another version in the header",
            list().set("MCP-Protocol-Version", "2025-11-25"),
            400,
            -32020,
            Some("7"),
        ),
        case("an empty version header", list().set("MCP-Protocol-Version", ""), 400, -32020, Some("7")),
        case(
            "a version that cannot stand in a header",
            list().set("MCP-Protocol-Version", "v\u{e9}").replace("2026-07-28", "v\u{e9}"),
            400,
            -32020,
            Some("7"),
        ),
        // (f) the version is supported
        case(
            "an unknown version",
            list().set("MCP-Protocol-Version", "v999.0.0").replace("2026-07-28", "v999.0.0"),
            400,
            -32022,
            Some("7"),
        ),
        case(
            "an older version",
            list().set("MCP-Protocol-Version", "2025-11-25").replace("2026-07-28", "2025-11-25"),
            400,
            -32022,
            Some("7"),
        ),
        case(
            "an unknown version before a wrong method header",
            list().set("MCP-Protocol-Version", "v9").replace("2026-07-28", "v9").set("Mcp-Method", "x"),
            400,
            -32022,
            Some("7"),
        ),
        // (g) method and name agree; more in the table of mismatches
        case("no method header", list().without("Mcp-Method"), 400, -32020, Some("7")),
        case("another method header", list().set("Mcp-Method", "tools/call"), 400, -32020, Some("7")),
        case("no name header", call().without("Mcp-Name"), 400, -32020, Some("7")),
        case(
            "wrong method header of an unknown method",
            Request::modern("no/such", "").set("Mcp-Method", "x"),
            400,
            -32020,
            Some("7"),
        ),
        // (h) the method exists
        case("an unknown method", Request::modern("no/such", ""), 404, -32601, Some("7")),
        case("a method in another case", Request::modern("Tools/List", ""), 404, -32601, Some("7")),
        case("tasks of an older revision", Request::modern("tasks/list", ""), 404, -32601, Some("7")),
    ])
    .await;
    let removed = Method::ALL.into_iter().filter(|method| !method.exists_in(Revision::LATEST));
    let cases = removed.map(|m| case(m.as_str(), Request::modern(m.as_str(), ""), 404, -32601, Some("7")));
    assert_eq!(refused(cases).await, 5);
}

#[tokio::test]
async fn an_unsupported_version_is_answered_with_the_supported_ones() {
    let gateway = Gateway::one(&Node::new([])).await;
    for version in ["v999.0.0", "2025-06-18", "2099-01-01"] {
        let response =
            gateway.ask(&list().set("MCP-Protocol-Version", version).replace("2026-07-28", version)).await;
        assert_eq!(response.at(&["error", "data", "supported"]), Some("[\"2026-07-28\"]"));
        assert_eq!(response.at(&["error", "data", "requested"]), Some(format!("\"{version}\"").as_str()));
    }
}

#[tokio::test]
async fn every_modern_method_passes_once_everything_agrees() {
    let served = Method::ALL.into_iter().filter(|method| method.exists_in(Revision::LATEST));
    let cases = served.map(|method| {
        let name = method.as_str();
        let request = match method.target() {
            mcp::method::Target::Name => Request::modern(name, r#""name":"n","#).with("Mcp-Name", "n"),
            mcp::method::Target::Uri => Request::modern(name, r#""uri":"u:1","#).with("Mcp-Name", "u:1"),
            mcp::method::Target::None => Request::modern(name, ""),
        };
        (name.to_owned(), request)
    });
    assert_eq!(admitted(cases).await, 10);
}

#[tokio::test]
async fn ids_come_back_as_they_were_written() {
    let ids = ["0", "-1", "9223372036854775808", "\"\"", "\"\\u0061\\n\"", "\"7\""];
    let modern = ids.map(|id| {
        case(
            id,
            Request::modern("no/such", "").replace("\"id\":7", &format!("\"id\":{id}")),
            404,
            -32601,
            Some(id),
        )
    });
    refused(modern).await;
    let older =
        ids.map(|id| case(id, ping().without("Mcp-Session-Id").replace("\"a\"", id), 400, -32600, Some(id)));
    refused(older).await;
}

#[tokio::test]
async fn older_rungs_in_order() {
    let notification =
        |session: &str| Request::older(session, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    let response = |session: &str| Request::older(session, r#"{"jsonrpc":"2.0","id":5,"result":{}}"#);
    refused([
        case("no session", ping().without("Mcp-Session-Id"), 400, -32600, Some("\"a\"")),
        case("no session for a notification", notification("").without("Mcp-Session-Id"), 400, -32600, None),
        case("no session for a response", response("").without("Mcp-Session-Id"), 400, -32600, None),
        case(
            "initialize as a notification",
            ping().without("Mcp-Session-Id").body(r#"{"jsonrpc":"2.0","method":"initialize"}"#),
            400,
            -32600,
            None,
        ),
        case("two sessions", ping().with("Mcp-Session-Id", session(3)), 400, -32600, Some("\"a\"")),
        case("an empty session id", ping().set("Mcp-Session-Id", ""), 404, -32600, None),
        case(
            "a session id of another form",
            ping().set("Mcp-Session-Id", "0123456789abcdef"),
            404,
            -32600,
            None,
        ),
        case("a forged session id for a notification", notification("v1.k1.003.x.y"), 404, -32600, None),
        case("a forged session id for a response", response("v1.k1.003.x.y"), 404, -32600, None),
        case(
            "a forged session id before two versions",
            ping()
                .set("Mcp-Session-Id", "x")
                .with("MCP-Protocol-Version", "2025-06-18")
                .with("MCP-Protocol-Version", "2025-06-18"),
            404,
            -32600,
            None,
        ),
        case(
            "two versions",
            ping().with("MCP-Protocol-Version", "2025-06-18").with("MCP-Protocol-Version", "2025-06-18"),
            400,
            -32600,
            Some("\"a\""),
        ),
        case(
            "a version of no era, without metadata",
            ping().with("MCP-Protocol-Version", "1999-01-01"),
            400,
            -32602,
            Some("\"a\""),
        ),
        case(
            "a session without initialize is no session",
            ping().without("Mcp-Session-Id").replace("ping", "tools/list"),
            400,
            -32600,
            Some("\"a\""),
        ),
    ])
    .await;
}

#[tokio::test]
async fn gets_and_deletes_of_older_clients() {
    let get = || Request::new("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", session(3));
    let delete = || Request::new("DELETE").with("Mcp-Session-Id", session(3));
    refused([
        case("GET without Accept", get().without("Accept"), 406, -32600, None),
        case("GET of JSON", get().set("Accept", "application/json"), 406, -32600, None),
        case("GET of no events", get().set("Accept", "*/*, text/event-stream;q=0"), 406, -32600, None),
        case("GET without a session", get().without("Mcp-Session-Id"), 400, -32600, None),
        case("GET of a forged session", get().set("Mcp-Session-Id", "x"), 404, -32600, None),
        case("GET of two sessions", get().with("Mcp-Session-Id", session(4)), 400, -32600, None),
        case(
            "GET of an unknown version",
            get().with("MCP-Protocol-Version", "1999-01-01"),
            400,
            -32600,
            None,
        ),
        case(
            "GET of two versions",
            get().with("MCP-Protocol-Version", "2025-06-18").with("MCP-Protocol-Version", "2025-11-25"),
            400,
            -32600,
            None,
        ),
        case(
            "GET from two places",
            get().with("Last-Event-ID", "1").with("Last-Event-ID", "2"),
            400,
            -32600,
            None,
        ),
        case("DELETE without a session", delete().without("Mcp-Session-Id"), 400, -32600, None),
        case("DELETE of a forged session", delete().set("Mcp-Session-Id", "x"), 404, -32600, None),
        case("DELETE of an unknown version", delete().with("MCP-Protocol-Version", "v9"), 400, -32600, None),
    ])
    .await;
}

#[tokio::test]
async fn modern_notifications_go_nowhere() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let body = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let claim = r#"{"jsonrpc":"2.0","method":"x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    for request in [
        Request::post(body).with("MCP-Protocol-Version", "2026-07-28"),
        Request::post(body).with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Session-Id", session(3)),
        Request::post(body).with("MCP-Protocol-Version", "v9"),
        Request::post(claim),
    ] {
        let response = gateway.ask(&request).await;
        assert_eq!((response.status, response.body.as_str()), (202, ""));
    }
    assert_eq!(node.seen(), []);
}
