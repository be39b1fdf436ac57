use chassis::drain;
use chassis::process::Process;
use chassis::serve::Incoming;
use placement::faulty::{Faults, Faulty};
use placement::{Claimer, Cluster, Embedded, Identity, Incarnation, Keys, LeaseStore, keep};
use tokio::time::timeout;

use super::*;
use crate::deps::Claimed;
use crate::{App, Config};

/// Longer than a node that hears nothing keeps quiet, and shorter than it waits.
const A_WHILE: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(60);

/// A node of its own whose view of etcd can be cut off, while its claims reach it.
struct Node {
    claims: Claims,
    process: Process,
    etcd: Arc<Faults>,
    trigger: Trigger,
    serving: Handle<chassis::serve::RoleResult>,
    _lease: Handle<()>,
}

fn start(is_cut: bool) -> Node {
    let now: Now = Arc::new(chassis::clock::boot_millis);
    let store: Arc<dyn LeaseStore> = Arc::new(Embedded::new(now.clone()));
    let (faulty, etcd) = Faulty::new(store.clone());
    etcd.cut(is_cut);
    let (keys, slots) = (Keys::new("/tests"), SlotCount::default());
    let cluster = Cluster { store, keys, slots, now: now.clone(), seed: 1 };
    let me = Identity {
        node: "a".into(),
        address: "127.0.0.1:1".into(),
        zone: "".into(),
        capacity: 100,
        incarnation: Incarnation(1),
    };
    let (keeper, kept) = keep(cluster.store.clone(), Duration::from_secs(5), now.clone());
    let tick = kept.tick.clone();
    let (claimer, claims) = Claimer::new(cluster.clone(), me, kept);
    let (directory, following) = Directory::new(Cluster { store: Arc::new(faulty), ..cluster }, "a");
    let (ring, dialler) = (api::KeyRing::single("k1", [7; 32]), Dialler::default());
    let mut deps = Deps::connect(&Config::default(), slots, ring, &dialler).unwrap();
    let seen = claims.clone();
    deps.seat =
        Seat::Claimed(Box::new(Claimed { claimer, claims, tick, now, directory, following, dialler }));
    let process = deps.process.clone();
    let app = App::build(Config::default(), deps).unwrap();
    let (trigger, shutdown) = drain::pair();
    let lease = task::spawn(Kind::Upkeep, "lease", keeper.run());
    let serving = task::spawn(Kind::Role, "node", app.serve(Incoming::None, shutdown));
    process.health.started();
    Node { claims: seen, process, etcd, trigger, serving, _lease: lease }
}

impl Node {
    async fn owns_slots(&self, within: Duration) -> bool {
        let mut standing = self.claims.standing();
        timeout(within, standing.wait_for(|standing| standing.held > 0)).await.is_ok()
    }
}

#[tokio::test(start_paused = true)]
async fn slots_are_claimed_once_etcd_has_said_which_registries_there_are() {
    let node = start(true);
    assert!(!node.owns_slots(A_WHILE).await, "nobody knows where calls would be found");
    assert!(!node.process.health.is_ready());
    node.etcd.cut(false);
    assert!(node.owns_slots(DEADLINE).await, "there are none, which is known");
    assert!(node.process.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_never_says_is_not_waited_for_for_ever() {
    let node = start(true);
    assert!(node.owns_slots(DEADLINE).await);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_waits_can_be_asked_to_stop() {
    let node = start(true);
    assert!(!node.owns_slots(A_WHILE).await);
    node.trigger.drain();
    assert!(timeout(Duration::from_secs(1), node.serving).await.unwrap().unwrap().is_ok());
}
