//! Whatever a registry says reaches the client byte for byte; only listed members are added or removed.

use anyhow::Result;
use api::registry::{FrameBody, Kind};
use mcp::Json;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};

/// Unknown members, number forms, key order, duplicate names deep inside, escapes, odd white space.
const RESULT: &str = r#"{ "zeta":1.0 ,"content":[ {"type":"text","text":"\u00e9\/\ud83d\ude00","x-unknown":{"b":1,"a":2,"a":3}} ],"structuredContent":{"big":9223372036854775808,"huge":1e400,"zero":-0,"float":1.0,"exp":1E+2,"long":0.10000000000000000555,"dup":1,"dup":2},"isError":false,"vendor/ext":[null,true,{}], "alpha":0}"#;

const TOOL: &str = r#"{"x-first":1.0,"name":"hostile","description":"d","inputSchema":{"type":"object","$comment":"\u0000 kept","properties":{"a":{"type":"number","multipleOf":1e-400}},"required":[],"required":[]},"_meta":{"vendor/x":{"n":-0}},"execution":{"taskSupport":"forbidden"},"unknown":[1e400,18446744073709551616]}"#;

const CAPABILITIES: &str =
    r#"{"extensions":{"com.example/x":{ "n":1.0,"deep":{"a":1,"a":2} }},"com.example/own":[1e400]}"#;

/// What the client sends must reach the registry the same way.
const ARGUMENTS: &str =
    r#"{"n":1.0,"big":9223372036854775808,"huge":1e400,"zero":-0,"dup":1,"dup":2,"s":"\u0041\/"}"#;

fn hostile() -> Scripted {
    let mut registry = Scripted::new("r", |_, _| bodies([FrameBody::Result(Json::trusted(RESULT))]));
    registry.capabilities = Some(Json::trusted(CAPABILITIES));
    registry.list(Kind::Tools, [TOOL]);
    registry
}

async fn everything_survives(topology: Topology) -> Result<()> {
    let registry = shared(hostile());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;

    let mut older = mesh.client();
    let greeting = older.initialize("2025-11-25", "{}").await?;
    assert!(
        greeting.contains(r#""extensions":{"com.example/x":{ "n":1.0,"deep":{"a":1,"a":2} }}"#),
        "{greeting}"
    );
    assert!(greeting.contains(r#""com.example/own":[1e400]"#), "{greeting}");
    let list = older.post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await?.response().await?;
    assert_eq!(list, format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{TOOL}]}}}}"#));
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"hostile","arguments":{ARGUMENTS},"vendor":1.0}}}}"#
    );
    let answer = older.post(call).await?.response().await?;
    assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":2,"result":{RESULT}}}"#));

    let modern = mesh.client();
    let params = format!(r#"{{"name":"hostile","arguments":{ARGUMENTS},"vendor":1.0}}"#);
    let answer = modern.modern("3", "tools/call", &params, "{}").await?.response().await?;
    let result = answer
        .strip_prefix(r#"{"jsonrpc":"2.0","id":3,"result":"#)
        .expect("a result")
        .strip_suffix('}')
        .unwrap();
    let mut undone = mcp::edit::ObjectEditor::new(result);
    assert_eq!(undone.get("resultType"), Some("\"complete\""));
    undone.remove("resultType").remove("_meta");
    assert_eq!(undone.finish(), RESULT, "only resultType and _meta were added");
    let list = modern.modern("4", "tools/list", "{}", "{}").await?.response().await?;
    assert!(list.contains(&format!(r#""tools":[{TOOL}]"#)), "{list}");
    let discovered = modern.modern("5", "server/discover", "{}", "{}").await?.response().await?;
    assert!(discovered.contains(r#""com.example/own":[1e400]"#), "{discovered}");

    for (_, start) in registry.seen() {
        assert_eq!(start.params.member("arguments").unwrap().as_str(), ARGUMENTS);
        assert_eq!(start.params.member("vendor").unwrap().as_str(), "1.0");
    }
    assert_eq!(registry.seen().len(), 2);
    Ok(())
}

topologies!(everything_survives);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_survives_separate_processes() {
    everything_survives(Topology::Processes).await.unwrap();
}
