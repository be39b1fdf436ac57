//! `subscriptions/listen` of modern clients.

use anyhow::Result;
use api::registry::Kind;
use mcp::scan::path;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};

topologies!(the_acknowledgement_comes_first_and_the_filter_holds, draining_ends_a_listen_with_its_response,);

fn registry() -> Scripted {
    let registry = Scripted::new("r", |_, _| bodies([]));
    registry.list(Kind::Tools, [r#"{"name":"a"}"#]);
    registry.list(Kind::Prompts, [r#"{"name":"p"}"#]);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    registry
}

async fn the_acknowledgement_comes_first_and_the_filter_holds(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let client = mesh.client();
    let params = r#"{"notifications":{"promptsListChanged":true,"resourceSubscriptions":["a:1","a:none"]}}"#;
    for id in ["7", "\"seven\""] {
        let answer = client.modern(id, "subscriptions/listen", params, "{}").await?;
        assert_eq!(answer.status, 200);
        assert!(answer.is_stream());
        assert_eq!(answer.headers["x-accel-buffering"], "no");
        let mut events = answer.events();
        let first = events.next().await?.unwrap();
        assert_eq!(first.id, None, "2026-07-28 has no event ids");
        let ack = first.data;
        assert_eq!(path(&ack, &["method"]), Some("\"notifications/subscriptions/acknowledged\""));
        assert_eq!(path(&ack, &["params", "_meta", "io.modelcontextprotocol/subscriptionId"]), Some(id));
        assert_eq!(path(&ack, &["params", "notifications", "promptsListChanged"]), Some("true"));
        assert_eq!(path(&ack, &["params", "notifications", "toolsListChanged"]).unwrap_or("false"), "false");
        assert_eq!(
            path(&ack, &["params", "notifications", "resourceSubscriptions"]),
            Some(r#"["a:1"]"#),
            "{ack}"
        );
        let digest = format!("{id}-tools");
        registry.list_as(
            Kind::Tools,
            &digest,
            if id == "7" { [r#"{"name":"b"}"#] } else { [r#"{"name":"c"}"#] },
        );
        registry.list_as(
            Kind::Prompts,
            &digest,
            if id == "7" { [r#"{"name":"q"}"#] } else { [r#"{"name":"r"}"#] },
        );
        let changed = events.message().await?;
        assert_eq!(path(&changed, &["method"]), Some("\"notifications/prompts/list_changed\""), "{changed}");
        assert_eq!(path(&changed, &["params", "_meta", "io.modelcontextprotocol/subscriptionId"]), Some(id));
        registry.update(r#"{"uri":"a:1","x":1.0}"#);
        let updated = events.message().await?;
        assert_eq!(path(&updated, &["params", "x"]), Some("1.0"), "{updated}");
        assert_eq!(path(&updated, &["params", "_meta", "io.modelcontextprotocol/subscriptionId"]), Some(id));
        drop(events);
        tokio::time::timeout(tests::client::DEADLINE, registry.watching("a:1", false)).await?;
    }
    let bad = client.modern("1", "subscriptions/listen", r#"{"notifications":3}"#, "{}").await?;
    assert_eq!(bad.status, 400);
    assert_eq!(path(&bad.text().await?, &["error", "code"]), Some("-32602"));
    Ok(())
}

async fn draining_ends_a_listen_with_its_response(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let params = r#"{"notifications":{"toolsListChanged":true}}"#;
    let mut events = mesh.client().modern("1", "subscriptions/listen", params, "{}").await?.events();
    events.message().await?;
    mesh.drain();
    let end = events.message().await?;
    assert_eq!(path(&end, &["result", "resultType"]), Some("\"complete\""), "{end}");
    assert_eq!(path(&end, &["result", "_meta", "io.modelcontextprotocol/subscriptionId"]), Some("1"));
    assert_eq!(events.next().await?, None);
    Ok(())
}
