//! Nodes that share slots, on a lease store that fails as told. Time stands still while they work.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::{Slot, SlotCount};
use futures::FutureExt as _;
use placement::embedded::Embedded;
use placement::faulty::{Faults, Faulty};
use placement::made::{CheckError, check};
use placement::port::Op;
use placement::record::{Key, PinRecord, decode, encode};
use placement::{
    Announce, ClaimError, CountError, Directory, Drained, GatewayRecord, Incarnation, Keys, LeaseStore,
    Locator as _, Readiness, RegistryRecord,
};
use tokio::time::{Instant, advance};

use crate::kit::{Mesh, Node, TTL};

/// Nodes on one store, each with a cut of its own.
struct World {
    mesh: Mesh,
    store: Embedded,
}

impl World {
    fn new() -> Self {
        let mesh = Mesh::new();
        let store = Embedded::new(Arc::clone(&mesh.now));
        Self { mesh, store }
    }

    fn start(&mut self, n: u64, name: &str) -> (Node, Arc<Faults>) {
        let (faulty, faults) = Faulty::new(Arc::new(self.store.clone()));
        let store: Arc<dyn LeaseStore> = Arc::new(faulty);
        (self.mesh.start(n, name, Arc::clone(&store), store), faults)
    }

    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        self.mesh.fences.until(what, so).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_share_the_slots_and_survive_each_other() {
    let mut world = World::new();
    let (a, _) = world.start(1, "a");
    world.mesh.whole(&[&a]).await;
    let (b, _) = world.start(2, "b");
    let (c, _) = world.start(3, "c");
    world.until("shared", || [&a, &b, &c].iter().all(|node| (1_100..1_503).contains(&node.count()))).await;
    world.mesh.whole(&[&a, &b, &c]).await;
    let addresses: Vec<String> = a.directory.ready().iter().map(|peer| peer.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);

    let killed = Instant::now();
    c.kill();
    world.mesh.whole(&[&a, &b]).await;
    let took = killed.elapsed();
    assert!(took <= TTL + Duration::from_millis(1_500), "{took:?}");
    assert!(took >= TTL - Duration::from_secs(1), "{took:?}: nobody suspected it");
}

#[tokio::test(start_paused = true)]
async fn lost_answers_lose_nothing() {
    let mut world = World::new();
    let (a, faults) = world.start(1, "a");
    faults.lose_answers(20);
    world.mesh.whole(&[&a]).await;
    assert_eq!(a.tenant.lost_count(), 0);
    let (b, _) = world.start(2, "b");
    faults.lose_answers(3);
    world.until("shared", || b.count() > 1_800).await;
    world.mesh.whole(&[&a, &b]).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_is_caught_by_the_list() {
    let mut world = World::new();
    let (a, faults) = world.start(1, "a");
    world.mesh.whole(&[&a]).await;
    faults.silence(true);
    let (b, _) = world.start(2, "b");
    world.until("b is noticed", || b.count() > 0).await;
}

#[tokio::test(start_paused = true)]
async fn slots_are_kept_while_the_lease_store_is_down() {
    let mut world = World::new();
    let (a, faults_a) = world.start(1, "a");
    let (b, faults_b) = world.start(2, "b");
    world.mesh.whole(&[&a, &b]).await;
    world.until("shared", || a.count() < 2_200 && b.count() < 2_200).await;
    let (lost_a, lost_b) = (a.tenant.lost_count(), b.tenant.lost_count());
    faults_a.cut(true);
    faults_b.cut(true);
    let served = a.tenant.served();
    let mut standing = a.claims.standing();
    standing.wait_for(|standing| standing.grace && !standing.reachable).await.unwrap();
    for _ in 0..300 {
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(a.tenant.served(), served);
    let (slot, epoch) = served.first_key_value().unwrap();
    assert_eq!(a.directory.holder(*slot).map(|owner| owner.epoch), Some(*epoch));

    // Every lease has run out meanwhile; each gets its own back, in the same epoch.
    faults_a.cut(false);
    faults_b.cut(false);
    world
        .until("leases", || {
            a.claims.standing().borrow().leases_lost == 1 && !a.claims.standing().borrow().grace
        })
        .await;
    world.mesh.whole(&[&a, &b]).await;
    // Whoever came first may have taken over some of the other's.
    let moved = a.tenant.lost_count() - lost_a + b.tenant.lost_count() - lost_b;
    assert!(moved <= 4_096, "{moved}");
}

#[tokio::test(start_paused = true)]
async fn a_node_cut_off_alone_loses_its_slots_to_others_and_comes_back() {
    let mut world = World::new();
    let (a, faults) = world.start(1, "a");
    let (b, _) = world.start(2, "b");
    world.until("shared", || a.count() < 2_200 && b.count() > 1_800).await;
    faults.cut(true);
    let cut = Instant::now();
    world.until("b has all", || b.count() == 4_096).await;
    assert!(cut.elapsed() < Duration::from_millis(6_500), "{:?}", cut.elapsed());
    assert!(a.count() > 0, "it does not know yet");
    faults.cut(false);
    world.mesh.whole(&[&a, &b]).await;
    world.until("shared again", || a.count() > 1_800).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_hands_over_and_ends_the_lease() {
    let mut world = World::new();
    let (a, _) = world.start(1, "a");
    let (b, _) = world.start(2, "b");
    world.until("shared", || a.count() < 2_200 && b.count() > 1_800).await;
    world.mesh.whole(&[&a, &b]).await;
    let (had, lost) = (a.count(), a.tenant.lost_count());
    assert_eq!(a.claims.drain().await, Drained { handed: had + lost, dropped: 0 });
    world.mesh.whole(&[&b]).await;
    let told = a.tenant.lost.lock().unwrap().clone();
    for (slot, to) in told {
        let to = to.expect("each went to somebody");
        assert_eq!((&*to.node, Some(to.epoch)), ("b", world.mesh.fences.of(slot)));
    }
    assert_eq!(world.store.list("/trunkline/nodes/a").await.unwrap().entries, []);

    assert_eq!(b.claims.drain().await, Drained { handed: 0, dropped: 4_096 });
    assert_eq!(b.count(), 0);
    assert_eq!(world.store.list("/trunkline/slots/").await.unwrap().entries, []);
    assert_eq!(world.store.list("/trunkline/epochs/").await.unwrap().entries.len(), 4_096);
}

#[tokio::test(start_paused = true)]
async fn a_rolling_restart_leaves_no_slot_without_an_heir() {
    let mut world = World::new();
    let mut nodes: Vec<Node> =
        ["a", "b", "c"].into_iter().zip(1..).map(|(name, n)| world.start(n, name).0).collect();
    world.until("shared", || nodes.iter().all(|node| node.count() > 1_100)).await;
    for (name, n) in ["a", "b", "c"].into_iter().zip(11..) {
        let leaving = nodes.remove(0);
        assert_eq!(leaving.claims.drain().await.dropped, 0);
        let alone = leaving.tenant.lost.lock().unwrap().iter().filter(|(_, to)| to.is_none()).count();
        assert_eq!((alone, leaving.count()), (0, 0));
        nodes.push(world.start(n, name).0);
        world.until("shared again", || nodes.iter().all(|node| node.count() > 1_100)).await;
    }
    world.mesh.whole(&nodes.iter().collect::<Vec<_>>()).await;
    for node in &nodes {
        assert!(node.tenant.lost.lock().unwrap().iter().all(|(_, to)| to.is_some()));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_served_before_the_fence_stands() {
    let mut world = World::new();
    world.mesh.fences.down.store(true, Ordering::SeqCst);
    let (a, _) = world.start(1, "a");
    a.claims.standing().wait_for(|standing| standing.waiting == 4_096).await.unwrap();
    assert_eq!(a.count(), 0);
    world.mesh.fences.down.store(false, Ordering::SeqCst);
    world.mesh.whole(&[&a]).await;
}

#[tokio::test(start_paused = true)]
async fn two_reporters_move_slots() {
    let mut world = World::new();
    let (a, _) = world.start(1, "a");
    let (b, _) = world.start(2, "b");
    let (c, _) = world.start(3, "c");
    world.until("shared", || [&a, &b, &c].iter().all(|node| node.count() > 1_100)).await;
    world.mesh.whole(&[&a, &b, &c]).await;
    let victim = a.directory.holder(a.tenant.served().into_keys().next().unwrap()).unwrap().peer;
    // Whole or not: a kill, and nobody waits for the lease.
    a.kill();
    let killed = Instant::now();
    b.directory.suspect(&victim, "connection refused");
    c.directory.suspect(&victim, "connection refused");
    world.until("taken over", || b.count() + c.count() == 4_096).await;
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    world.mesh.whole(&[&b, &c]).await;
}

#[tokio::test(start_paused = true)]
async fn a_report_that_a_node_confirms_moves_slots() {
    let mut world = World::new();
    let (a, _) = world.start(1, "a");
    let (b, _) = world.start(2, "b");
    world.until("shared", || a.count() > 1_800 && b.count() > 1_800).await;
    world.mesh.whole(&[&a, &b]).await;
    let gateway = world.mesh.cluster(Arc::new(world.store.clone()), 9);
    let (gateway, following) = Directory::new(gateway, "gateway-1");
    world.mesh.tasks.spawn(async { drop(following.run().await) });
    world.until("the gateway knows them", || gateway.ready().len() == 2).await;
    let victim = a.directory.holder(a.tenant.served().into_keys().next().unwrap()).unwrap().peer;

    world.mesh.fences.until_quiet(Duration::from_millis(2_200)).await;
    // A mistake: it can be reached.
    let had = a.count();
    gateway.suspect(&victim, "reset");
    world.mesh.fences.until_quiet(Duration::from_secs(12)).await;
    assert_eq!(a.count(), had);

    world.mesh.dead.lock().unwrap().push(victim.address.to_string());
    a.kill();
    let killed = Instant::now();
    gateway.suspect(&victim, "connection refused");
    world.until("taken over", || b.count() == 4_096).await;
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_mesh_of_many_slots_is_shared_and_whoever_counts_otherwise_stays_out() {
    let mut world = World::new();
    world.mesh.slots = SlotCount::Large;
    let (a, _) = world.start(1, "a");
    world.mesh.whole(&[&a]).await;
    let (b, _) = world.start(2, "b");
    world.until("shared", || [&a, &b].iter().all(|node| (7_300..9_100).contains(&node.count()))).await;
    world.mesh.whole(&[&a, &b]).await;
    let last = Slot::new(16_383).unwrap();
    assert!(a.directory.holder(last).is_some() && a.directory.slots() == SlotCount::Large);

    world.mesh.slots = SlotCount::Usual;
    let (c, _) = world.start(3, "c");
    let said = |end: &Result<Drained, ClaimError>| {
        matches!(end, Err(ClaimError::Slots(CountError::Other { asked: SlotCount::Usual, made: 16_384, .. })))
    };
    world.until("refused", || world.mesh.ends.lock().unwrap().iter().any(said)).await;
    assert_eq!(c.count(), 0);
    let gateway = world.mesh.cluster(Arc::new(world.store.clone()), 9);
    assert!(matches!(check(&gateway).await, Err(CheckError::Count(_))));
    let (gateway, following) = Directory::new(gateway, "gateway-1");
    let why = following.run().await;
    assert!(why.to_string().starts_with("cluster.slots: 4096 here"), "{why}");
    assert!(gateway.ready().is_empty(), "nothing is shown of a mesh that is another one");

    world.mesh.slots = SlotCount::Large;
    b.kill();
    world.mesh.whole(&[&a]).await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_slots_is_written_before_the_first_is_claimed() {
    let mut world = World::new();
    let (a, faults) = world.start(1, "a");
    let (b, _) = world.start(2, "b");
    world.mesh.whole(&[&a, &b]).await;
    let listed = world.store.list("/trunkline/").await.unwrap().entries;
    let made = listed.iter().find(|entry| entry.key == "/trunkline/mesh/slots").unwrap();
    assert_eq!(made.value, br#"{"v":1,"slots":4096}"#);
    assert!(made.lease.is_none());
    let claimed = listed.iter().filter(|entry| entry.key.starts_with("/trunkline/epochs/"));
    assert!(claimed.clone().count() == 4_096 && claimed.clone().all(|entry| entry.revision > made.revision));
    // Whoever takes it away does not take the mesh away: it is written again.
    faults.cut(true);
    world.store.txn(Vec::new(), vec![Op::Delete("/trunkline/mesh/slots".into())]).await.unwrap();
    faults.cut(false);
    let again = || world.store.list("/trunkline/mesh/slots").now_or_never().unwrap().unwrap().entries;
    world.until("written again", || again().first().is_some_and(|entry| entry.value == made.value)).await;
    world.mesh.whole(&[&a, &b]).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_process_of_the_same_name_replaces_the_first() {
    let mut world = World::new();
    let (a, _) = world.start(1, "a");
    world.mesh.whole(&[&a]).await;
    let (again, _) = world.start(2, "a");
    world.mesh.whole(&[&again]).await;
    let ends = world.mesh.ends.lock().unwrap().clone();
    assert_eq!(ends, [Err(ClaimError::Replaced { node: "a".into(), by: Incarnation(2) })]);
    assert_eq!(a.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn registries_show_themselves_while_they_run() {
    let mut world = World::new();
    let (a, _) = world.start(1, "a");
    let (faulty, faults) = Faulty::new(Arc::new(world.store.clone()));
    let cluster = world.mesh.cluster(Arc::new(faulty), 9);
    let record = RegistryRecord::new("tools-1", "127.0.0.1:7201", "tool-registry", None, "");
    let (announce, announced) = Announce::registry(cluster, TTL, record.clone());
    world.mesh.tasks.spawn(announce.run());
    let shown = || a.directory.registries();
    world.until("shown", || shown() == [record.clone()]).await;
    announced.set(Readiness::Draining);
    world.until("draining", || shown().first().map(|record| record.state) == Some(Readiness::Draining)).await;

    faults.cut(true);
    world.until("gone with its lease", || shown().is_empty()).await;
    faults.cut(false);
    world.until("back", || shown().len() == 1).await;
    let before = Instant::now();
    announced.withdraw();
    world.until("withdrawn", || shown().is_empty()).await;
    assert!(before.elapsed() < Duration::from_secs(1), "not only when the lease ran out");
}

#[tokio::test(start_paused = true)]
async fn gateways_show_themselves_while_they_run() {
    let mut world = World::new();
    let (faulty, faults) = Faulty::new(Arc::new(world.store.clone()));
    let cluster = world.mesh.cluster(Arc::new(faulty), 9);
    let record = GatewayRecord::new("gateway-1", "127.0.0.1:8080", "east", 50, Incarnation(7));
    let (announce, announced) = Announce::gateway(cluster, TTL, record.clone());
    world.mesh.tasks.spawn(announce.run());
    let key = Keys::new("/trunkline").write(&Key::Gateway("gateway-1".into()));
    assert_eq!(key, "/trunkline/gateways/gateway-1");
    // The lease it hangs on, and what it says.
    let shown = || {
        let listing = world.store.list(&key).now_or_never().unwrap().unwrap();
        let entry = listing.entries.into_iter().next()?;
        Some((entry.lease, decode::<GatewayRecord>(&entry.value).unwrap()))
    };
    world.until("shown", || shown().is_some()).await;
    let (lease, first) = shown().unwrap();
    assert_eq!((first, lease.is_some()), (record, true), "and nobody keeps it for a gateway that is gone");
    announced.set(Readiness::Draining);
    world.until("draining", || shown().is_some_and(|(_, it)| it.state == Readiness::Draining)).await;

    faults.cut(true);
    advance(TTL + Duration::from_secs(1)).await;
    world.until("gone with its lease", || shown().is_none()).await;
    faults.cut(false);
    world.until("back", || shown().is_some_and(|(_, it)| it.state == Readiness::Draining)).await;
    let before = Instant::now();
    announced.withdraw();
    world.until("withdrawn", || shown().is_none()).await;
    assert!(before.elapsed() < Duration::from_secs(1), "not only when the lease ran out");
}

#[tokio::test(start_paused = true)]
async fn a_pinned_slot_moves_to_its_node_and_back() {
    let mut world = World::new();
    let (a, _) = world.start(1, "a");
    let (b, _) = world.start(2, "b");
    world.until("shared", || [&a, &b].iter().all(|node| (1_700..2_400).contains(&node.count()))).await;
    let owner = |slot| a.directory.holder(slot);
    let of_a = |slot: &Slot| owner(*slot).is_some_and(|owner| &*owner.node == "a");
    let slot = SlotCount::Usual.slots().find(of_a).unwrap();
    let before = owner(slot).unwrap();
    let key = Keys::new("/trunkline").write(&Key::Pin(slot));
    let pin = Op::Put(key.clone(), encode(&PinRecord::new("b")), None);
    world.store.txn(Vec::new(), vec![pin]).await.unwrap();
    world.until("moved", || owner(slot).is_some_and(|owner| &*owner.node == "b")).await;
    assert!(owner(slot).unwrap().epoch > before.epoch);
    world.store.txn(Vec::new(), vec![Op::Delete(key.clone())]).await.unwrap();
    advance(Duration::from_secs(60)).await;
    world.mesh.whole(&[&a, &b]).await;
    // A node that is not there gets nothing, and nothing waits for it.
    let pin = Op::Put(key, encode(&PinRecord::new("nobody")), None);
    world.store.txn(Vec::new(), vec![pin]).await.unwrap();
    advance(Duration::from_secs(5)).await;
    world.mesh.whole(&[&a, &b]).await;
    b.kill();
    world.mesh.whole(&[&a]).await;
}
