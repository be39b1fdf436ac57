//! Many things going wrong at once, in an order drawn from a seed, on a clock that only the test moves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use placement::embedded::Embedded;
use placement::faulty::{Faults, Faulty};
use placement::{LeaseStore, Locator as _};

use crate::kit::{Mesh, Node};

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % count
    }
}

struct Running {
    node: Node,
    faults: Arc<Faults>,
    address: String,
}

struct World {
    mesh: Mesh,
    store: Embedded,
    dice: Dice,
    nodes: Vec<Running>,
    started: u64,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mesh = Mesh::new();
        let store = Embedded::new(Arc::clone(&mesh.now));
        Self { mesh, store, dice: Dice(seed), nodes: Vec::new(), started: 0, log: Vec::new() }
    }

    fn start(&mut self) {
        self.started += 1;
        let (faulty, faults) = Faulty::new(Arc::new(self.store.clone()));
        let store: Arc<dyn LeaseStore> = Arc::new(faulty);
        let n = self.started;
        let node = self.mesh.start(n, &format!("session-{n}"), Arc::clone(&store), store);
        self.log.push(format!("start {n}"));
        self.nodes.push(Running { node, faults, address: format!("127.0.0.1:{n}") });
    }

    /// Something goes wrong, or right again.
    async fn happen(&mut self) {
        let which = usize::try_from(self.dice.below(self.nodes.len() as u64)).unwrap();
        let what = self.dice.below(9);
        self.log.push(format!("{what} to {}", self.nodes[which].address));
        match what {
            0 if self.nodes.len() > 1 => {
                let killed = self.nodes.swap_remove(which);
                self.mesh.dead.lock().unwrap().push(killed.address);
                killed.node.kill();
            }
            1 if self.nodes.len() > 1 => {
                let leaving = self.nodes.swap_remove(which);
                leaving.faults.cut(false);
                leaving.faults.silence(false);
                let drained = leaving.node.claims.drain();
                tokio::time::timeout(Duration::from_secs(20), drained).await.expect("a drain ends");
                assert_eq!(leaving.node.count(), 0);
            }
            0..=2 => {
                if self.nodes.len() < 5 {
                    self.start();
                }
            }
            3 => self.nodes[which].faults.cut(true),
            4 => self.nodes.iter().for_each(|running| running.faults.cut(false)),
            5 => {
                let lost = u32::try_from(self.dice.below(6)).unwrap();
                self.nodes[which].faults.lose_answers(lost);
            }
            6 => {
                let silent = self.dice.below(2) == 0;
                self.nodes[which].faults.silence(silent);
            }
            7 => {
                let down = self.mesh.fences.down.load(Ordering::SeqCst);
                self.mesh.fences.down.store(!down, Ordering::SeqCst);
            }
            _ => {
                for reporter in &self.nodes {
                    for peer in self.nodes[which].node.directory.ready() {
                        if self.mesh.dead.lock().unwrap().contains(&peer.address.to_string()) {
                            reporter.node.directory.suspect(&peer, "connection refused");
                        }
                    }
                }
            }
        }
    }

    fn heal(&mut self) {
        self.mesh.fences.down.store(false, Ordering::SeqCst);
        for running in &self.nodes {
            running.faults.cut(false);
            running.faults.silence(false);
            running.faults.lose_answers(0);
        }
    }
}

async fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..3 {
        world.start();
    }
    for _ in 0..25 {
        world.happen().await;
        let pause = Duration::from_millis(50 + world.dice.below(3_000));
        tokio::time::sleep(pause).await;
    }
    world.heal();
    let nodes: Vec<&Node> = world.nodes.iter().map(|running| &running.node).collect();
    world.mesh.whole(&nodes).await;
    // Every tenant checked I1 all the time; a panic of one ends its task.
    while let Some(ended) = world.mesh.tasks.try_join_next() {
        let whole = ended.as_ref().err().is_none_or(|error| !error.is_panic());
        assert!(whole, "seed {seed}: {ended:?} after {:?}", world.log);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_every_slot_has_one_owner_in_the_end() {
    for seed in 0..4 {
        run(seed).await;
    }
}
