//! Sessions of HTTP+SSE whose owner dies, or leaves: the stream that the client has open is the session, and goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use api::registry::{Continuation, FrameBody, InputRequired, Kind};
use futures::{StreamExt as _, stream};
use http::StatusCode;
use mcp::Json;
use mcp::scan::{member, path};
use tests::client::DEADLINE;
use tests::cluster::Nodes;
use tests::http_sse::HttpSse;
use tests::scripted::{Scripted, bodies, shared};

const ASK: &str = r#"{"r":{"method":"roots/list"}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":"p","result":{}}"#;
const READ: &str = r#"{"jsonrpc":"2.0","id":5,"method":"resources/read","params":{"uri":"a:1"}}"#;

/// `slow` reports progress and waits for what the test says later, `asking` asks, the first read never ends.
fn registry() -> Arc<Scripted> {
    let reads = AtomicUsize::new(0);
    let mut registry = Scripted::new("r", move |_, start| match start.target.as_str() {
        "asking" => bodies([FrameBody::InputRequired(InputRequired {
            requests: Json::trusted(ASK),
            round: 1,
            expires_unix_ms: u64::MAX,
            continuation: Continuation::Parked,
        })]),
        "a:1" if reads.fetch_add(1, Ordering::Relaxed) == 0 => stream::pending().boxed(),
        "a:1" => bodies([FrameBody::Result(Json::trusted(r#"{"contents":[]}"#))]),
        _ => bodies([FrameBody::Progress(Json::trusted(r#"{"progress":1}"#))]),
    });
    registry.goes_on = true;
    registry.list(Kind::Tools, [r#"{"name":"slow"}"#, r#"{"name":"asking"}"#]);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    shared(registry)
}

fn call(id: u32, tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","_meta":{{"progressToken":{id}}}}}}}"#
    )
}

async fn open(nodes: &Nodes, revision: &str) -> Result<HttpSse> {
    let mut client = HttpSse::open(nodes.client()).await?;
    client.initialize(revision, r#"{"roots":{}}"#).await?;
    Ok(client)
}

/// The next message that does not merely say that a list has changed, as it may have with the owner.
async fn next(client: &mut HttpSse) -> Result<String> {
    loop {
        let message = client.next().await?;
        if !message.contains("/list_changed\"") {
            return Ok(message);
        }
    }
}

async fn a_killed_owner_is_not_missed(revision: &str) -> Result<()> {
    let registry = registry();
    let mut nodes = Nodes::start(3, vec![registry.clone()]).await?;
    let mut client = open(&nodes, revision).await?;
    let subscribe = r#"{"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"a:1"}}"#;
    assert_eq!(client.ask(subscribe).await?, r#"{"jsonrpc":"2.0","id":3,"result":{}}"#);
    assert_eq!(path(&client.ask(call(7, "slow")).await?, &["params", "progress"]), Some("1"));
    let question = client.ask(call(8, "asking")).await?;
    assert_eq!(member(&question, "method"), Some("\"roots/list\""), "{question}");
    client.tell(READ).await?;
    while registry.seen().len() < 3 {
        tokio::task::yield_now().await;
    }
    nodes.kill(&nodes.owner_of(client.session())?);
    // Posted while nobody owns the session: it waits. The read executes nothing, and is made again.
    client.tell(PING).await?;
    let mut said = vec![next(&mut client).await?, next(&mut client).await?];
    said.sort();
    let read = r#"{"jsonrpc":"2.0","id":5,"result":{"contents":[]}}"#;
    assert_eq!(said, [PONG, read]);
    // The question is as good as ever.
    let id = member(&question, "id").context("an id")?;
    client.tell(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"roots":[]}}}}"#)).await?;
    let asked = next(&mut client).await?;
    assert!(member(&asked, "id") == Some("8") && asked.contains("r=Ok("), "{asked}");
    registry.say_later(3, FrameBody::Progress(Json::trusted(r#"{"progress":2}"#)));
    registry.say_later(4, FrameBody::Result(Json::trusted(r#"{"content":[]}"#)));
    assert_eq!(path(&next(&mut client).await?, &["params", "progress"]), Some("2"));
    assert_eq!(next(&mut client).await?, r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#);
    assert_eq!(registry.seen().len(), 4, "two calls, and the read twice");
    tokio::time::timeout(DEADLINE, registry.watching("a:1", true)).await?;
    registry.update(r#"{"uri":"a:1","n":1}"#);
    assert_eq!(path(&next(&mut client).await?, &["params", "n"]), Some("1"));
    registry.list_as(Kind::Tools, "changed", [r#"{"name":"slow"}"#]);
    while !client.next().await?.contains("tools/list_changed") {}
    assert_eq!(client.ask(PING).await?, PONG, "nothing came twice");
    Ok(())
}

async fn a_node_that_drains_is_not_missed() -> Result<()> {
    let registry = registry();
    let mut nodes = Nodes::start(2, vec![registry.clone()]).await?;
    let mut clients = Vec::new();
    for number in 0..12 {
        let mut client = open(&nodes, if number % 2 == 0 { "2024-11-05" } else { "2025-06-18" }).await?;
        assert!(client.ask(call(7, "slow")).await?.contains("progress"));
        clients.push(client);
    }
    nodes.add("session-3")?;
    nodes.settled(|owners| owners.len() == 3).await?;
    nodes.drain("session-1").await?;
    nodes.settled(|owners| !owners.contains("session-1")).await?;
    for client in &mut clients {
        client.tell(PING).await?;
        assert_eq!(next(client).await?, PONG);
    }
    registry.say_later(3, FrameBody::Result(Json::trusted(r#"{"content":[]}"#)));
    for client in &mut clients {
        assert_eq!(next(client).await?, r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#);
    }
    assert_eq!(registry.seen().len(), 12, "each was called once");
    Ok(())
}

/// A client that goes ends its session, whoever owns it by then.
async fn who_goes_ends_the_session_at_its_next_owner() -> Result<()> {
    let registry = registry();
    let mut nodes = Nodes::start(2, vec![registry.clone()]).await?;
    let mut client = open(&nodes, "2024-11-05").await?;
    assert!(client.ask(call(7, "slow")).await?.contains("progress"));
    nodes.kill(&nodes.owner_of(client.session())?);
    let other = open(&nodes, "2024-11-05").await?;
    drop(std::mem::replace(&mut client.events, other.events));
    // Sooner than a session ends whose reader merely stays away.
    tokio::time::timeout(Duration::from_secs(9), registry.cancellation())
        .await
        .context("the call went on")?;
    let gone = async {
        while client.post(PING).await?.status != StatusCode::NOT_FOUND {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, gone).await.context("the session stayed")?
}

/// Told to its owner, and again to the next one, which did not hear it.
async fn a_gateway_that_drains_tells_every_owner() -> Result<()> {
    let registry = registry();
    let mut nodes = Nodes::start(2, vec![registry.clone()]).await?;
    let mut client = HttpSse::open(nodes.client_of(0)).await?;
    client.initialize("2024-11-05", "{}").await?;
    let mut idle = HttpSse::open(nodes.client_of(0)).await?;
    idle.initialize("2024-11-05", "{}").await?;
    assert!(client.ask(call(7, "slow")).await?.contains("progress"));
    nodes.drain_gateway(0);
    // It was told by then: the session of a client that waits for nothing has ended.
    assert_eq!(idle.events.next().await?, None);
    nodes.kill(&nodes.owner_of(client.session())?);
    registry.say_later(3, FrameBody::Result(Json::trusted(r#"{"content":[]}"#)));
    assert_eq!(next(&mut client).await?, r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#);
    let ended = async {
        while client.events.next().await?.is_some() {}
        anyhow::Ok(())
    };
    // Sooner than the gateway itself gives its clients up.
    tokio::time::timeout(Duration::from_secs(10), ended).await.context("the stream stayed open")?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_owner_ends_a_session_whose_gateway_drains() {
    a_gateway_that_drains_tells_every_owner().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_do_not_notice_that_the_owner_was_killed() {
    for revision in ["2024-11-05", "2025-11-25"] {
        a_killed_owner_is_not_missed(revision).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_do_not_notice_that_a_node_drains() {
    a_node_that_drains_is_not_missed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_ends_its_session() {
    who_goes_ends_the_session_at_its_next_owner().await.unwrap();
}
