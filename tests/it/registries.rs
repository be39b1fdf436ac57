//! Several registries: merged, named apart, coming and going while sessions last.

use anyhow::Result;
use api::registry::{FrameBody, Kind};
use mcp::Json;
use mcp::scan::path;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};

topologies!(
    lists_are_merged_and_calls_find_their_registry,
    the_same_name_twice_is_hidden_and_comes_back,
    header_params_are_checked_against_what_was_served,
);

fn named(name: &'static str, tools: impl IntoIterator<Item = &'static str>) -> Scripted {
    let registry = Scripted::new(name, move |_, start| {
        let text = format!("{name}:{}", start.target);
        bodies([FrameBody::Result(Json::trusted(format!(
            "{{\"content\":[{{\"type\":\"text\",\"text\":{}}}]}}",
            mcp::edit::quote(&text)
        )))])
    });
    registry.list(Kind::Tools, tools);
    registry
}

async fn lists_are_merged_and_calls_find_their_registry(topology: Topology) -> Result<()> {
    let one = shared(named("one", [r#"{"name":"b"}"#]));
    let two = shared(named("two", [r#"{"name":"a"}"#]));
    let mesh = Mesh::start(topology, vec![one.clone(), two.clone()]).await?;
    let client = mesh.client();
    let list = client.modern("1", "tools/list", "{}", "{}").await?.text().await?;
    assert_eq!(path(&list, &["result", "tools"]), Some(r#"[{"name":"a"},{"name":"b"}]"#));
    for (tool, registry) in [("a", "two"), ("b", "one")] {
        let answer =
            client.modern("2", "tools/call", &format!(r#"{{"name":"{tool}"}}"#), "{}").await?.text().await?;
        assert!(answer.contains(&format!("{registry}:{tool}")), "{answer}");
    }
    Ok(())
}

async fn the_same_name_twice_is_hidden_and_comes_back(topology: Topology) -> Result<()> {
    let one = shared(named("one", [r#"{"name":"same"}"#, r#"{"name":"x"}"#]));
    let two = shared(named("two", [r#"{"name":"same"}"#]));
    let mesh = Mesh::start(topology, vec![one, two.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let list = |id: u32| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
    let before = client.post(list(1)).await?.text().await?;
    assert_eq!(path(&before, &["result", "tools"]), Some(r#"[{"name":"x"}]"#));
    let mut own = client.get(None).await?.events();
    two.list_as(Kind::Tools, "gone", []);
    assert!(own.message().await?.contains("tools/list_changed"));
    let after = client.post(list(2)).await?.text().await?;
    assert_eq!(path(&after, &["result", "tools"]), Some(r#"[{"name":"same"},{"name":"x"}]"#));
    Ok(())
}

async fn header_params_are_checked_against_what_was_served(topology: Topology) -> Result<()> {
    let tool = r#"{"name":"t","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"}}}}"#;
    let registry = shared(named("one", [tool]));
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let client = mesh.client();
    let params = r#"{"name":"t","arguments":{"region":"eu-1","n":42}}"#;
    let good: [&[(&str, &str)]; 3] = [
        &[("mcp-param-region", "eu-1"), ("mcp-param-n", "42")],
        &[("mcp-param-region", "=?base64?ZXUtMQ==?="), ("mcp-param-n", "42")],
        &[("mcp-param-region", "eu-1"), ("mcp-param-n", "42"), ("mcp-param-other", "x")],
    ];
    for headers in good {
        let answer = client.modern_with(headers, "1", "tools/call", params, "{}", "").await?;
        assert_eq!(answer.status, 200, "{headers:?}");
    }
    let before = registry.seen().len();
    let bad: [&[(&str, &str)]; 6] = [
        &[],
        &[("mcp-param-region", "eu-1")],
        &[("mcp-param-region", "eu-2"), ("mcp-param-n", "42")],
        &[("mcp-param-region", "eu-1"), ("mcp-param-region", "eu-1"), ("mcp-param-n", "42")],
        &[("mcp-param-region", "=?base64?ZXUtMQ=?="), ("mcp-param-n", "42")],
        &[("mcp-param-region", "eu-1"), ("mcp-param-n", "forty-two")],
    ];
    for headers in bad {
        let answer = client.modern_with(headers, "1", "tools/call", params, "{}", "").await?;
        assert_eq!(answer.status, 400, "{headers:?}");
        let text = answer.text().await?;
        assert_eq!(path(&text, &["error", "code"]), Some("-32020"), "{headers:?}");
        assert_eq!(path(&text, &["id"]), Some("1"));
    }
    assert_eq!(registry.seen().len(), before, "nothing reached the registry");
    Ok(())
}
