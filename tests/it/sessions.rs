//! How many sessions there may be, how long they last, and what an idle one costs.

use anyhow::Result;
use tests::client::{Client, DEADLINE};
use tests::mesh::Mesh;
use tests::scripted::{Scripted, bodies, shared};

fn nothing() -> Vec<std::sync::Arc<dyn api::Registry>> {
    vec![shared(Scripted::new("r", |_, _| bodies([])))]
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#;

/// Asks until the session is gone.
async fn gone(client: &Client) -> Result<()> {
    let asking = async {
        while client.post(PING).await?.status != 404 {
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::time::timeout(DEADLINE, asking).await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_never_finished_ends_the_session() {
    let config = session::Config { init_timeout_s: 1, ..session::Config::default() };
    let mesh = Mesh::embedded_with(config, nothing()).await.unwrap();
    let mut client = mesh.client();
    let answer = client.post(INITIALIZE).await.unwrap();
    client.session = Some(answer.headers["mcp-session-id"].to_str().unwrap().to_owned());
    gone(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_ends_and_one_that_is_used_does_not() {
    let config = session::Config { idle_timeout_s: 2, ..session::Config::default() };
    let mesh = Mesh::embedded_with(config, nothing()).await.unwrap();
    let (mut idle, mut used) = (mesh.client(), mesh.client());
    idle.initialize("2025-11-25", "{}").await.unwrap();
    used.initialize("2025-11-25", "{}").await.unwrap();
    let _reading = used.get(None).await.unwrap();
    let session = idle.session.take();
    let watched = async {
        // Every ping would keep the idle one alive, so it is the list of sessions that is watched, by being full.
        loop {
            let answer = used.post(PING).await?;
            assert_eq!(answer.status, 200, "the used one stays");
            let mut other = mesh.client();
            other.session.clone_from(&session);
            let probe = other.get(Some("not-an-id")).await?;
            if probe.status == 404 {
                return anyhow::Ok(());
            }
            assert_eq!(probe.status, 400);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, watched).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_a_handshake_is_refused_and_keeps_nothing() {
    let config = session::Config { max_sessions: 2, ..session::Config::default() };
    let mesh = Mesh::embedded_with(config, nothing()).await.unwrap();
    let mut clients = [mesh.client(), mesh.client()];
    for client in &mut clients {
        client.initialize("2025-11-25", "{}").await.unwrap();
    }
    let refused = mesh.client().post(INITIALIZE).await.unwrap();
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after") && !refused.headers.contains_key("mcp-session-id"));
    let text = refused.text().await.unwrap();
    assert_eq!(mcp::scan::path(&text, &["error", "data", "reason"]), Some("\"rate_limited\""), "{text}");
    assert_eq!(mcp::scan::path(&text, &["id"]), Some("1"));
    assert!(clients[0].delete().await.unwrap().status.is_success());
    mesh.client().initialize("2025-11-25", "{}").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_has_no_task() {
    let mesh = Mesh::embedded_with(session::Config::default(), nothing()).await.unwrap();
    let mut first = mesh.client();
    first.initialize("2025-11-25", "{}").await.unwrap();
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    // One connection serves them all, so that only sessions are counted.
    for _ in 0..300 {
        first.session = None;
        first.revision = None;
        first.initialize("2025-11-25", "{}").await.unwrap();
    }
    let resting = async {
        while metrics.num_alive_tasks() > before + 5 {
            tokio::task::yield_now().await;
        }
    };
    let rested = tokio::time::timeout(DEADLINE, resting).await;
    assert!(rested.is_ok(), "{} tasks before, {} with 300 idle sessions", before, metrics.num_alive_tasks());
}
