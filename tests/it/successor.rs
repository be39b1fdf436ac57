//! Sessions that another owner takes up from the store.

use std::sync::Arc;

use anyhow::Result;
use api::registry::{FrameBody, Kind};
use futures::{StreamExt as _, stream};
use mcp::Json;
use mcp::scan::path;
use session::store::{Memory, SessionStore};
use tests::client::{Client, DEADLINE};
use tests::mesh::Mesh;
use tests::scripted::{Scripted, shared};

fn registry() -> Arc<Scripted> {
    let registry = Scripted::new("r", |_, _| {
        let first = FrameBody::Progress(Json::trusted(r#"{"progress":1}"#));
        stream::iter([first]).chain(stream::pending()).boxed()
    });
    registry.list(Kind::Tools, [r#"{"name":"endless"}"#]);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    shared(registry)
}

/// Each owner has another client, which is the same to the session.
fn moved(client: &Client, to: &Mesh) -> Client {
    let mut moved = to.client();
    moved.session.clone_from(&client.session);
    moved.revision.clone_from(&client.revision);
    moved
}

/// A session that watches a resource.
async fn watching(mesh: &Mesh) -> Result<Client> {
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let subscribe = r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a:1"}}"#;
    assert!(client.post(subscribe).await?.response().await?.contains("result"));
    Ok(client)
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"endless","_meta":{"progressToken":1}}}"#;

async fn a_session_goes_on_at_its_next_owner() -> Result<()> {
    let store: Arc<dyn SessionStore> = Arc::new(Memory::default());
    let first = Mesh::successor(store.clone(), 1, vec![registry()]).await?;
    let client = watching(&first).await?;
    let mut events = client.post(CALL).await?.events();
    events.next().await?;
    let seen = events.next().await?.unwrap();
    assert!(seen.data.contains("progress"), "{seen:?}");

    let registry = registry();
    let second = Mesh::successor(store, 2, vec![registry.clone()]).await?;
    let moved = moved(&client, &second);
    let ping = r#"{"jsonrpc":"2.0","id":8,"method":"ping"}"#;
    assert_eq!(moved.post(ping).await?.text().await?, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#);
    // The call's stream went with its owner: its ending is explicit, and behind the cursor the client has.
    let end = moved.get(seen.id.as_deref()).await?.events().message().await?;
    assert_eq!(path(&end, &["id"]), Some("7"), "{end}");
    assert_eq!(path(&end, &["error", "data", "outcome"]), Some("\"unknown\""), "{end}");
    assert!(registry.seen().is_empty(), "it was not called again");
    // The subscription is one at the next owner too.
    tokio::time::timeout(DEADLINE, registry.watching("a:1", true)).await?;
    let mut own = moved.get(None).await?.events();
    registry.update(r#"{"uri":"a:1","n":1}"#);
    while path(&own.message().await?, &["params", "n"]) != Some("1") {}
    // The first owner is fenced off: what it tries to write is refused, and it says so.
    let level = r#"{"jsonrpc":"2.0","id":9,"method":"logging/setLevel","params":{"level":"error"}}"#;
    let zombie = client.post(level).await?;
    let (status, text) = (zombie.status, zombie.text().await?);
    assert!(!text.contains("\"result\""), "{status} {text}");
    assert_eq!(moved.post(level).await?.text().await?, r#"{"jsonrpc":"2.0","id":9,"result":{}}"#);
    Ok(())
}

/// The same registry serves both owners, and still has the call.
async fn a_call_goes_on_at_the_next_owner() -> Result<()> {
    let store: Arc<dyn SessionStore> = Arc::new(Memory::default());
    let registry = registry();
    let first = Mesh::successor(store.clone(), 1, vec![registry.clone()]).await?;
    let mut client = first.client();
    client.initialize("2025-11-25", "{}").await?;
    let mut events = client.post(CALL).await?.events();
    events.next().await?;
    let seen = events.next().await?.unwrap();

    let second = Mesh::successor(store, 2, vec![registry.clone()]).await?;
    let moved = moved(&client, &second);
    let mut events = moved.get(seen.id.as_deref()).await?.events();
    // Heard before, new, and the end: numbers tell them apart.
    registry.say_later(2, FrameBody::Progress(Json::trusted(r#"{"progress":1.5}"#)));
    registry.say_later(3, FrameBody::Progress(Json::trusted(r#"{"progress":2}"#)));
    registry.say_later(4, FrameBody::Result(Json::trusted(r#"{"content":[]}"#)));
    assert_eq!(path(&events.message().await?, &["params", "progress"]), Some("2"));
    let end = events.message().await?;
    assert_eq!((path(&end, &["id"]), path(&end, &["result", "content"])), (Some("7"), Some("[]")), "{end}");
    assert_eq!(registry.seen().len(), 1, "it was called once");
    Ok(())
}

/// Whoever owned it then, and whether or not anybody did.
async fn a_client_is_told_of_what_changed_meanwhile() -> Result<()> {
    let store: Arc<dyn SessionStore> = Arc::new(Memory::default());
    let first = Mesh::successor(store.clone(), 1, vec![registry()]).await?;
    let client = watching(&first).await?;

    let other = || {
        let registry = registry();
        registry.list(Kind::Tools, [r#"{"name":"endless"}"#, r#"{"name":"more"}"#]);
        registry
    };
    let second = Mesh::successor(store.clone(), 2, vec![other()]).await?;
    let told = moved(&client, &second).get(None).await?.events().message().await?;
    assert_eq!(path(&told, &["method"]), Some("\"notifications/tools/list_changed\""), "{told}");

    // Once, and not for what is as it was.
    let registry = other();
    let third = Mesh::successor(store, 3, vec![registry.clone()]).await?;
    let mut own = moved(&client, &third).get(None).await?.events();
    tokio::time::timeout(DEADLINE, registry.watching("a:1", true)).await?;
    registry.update(r#"{"uri":"a:1"}"#);
    let told = own.message().await?;
    assert_eq!(path(&told, &["method"]), Some("\"notifications/resources/updated\""), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_between_owners_is_announced() {
    a_client_is_told_of_what_changed_meanwhile().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_outlives_its_owner() {
    a_call_goes_on_at_the_next_owner().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_all_that_a_next_owner_needs() {
    a_session_goes_on_at_its_next_owner().await.unwrap();
}
