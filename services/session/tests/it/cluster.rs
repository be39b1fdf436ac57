//! A Redis Cluster of three.

use redis::RedisResult;
use session::store::Config;

use crate::server::{Server, config, connect, free_port, until};
use crate::writer::{Writer, level};

struct Cluster(Vec<Server>);

impl Cluster {
    async fn start() -> Self {
        let node = |_| {
            let bus = free_port().to_string();
            let options =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            (Server::start(&options), bus)
        };
        let nodes: Vec<(Server, String)> = (0..3).map(node).collect();
        for (number, (node, _)) in nodes.iter().enumerate() {
            let (from, to) = (number * 16_384 / 3, (number + 1) * 16_384 / 3 - 1);
            let _: () = node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
            let _: () = node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
        }
        for (node, bus) in &nodes[1..] {
            let port = node.port.to_string();
            let _: () = nodes[0].0.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]).await;
        }
        let nodes: Vec<Server> = nodes.into_iter().map(|(node, _)| node).collect();
        until("the cluster is whole", async || {
            let mut whole = true;
            for node in &nodes {
                let info: RedisResult<String> = node.attempt(&["CLUSTER", "INFO"]).await;
                let info = info.unwrap_or_default();
                whole &= info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3");
            }
            whole
        })
        .await;
        Self(nodes)
    }

    fn config(&self) -> Config {
        Config { cluster: true, ..config(&self.0.iter().take(2).collect::<Vec<_>>()) }
    }
}

#[tokio::test]
async fn a_cluster_keeps_the_contract_on_all_its_nodes() {
    let cluster = Cluster::start().await;
    let store = connect(&cluster.config()).await;
    session::store::contract::all(&*store).await;
    for slot in 500..530 {
        let mut writer = Writer::begin_in(&store, slot, 1).await;
        writer.write(&level(mcp::log::Level::Info)).await;
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
