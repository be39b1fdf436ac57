//! One run: a world from a seed, what happened in it, and the verdict.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use api::{KeyRing, SlotCount};
use history::line::{Phase, Source, What};
use history::{Demands, Figures, History, Judgement, judge};
use placement::Keys;
use placement::record::Key;

use crate::client::Client;
use crate::gateway::Gateway;
use crate::lease::Etcd;
use crate::nemesis::{Nemesis, Weather};
use crate::node::Node;
use crate::record::{Counts, Pen};
use crate::registry::Registry;
use crate::sabotage::{Known, Sabotage};
use crate::scene::{self, GATEWAYS, NODES, REGISTRIES, Scene};
use crate::store::{Habits, Redis};
use crate::trap::{Around, Trap};
use crate::world::{Net, Sim};

/// Clients of a run.
const CLIENTS: usize = 4;
/// When faults begin and end, when a node is drained as it should be, when clients stop, and when everything has ended, in
/// milliseconds.
const FAULTS_MS: (u64, u64) = (2_000, 28_000);
const PLANNED_MS: u64 = 54_000;
const CLIENTS_MS: u64 = 60_000;
const END_MS: u64 = 92_000;
/// Each so many slots one is used by the mesh; the others stand for those of a version that nobody here knows, so that there is
/// not more to do than a run can bear.
const SPARSE: u16 = 64;
/// Each so many seeds one uses every slot.
const WIDE: u64 = 50;

/// Owners that are stopped at certain points, one after the other, for long enough to be replaced.
#[derive(Debug, Clone)]
pub struct Pauses {
    /// Where.
    pub around: Around,
    /// How far behind the point, in microseconds; 0 = exactly there.
    pub offsets: Vec<u64>,
}

/// What a run is made of.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// A promise that is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// Defects that are known and put back.
    pub known: Vec<Known>,
    /// What goes wrong, instead of what follows from the seed.
    pub pauses: Option<Pauses>,
}

/// What a run came to.
pub struct Outcome {
    /// The whole history.
    pub history: History,
    /// The verdict.
    pub judgement: Judgement,
    /// What happened, in numbers.
    pub figures: Figures,
    /// What happened inside.
    pub counts: Counts,
    /// Stands for everything that happened, in its order.
    pub digest: u64,
    /// Tasks that were polled.
    pub steps: u64,
    /// Milliseconds that passed in the world.
    pub simulated_ms: u64,
    /// Operations that were done in the last part of the run, when nothing was broken any more.
    pub done_in_the_end: usize,
}

impl Outcome {
    /// Whether everything is well and enough happened.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.judgement.acquits()
    }
}

/// Runs a world to its end, and judges it.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    let sim = Sim::new(plan.seed);
    let net = Net::new(&sim);
    let pen = Pen::new(&sim);
    let lossy = sim.per_mille(400) && plan.pauses.is_none();
    let weather = Weather { lossy };
    let lease_keys = Keys::new("/t");
    let sparse = !plan.seed.is_multiple_of(WIDE);
    let etcd = Etcd::start(&sim, &net, foreign_slots(&lease_keys, sparse));
    let habits = Habits {
        // Without a wait, a fail-over that loses something may lose what was promised: that is said openly.
        waits: lossy || sim.per_mille(300),
        lag: if lossy { (8_000, 40_000) } else { (500, 4_000) },
        sabotage: plan.sabotage,
        known: plan.known.clone(),
    };
    let scene = Rc::new(Scene {
        redis: Redis::start(&sim, &net, &pen, habits),
        etcd,
        keys: KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef"),
        lease_keys,
        settings: scene::settings(),
        sabotage: plan.sabotage,
        known: plan.known.clone(),
        nodes: RefCell::default(),
        gateways: RefCell::default(),
        registries: RefCell::default(),
        lists: RefCell::default(),
        draining: RefCell::new(vec![false; NODES]),
        dates: RefCell::new(vec![0; NODES]),
        trap: Trap::default(),
        calm: Cell::new(false),
        sim: sim.clone(),
        net,
        pen: pen.clone(),
    });
    let mut nodes = Vec::new();
    for index in 0..NODES {
        let (door, node) = Node::start(&scene, index);
        scene.nodes.borrow_mut().push(door);
        nodes.push(node);
    }
    for index in 0..GATEWAYS {
        let door = Gateway::start(&scene, index);
        scene.gateways.borrow_mut().push(door);
    }
    for replica in 0..REGISTRIES {
        let door = Registry::start(&scene, replica);
        scene.registries.borrow_mut().push(door);
    }
    probe(&pen, Phase::Before, 0);
    let prey = Rc::default();
    for number in 0..CLIENTS {
        Client::start(&scene, number, &prey, CLIENTS_MS);
    }
    let nemesis = Nemesis::new(&scene, weather, nodes);
    let process = sim.process();
    match plan.pauses.clone() {
        None => sim.spawn(process, nemesis.rage(FAULTS_MS, PLANNED_MS)),
        Some(pauses) => sim.spawn(process, nemesis.pause_owners(FAULTS_MS.0, pauses)),
    }
    sim.run_until(END_MS * 1_000);
    let outcome = conclude(&scene, weather);
    sim.end();
    // Many are run in one process.
    assert_eq!(Rc::strong_count(&scene), 1, "something keeps the world after its end");
    outcome
}

/// Slots that none of the nodes can read, and so none of them touches.
fn foreign_slots(keys: &Keys, sparse: bool) -> Vec<(String, Vec<u8>)> {
    let numbers = SlotCount::Usual.slots().filter(|slot| sparse && slot.number() % SPARSE != 0);
    numbers.map(|slot| (keys.write(&Key::Slot(slot)), b"?".to_vec())).collect()
}

/// Sessions that their clients have ended and the store still has.
fn probe(pen: &Pen, phase: Phase, value: i64) {
    let what = What::Probe { what: "sessions-ended-and-kept".into(), phase, value, slack: 0 };
    pen.write(Source::Runner, "probe", None, what);
}

fn conclude(scene: &Rc<Scene>, weather: Weather) -> Outcome {
    let (sim, pen) = (&scene.sim, &scene.pen);
    let kept = scene.redis.dump();
    // What a fail-over took of a journal comes back with the owner's next write, or ends with the next owner.
    for (id, snapshot) in kept.iter().filter(|_| !weather.lossy) {
        for entry in snapshot.journal.values() {
            let args = entry.params.member("arguments");
            let Some(op) = args.and_then(|args| args.text("op")) else { continue };
            let state = format!("{:?}", entry.state).to_lowercase();
            pen.write(Source::Store, "redis-dump", Some(id.as_str()), What::Journal { op, state });
        }
    }
    let counts = pen.counts();
    pen.write(Source::Runner, "nemesis", None, What::Refused { count: counts.stale + counts.refused_calls });
    let ended = pen.ended();
    let left = kept.iter().filter(|(id, _)| ended.contains(id.as_str())).count();
    probe(pen, Phase::After, i64::try_from(left).unwrap_or(i64::MAX));
    let lines = pen.finish();
    let mut digest = sim.digest();
    for line in &lines {
        for byte in serde_json::to_string(line).unwrap_or_default().bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    let since = (CLIENTS_MS - 8_000) * 1_000_000;
    let done_in_the_end =
        lines.iter().filter(|line| line.t > since && matches!(line.what, What::Ok { .. })).count();
    let history = History::new(lines);
    let judgement = judge(&history, Demands::default());
    let figures = judgement.figures.clone();
    let (steps, simulated_ms) = (sim.steps(), END_MS);
    Outcome { history, judgement, figures, counts, digest, steps, simulated_ms, done_in_the_end }
}
