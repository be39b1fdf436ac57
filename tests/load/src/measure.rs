//! One measurement: clients that take turns for a while, and what that took.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::LocalSet;

use crate::connection::{Connection, Target};
use crate::dialogue::Client;
use crate::processes;

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;
/// A minute, the longest time that is told apart.
const LONGEST_US: u64 = 60_000_000;

/// How long, and whose costs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Time before anything is counted.
    pub warm_up: Duration,
    /// Time that is counted.
    pub window: Duration,
    /// The processes under load.
    pub processes: BTreeSet<u32>,
    /// Single-threaded runtimes that the clients are dealt out to.
    pub runtimes: usize,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Turns within the window, each with a right answer.
    pub calls: u64,
    /// Length of the window.
    pub seconds: f64,
    /// Turns per second.
    pub rate: f64,
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// Slowest, in milliseconds.
    pub max_ms: f64,
    /// CPU seconds of the processes under load per 1,000 turns.
    pub cpu_per_1000: f64,
    /// CPU seconds of this process per 1,000 turns.
    pub own_cpu_per_1000: f64,
    /// Share of the machine that was used by neither.
    pub elsewhere: f64,
    /// Answers that were judged by their meaning rather than compared with a template.
    pub judged: u64,
    /// Memory of the processes under load, at the end of the window.
    pub memory: processes::Memory,
}

struct Counted {
    times: Histogram<u64>,
    clients: Vec<Client>,
}

/// CPU seconds at one moment: of the processes under load, of this one, of the machine.
struct Costs {
    at: Instant,
    load: f64,
    own: f64,
    machine: f64,
}

impl Costs {
    fn now(processes: &BTreeSet<u32>) -> Result<Self> {
        let (load, own) = (processes::cpu(processes)?, processes::cpu(&processes::own())?);
        Ok(Self { at: Instant::now(), load, own, machine: processes::machine()? })
    }
}

/// Lets every client take turns on a connection of its own. Returns the clients as they are afterwards.
///
/// # Errors
/// When any turn failed: what was measured is worth nothing then.
pub fn run(plan: &Plan, target: &Target, clients: Vec<Client>) -> Result<(Report, Vec<Client>)> {
    let phase = Arc::new(AtomicU8::new(WARMING));
    let mut hands: Vec<Vec<Client>> = (0..plan.runtimes.max(1)).map(|_| Vec::new()).collect();
    for (index, client) in clients.into_iter().enumerate() {
        let hand = index % hands.len();
        hands[hand].push(client);
    }
    let threads: Vec<_> = hands
        .into_iter()
        .map(|hand| {
            let (phase, target) = (Arc::clone(&phase), target.clone());
            std::thread::spawn(move || hand_of_clients(hand, &target, &phase))
        })
        .collect();
    std::thread::sleep(plan.warm_up);
    let before = Costs::now(&plan.processes);
    phase.store(MEASURING, Ordering::Relaxed);
    std::thread::sleep(plan.window);
    phase.store(OVER, Ordering::Relaxed);
    let after = Costs::now(&plan.processes);
    let memory = processes::memory(&plan.processes);
    let mut times = histogram()?;
    let mut clients = Vec::new();
    for thread in threads {
        let counted = thread.join().map_err(|_| anyhow!("a generator thread panicked"))??;
        times.add(&counted.times)?;
        clients.extend(counted.clients);
    }
    let mut report = report(&before?, &after?, &times)?;
    report.memory = memory?;
    report.judged = clients.iter().map(|client| client.judged).sum();
    Ok((report, clients))
}

fn report(before: &Costs, after: &Costs, times: &Histogram<u64>) -> Result<Report> {
    let seconds = (after.at - before.at).as_secs_f64();
    let calls = times.len();
    let (load, own) = (after.load - before.load, after.own - before.own);
    let per_1000 = |cpu: f64| if calls == 0 { 0.0 } else { cpu * 1000.0 / u64_to_f64(calls) };
    let ms = |value: u64| u64_to_f64(value) / 1000.0;
    let cores = u64_to_f64(u64::try_from(std::thread::available_parallelism()?.get())?);
    let elsewhere = (after.machine - before.machine - load - own) / (seconds * cores);
    Ok(Report {
        calls,
        seconds,
        rate: u64_to_f64(calls) / seconds,
        p50_ms: ms(times.value_at_quantile(0.5)),
        p99_ms: ms(times.value_at_quantile(0.99)),
        max_ms: ms(times.max()),
        cpu_per_1000: per_1000(load),
        own_cpu_per_1000: per_1000(own),
        elsewhere: elsewhere.clamp(0.0, 1.0),
        judged: 0,
        memory: processes::Memory::default(),
    })
}

/// An empty histogram of microseconds.
///
/// # Errors
/// None, with these bounds.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_US, 3)?)
}

/// Notes how long something took.
pub fn note(times: &mut Histogram<u64>, took: Duration) {
    times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US).max(1));
}

/// A count as a number to divide by.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub const fn u64_to_f64(count: u64) -> f64 {
    count as f64
}

fn hand_of_clients(hand: Vec<Client>, target: &Target, phase: &Arc<AtomicU8>) -> Result<Counted> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let mut tasks = Vec::new();
    for client in hand {
        let (phase, target) = (Arc::clone(phase), target.clone());
        tasks.push(local.spawn_local(async move { one_client(client, &target, &phase).await }));
    }
    let ended = local.block_on(&runtime, async {
        let mut ended = Vec::new();
        for task in tasks {
            ended.push(task.await.map_err(|_| anyhow!("a client panicked"))?);
        }
        Ok::<_, anyhow::Error>(ended)
    })?;
    let mut sum = Counted { times: histogram()?, clients: Vec::new() };
    for counted in ended {
        let counted = counted?;
        sum.times.add(&counted.times)?;
        sum.clients.extend(counted.clients);
    }
    Ok(sum)
}

async fn one_client(mut client: Client, target: &Target, phase: &AtomicU8) -> Result<Counted> {
    let mut connection = Connection::open(target).await?;
    let mut times = histogram()?;
    let mut turn = 0;
    while phase.load(Ordering::Relaxed) != OVER {
        turn += 1;
        let begin = Instant::now();
        client.turn(&mut connection, turn).await?;
        // Turns that end within the window.
        if phase.load(Ordering::Relaxed) == MEASURING {
            note(&mut times, begin.elapsed());
        }
    }
    Ok(Counted { times, clients: vec![client] })
}
