//! Hurts a mesh of real processes under load and judges what its clients saw: `faults [--quick] [F1 F3 ..]`

use std::fs::File;
use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use faults::faults::{ALL, Fault, QUICK};
use faults::run::{Options, Outcome, run};
use faults::shape::USUAL_SLOTS;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Hurts a mesh of real processes under load and judges what its clients saw")]
struct Args {
    /// Faults by name; without any, all of them, or those of a quick run.
    faults: Vec<String>,
    /// Shorter outages, and only the faults that every commit is tried with unless others are named.
    #[arg(long)]
    quick: bool,
    /// What all choices follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often each fault is run, with one seed after the other.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Where histories and logs go.
    #[arg(long, default_value = "target/faults")]
    out: PathBuf,
    /// The version of the product, for the record.
    #[arg(long, default_value = "")]
    commit: String,
    /// Replicas of each registry.
    #[arg(long, default_value_t = 2)]
    replicas: usize,
    /// Slots of the mesh: 4096 or 16384.
    #[arg(long, default_value_t = USUAL_SLOTS)]
    slots: u16,
    /// The binary of an earlier version, which F9 begins with and replaces under load: scripts/upgrade builds one.
    #[arg(long, value_name = "PROGRAM")]
    former: Option<PathBuf>,
    /// Writes the numbers of each run to a file, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fails if all of them together take longer than so many seconds.
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Prints what there is and ends.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.list {
        for fault in ALL {
            writeln!(stdout(), "{:4} {}", fault.name, fault.about)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = Vec::new();
    for name in &args.faults {
        chosen.push(Fault::of(name).with_context(|| format!("there is no fault {name}; --list shows all"))?);
    }
    if chosen.is_empty() {
        let usual = |fault: &&Fault| {
            let is_possible = !fault.needs_former() || args.former.is_some();
            is_possible && (!args.quick || QUICK.contains(&fault.name))
        };
        chosen.extend(ALL.iter().filter(usual));
    }
    anyhow::ensure!(
        args.former.is_some() || !chosen.iter().any(|fault| fault.needs_former()),
        "F9 needs the binary of an earlier version: --former PROGRAM; scripts/upgrade builds one and runs it"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let code = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Whatever runs ends with what owns it.
        tokio::select! {
            code = all(&args, &chosen) => code,
            _ = terminate.recv() => Ok(ExitCode::from(143)),
            _ = interrupt.recv() => Ok(ExitCode::from(130)),
        }
    });
    runtime.shutdown_background();
    code
}

async fn all(args: &Args, chosen: &[&'static Fault]) -> Result<ExitCode> {
    let (begun, mut passed, mut failed) = (Instant::now(), 0, 0);
    for round in 0..args.rounds.max(1) {
        for fault in chosen {
            let options = Options {
                seed: args.seed + round,
                quick: args.quick,
                out: args.out.clone(),
                commit: args.commit.clone(),
                replicas: args.replicas,
                slots: args.slots,
                former: args.former.clone(),
            };
            let well = match run(fault, &options).await {
                Ok(outcome) => {
                    show(fault, &options, &outcome)?;
                    note(args, fault, &outcome)?;
                    outcome.is_well()
                }
                Err(error) => {
                    writeln!(stdout(), "{:4} FAILED: {error:#}", fault.name)?;
                    false
                }
            };
            *(if well { &mut passed } else { &mut failed }) += 1;
        }
    }
    let took = begun.elapsed().as_secs();
    let is_late = args.within.is_some_and(|within| took > within);
    if is_late {
        writeln!(stdout(), "FAILED: it took {took} s, longer than --within allows")?;
    }
    writeln!(stdout(), "{passed} passed, {failed} failed")?;
    Ok(if failed == 0 && passed > 0 && !is_late { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// For programs: what was seen, and whether it was well.
fn note(args: &Args, fault: &Fault, outcome: &Outcome) -> Result<()> {
    let Some(path) = &args.json else { return Ok(()) };
    let line = serde_json::json!({
        "fault": fault.name,
        "about": fault.about,
        "well": outcome.is_well(),
        "moves": outcome.moves,
        "figures": outcome.judgement.figures,
    });
    let mut file = File::options().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{line}")?)
}

fn show(fault: &Fault, options: &Options, outcome: &Outcome) -> Result<()> {
    let mut out = stdout().lock();
    let figures = &outcome.judgement.figures;
    let (recovery, moved, calm) = (figures.recovery, figures.moved, figures.calm);
    writeln!(
        out,
        "{:4} {}: {} operations ({} done, {} refused, {} broken), {} faults, recovery p50 {} p99 {} max {} ms ({} outages), \
         moved p50 {} p99 {} max {} ms ({}), before and after p50 {} p99 {} ms, {} lost, {} duplicated, {} unknown, {} zombie writes refused, {} take-overs, {:.0} s, seed {}: {}",
        fault.name,
        fault.about,
        figures.operations,
        figures.done,
        figures.failed,
        figures.broken,
        figures.faults,
        recovery.p50,
        recovery.p99,
        recovery.max,
        recovery.count,
        moved.p50,
        moved.p99,
        moved.max,
        moved.count,
        calm.p50,
        calm.p99,
        figures.lost,
        figures.duplicated,
        figures.unknown,
        figures.refused,
        outcome.moves,
        outcome.took.as_secs_f64(),
        options.seed,
        if outcome.is_well() { "ok" } else { "FAILED" },
    )?;
    for line in outcome.notes.iter().chain(&outcome.complaints) {
        writeln!(out, "     {line}")?;
    }
    for line in outcome.report.lines() {
        writeln!(out, "     {line}")?;
    }
    if !outcome.is_well() {
        writeln!(out, "     {}", options.out.join(fault.name).display())?;
    }
    Ok(())
}
