//! Judges histories: `check-history [--operations N] [--faults N] [--refused N] FILE..`

use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use history::{Demands, History, judge};

#[derive(Parser)]
#[command(about = "Judges histories of runs under faults: one JSON line for each event")]
struct Args {
    /// Operations there must have been.
    #[arg(long, default_value_t = 2000)]
    operations: usize,
    /// Faults that must have been injected.
    #[arg(long, default_value_t = 1)]
    faults: usize,
    /// Writes of former owners that must have been refused.
    #[arg(long, default_value_t = 0)]
    refused: u64,
    /// Histories.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let demands = Demands { operations: args.operations, faults: args.faults, refused: args.refused };
    let (mut passed, mut failed) = (0, 0);
    let mut out = stdout().lock();
    for file in &args.files {
        let name = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("{name} cannot be read"))?;
        let history = History::parse(&text).with_context(|| format!("{name} is no history"))?;
        let judgement = judge(&history, demands);
        let well = judgement.acquits();
        *(if well { &mut passed } else { &mut failed }) += 1;
        writeln!(out, "{name}: {}", if well { "acquitted" } else { "convicted" })?;
        write!(out, "{}", judgement.report(&history))?;
    }
    writeln!(out, "{passed} passed, {failed} failed")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
