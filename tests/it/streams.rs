//! Event streams of older clients: resumption, the session's own stream, subscriptions.

use anyhow::Result;
use api::registry::{FrameBody, Kind};
use futures::StreamExt as _;
use mcp::Json;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, shared};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

topologies!(
    a_lost_answer_is_resumed_at_another_gateway,
    an_event_id_of_another_session_is_refused,
    updates_and_list_changes_reach_the_own_stream,
    what_happened_without_a_reader_is_kept,
    several_streams_at_once,
);

/// A tool that says one thing, and the rest once `go` is true.
fn held() -> (Scripted, watch::Sender<bool>) {
    let (go, gone) = watch::channel(false);
    let registry = Scripted::new("r", move |_, _| {
        let first = futures::stream::iter([FrameBody::Progress(Json::trusted(r#"{"progress":1}"#))]);
        let rest =
            WatchStream::new(gone.clone()).filter(|go| futures::future::ready(*go)).take(1).flat_map(|_| {
                futures::stream::iter([
                    FrameBody::Progress(Json::trusted(r#"{"progress":2}"#)),
                    FrameBody::Result(Json::trusted(r#"{"content":[]}"#)),
                ])
            });
        first.chain(rest).boxed()
    });
    registry.list(Kind::Tools, [r#"{"name":"held","inputSchema":{"type":"object"}}"#]);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    (registry, go)
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"held","_meta":{"progressToken":"t"}}}"#;

async fn a_lost_answer_is_resumed_at_another_gateway(topology: Topology) -> Result<()> {
    let (registry, go) = held();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let mut events = client.post(CALL).await?.events();
    let priming = events.next().await?.unwrap();
    let first = events.next().await?.unwrap();
    assert!(first.data.contains(r#""progress":1"#));
    drop(events);
    go.send_replace(true);
    let mut rest = client.get(first.id.as_deref()).await?.events();
    let mut seen = Vec::new();
    while let Some(event) = rest.next().await? {
        seen.push(event.data);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].contains(r#""progress":2"#) && seen[1].contains(r#""id":2,"result""#), "{seen:?}");
    // From the beginning it is all of it, once more, and only this stream's.
    let mut all = client.get(priming.id.as_deref()).await?.events();
    let mut again = Vec::new();
    while let Some(event) = all.next().await? {
        again.push(event.data);
    }
    assert_eq!(again[0], first.data);
    assert_eq!(again[1..], seen);
    Ok(())
}

async fn an_event_id_of_another_session_is_refused(topology: Topology) -> Result<()> {
    let (registry, _go) = held();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    let mut one = mesh.client();
    one.initialize("2025-11-25", "{}").await?;
    let priming = one.post(CALL).await?.events().next().await?.unwrap();
    let mut two = mesh.client();
    two.initialize("2025-11-25", "{}").await?;
    for id in [priming.id.as_deref().unwrap(), "x", "1.1-1.00000000"] {
        let answer = two.get(Some(id)).await?;
        assert_eq!(answer.status, 400, "{id}");
        assert!(answer.text().await?.contains("-32600"));
    }
    Ok(())
}

async fn subscribe(client: &tests::client::Client, id: u32, uri: &str) -> Result<String> {
    let body =
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#);
    client.post(body).await?.response().await
}

async fn updates_and_list_changes_reach_the_own_stream(topology: Topology) -> Result<()> {
    let (registry, _go) = held();
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let mut own = client.get(None).await?.events();
    assert_eq!(subscribe(&client, 3, "a:1").await?, r#"{"jsonrpc":"2.0","id":3,"result":{}}"#);
    assert!(subscribe(&client, 4, "a:none").await?.contains("-32002"));
    registry.update(r#"{"uri":"a:1","x":1.0}"#);
    let update = own.message().await?;
    assert_eq!(
        update,
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:1","x":1.0}}"#
    );
    registry.list_as(Kind::Tools, "new", [r#"{"name":"other"}"#]);
    assert_eq!(own.message().await?, r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    let body = r#"{"jsonrpc":"2.0","id":5,"method":"resources/unsubscribe","params":{"uri":"a:1"}}"#;
    assert_eq!(client.post(body).await?.response().await?, r#"{"jsonrpc":"2.0","id":5,"result":{}}"#);
    tokio::time::timeout(tests::client::DEADLINE, registry.watching("a:1", false)).await?;
    Ok(())
}

async fn what_happened_without_a_reader_is_kept(topology: Topology) -> Result<()> {
    let (registry, _go) = held();
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-06-18", "{}").await?;
    subscribe(&client, 3, "a:1").await?;
    registry.update(r#"{"uri":"a:1"}"#);
    let mut own = client.get(None).await?.events();
    assert!(own.message().await?.contains("resources/updated"));
    // A second reader takes over: the first one's stream ends.
    let mut second = client.get(None).await?.events();
    assert_eq!(own.next().await?, None);
    registry.update(r#"{"uri":"a:1","n":2}"#);
    assert!(second.message().await?.contains(r#""n":2"#));
    Ok(())
}

async fn several_streams_at_once(topology: Topology) -> Result<()> {
    let (registry, go) = held();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    let mut client = mesh.client();
    client.initialize("2025-03-26", "{}").await?;
    let mut open = Vec::new();
    for id in 10..15 {
        let body = CALL.replace("\"id\":2", &format!("\"id\":{id}")).replace("\"t\"", &format!("\"t{id}\""));
        let mut events = client.post(body).await?.events();
        assert!(events.message().await?.contains(&format!("\"t{id}\"")));
        open.push((id, events));
    }
    go.send_replace(true);
    for (id, mut events) in open {
        assert!(events.message().await?.contains(&format!("\"t{id}\"")));
        assert!(events.message().await?.contains(&format!("\"id\":{id},\"result\"")));
        assert_eq!(events.next().await?, None);
    }
    Ok(())
}
