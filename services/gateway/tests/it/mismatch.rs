//! Headers against bodies: each header of 2026-07-28, in every way it can be wrong, on every kind of method.

use crate::kit::{Request, admitted, refused};

const METHODS: [(&str, &str, Option<&str>); 10] = [
    ("tools/call", r#""name":"echo","arguments":{},"#, Some("echo")),
    ("prompts/get", r#""name":"echo","#, Some("echo")),
    ("resources/read", r#""uri":"echo","#, Some("echo")),
    ("tools/list", "", None),
    ("resources/list", "", None),
    ("server/discover", "", None),
    ("subscriptions/listen", r#""notifications":{},"#, None),
    ("resources/templates/list", "", None),
    ("prompts/list", "", None),
    (
        "completion/complete",
        r#""ref":{"type":"ref/prompt","name":"x"},"argument":{"name":"a","value":""},"#,
        None,
    ),
];

fn right(method: &str, params: &str, name: Option<&str>) -> Request {
    let request = Request::modern(method, params);
    match name {
        Some(name) => request.with("Mcp-Name", name),
        None => request,
    }
}

/// Ways to be wrong for a header whose right value is `value`.
fn wrong(value: &str) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    vec![
        ("missing", vec![]),
        ("empty", vec![bytes("")]),
        ("white space", vec![bytes(" \t ")]),
        ("repeated equal", vec![bytes(value), bytes(value)]),
        ("repeated different", vec![bytes(value), bytes("other")]),
        ("repeated, wrong first", vec![bytes("other"), bytes(value)]),
        ("joined with a comma", vec![bytes(&format!("{value}, {value}"))]),
        ("in another case", vec![bytes(&value.to_uppercase().replace("2026-07-28", "2026-07-28A"))]),
        ("quoted", vec![bytes(&format!("\"{value}\""))]),
        ("longer", vec![bytes(&format!("{value}x"))]),
        ("shorter", vec![bytes(&value[..value.len() - 1])]),
        ("with a space inside", vec![bytes(&format!("{} {}", &value[..2], &value[2..]))]),
        ("not ASCII", vec![bytes(&format!("{value}é"))]),
        ("not UTF-8", vec![[value.as_bytes(), b"\xff"].concat()]),
        ("8 KiB", vec![vec![b'x'; 8192]]),
        ("an unclosed sentinel", vec![bytes("=?base64?ZWNobw==")]),
        ("an upper-case sentinel", vec![bytes("=?BASE64?ZWNobw==?=")]),
        ("bad padding", vec![bytes("=?base64?ZWNobw=?=")]),
        ("bad alphabet", vec![bytes("=?base64?ZWN*bw==?=")]),
        ("base64 of no text", vec![bytes("=?base64?/////w==?=")]),
        ("a nested sentinel", vec![bytes("=?base64?PT9iYXNlNjQ/WldOb2J3PT0/PQ==?=")]),
        ("base64 of something else", vec![bytes("=?base64?b3RoZXI=?=")]),
    ]
}

#[tokio::test]
async fn a_header_that_does_not_say_what_the_body_says_is_refused() {
    let mut table = Vec::new();
    for (method, params, name) in METHODS {
        let headers =
            [("MCP-Protocol-Version", Some("2026-07-28")), ("Mcp-Method", Some(method)), ("Mcp-Name", name)];
        for (header, value) in headers {
            let Some(value) = value else { continue };
            for (way, values) in wrong(value) {
                let request = right(method, params, name).without(header);
                let request = values.iter().fold(request, |request, value| request.with(header, value));
                table.push((format!("{method}: {header} {way}"), request, 400, Some(-32020), Some("7")));
            }
        }
        // Only a target's name may be encoded.
        for (header, value) in [
            ("MCP-Protocol-Version", "=?base64?MjAyNi0wNy0yOA==?="),
            ("Mcp-Method", "=?base64?dG9vbHMvbGlzdA==?="),
        ] {
            let request = right(method, params, name).set(header, value);
            table.push((format!("{method}: {header} encoded"), request, 400, Some(-32020), Some("7")));
        }
    }
    let count = refused(table).await;
    println!("{count} headers that differ from their bodies");
    assert_eq!(count, 10 * (2 * 22 + 2) + 3 * 22);
}

#[tokio::test]
async fn bodies_without_the_target_that_the_header_names_are_refused() {
    let table =
        ["", r#""name":7,"#, r#""name":null,"#, r#""name":["echo"],"#, r#""uri":"echo","#].map(|params| {
            let request = Request::modern("tools/call", params).with("Mcp-Name", "echo");
            (params.to_owned(), request, 400, Some(-32020), Some("7"))
        });
    refused(table).await;
    let two = Request::modern("tools/list", "").with("Mcp-Name", "a").with("Mcp-Name", "a");
    refused([("two names of nothing".to_owned(), two, 400, Some(-32020), Some("7"))]).await;
}

#[tokio::test]
async fn headers_that_say_the_same_in_another_way_pass() {
    let call = |body: &str, name: &[u8]| {
        let params = format!(r#""name":{body},"arguments":{{}},"#);
        Request::modern("tools/call", &params).with("Mcp-Name", name)
    };
    let table = [
        ("white space around it", call("\"echo\"", b" \techo\t ")),
        ("encoded without need", call("\"echo\"", b"=?base64?ZWNobw==?=")),
        ("encoded and padded with white space", call("\"echo\"", b" =?base64?ZWNobw==?= ")),
        ("not ASCII", call("\"\u{4e16}\"", b"=?base64?5LiW?=")),
        ("escaped in the body", call("\"\\u0065cho\"", b"echo")),
        ("empty on both sides", call("\"\"", b"")),
        ("empty, encoded", call("\"\"", b"=?base64??=")),
        ("looks encoded, is literal", call("\"=?BASE64?ZWNobw==?=\"", b"=?BASE64?ZWNobw==?=")),
        (
            "looks encoded, is encoded",
            call("\"=?base64?ZWNobw==?=\"", b"=?base64?PT9iYXNlNjQ/WldOb2J3PT0/PQ==?="),
        ),
        ("leading and trailing space", call("\" echo \"", b"=?base64?IGVjaG8g?=")),
        ("a line break", call("\"a\\nb\"", b"=?base64?YQpi?=")),
        (
            "names of headers in any case",
            Request::modern("tools/list", "").without("Mcp-Method").with("MCP-METHOD", "tools/list"),
        ),
        ("a name of nothing", Request::modern("tools/list", "").with("Mcp-Name", "anything")),
        (
            "white space around version and method",
            Request::modern("tools/list", "")
                .set("MCP-Protocol-Version", " 2026-07-28 ")
                .set("Mcp-Method", "\ttools/list"),
        ),
        (
            "a member of `_meta` that nobody knows",
            Request::modern("tools/list", "").replace("\"_meta\":{", "\"_meta\":{\"x/y\":[1.0],"),
        ),
        (
            "an older client's headers",
            Request::modern("tools/list", "").with("Mcp-Session-Id", "stale").with("Last-Event-ID", "9"),
        ),
    ];
    admitted(table.map(|(name, request)| (name.to_owned(), request))).await;
}
