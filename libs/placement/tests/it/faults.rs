//! Nodes on real etcd that is killed under them.

use std::sync::Arc;
use std::time::Duration;

use api::Slot;
use placement::etcd::EtcdConfig;
use placement::port::{Entry, LeaseStore, StoreError};
use placement::record::{SlotRecord, decode};
use placement::{Etcd, Incarnation, Locator as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::etcd::{Servers, answers};
use crate::kit::{Mesh, Node, PATIENCE, TTL};

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

/// A way to etcd that can be made long.
struct Slow {
    url: String,
    delay: watch::Sender<Duration>,
    _passing: JoinSet<()>,
}

impl Slow {
    async fn before(url: &str) -> Self {
        let to = url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (delay, delayed) = watch::channel(Duration::ZERO);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut ways = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&to).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                ways.spawn(pass(near_in, far_out, delayed.clone()));
                ways.spawn(pass(far_in, near_out, delayed.clone()));
            }
        });
        Self { url, delay, _passing: passing }
    }

    fn delay(&self, by: Duration) {
        self.delay.send_replace(by);
    }
}

/// Passes bytes on in order, each as late as is asked for when it comes.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: watch::Receiver<Duration>) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(10_000);
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + *delay.borrow();
            if queue.send((due, buffer[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
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

/// Every byte takes a second each way: slow is not gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_etcd_moves_nothing() {
    let mut world = World::new(1).await;
    let slow = Slow::before(&world.servers.config().endpoints[0]).await;
    let config = EtcdConfig { endpoints: vec![slow.url.clone()], ..EtcdConfig::default() };
    let client = || Arc::new(Etcd::new(&config, 0).unwrap());
    let a = world.mesh.start(1, "a", client(), client());
    let b = world.start(2, "b");
    world.mesh.fences.until("shared", || a.count() > 1_800 && b.count() > 1_800).await;
    world.mesh.fences.until_quiet(Duration::from_millis(2_200)).await;
    let before = (a.tenant.served(), b.tenant.served());
    slow.delay(Duration::from_secs(1));
    world.mesh.fences.until_quiet(Duration::from_secs(15)).await;
    assert_eq!(a.claims.standing().borrow().leases_lost, 0);
    slow.delay(Duration::ZERO);
    world.mesh.whole(&[&a, &b]).await;
    assert_eq!((a.tenant.served(), b.tenant.served()), before, "same slots, same epochs");
}

/// Back in time: what was dealt since the backup was never dealt, as far as etcd knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_restored_from_a_backup_deals_no_epoch_twice() {
    let mut world = World::new(1).await;
    let (a, b) = world.nodes().await;
    world.servers.back_up();
    b.kill();
    world.mesh.whole(&[&a]).await;
    let c = world.start(3, "c");
    world.mesh.fences.until("c has slots", || c.count() > 1_000).await;
    world.servers.kill(0);
    world.servers.restore();
    world.servers.restart(0);
    let restored = Instant::now();
    // Until etcd says of every slot what is the case.
    let store = world.client(0);
    let agree = async {
        let mut polls = tokio::time::interval(Duration::from_millis(100));
        loop {
            polls.tick().await;
            let Ok(listed) = store.list("/trunkline/slots/").await else { continue };
            let (by_a, by_c) = (a.tenant.served(), c.tenant.served());
            let is_so = |entry: &Entry| {
                let slot = entry.key.rsplit('/').next()?.parse().ok()?;
                let record: SlotRecord = decode(&entry.value)?;
                let served = if record.incarnation == Incarnation(1) { &by_a } else { &by_c };
                (served.get(&Slot::new(slot)?) == Some(&record.epoch)).then_some(())
            };
            if listed.entries.len() == 4_096 && listed.entries.iter().all(|entry| is_so(entry).is_some()) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, agree).await.expect("etcd says what is the case");
    world.mesh.whole(&[&a, &c]).await;
    eprintln!("restored from a backup: etcd says what is the case after {}", seconds(restored));
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
