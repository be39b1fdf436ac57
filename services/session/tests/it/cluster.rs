//! A Redis Cluster of three.

use machines::snapshot::StreamChange;
use machines::{Change, StreamId};
use mcp::log::Level;
use redis::RedisResult;
use session::store::Config;

use crate::server::{Server, config, connect, free_port, until};
use crate::writer::{Writer, level};

/// Primaries, and behind them a replica for each if there are any.
struct Cluster(Vec<Server>);

impl Cluster {
    async fn start(replicas: usize) -> Self {
        let node = |_| {
            let bus = free_port().to_string();
            let options =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            let options = [&options[..], &["--repl-diskless-sync-delay", "0"]].concat();
            (Server::start(&options), bus)
        };
        let nodes: Vec<(Server, String)> = (0..3 + replicas).map(node).collect();
        for (number, (node, _)) in nodes.iter().enumerate() {
            let (from, to) = (number * 16_384 / 3, (number + 1) * 16_384 / 3 - 1);
            if number < 3 {
                let _: () = node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
            }
            let _: () = node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
        }
        for (node, bus) in &nodes[1..] {
            let port = node.port.to_string();
            let _: () = nodes[0].0.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]).await;
        }
        let cluster = Self(nodes.into_iter().map(|(node, _)| node).collect());
        let known = format!("cluster_known_nodes:{}", cluster.0.len());
        cluster.everywhere("CLUSTER INFO", &["cluster_state:ok", &known], 0).await;
        for number in 0..replicas {
            let id: String = cluster.0[number].ask(&["CLUSTER", "MYID"]).await;
            let replica = &cluster.0[3 + number];
            until("the replica knows its primary", async || {
                replica.attempt::<()>(&["CLUSTER", "REPLICATE", &id]).await.is_ok()
            })
            .await;
        }
        cluster.everywhere("INFO replication", &["master_link_status:up"], 3).await;
        cluster
    }

    /// Waits until all nodes from the `first` on say this.
    async fn everywhere(&self, question: &str, expected: &[&str], first: usize) {
        let words: Vec<&str> = question.split(' ').collect();
        until(question, async || {
            let mut all = true;
            for node in &self.0[first..] {
                let info: RedisResult<String> = node.attempt(&words).await;
                all &= info.is_ok_and(|info| expected.iter().all(|expected| info.contains(expected)));
            }
            all
        })
        .await;
    }

    fn config(&self) -> Config {
        Config { cluster: true, ..config(&self.0.iter().take(2).collect::<Vec<_>>()) }
    }
}

#[tokio::test]
async fn a_cluster_keeps_the_contract_on_all_its_nodes() {
    let cluster = Cluster::start(0).await;
    let store = connect(&cluster.config()).await;
    session::store::contract::all(&*store).await;
    for slot in 500..530 {
        let mut writer = Writer::begin_in(&store, slot, 1).await;
        writer.write(&level(Level::Info)).await;
        writer.is_whole().await;
    }
    for node in &cluster.0 {
        let keys: i64 = node.ask(&["DBSIZE"]).await;
        assert!(keys > 10, "{keys}");
    }
    for node in &cluster.0 {
        let _: () = node.ask(&["SCRIPT", "FLUSH"]).await;
    }
    for slot in 530..560 {
        Writer::begin_in(&store, slot, 1).await.is_whole().await;
    }
}

#[tokio::test]
async fn a_cluster_that_loses_a_primary_goes_on_with_its_replica() {
    let mut cluster = Cluster::start(3).await;
    let store = connect(&Config { wait_replicas: 1, wait_ms: 400, ..cluster.config() }).await;
    let mut writers = Vec::new();
    for slot in 0..24 {
        let mut writer = Writer::begin_in(&store, slot, 1).await;
        until("the replicas are fed", async || writer.offer(&level(Level::Info)).await.is_ok()).await;
        writers.push(writer);
    }
    cluster.0[0].kill();
    for writer in &mut writers {
        until("the next primary is found", async || {
            // What replicas have to have is refused as long as this one has none.
            matches!(writer.store.load(&writer.id).await, Ok(Some(_)))
        })
        .await;
        writer.is_whole().await;
        let finished = Change::Stream(StreamId(1), StreamChange::Finished { at: 1 });
        until("it takes writes", async || writer.offer(std::slice::from_ref(&finished)).await.is_ok()).await;
        writer.is_whole().await;
    }
}
