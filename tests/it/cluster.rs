//! Nodes that come, go and die, under sessions that go on.

use std::sync::Arc;

use anyhow::Result;
use api::registry::{FrameBody, Kind};
use mcp::Json;
use mcp::scan::path;
use tests::cluster::Nodes;
use tests::scripted::{Scripted, shared};

/// Its one tool reports progress and then waits for what the test says later.
fn registry() -> Arc<Scripted> {
    let mut registry = Scripted::new("r", |_, _| {
        tests::scripted::bodies([FrameBody::Progress(Json::trusted(r#"{"progress":1}"#))])
    });
    registry.goes_on = true;
    registry.list(Kind::Tools, [r#"{"name":"slow"}"#]);
    shared(registry)
}

const CALL: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"slow","_meta":{"progressToken":1}}}"#;
/// The same without progress: its answer is one JSON document.
const SILENT: &str = r#"{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"slow"}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#;

async fn ping(client: &tests::client::Client) -> Result<()> {
    let answer = client.post(PING).await?.text().await?;
    anyhow::ensure!(answer == r#"{"jsonrpc":"2.0","id":9,"result":{}}"#, "{answer}");
    Ok(())
}

async fn a_killed_owner_is_not_missed() -> Result<()> {
    let registry = registry();
    let mut nodes = Nodes::start(3, vec![registry.clone()]).await?;
    let mut client = nodes.client();
    client.initialize("2025-11-25", "{}").await?;
    let mut events = client.post(CALL).await?.events();
    while !events.next().await?.is_some_and(|event| event.data.contains("progress")) {}
    let owner = nodes.owner_of(client.session.as_deref().unwrap_or_default())?;
    nodes.kill(&owner);
    ping(&client).await?;
    registry.say_later(3, FrameBody::Progress(Json::trusted(r#"{"progress":2}"#)));
    registry.say_later(4, FrameBody::Result(Json::trusted(r#"{"content":[]}"#)));
    // The response that was open all the time goes on.
    assert_eq!(path(&events.message().await?, &["params", "progress"]), Some("2"));
    let end = events.message().await?;
    assert_eq!((path(&end, &["id"]), path(&end, &["result", "content"])), (Some("7"), Some("[]")), "{end}");
    assert_eq!(events.next().await?.map(|event| event.data), None);
    assert_eq!(registry.seen().len(), 1, "it was called once");
    Ok(())
}

async fn a_node_that_drains_is_not_missed() -> Result<()> {
    let registry = registry();
    let mut nodes = Nodes::start(2, vec![registry.clone()]).await?;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = nodes.client();
        client.initialize("2025-11-25", "{}").await?;
        clients.push(client);
    }
    let mut waiting = Vec::new();
    for client in &clients {
        let mut events = client.post(CALL).await?.events();
        while !events.next().await?.is_some_and(|event| event.data.contains("progress")) {}
        waiting.push(events);
    }
    nodes.add("session-3")?;
    nodes.settled(|owners| owners.len() == 3).await?;
    nodes.drain("session-1").await?;
    nodes.settled(|owners| !owners.contains("session-1")).await?;
    for client in &clients {
        ping(client).await?;
    }
    registry.say_later(3, FrameBody::Result(Json::trusted(r#"{"content":[]}"#)));
    for events in &mut waiting {
        let end = events.message().await?;
        assert_eq!(path(&end, &["result", "content"]), Some("[]"), "{end}");
    }
    assert_eq!(registry.seen().len(), 20, "each was called once");
    Ok(())
}

async fn what_is_done_and_not_delivered_is_found_again() -> Result<()> {
    let registry = registry();
    let mut nodes = Nodes::start(2, vec![registry.clone()]).await?;
    let mut client = nodes.client();
    client.initialize("2025-06-18", "{}").await?;
    let owner = nodes.owner_of(client.session.as_deref().unwrap_or_default())?;
    let asked = client.post(SILENT);
    let killed = async {
        while registry.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        nodes.kill(&owner);
        registry.say_later(3, FrameBody::Result(Json::trusted(r#"{"content":[]}"#)));
    };
    let (answer, ()) = tokio::join!(asked, killed);
    let answer = answer?.response().await?;
    assert_eq!(path(&answer, &["result", "content"]), Some("[]"), "{answer}");
    assert_eq!(registry.seen().len(), 1, "it was called once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_do_not_notice_that_the_owner_was_killed() {
    a_killed_owner_is_not_missed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_do_not_notice_that_a_node_drains() {
    a_node_that_drains_is_not_missed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_with_its_owner_is_given_by_the_next() {
    what_is_done_and_not_delivered_is_found_again().await.unwrap();
}
