//! Sessions of which their owner keeps next to nothing while nobody talks: nobody can tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use api::registry::{FrameBody, Kind};
use api::{Epoch, KeyRing, SessionId};
use gateway::auth::Anonymous;
use mcp::Json;
use mcp::scan::path;
use session::store::Memory;
use session::store::faulty::{Fault, Faulty, Op};
use tests::claimed::Claimed;
use tests::client::{Client, DEADLINE};
use tests::mesh::Mesh;
use tests::scripted::{Scripted, bodies, shared};

const PING: &str = r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"done"}}"#;
const READ: &str = r#"{"jsonrpc":"2.0","id":4,"method":"resources/read","params":{"uri":"a:1"}}"#;
const LEVEL: &str = r#"{"jsonrpc":"2.0","id":5,"method":"logging/setLevel","params":{"level":"error"}}"#;

fn registry() -> Arc<Scripted> {
    let registry = Scripted::new("r", |_, _| bodies([FrameBody::Result(Json::trusted(r#"{"content":[]}"#))]));
    registry.list(Kind::Tools, [r#"{"name":"done","inputSchema":{"type":"object"}}"#]);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    shared(registry)
}

/// A node whose store says that it keeps sessions outside of the process.
struct World {
    store: Arc<Faulty>,
    registry: Arc<Scripted>,
    mesh: Mesh,
}

impl World {
    async fn start() -> Result<Self> {
        Self::with(session::Config::default()).await
    }

    async fn with(config: session::Config) -> Result<Self> {
        let (store, registry) = (Faulty::outside(Arc::new(Memory::default())), registry());
        let config = session::Config { passivate_after_s: 1, ..config };
        let mesh =
            Mesh::keeping((store.clone(), 1), config, Arc::new(Claimed), vec![registry.clone()]).await?;
        Ok(Self { store, registry, mesh })
    }

    async fn client(&self) -> Result<Client> {
        let mut client = self.mesh.client();
        client.initialize("2025-11-25", "{}").await?;
        Ok(client)
    }

    /// Waits until so many sessions are passive, of so many that there are.
    async fn until(&self, passive: u64, all: u64) -> Result<()> {
        let seen = || (self.mesh.gauge("trunkline_sessions_passive"), self.mesh.gauge("trunkline_sessions"));
        let waiting = async {
            while seen() != (Some(passive), Some(all)) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        waited.map_err(|_| anyhow::anyhow!("passive, of all: {:?}", seen()))
    }
}

async fn status(client: &Client, message: &'static str) -> Result<(u16, String)> {
    let answer = client.post(message).await?;
    Ok((answer.status.as_u16(), answer.text().await?))
}

async fn it_goes_on_as_if_it_had_stayed() -> Result<()> {
    let world = World::start().await?;
    let client = world.client().await?;
    for round in 1..=3 {
        for message in [READ, CALL, READ] {
            assert!(client.post(message).await?.response().await?.contains("\"result\""));
        }
        world.until(1, 1).await?;
        assert_eq!(world.store.seen(Op::Load), round - 1, "loaded once for the next message, and not before");
    }
    let seen = world.registry.seen();
    let names: BTreeSet<&str> = seen.iter().map(|(context, _)| context.invocation.as_str()).collect();
    assert_eq!((seen.len(), names.len()), (9, 9), "no two calls are one invocation");
    assert!(client.delete().await?.status.is_success());
    assert_eq!(status(&client, PING).await?.0, 404);
    world.until(0, 0).await?;
    assert!(client.delete().await?.status == 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passive_session_goes_on_as_if_it_had_stayed() {
    it_goes_on_as_if_it_had_stayed().await.unwrap();
}

async fn a_change_is_found_out() -> Result<()> {
    let world = World::start().await?;
    let (asleep, listening) = (world.client().await?, world.client().await?);
    let mut own = listening.get(None).await?.events();
    world.until(1, 2).await?;
    world.registry.list(Kind::Tools, [r#"{"name":"more","inputSchema":{"type":"object"}}"#]);
    let changed = Some("\"notifications/tools/list_changed\"");
    assert_eq!(path(&own.message().await?, &["method"]), changed);
    world.until(1, 2).await?;
    assert_eq!(world.store.seen(Op::Load), 0, "nobody is loaded for it");
    // Who comes with a message first hears of it with the next stream all the same.
    assert_eq!(status(&asleep, PING).await?.0, 200);
    let told = asleep.get(None).await?.events().message().await?;
    assert_eq!((path(&told, &["method"]), world.store.seen(Op::Load)), (changed, 1), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_changed_meanwhile_is_announced_with_the_next_stream() {
    a_change_is_found_out().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passive_session_ends_when_it_was_idle_for_too_long() {
    let config = session::Config { idle_timeout_s: 3, ..session::Config::default() };
    let world = World::with(config).await.unwrap();
    let _client = world.client().await.unwrap();
    world.until(1, 1).await.unwrap();
    world.until(0, 0).await.unwrap();
    tokio::time::timeout(DEADLINE, world.store.until_seen(Op::Remove, 1)).await.unwrap();
    assert_eq!(world.store.seen(Op::Load), 1, "loaded once, to be told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_is_told_what_is_true_of_no_session_and_nothing_is_loaded() {
    let world = World::start().await.unwrap();
    let client = world.client().await.unwrap();
    world.until(1, 1).await.unwrap();
    let mut eve = world.mesh.client();
    eve.authorization = Some("Bearer eve|i|t|c".to_owned());
    eve.session.clone_from(&client.session);
    eve.revision.clone_from(&client.revision);
    let theirs = status(&eve, PING).await.unwrap();
    assert_eq!((theirs.0, world.store.seen(Op::Load)), (404, 0));
    world.until(1, 1).await.unwrap();
    assert!(client.delete().await.unwrap().status.is_success());
    assert_eq!(status(&client, PING).await.unwrap(), theirs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_has_lost_is_no_session() {
    let world = World::start().await.unwrap();
    let client = world.client().await.unwrap();
    world.until(1, 1).await.unwrap();
    let keys = KeyRing::single("k1", *b"0123456789abcdefghijklmnopqrstuv");
    let id = SessionId::parse(&keys, client.session.as_ref().unwrap()).unwrap();
    world.store.inner().remove(&id, Epoch(1)).await.unwrap();
    assert_eq!(status(&client, PING).await.unwrap().0, 404);
    world.until(0, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_costs_a_passive_session_nothing_but_the_moment() {
    let world = World::start().await.unwrap();
    let client = world.client().await.unwrap();
    world.until(1, 1).await.unwrap();
    world.store.set_down(true);
    assert_eq!(status(&client, PING).await.unwrap().0, 503);
    world.store.set_down(false);
    assert_eq!(status(&client, PING).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_knows_to_be_stored_stays_in_memory() {
    let world = World::start().await.unwrap();
    let (doubted, other) = (world.client().await.unwrap(), world.client().await.unwrap());
    world.store.next(Op::Commit, Fault::Lose);
    assert_eq!(status(&doubted, LEVEL).await.unwrap().0, 503);
    world.until(1, 2).await.unwrap();
    assert_eq!(status(&other, PING).await.unwrap().0, 200, "it was this one");
    assert_eq!(world.store.seen(Op::Load), 1);
    assert_eq!(status(&doubted, LEVEL).await.unwrap().0, 200);
    world.until(2, 2).await.unwrap();
    assert_eq!(world.store.seen(Op::Load), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_come_while_it_is_loaded_are_answered() {
    let world = World::start().await.unwrap();
    let client = world.client().await.unwrap();
    world.until(1, 1).await.unwrap();
    world.store.next(Op::Load, Fault::Hold);
    let asking = futures::future::join_all((0..4).map(|_| status(&client, PING)));
    let releasing = async {
        world.store.until_held(1).await;
        world.store.release();
    };
    let (answers, ()) = tokio::join!(asking, releasing);
    for answer in answers {
        assert_eq!(answer.unwrap().0, 200);
    }
    assert_eq!(world.store.seen(Op::Load), 1, "loaded once for all of them");
}

async fn a_slot_moves_meanwhile() -> Result<()> {
    let world = World::start().await?;
    let client = world.client().await?;
    world.until(1, 1).await?;
    let config = session::Config::default();
    let second =
        Mesh::keeping((world.store.clone(), 2), config, Arc::new(Anonymous), vec![registry()]).await?;
    let mut moved = second.client();
    moved.session.clone_from(&client.session);
    moved.revision.clone_from(&client.revision);
    assert_eq!(status(&moved, LEVEL).await?.0, 200);
    let asking = [PING, LEVEL, CALL].map(|message| status(&client, message));
    for answer in futures::future::join_all(asking).await {
        let (status, text) = answer?;
        assert!(!text.contains("\"result\""), "{status} {text}");
    }
    assert!(world.registry.seen().is_empty(), "the owner before calls nothing");
    assert_eq!(status(&moved, PING).await?.0, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_before_wakes_nothing_that_has_another_one() {
    a_slot_moves_meanwhile().await.unwrap();
}
