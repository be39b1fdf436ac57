//! Nodes in the test's process, with tenants that check what they are told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{Epoch, Slot, SlotCount};
use async_trait::async_trait;
use futures::FutureExt as _;
use placement::{
    ClaimError, Claimer, Claims, Cluster, Directory, Drained, Fenced, Identity, Incarnation, Keys,
    LeaseStore, Locator as _, Now, Owner, Peer, Probe, Tenant, keep,
};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Longest that anything may take, on the clock of the test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const TTL: Duration = Duration::from_secs(5);

/// A clock that stands still when the test's does.
pub(crate) fn clock() -> Now {
    let start = tokio::time::Instant::now();
    Arc::new(move || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// The session store of all nodes, as far as they fence it, and what they all have seen.
pub(crate) struct Fences {
    state: Mutex<State>,
    pub(crate) down: AtomicBool,
    /// Rings when anything happened.
    pub(crate) bell: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    fences: BTreeMap<Slot, Epoch>,
    acquired: BTreeMap<(Slot, Epoch), Incarnation>,
}

impl Fences {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), down: AtomicBool::new(false), bell: watch::channel(0).0 })
    }

    pub(crate) fn of(&self, slot: Slot) -> Option<Epoch> {
        self.state.lock().unwrap().fences.get(&slot).copied()
    }

    fn ring(&self) {
        self.bell.send_modify(|count| *count += 1);
    }

    /// Waits until nothing has happened for so long.
    pub(crate) async fn until_quiet(&self, quiet: Duration) {
        let mut bell = self.bell.subscribe();
        let waiting = async { while let Ok(Ok(())) = tokio::time::timeout(quiet, bell.changed()).await {} };
        tokio::time::timeout(PATIENCE, waiting).await.expect("it does not come to rest");
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn() -> bool) {
        let mut bell = self.bell.subscribe();
        let waiting = async {
            while !so() {
                // Some conditions do not ring.
                drop(tokio::time::timeout(Duration::from_millis(50), bell.changed()).await);
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }
}

/// What one node was told.
pub(crate) struct Recorder {
    fences: Arc<Fences>,
    me: Incarnation,
    served: Mutex<BTreeMap<Slot, Epoch>>,
    stopped: Mutex<BTreeMap<Slot, Epoch>>,
    pub(crate) lost: Mutex<Vec<(Slot, Option<Owner>)>>,
}

impl Recorder {
    pub(crate) fn served(&self) -> BTreeMap<Slot, Epoch> {
        self.served.lock().unwrap().clone()
    }

    pub(crate) fn lost_count(&self) -> usize {
        self.lost.lock().unwrap().len()
    }
}

#[async_trait]
impl Tenant for Recorder {
    async fn fence(&self, claimed: &[(Slot, Epoch)]) -> Vec<Fenced> {
        tokio::task::yield_now().await;
        let mut state = self.fences.state.lock().unwrap();
        let down = self.fences.down.load(Ordering::SeqCst);
        let answers = claimed.iter().map(|(slot, epoch)| match state.fences.get(slot) {
            _ if down => Fenced::Down,
            Some(stands) if stands >= epoch => Fenced::Higher(*stands),
            Some(_) | None => Fenced::Done,
        });
        let answers: Vec<Fenced> = answers.collect();
        for ((slot, epoch), answer) in claimed.iter().zip(&answers) {
            if *answer == Fenced::Done {
                state.fences.insert(*slot, *epoch);
            }
        }
        answers
    }

    fn acquired(&self, slots: &[(Slot, Epoch)]) {
        for (slot, epoch) in slots {
            let mut state = self.fences.state.lock().unwrap();
            let first = *state.acquired.entry((*slot, *epoch)).or_insert(self.me);
            assert_eq!(first, self.me, "slot {slot}, epoch {epoch}: acquired by two (I1)");
            assert!(state.fences.get(slot) >= Some(epoch), "slot {slot} was acquired before its fence stood");
            drop(state);
            let again = self.stopped.lock().unwrap().remove(slot);
            let before = self.served.lock().unwrap().insert(*slot, *epoch);
            assert!(
                before.is_none() || (before == Some(*epoch) && again == Some(*epoch)),
                "slot {slot}: {before:?}"
            );
        }
        self.fences.ring();
    }

    fn lost(&self, slots: &[Slot], to: Option<&Owner>) {
        for slot in slots {
            assert!(self.served.lock().unwrap().remove(slot).is_some(), "slot {slot} was not served");
            self.stopped.lock().unwrap().remove(slot);
            self.lost.lock().unwrap().push((*slot, to.cloned()));
        }
        self.fences.ring();
    }

    async fn hand_over(&self, slots: &[Slot], to: &Owner) {
        assert_ne!(to.incarnation, self.me);
        tokio::task::yield_now().await;
        let served = self.served();
        let stopping = slots.iter().filter_map(|slot| Some((*slot, *served.get(slot)?)));
        self.stopped.lock().unwrap().extend(stopping);
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) tenant: Arc<Recorder>,
    pub(crate) claims: Claims,
    pub(crate) directory: Arc<Directory>,
    tasks: Vec<AbortHandle>,
}

/// Nodes and what they share.
pub(crate) struct Mesh {
    /// What processes are told that start from now on.
    pub(crate) slots: SlotCount,
    pub(crate) fences: Arc<Fences>,
    pub(crate) now: Now,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) ends: Arc<Mutex<Vec<Result<Drained, ClaimError>>>>,
    /// Addresses where nobody answers.
    pub(crate) dead: Arc<Mutex<Vec<String>>>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self {
            slots: SlotCount::Usual,
            fences: Fences::new(),
            now: clock(),
            tasks: JoinSet::new(),
            ends: Arc::default(),
            dead: Arc::default(),
        }
    }

    pub(crate) fn cluster(&self, store: Arc<dyn LeaseStore>, seed: u64) -> Cluster {
        let (slots, now) = (self.slots, Arc::clone(&self.now));
        Cluster { store, keys: Keys::new("/trunkline"), slots, now, seed }
    }

    /// Whoever is not marked as dead can be reached.
    fn probe(&self) -> Probe {
        let dead = Arc::clone(&self.dead);
        Arc::new(move |peer: Peer| {
            let gone = dead.lock().unwrap().contains(&peer.address.to_string());
            async move { if gone { Err("connection refused".to_owned()) } else { Ok(()) } }.boxed()
        })
    }

    /// Starts a node on a store; the keeper has another one, as connections are its own.
    pub(crate) fn start(
        &mut self,
        n: u64,
        name: &str,
        store: Arc<dyn LeaseStore>,
        keepers: Arc<dyn LeaseStore>,
    ) -> Node {
        let cluster = self.cluster(store, n);
        let (keeper, kept) = keep(keepers, TTL, Arc::clone(&self.now));
        let (tick, now) = (kept.tick.clone(), Arc::clone(&self.now));
        let me = Identity {
            node: name.into(),
            address: format!("127.0.0.1:{n}").into(),
            zone: "".into(),
            capacity: 100,
            incarnation: Incarnation(n),
        };
        let tenant = Arc::new(Recorder {
            fences: Arc::clone(&self.fences),
            me: me.incarnation,
            served: Mutex::default(),
            stopped: Mutex::default(),
            lost: Mutex::default(),
        });
        let (claimer, claims) = Claimer::new(cluster.clone(), me, kept);
        let (directory, following) = Directory::new(cluster, name);
        let probe = self.probe();
        let ends = Arc::clone(&self.ends);
        let tasks_tenant = Arc::clone(&tenant);
        let claiming = async move {
            let end = claimer.run(tasks_tenant).await;
            ends.lock().unwrap().push(end);
        };
        let beating = async move {
            loop {
                tick.beat(now());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let tasks = vec![
            self.tasks.spawn(beating),
            self.tasks.spawn(keeper.run()),
            self.tasks.spawn(claiming),
            self.tasks.spawn(async { drop(following.confirming(probe).run().await) }),
        ];
        Node { tenant, claims, directory, tasks }
    }

    /// Waits until every slot is served by one of these nodes, in the epoch of its fence, and all directories say so.
    pub(crate) async fn whole(&self, nodes: &[&Node]) {
        self.fences
            .until("every slot is served", || is_whole(&self.fences, usize::from(self.slots.get()), nodes))
            .await;
    }
}

fn is_whole(fences: &Fences, slots: usize, nodes: &[&Node]) -> bool {
    if nodes.iter().map(|node| node.count()).sum::<usize>() != slots {
        return false;
    }
    let mut owners = BTreeMap::new();
    for node in nodes {
        for (slot, epoch) in node.tenant.served() {
            if owners.insert(slot, epoch).is_some() || fences.of(slot) != Some(epoch) {
                return false;
            }
        }
    }
    let told = |node: &&Node| {
        owners.iter().all(|(slot, epoch)| node.directory.holder(*slot).map(|o| o.epoch) == Some(*epoch))
    };
    owners.len() == slots && nodes.iter().all(told)
}

impl Node {
    /// Ends it as `kill -9` does: nothing is said to anybody.
    pub(crate) fn kill(self) {
        for task in self.tasks {
            task.abort();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.tenant.served.lock().unwrap().len()
    }
}
