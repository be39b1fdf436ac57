//! Nodes on real etcd that is killed under them.

use std::sync::Arc;
use std::time::Duration;

use placement::etcd::EtcdConfig;
use placement::port::{LeaseStore, StoreError};
use placement::{Etcd, Locator as _};
use tokio::time::Instant;

use crate::etcd::{Servers, answers};
use crate::kit::{Mesh, Node, TTL};

struct World {
    mesh: Mesh,
    servers: Servers,
}

impl World {
    async fn new(members: usize) -> Self {
        let servers = Servers::start(members);
        servers.client().await;
        Self { mesh: Mesh::new(), servers }
    }

    fn client(&self, first: u64) -> Arc<dyn LeaseStore> {
        Arc::new(Etcd::new(&self.servers.config(), first).unwrap())
    }

    /// Nodes with connections of their own, to different members, that have shared all slots and lost none since.
    async fn nodes(&mut self) -> (Node, Node) {
        let a = self.start(1, "a");
        let b = self.start(2, "b");
        let (fences, count) = (&self.mesh.fences, |node: &Node| node.count());
        fences.until("shared", || count(&a) > 1_800 && count(&b) > 1_800).await;
        self.mesh.whole(&[&a, &b]).await;
        // Until nothing moves any more.
        let mut before = (0, 0);
        while before != (a.count(), b.count()) {
            before = (a.count(), b.count());
            self.mesh.fences.until_quiet(Duration::from_millis(2_200)).await;
        }
        (a, b)
    }

    fn start(&mut self, n: u64, name: &str) -> Node {
        let (store, keepers) = (self.client(n), self.client(n + 1));
        self.mesh.start(n, name, store, keepers)
    }
}

fn seconds(since: Instant) -> String {
    format!("{:.2} s", since.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_killed_and_started_again_loses_no_slot() {
    let mut world = World::new(1).await;
    let (a, b) = world.nodes().await;
    let before = (a.tenant.served(), b.tenant.served());
    let lost = (a.tenant.lost_count(), b.tenant.lost_count());
    world.servers.kill(0);
    let killed = Instant::now();
    let mut standing = a.claims.standing();
    standing.wait_for(|standing| standing.grace && !standing.reachable).await.unwrap();
    eprintln!("etcd killed: in grace after {}", seconds(killed));
    world.servers.restart(0);
    let started = Instant::now();
    standing.wait_for(|standing| !standing.grace && standing.reachable).await.unwrap();
    eprintln!("etcd started: lease sure again after {}", seconds(started));
    world.mesh.whole(&[&a, &b]).await;
    assert_eq!((a.tenant.served(), b.tenant.served()), before, "same slots, same epochs");
    assert_eq!((a.tenant.lost_count(), b.tenant.lost_count()), lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_loses_no_slot() {
    let mut world = World::new(3).await;
    let (a, b) = world.nodes().await;
    let before = (a.tenant.served(), b.tenant.served());
    for _ in 0..2 {
        let leader = world.servers.leader().await;
        world.servers.kill(leader);
        let killed = Instant::now();
        // Others answer, and the leases are renewed with them.
        let store = world.client(0);
        let granted = async {
            let mut polls = tokio::time::interval(Duration::from_millis(20));
            while store.grant(TTL).await.is_err() {
                polls.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), granted).await.expect("a new leader");
        eprintln!("leader killed: etcd grants again after {}", seconds(killed));
        let until = killed + TTL + Duration::from_secs(2);
        while Instant::now() < until {
            world.mesh.fences.until_quiet(Duration::from_millis(500)).await;
        }
        let lost = [&a, &b].map(|node| node.claims.standing().borrow().leases_lost);
        assert_eq!(lost, [0, 0]);
        assert_eq!((a.tenant.served(), b.tenant.served()), before, "same slots, same epochs");
        world.servers.restart(leader);
        answers(&Etcd::new(&world.servers.config_of(leader), 0).unwrap()).await;
    }
    world.mesh.whole(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_is_replaced_when_its_lease_ends() {
    let mut world = World::new(1).await;
    let (a, b) = world.nodes().await;
    let killed = Instant::now();
    a.kill();
    world.mesh.whole(&[&b]).await;
    eprintln!("node killed: every slot is served again after {}", seconds(killed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_is_replaced_at_once_when_two_report_it() {
    let mut world = World::new(1).await;
    let (a, b) = world.nodes().await;
    let c = world.start(3, "c");
    world.mesh.fences.until("c is known", || b.directory.ready().len() == 3).await;
    world.mesh.fences.until("c has slots", || c.count() > 0).await;
    let victim = a.directory.holder(a.tenant.served().into_keys().next().unwrap()).unwrap().peer;
    let killed = Instant::now();
    a.kill();
    for reporter in [&b, &c] {
        reporter.directory.suspect(&victim, "connection refused");
    }
    world.mesh.fences.until("every slot is served", || b.count() + c.count() == 4_096).await;
    eprintln!("node killed and reported: every slot is served again after {}", seconds(killed));
    let known = world.client(0).list("/trunkline/nodes/a").await.unwrap();
    assert_eq!(known.entries.len(), 1, "nobody waited for the lease to end");
    world.mesh.whole(&[&b, &c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_moves_every_slot() {
    let mut world = World::new(1).await;
    let (a, b) = world.nodes().await;
    let started = Instant::now();
    let drained = a.claims.drain().await;
    eprintln!("drained: {drained:?} after {}", seconds(started));
    assert_eq!(drained.dropped, 0);
    world.mesh.whole(&[&b]).await;
}

#[tokio::test]
async fn a_member_that_refuses_connections_costs_no_time() {
    let servers = Servers::start(1);
    let etcd = servers.client().await;
    drop(etcd);
    // Port 9 of this machine: nobody listens there.
    let mut endpoints = vec!["http://127.0.0.1:9".to_owned()];
    endpoints.extend(servers.config().endpoints);
    let etcd = Etcd::new(&EtcdConfig { endpoints, ..EtcdConfig::default() }, 0).unwrap();
    // The first answer comes within one attempt: no time was spent on waiting for the other.
    let first = tokio::time::timeout(Duration::from_millis(750), etcd.list("any/")).await;
    first.expect("a refused connection is noticed at once").unwrap();
}

/// A member that was stopped accepts connections and says nothing.
#[tokio::test]
async fn a_member_that_hangs_is_left() {
    let servers = Servers::start(3);
    let leader = servers.leader().await;
    let hanging = (leader + 1) % 3;
    let etcd = Etcd::new(&servers.config(), hanging.try_into().unwrap()).unwrap();
    let from = etcd.list("/t/").await.unwrap().revision + 1;
    let mut events = etcd.watch("/t/", from).await.unwrap();
    let lease = etcd.grant(TTL).await.unwrap().lease;
    servers.stop(hanging);
    let stopped = Instant::now();
    let failed = etcd.keep_alive(lease).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    etcd.keep_alive(lease).await.unwrap();
    eprintln!("member stopped: renewed elsewhere after {}", seconds(stopped));
    let ended = tokio::time::timeout(Duration::from_secs(20), futures::StreamExt::next(&mut events)).await;
    assert!(matches!(ended, Ok(Some(Err(StoreError::Unavailable(_))))), "{ended:?}");
    eprintln!("member stopped: its watch counted as dead after {}", seconds(stopped));
}
