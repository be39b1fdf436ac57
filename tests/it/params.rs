//! `Mcp-Param-*` against the arguments they repeat, through the whole mesh: each in every way it can be wrong.

use anyhow::Result;
use api::registry::FrameBody;
use mcp::Json;
use mcp::scan::path;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};

topologies!(
    a_header_that_does_not_repeat_its_argument_is_refused,
    a_header_without_an_argument_is_refused_and_without_both_is_none,
);

const TOOL: &str = r#"{"name":"t","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"},"dry":{"type":"boolean","x-mcp-header":"Dry"}}}}"#;

/// Header, value, and the value in another case.
const HEADERS: [(&str, &str, &str); 3] =
    [("mcp-param-region", "eu-1", "EU-1"), ("mcp-param-n", "42", "0x2A"), ("mcp-param-dry", "true", "True")];

fn registry() -> Scripted {
    let registry =
        Scripted::new("one", |_, _| bodies([FrameBody::Result(Json::trusted(r#"{"content":[]}"#))]));
    registry.list(api::registry::Kind::Tools, [TOOL]);
    registry
}

/// Ways to be wrong for a header whose right value is `value`.
fn wrong(value: &str, other_case: &str) -> Vec<(&'static str, Vec<String>)> {
    let own = |text: &str| text.to_owned();
    vec![
        ("missing", vec![]),
        ("empty", vec![own("")]),
        ("white space", vec![own(" \t ")]),
        ("another case", vec![own(other_case)]),
        ("repeated equal", vec![own(value), own(value)]),
        ("repeated different", vec![own(value), own("other")]),
        ("repeated, wrong first", vec![own("other"), own(value)]),
        ("joined with a comma", vec![format!("{value}, {value}")]),
        ("quoted", vec![format!("\"{value}\"")]),
        ("longer", vec![format!("{value}x")]),
        ("shorter", vec![own(&value[..value.len() - 1])]),
        ("null", vec![own("null")]),
        ("8 KiB", vec!["x".repeat(8192)]),
        ("an unclosed sentinel", vec![own("=?base64?ZXUtMQ==")]),
        ("an upper-case sentinel", vec![own("=?BASE64?ZXUtMQ==?=")]),
        ("bad padding", vec![own("=?base64?ZXUtMQ=?=")]),
        ("bad alphabet", vec![own("=?base64?ZX*tMQ==?=")]),
        ("base64 of no text", vec![own("=?base64?/////w==?=")]),
        ("a nested sentinel", vec![own("=?base64?PT9iYXNlNjQ/WlhVdE1RPT0/PQ==?=")]),
        ("base64 of something else", vec![own("=?base64?b3RoZXI=?=")]),
    ]
}

async fn a_header_that_does_not_repeat_its_argument_is_refused(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let client = mesh.client();
    let params = r#"{"name":"t","arguments":{"region":"eu-1","n":42,"dry":true}}"#;
    let right = HEADERS.map(|(name, value, _)| (name, value));
    let answer = client.modern_with(&right, "1", "tools/call", params, "{}", "").await?;
    assert_eq!(answer.status, 200);
    let before = registry.seen().len();
    let mut count = 0;
    for (header, value, other_case) in HEADERS {
        for (way, values) in wrong(value, other_case) {
            let others = right.iter().copied().filter(|(name, _)| *name != header);
            let headers: Vec<_> = others.chain(values.iter().map(|value| (header, value.as_str()))).collect();
            let answer = client.modern_with(&headers, "1", "tools/call", params, "{}", "").await?;
            let (status, kind) = (answer.status, answer.headers.get("content-type").cloned());
            let text = answer.text().await?;
            assert_eq!(status, 400, "{header} {way}: {text}");
            assert_eq!(kind.as_ref().and_then(|kind| kind.to_str().ok()), Some("application/json"));
            assert_eq!(path(&text, &["error", "code"]), Some("-32020"), "{header} {way}: {text}");
            assert_eq!(path(&text, &["id"]), Some("1"), "{header} {way}");
            count += 1;
        }
    }
    assert_eq!(count, 60);
    assert_eq!(registry.seen().len(), before, "nothing reached the registry");
    Ok(())
}

async fn a_header_without_an_argument_is_refused_and_without_both_is_none(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let client = mesh.client();
    let absent = ["{}", r#"{"region":null}"#, r#"{"Region":"eu-1"}"#, r#"{"other":{"region":"eu-1"}}"#];
    for arguments in absent {
        let params = format!(r#"{{"name":"t","arguments":{arguments}}}"#);
        let without = client.modern_with(&[], "1", "tools/call", &params, "{}", "").await?;
        assert_eq!(without.status, 200, "{arguments}");
        let before = registry.seen().len();
        let headers = [("mcp-param-region", "eu-1")];
        let with = client.modern_with(&headers, "1", "tools/call", &params, "{}", "").await?;
        assert_eq!(with.status, 400, "{arguments}");
        assert_eq!(path(&with.text().await?, &["error", "code"]), Some("-32020"), "{arguments}");
        assert_eq!(registry.seen().len(), before, "nothing reached the registry");
    }
    Ok(())
}
