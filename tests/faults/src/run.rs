//! One run: a mesh, clients, a fault, and the verdict.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use history::line::{Doing, Line, Phase, Source, Span, What};
use history::{History, Judgement, judge};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::clients::{Load, Session, World};
use crate::cluster::{Cluster, Role, slot_of};
use crate::draw::Draw;
use crate::faults::{Beside, Fault, inject};
use crate::monitor::Monitors;
use crate::observers::{self, Counters};
use crate::recorder::{Pen, Recorder};
use crate::shape::Shape;

/// Operations without which a run proves nothing.
pub const OPERATIONS: usize = 2_000;
/// Operations before the fault.
const WARM: usize = 300;
/// How long anything may take to be there in the beginning, and to be gone in the end.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long clients may take to get to [`OPERATIONS`] when the fault is over.
const MORE: Duration = Duration::from_secs(60);

/// How runs are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// What all choices follow from.
    pub seed: u64,
    /// Whether outages are short.
    pub quick: bool,
    /// Where histories and logs go.
    pub out: PathBuf,
    /// The version of the product.
    pub commit: String,
    /// Replicas of each registry.
    pub replicas: usize,
    /// Slots of the mesh.
    pub slots: u16,
    /// The binary of an earlier version.
    pub former: Option<PathBuf>,
}

/// A run that is under way.
pub struct Run {
    /// The mesh.
    pub cluster: Cluster,
    /// Its clients.
    pub world: World,
    /// What is chosen.
    pub draw: Draw,
    /// Whether outages are short.
    pub quick: bool,
    pen: Pen,
    windows: usize,
    extra: JoinSet<()>,
}

/// What came of a run.
pub struct Outcome {
    /// The verdict on the history.
    pub judgement: Judgement,
    /// What else was wrong: the fault's own limit, processes that died.
    pub complaints: Vec<String>,
    /// What else is to be said, whatever became of it.
    pub notes: Vec<String>,
    /// For people.
    pub report: String,
    /// Take-overs of slots, those of the start included.
    pub moves: usize,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Whether everything is well.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.judgement.acquits() && self.complaints.is_empty()
    }
}

