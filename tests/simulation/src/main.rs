//! Runs worlds by hand: one seed with its history and verdict, or many with their figures.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Parser;
use simulation::{Around, Known, Pauses, Plan, Sabotage, run};

/// Simulates the mesh.
#[derive(Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds from there on.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Breaks a promise on purpose.
    #[arg(long)]
    sabotage: Option<Sabotage>,
    /// Puts known defects back.
    #[arg(long)]
    known: Vec<Known>,
    /// Owners are stopped around commits, instead of what follows from the seed: so many microseconds behind one, 0 = before it.
    #[arg(long, value_delimiter = ',')]
    pause_commits: Vec<u64>,
    /// The same, around the sending of calls; 0 = between the commit and the sending.
    #[arg(long, value_delimiter = ',')]
    pause_dispatches: Vec<u64>,
    /// Ends with the first world that breaks a promise.
    #[arg(long)]
    until_bad: bool,
    /// Writes the history of the last run there, one JSON line for each event.
    #[arg(long)]
    history: Option<PathBuf>,
}

impl Options {
    fn pauses(&self) -> Option<Pauses> {
        let (around, offsets) = if self.pause_commits.is_empty() {
            (Around::Dispatch, &self.pause_dispatches)
        } else {
            (Around::Commit, &self.pause_commits)
        };
        (!offsets.is_empty()).then(|| Pauses { around, offsets: offsets.clone() })
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut out = std::io::stdout().lock();
    let mut bad = 0;
    for seed in options.seed..options.seed + options.count {
        let plan =
            Plan { seed, sabotage: options.sabotage, known: options.known.clone(), pauses: options.pauses() };
        let outcome = run(&plan);
        let (figures, counts) = (&outcome.figures, outcome.counts);
        writeln!(
            out,
            "seed {seed} digest {:016x} steps {} operations {} done {} failed {} unknown {} broken {} faults {} takeovers {} \
             stale {} regress {} conflicts {} repairs {} followed {} refused calls {} done in the end {}",
            outcome.digest,
            outcome.steps,
            figures.operations,
            figures.done,
            figures.failed,
            figures.unknown,
            figures.broken,
            figures.faults,
            counts.takeovers,
            counts.stale,
            counts.regress,
            counts.conflicts,
            counts.repairs,
            counts.followed,
            counts.refused_calls,
            outcome.done_in_the_end,
        )?;
        if !outcome.is_good() {
            bad += 1;
            writeln!(out, "{}", outcome.judgement.report(&outcome.history))?;
        }
        if let Some(path) = &options.history {
            let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
            for line in &outcome.history.lines {
                writeln!(file, "{}", serde_json::to_string(line)?)?;
            }
        }
        if bad > 0 && options.until_bad {
            break;
        }
    }
    anyhow::ensure!(bad == 0, "{bad} of {} worlds broke a promise", options.count);
    Ok(())
}
