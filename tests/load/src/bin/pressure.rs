//! Puts a server under pressure and says what became of it, as one line of JSON on standard output.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Write as _, stderr, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use load::attack::{self, Attack, Band, Fate};
use load::connection::{Connection, Target};
use load::dialogue::{self, Client};
use load::measure::{self, Plan};
use load::{flood, processes};
use serde::Serialize;
use tokio::runtime::Runtime;

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(500);

/// Puts a server under pressure.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Thousands of connections that dribble, are silent or stop reading, while others call.
    Slow(Slow),
    /// As many sessions as the server makes; then its memory until they have ended.
    Flood(Flood),
}

#[derive(Args)]
struct Common {
    /// URL of the endpoint; the host is an address.
    url: String,
    /// Processes under pressure, by id; their children count too.
    #[arg(long, value_delimiter = ',', required = true)]
    processes: Vec<u32>,
}

#[derive(Args)]
struct Slow {
    #[command(flatten)]
    common: Common,
    /// Connections that dribble or are silent.
    #[arg(long, default_value_t = 5000)]
    dribbling: usize,
    /// Streams whose reader does nothing, without and with much to read.
    #[arg(long, default_value_t = 500)]
    unread: usize,
    /// How often callers are measured without and with the pressure.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Length of each measurement, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Time between the beginning of the pressure and the measurement, in seconds.
    #[arg(long, default_value_t = 8.0)]
    lead: f64,
}

#[derive(Args)]
struct Flood {
    #[command(flatten)]
    common: Common,
    /// How long, in seconds.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// How far above where it was the memory may stay, in bytes.
    #[arg(long, default_value_t = 64 << 20)]
    margin: u64,
    /// How long the memory may take to get there, in seconds.
    #[arg(long, default_value_t = 45.0)]
    patience: f64,
}

/// One round of [`Slow`].
#[derive(Serialize)]
struct Round {
    quiet: measure::Report,
    pressed: measure::Report,
    fates: BTreeMap<attack::Kind, Fate>,
}

/// What [`Flood`] came to; memory by proportional set size.
#[derive(Serialize)]
struct Flooded {
    #[serde(flatten)]
    report: flood::Report,
    before: u64,
    most: u64,
    after: u64,
    settled_s: f64,
    settled: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Slow(slow) => pressed(&slow),
        Command::Flood(flood) => flooded(&flood),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    // Nobody is left to be told if standard error is gone too.
    let _told = writeln!(stderr(), "{error:#}").is_ok();
    ExitCode::FAILURE
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

fn pressed(slow: &Slow) -> Result<()> {
    let target = Target::parse(&slow.common.url)?;
    let processes = processes::with_children(&slow.common.processes);
    let runtime = runtime()?;
    let rounds = (0..slow.rounds)
        .map(|_| {
            let quiet = callers(&runtime, &target, &processes, slow.seconds)?;
            let bands = runtime.block_on(bands(slow, &target))?;
            let attack = runtime.block_on(async { Attack::begin(&target, bands) });
            std::thread::sleep(Duration::from_secs_f64(slow.lead));
            let pressed = callers(&runtime, &target, &processes, slow.seconds)?;
            let fates = runtime.block_on(attack.end());
            Ok(Round { quiet, pressed, fates })
        })
        .collect::<Result<Vec<_>>>()?;
    say(&rounds)
}

/// What legitimate callers get: four modern ones and four in sessions.
fn callers(
    runtime: &Runtime,
    target: &Target,
    processes: &BTreeSet<u32>,
    seconds: f64,
) -> Result<measure::Report> {
    let mut clients: Vec<Client> = [dialogue::Kind::Modern, dialogue::Kind::Older]
        .into_iter()
        .cycle()
        .zip(0..8)
        .map(|(kind, number)| Client::new(kind, number, target.clone(), "echo"))
        .collect();
    runtime.block_on(async {
        let mut connection = Connection::open(target).await?;
        for client in &mut clients {
            client.sessions.push(dialogue::create(&mut connection, target, &dialogue::headers()).await?);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let plan = Plan {
        warm_up: Duration::from_millis(500),
        window: Duration::from_secs_f64(seconds),
        processes: processes.clone(),
        runtimes: 1,
    };
    Ok(measure::run(&plan, target, clients).context("a legitimate caller")?.0)
}

async fn bands(slow: &Slow, target: &Target) -> Result<Vec<Band>> {
    let mut connection = Connection::open(target).await?;
    let mut unread = vec![attack::large(target); slow.unread / 5];
    while unread.len() < slow.unread {
        let session = dialogue::create(&mut connection, target, &dialogue::headers()).await?;
        unread.push(attack::stream(target, session.to_str()?));
    }
    let (head, third) = (attack::head(target), slow.dribbling / 3);
    let band = |kind, count, opening| Band { kind, count, opening };
    Ok(vec![
        band(attack::Kind::DribblesHead, third, vec![head.clone()]),
        band(attack::Kind::DribblesBody, third, vec![head]),
        band(attack::Kind::Silent, slow.dribbling - 2 * third, Vec::new()),
        band(attack::Kind::StopsReading, unread.len(), unread),
    ])
}

fn flooded(wanted: &Flood) -> Result<()> {
    let target = Target::parse(&wanted.common.url)?;
    let processes = processes::with_children(&wanted.common.processes);
    let runtime = runtime()?;
    let resident = || processes::memory(&processes).map(|memory| memory.pss);
    callers(&runtime, &target, &processes, 1.0)?;
    let before = resident()?;
    let time = Duration::from_secs_f64(wanted.seconds);
    let flood = flood::flood(&target, wanted.connections, time);
    let report = runtime.block_on(async {
        let (mut most, mut flood) = (before, std::pin::pin!(flood));
        loop {
            most = most.max(resident()?);
            if let Ok(report) = tokio::time::timeout(LOOK, &mut flood).await {
                return Ok::<_, anyhow::Error>((report?, most));
            }
        }
    })?;
    let (report, mut most) = report;
    let (begin, patience) = (Instant::now(), Duration::from_secs_f64(wanted.patience));
    let mut after = resident()?;
    while after > before + wanted.margin && begin.elapsed() < patience {
        // Some go on calling: allocators give back in passing. They may be refused, see below.
        let _served = callers(&runtime, &target, &processes, 0.05).is_ok();
        std::thread::sleep(LOOK);
        after = resident()?;
        most = most.max(after);
    }
    let settled = after <= before + wanted.margin;
    let settled_s = begin.elapsed().as_secs_f64();
    // One caller's budget may be used up until the last of its sessions has ended.
    while let Err(error) = callers(&runtime, &target, &processes, 1.0) {
        if begin.elapsed() > patience {
            return Err(error.context("after the flood"));
        }
        std::thread::sleep(LOOK);
    }
    say(&Flooded { report, before, most, after, settled_s, settled })
}

fn say(report: &impl Serialize) -> Result<()> {
    Ok(writeln!(stdout(), "{}", serde_json::to_string(report)?)?)
}