/// Runs one fault.
///
/// # Errors
/// When the run itself cannot be made; a bad verdict is none.
pub async fn run(fault: &Fault, options: &Options) -> Result<Outcome> {
    let begun = Instant::now();
    let dir = options.out.join(fault.name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let draw = Draw::new(options.seed).of(fault.name);
    let recorder = Recorder::default();
    let _tidy = Tidy(dir.join("data"));
    let former = options.former.clone().filter(|_| fault.needs_former());
    let shape = Shape { replicas: options.replicas, slots: options.slots, former, ..fault.shape() };
    let mut cluster = Cluster::start(&dir, &shape, &draw).await?;
    cluster.settled(PATIENCE).await?;
    let monitors = Monitors::start(&cluster.redis.ports());
    cluster.sink.watch_for(cluster.keys.values().cloned().collect());
    let world = World::new(recorder.clone(), cluster.gateways(), cluster.keys.clone(), draw.clone());
    serves(&world).await.with_context(|| died(&mut cluster))?;

    let pen = recorder.pen(Source::Runner, "runner");
    let (name, commit) = (fault.name.to_owned(), options.commit.clone());
    pen.write(None, What::Run { fault: name, seed: options.seed, commit });
    let mut before = observers::inventory(&cluster, &world.names()).await?;
    allow(fault, &mut before);
    observers::write_inventory(&pen, Phase::Before, &before, &before);
    let counters = Counters::of(fault.counted());
    let load = fault.load();
    let clients = world.start(load);
    let mut run = Run { cluster, world, draw, quick: options.quick, pen, windows: 0, extra: JoinSet::new() };
    let injected = hurt(fault, &mut run, &recorder, &counters).await;
    let mut complaints = finish(&mut run, clients, &recorder, &counters, injected.is_err()).await;
    if let Err(error) = injected {
        complaints.push(format!("the fault could not be injected: {error:#}"));
    }
    let mut after = settle(&run, &before).await?;
    allow(fault, &mut after);
    observers::write_inventory(&run.pen, Phase::After, &after, &before);
    counters.look(&counters.targets(&run.cluster)).await;
    counters.write(&recorder);
    let moves = observers::acquisitions(&run.cluster, &recorder).await?;
    let cut_short = observers::cut_short(&dir.join("logs"))?;
    complaints.extend(run.cluster.died().into_iter().map(|unit| format!("ended by itself: {unit}")));
    if let Err(error) = run.cluster.shut_down().await {
        complaints.push(format!("{error:#}"));
    }
    monitors.write(&recorder, &run.world.names());
    observers::ledger(&run.cluster.ledger, &recorder)?;
    traces(&run, &recorder);

    let history = History::new(told(recorder.finish(), fault));
    save(&history, &dir.join("history.jsonl"))?;
    let judgement = judge(&history, fault.demands(options.quick));
    let moved = moves.saturating_sub(options.slots.into());
    let beside = Beside { moves: moved, spans: counters.spans(), cut_short };
    complaints.extend(fault.own_limit(&history, &judgement, &beside));
    let (notes, report) = (fault.notes(&history, &beside), judgement.report(&history));
    Ok(Outcome { judgement, complaints, notes, report, moves, took: begun.elapsed() })
}

/// Removes what the stores of a run have written: that is a lot, and the history has all that matters.
struct Tidy(PathBuf);

impl Drop for Tidy {
    fn drop(&mut self) {
        // What stays is only in the way.
        let _removed = std::fs::remove_dir_all(&self.0).is_ok();
    }
}

/// Injects the fault once there is load, while the counters of processes that may die are watched.
async fn hurt(fault: &Fault, run: &mut Run, recorder: &Recorder, counters: &Counters) -> Result<()> {
    run.until(recorder, WARM, MORE).await?;
    let targets = counters.targets(&run.cluster);
    let watching = async {
        loop {
            counters.look(&targets).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        injected = inject(fault, run) => injected?,
        () = watching => {}
    }
    counters.look(&counters.targets(&run.cluster)).await;
    Ok(())
}

/// Lets clients work on until there is enough, and come to an end; what was wrong with that.
async fn finish(
    run: &mut Run,
    mut clients: JoinSet<()>,
    recorder: &Recorder,
    counters: &Counters,
    in_haste: bool,
) -> Vec<String> {
    let mut complaints = Vec::new();
    if !in_haste {
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Too few operations are a verdict of their own.
        let _enough = run.until(recorder, OPERATIONS + 100, MORE).await.is_ok();
    }
    run.world.stop();
    let all = async {
        while run.extra.join_next().await.is_some() {}
        while clients.join_next().await.is_some() {}
    };
    if timeout(PATIENCE * 2, all).await.is_err() {
        complaints.push(format!("{} clients did not come to an end", clients.len()));
        clients.shutdown().await;
    }
    counters.look(&counters.targets(&run.cluster)).await;
    complaints
}

/// What may stay behind a fault without being a leak.
fn allow(fault: &Fault, inventory: &mut BTreeMap<String, (i64, i64)>) {
    for (what, (_, slack)) in inventory {
        *slack = fault.keys_left(what).max(*slack);
    }
}

/// Waits until a call without a session succeeds: the gateways reach session nodes, and those the registries.
async fn serves(world: &World) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let (quiet, draw) = (Recorder::default(), Draw::new(1));
    let probe = World::new(quiet.clone(), world.gateways(), world.keys(), draw);
    let load = Load { sessions: 0, drowsy: 0, churning: 0, modern: 1, ..Load::default() };
    let _calling = probe.start_named(observers::PROBE, load);
    let mut in_a_row = 0;
    while in_a_row < 5 {
        ensure!(Instant::now() < until, "the mesh does not answer calls{}", quiet.last_failure());
        tokio::time::sleep(Duration::from_millis(200)).await;
        in_a_row = if quiet.succeeds() { in_a_row + 1 } else { 0 };
    }
    Ok(())
}

fn died(cluster: &mut Cluster) -> String {
    let died = cluster.died();
    if died.is_empty() { "no process ended by itself".to_owned() } else { died.join("\n") }
}

/// Waits until as little is left as there was; what is left in the end.
async fn settle(run: &Run, before: &BTreeMap<String, (i64, i64)>) -> Result<BTreeMap<String, (i64, i64)>> {
    // Handshakes that nobody finished end by themselves within ten seconds.
    let until = Instant::now() + Duration::from_secs(25);
    loop {
        let after = observers::inventory(&run.cluster, &run.world.names()).await?;
        let more = before
            .iter()
            .any(|(what, (value, slack))| after.get(what).is_some_and(|(now, _)| *now > value + slack));
        if !more || Instant::now() > until {
            return Ok(after);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Writes down which of the traces that should be there are, and what must not be in one.
fn traces(run: &Run, recorder: &Recorder) {
    let seen = run.cluster.sink.seen();
    let pen = recorder.pen(Source::Exporter, "sink");
    for (name, key) in &run.cluster.keys {
        run.pen.write(None, What::Secret { name: format!("the key of {name}"), text: key.clone() });
    }
    for (trace, text) in seen.leaks {
        pen.write(None, What::Span { trace, text });
    }
    for trace in seen.traces {
        let trace = format!("{trace:032x}");
        pen.write(None, What::Span { trace, text: String::new() });
    }
}

/// Where the collector is the fault nobody can ask for traces.
fn told(mut lines: Vec<Line>, fault: &Fault) -> Vec<Line> {
    for line in lines.iter_mut().filter(|_| !fault.is_traced()) {
        if let What::Fail { trace, .. } | What::Info { trace, .. } = &mut line.what {
            *trace = None;
        }
    }
    lines
}

fn save(history: &History, path: &Path) -> Result<()> {
    let mut text = String::new();
    for line in &history.lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

impl Run {
    /// A window begins.
    pub fn begin(&mut self, of: Span, limit_ms: Option<u64>) -> String {
        self.windows += 1;
        let window = format!("w{}", self.windows);
        self.pen.write(None, What::Begin { window: window.clone(), of, limit_ms });
        window
    }

    /// A window ends.
    pub fn over(&self, window: &str) {
        self.pen.write(None, What::Over { window: window.to_owned() });
    }

    /// Something is about to be done to the mesh.
    pub fn injected(&self, what: impl Into<String>) {
        self.pen.write(None, What::Injected { what: what.into() });
    }

    /// The session node that owns most of the open sessions.
    ///
    /// # Errors
    /// When etcd does not say.
    pub async fn busiest(&self) -> Result<String> {
        let owners = self.cluster.owners().await?;
        let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
        for id in self.world.open().values() {
            if let Some(owner) = slot_of(id).and_then(|slot| owners.get(&slot)) {
                *counts.entry(owner).or_default() += 1;
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(name, _)| name.clone()).context("no session is open")
    }

    /// Waits until clients have begun so many operations.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until(&self, recorder: &Recorder, operations: usize, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        while recorder.operations() < operations {
            ensure!(
                Instant::now() < until,
                "clients have begun only {} operations in {} s",
                recorder.operations(),
                within.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Lets time pass.
    pub async fn wait(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// Puts so many slow calls under way, in sessions of their own; each takes `steps` steps of so many milliseconds. They are
    /// begun little by little, so that it is not the beginning that hurts.
    pub async fn burst(&mut self, calls: usize, steps: u64, pause_ms: u64) {
        let each = 20;
        for number in 0..calls.div_ceil(each) {
            self.wait(0.1).await;
            let (world, name) = (self.world.clone(), format!("burst{}-{number}", self.windows));
            self.extra.spawn(async move {
                let Some(session) = Session::begin(&world, &name, &name, "alice").await else { return };
                let mut under_way = JoinSet::new();
                for _ in 0..each {
                    let session = session.clone();
                    under_way.spawn(async move {
                        session.call_with(Doing::Slow, steps, pause_ms).await;
                    });
                }
                while under_way.join_next().await.is_some() {}
                session.end().await;
            });
        }
        // They are under way as soon as the handshakes are done, and can be taken up again once they have told how far they are.
        self.wait(1.0 + pause_ms as f64 / 1e3).await;
    }

    /// Sessions that make so many calls each, all together, as soon as they are told to.
    pub async fn together(&mut self, sessions: usize, calls: usize) -> watch::Sender<bool> {
        let (go, told) = watch::channel(false);
        for number in 0..sessions {
            let (world, name) = (self.world.clone(), format!("together{}-{number}", self.windows));
            let mut told = told.clone();
            self.extra.spawn(async move {
                let Some(session) = Session::begin(&world, &name, &name, "alice").await else { return };
                // Whoever would tell may be gone, and then nobody waits for anything.
                let _told = told.wait_for(|told| *told).await.is_ok();
                let mut under_way = JoinSet::new();
                for number in 0..calls {
                    let session = session.clone();
                    let f = if number % 2 == 0 { Doing::Append } else { Doing::Slow };
                    under_way.spawn(async move { session.call(f).await });
                }
                while under_way.join_next().await.is_some() {}
                session.end().await;
            });
        }
        // Until all have shaken hands.
        self.wait(1.5).await;
        go
    }

    /// Processes of a role.
    #[must_use]
    pub fn names(&self, role: Role) -> Vec<String> {
        self.cluster.names(role)
    }
}

/// The shape of most runs.
#[must_use]
pub fn usual() -> Shape {
    Shape::default()
}
