//! The real binary with registries that are processes of their own.

use mcp::scan::path;
use tests::mesh::{Mesh, example};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_founding_calculator_serves_a_running_mesh() {
    let (_calculator, address) = example("calculator").await.unwrap();
    let mesh = Mesh::up(&[&format!("{address}=team")]).await.unwrap();
    let params = r#"{"name":"team__calculator","arguments":{"operation":"multiply","a":6,"b":7}}"#;
    let modern =
        mesh.client().modern("1", "tools/call", params, "{}").await.unwrap().response().await.unwrap();
    assert_eq!(path(&modern, &["result", "structuredContent", "result"]), Some("42.0"), "{modern}");
    let mut older = mesh.client();
    older.initialize("2025-06-18", "{}").await.unwrap();
    let call = |name: &str, b: u32| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{"operation":"divide","a":1,"b":{b}}}}}}}"#
        )
    };
    for name in ["team__calculator", "calculator"] {
        let answer = older.post(call(name, 4)).await.unwrap().response().await.unwrap();
        assert_eq!(path(&answer, &["result", "structuredContent", "result"]), Some("0.25"), "{answer}");
        let answer = older.post(call(name, 0)).await.unwrap().response().await.unwrap();
        assert_eq!(path(&answer, &["result", "isError"]), Some("true"), "{answer}");
    }
}
