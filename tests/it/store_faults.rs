//! What clients see of a store that has lost data, loses answers or is down.

use std::sync::Arc;

use anyhow::Result;
use api::session::Attach;
use futures::{StreamExt as _, stream};
use session::store::faulty::{Fault, Faulty, Op};
use session::store::{CommitRefusal, Memory};
use tests::client::{Client, DEADLINE};
use tests::mesh::Mesh;
use tests::scripted::{Scripted, shared};
use tokio::sync::watch;

fn registry() -> Arc<Scripted> {
    let registry = Scripted::new("r", |_, _| stream::pending().boxed());
    shared(registry)
}

async fn set_level(client: &Client, level: &str) -> Result<u16> {
    let text = r#"{"jsonrpc":"2.0","id":9,"method":"logging/setLevel","params":{"level":"LEVEL"}}"#;
    let answer = client.post(text.replace("LEVEL", level)).await?;
    let (status, text) = (answer.status, answer.text().await?);
    assert_eq!(status.as_u16() == 200, text.contains(r#""result""#), "{status} {text}");
    Ok(status.as_u16())
}

/// The faults, one after the other, in one session; and then its next owner.
async fn a_session_outlives_what_happens_to_its_store() -> Result<()> {
    let store = Faulty::new(Arc::new(Memory::default()));
    let mesh = Mesh::successor(store.clone(), 1, vec![registry()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    for (lost, level) in [(CommitRefusal::Regress, "info"), (CommitRefusal::Conflict, "notice")] {
        store.next(Op::Commit, Fault::Refuse(lost));
        assert_eq!(set_level(&client, level).await?, 200, "{lost:?}: the owner has all of it");
    }
    assert_eq!(store.seen(Op::Repair), 2);
    store.next(Op::Commit, Fault::Lose);
    assert_eq!(set_level(&client, "alert").await?, 503);
    assert_eq!(set_level(&client, "error").await?, 200, "what was done unheard is written over");
    store.set_down(true);
    assert_eq!(set_level(&client, "debug").await?, 503);
    store.set_down(false);

    let second = Mesh::successor(store, 2, vec![registry()]).await?;
    let mut moved = second.client();
    moved.session.clone_from(&client.session);
    moved.revision.clone_from(&client.revision);
    assert_eq!(set_level(&moved, "info").await?, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_loses_its_owner_still_has() {
    a_session_outlives_what_happens_to_its_store().await.unwrap();
}

/// Calls of one session that are under way when the store goes away, and end all at once.
async fn together_they_wait_once() -> Result<()> {
    const CALLS: usize = 4;
    let (end, ended) = watch::channel(false);
    let registry = Scripted::held(&ended);
    let store = Faulty::new(Arc::new(Memory::default()));
    let mesh = Mesh::successor(store.clone(), 1, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let calling = (0..CALLS).map(|id| {
        let call =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"held"}}}}"#);
        let client = &client;
        async move { client.post(call).await?.response().await }
    });
    let hurting = async {
        while registry.seen().len() < CALLS {
            tokio::task::yield_now().await;
        }
        store.set_down(true);
        let before = store.seen(Op::Commit);
        end.send_replace(true);
        before
    };
    let (answers, before) = tokio::join!(futures::future::join_all(calling), hurting);
    for answer in answers {
        let answer = answer?;
        assert!(answer.contains("store_down"), "{answer}");
    }
    // The first one tries for three seconds, ten times in each.
    let tried = store.seen(Op::Commit) - before;
    assert!((2..=40).contains(&tried), "{tried} attempts");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_session_wait_for_the_store_together() {
    together_they_wait_once().await.unwrap();
}

#[tokio::test]
async fn the_store_is_told_of_sessions_that_are_only_listened_to() {
    let store = Faulty::new(Arc::new(Memory::default()));
    let deps = session::Deps {
        keys: api::KeyRing::single("k1", *b"0123456789abcdefghijklmnopqrstuv"),
        store: store.clone(),
        seat: session::Seat::Fixed { slots: Default::default(), epoch: session::Deps::epoch_of_this_start() },
        registries: Vec::new(),
        process: Default::default(),
    };
    let config = session::Config { idle_timeout_s: 2, ..session::Config::default() };
    let app = session::App::build(config, deps).unwrap();
    let host = app.handle();
    let (_trigger, shutdown) = chassis::drain::pair();
    let _served = chassis::task::spawn(chassis::task::Kind::Role, "session", async move {
        app.serve(chassis::serve::Incoming::None, shutdown).await
    });
    let attach = Attach {
        session: String::new(),
        revision: None,
        principal: api::Principal::default(),
        last_event_id: None,
        begin: true,
        carried: false,
    };
    let _reading = host.attach(attach).await.unwrap();
    tokio::time::timeout(DEADLINE, store.until_seen(Op::Touch, 2)).await.unwrap();
    assert_eq!(store.seen(Op::Commit), 0);
}
