//! Checks a live registry process against the contract: `registry-check ADDR`
//!
//! Prints one line `ok|not ok|skipped(reason) RULE` for each rule, what is wrong below it, and
//! `N passed, N failed, N skipped` at the end; exits 0 only if nothing failed.

use std::io::{Write as _, stdout};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use tests::registry_check::{Options, check};

/// Checks a live registry process against the contract of proto/trunkline/registry/v1.
#[derive(Parser)]
struct Args {
    /// HOST:PORT of the process.
    address: String,
    /// How long an answer may stay away before it counts as missing, in milliseconds.
    #[arg(long, default_value_t = 5_000)]
    patience_ms: u64,
    /// For how long nothing must come where nothing may come, in milliseconds.
    #[arg(long, default_value_t = 500)]
    silence_ms: u64,
    /// Limit of the whole check, in seconds.
    #[arg(long, default_value_t = 240)]
    limit_s: u64,
    /// Call only tools that say readOnlyHint. Otherwise those that require no argument, unless they say destructiveHint.
    #[arg(long)]
    read_only: bool,
    /// A tool without required arguments that changes a list.
    #[arg(long, value_name = "TOOL")]
    changing: Option<String>,
    /// Sends SIGTERM to this process at the end and checks how it drains.
    #[arg(long, value_name = "PID")]
    drain: Option<u32>,
}

fn terminate(pid: u32) -> Result<(), String> {
    let status = Command::new("kill").args(["-TERM", &pid.to_string()]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("kill: {status}")),
        Err(error) => Err(format!("kill: {error}")),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut options = Options::new(args.address);
    options.patience = Duration::from_millis(args.patience_ms);
    options.silence = Duration::from_millis(args.silence_ms);
    options.limit = Duration::from_secs(args.limit_s);
    options.read_only = args.read_only;
    options.changing = args.changing;
    options.drain = args.drain.map(|pid| Box::new(move || terminate(pid)) as _);
    let report = check(options).await;
    write!(stdout(), "{report}")?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
