//! A primary and its replica: what is waited for, and what happens when they change places.

use chassis::metrics::Metrics;
use machines::snapshot::StreamChange;
use machines::{Change, CommitRefusal, StreamId};
use mcp::log::Level;
use session::store::{Config, Store};

use crate::server::{IDLE, Server, config, connect, until};
use crate::writer::{Writer, appended, level, opened};

const STREAM: StreamId = StreamId(4);

/// A primary and a replica that has everything.
async fn pair() -> (Server, Server) {
    let primary = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let port = primary.port.to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
    until("the replica is in step", async || {
        let info: String = replica.ask(&["INFO", "replication"]).await;
        if !info.contains("master_link_status:up") {
            return false;
        }
        // It is fed only once it has said that it is there.
        let mut connection = primary.connection().await;
        let _: () = redis::cmd("SET").arg("x").arg(1).query_async(&mut connection).await.unwrap();
        let got: i64 = redis::cmd("WAIT").arg(1).arg(1000).query_async(&mut connection).await.unwrap();
        got == 1
    })
    .await;
    (primary, replica)
}

async fn promote(replica: &Server) {
    let _: () = replica.ask(&["REPLICAOF", "NO", "ONE"]).await;
}

async fn waits(server: &Server) -> u64 {
    let info: String = server.ask(&["INFO", "commandstats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls="));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn the_promoted_replica_is_used_without_a_restart() {
    let (mut primary, replica) = pair().await;
    // The order in which they are listed does not matter.
    let settings = Config { wait_replicas: 1, wait_ms: 400, ..config(&[&replica, &primary]) };
    let store = connect(&settings).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1)]).await;
    writer.write(&level(Level::Info)).await;
    let store = connect(&config(&[&replica, &primary])).await;
    writer.store = store;
    primary.kill();
    assert_eq!(writer.attempt(&level(Level::Debug), None).await, Err(CommitRefusal::Down));
    promote(&replica).await;
    until("the next primary is found", async || writer.store.is_up().await).await;
    writer.is_whole().await;
    writer.write(&[appended(STREAM, 2)]).await;
    writer.is_whole().await;
}

#[tokio::test]
async fn a_primary_that_became_a_replica_is_left() {
    let (primary, replica) = pair().await;
    let store = connect(&config(&[&primary, &replica])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&level(Level::Info)).await;
    until("the replica has it", async || {
        replica.ask::<Option<String>>(&["HGET", &writer.key(), "ver"]).await.as_deref() == Some("1")
    })
    .await;
    promote(&replica).await;
    let _: () = primary.ask(&["REPLICAOF", "127.0.0.1", &replica.port.to_string()]).await;
    // It says READONLY, and the other one is asked within the same call.
    writer.write(&level(Level::Debug)).await;
    writer.is_whole().await;
    let there: Option<String> = replica.ask(&["HGET", &writer.key(), "ver"]).await;
    assert_eq!(there.as_deref(), Some("2"));
}

#[tokio::test]
async fn of_two_primaries_none_is_believed_unless_one_has_replicas() {
    let (one, other) = (Server::start(&[]), Server::start(&[]));
    let settings = config(&[&one, &other]);
    // A server that is too busy to answer in time is not there, for whoever asks.
    until("both are heard, and none is believed", async || {
        let refused = Store::connect(&settings, IDLE, &Metrics::default()).await.err();
        refused.is_some_and(|why| why.to_string().contains("both say that they are the master"))
    })
    .await;
    let port = other.port.to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
    until("it has a replica", async || {
        other.ask::<String>(&["INFO", "replication"]).await.contains("connected_slaves:1")
    })
    .await;
    Writer::begin(&connect(&settings).await, 1).await.is_whole().await;
    assert_eq!(one.ask::<i64>(&["DBSIZE"]).await, 0);
    drop(replica);
}

#[tokio::test]
async fn what_matters_is_waited_for_once_for_many() {
    let (primary, replica) = pair().await;
    let metrics = Metrics::default();
    let settings = Config { wait_replicas: 1, wait_ms: 300, ..config(&[&primary]) };
    let store = Store::connect(&settings, IDLE, &metrics).await.unwrap();
    let mut writers = Vec::new();
    for n in 0..64 {
        writers.push(Writer::begin(&store, n).await);
    }
    let before = waits(&primary).await;
    let greeted = writers.iter_mut().map(async |writer| writer.write(&level(Level::Info)).await);
    futures::future::join_all(greeted).await;
    let asked = waits(&primary).await - before;
    println!("64 commits at once wait {asked} times");
    assert!((1..=16).contains(&asked), "{asked}");
    let mut writer = writers.remove(0);
    writer.write(&[opened(STREAM)]).await;
    let before = waits(&primary).await;
    writer.write(&[appended(STREAM, 1)]).await;
    assert_eq!(waits(&primary).await, before, "what only moves a stream along is not waited for");
    assert!(!metrics.text().contains("replicas_late_total{then=\"refused\",role=\"session\"} 1"));
    drop(replica);
}

#[tokio::test]
async fn without_replicas_requests_are_refused_and_results_delivered() {
    let (primary, replica) = pair().await;
    let metrics = Metrics::default();
    let settings = Config { wait_replicas: 1, wait_ms: 100, ..config(&[&primary]) };
    let store = Store::connect(&settings, IDLE, &metrics).await.unwrap();
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM)]).await;
    replica.freeze();
    assert_eq!(writer.offer(&level(Level::Alert)).await, Err(CommitRefusal::Down), "a request");
    assert_eq!(writer.loaded().await.version, 2, "it is there all the same");
    let finished = [appended(STREAM, 1), Change::Stream(STREAM, StreamChange::Finished { at: 7 })];
    writer.write(&finished).await;
    writer.is_whole().await;
    let text = metrics.text();
    let count = |then: &str| {
        let line =
            text.lines().find(|l| l.starts_with("trunkline_store_replicas_late_total") && l.contains(then));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!((count("refused"), count("delivered")), ("1".into(), "1".into()), "{text}");

    // Whoever hears that a session is over must never find it again: the same end is asked for until it is safe.
    let mut leaving = Writer::begin_unfenced(&store, 2).await;
    for _ in 0..2 {
        assert_eq!(leaving.offer(&[Change::Ended]).await, Err(CommitRefusal::Down), "an end");
    }
    replica.thaw();
    until("the end is safe", async || leaving.offer(&[Change::Ended]).await.is_ok()).await;
    leaving.is_whole().await;
    until("the replica is in step", async || writer.offer(&level(Level::Info)).await.is_ok()).await;
    writer.is_whole().await;
}
