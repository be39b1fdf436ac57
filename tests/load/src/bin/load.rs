//! The load generator: one measurement, its result as one line of JSON on standard output.

use std::fs;
use std::io::{Write as _, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use http::HeaderValue;
use load::connection::{Connection, Target};
use load::dialogue::{self, Client, Kind};
use load::measure::{self, Plan};
use load::{processes, sessions};

/// Generates load and checks every answer; fails if one was wrong.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Clients that take turns for a while.
    Run(Run),
    /// Many sessions at once.
    Sessions(Sessions),
}

#[derive(Args)]
struct Common {
    /// URL of the endpoint; the host is an address.
    url: String,
    /// Processes under load, by id; their children count too.
    #[arg(long, value_delimiter = ',')]
    processes: Vec<u32>,
    /// Clients, each with one connection and one request at a time.
    #[arg(long, default_value_t = 16)]
    clients: usize,
}

#[derive(Args)]
struct Run {
    /// What the clients do.
    kind: Kind,
    #[command(flatten)]
    common: Common,
    /// Length of the measurement, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Time before it, in seconds.
    #[arg(long, default_value_t = 0.7)]
    warm_up: f64,
    /// Single-threaded runtimes of the generator.
    #[arg(long, default_value_t = 1)]
    runtimes: usize,
    /// The tool that is called.
    #[arg(long, default_value = "echo")]
    tool: String,
    /// Tools that a list has to have.
    #[arg(long, default_value_t = 0)]
    tools: usize,
    /// File of session ids that the clients use in turn, instead of one each.
    #[arg(long)]
    sessions: Option<PathBuf>,
}

#[derive(Args)]
struct Sessions {
    #[command(flatten)]
    common: Common,
    /// How many.
    #[arg(long)]
    count: usize,
    /// Whether the stream of each is opened too.
    #[arg(long)]
    streams: bool,
    /// URL of the metrics of their owner: memory is measured when all of them are passive there.
    #[arg(long)]
    passive_at: Option<String>,
    /// File that their ids are written to.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => measure(&run),
        Command::Sessions(sessions) => make(&sessions),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    // Nobody is left to be told if standard error is gone too.
    let _told = writeln!(stderr(), "{error:#}").is_ok();
    ExitCode::FAILURE
}

fn measure(run: &Run) -> Result<()> {
    let target = Target::parse(&run.common.url)?;
    let mut clients: Vec<Client> = (0..run.common.clients)
        .map(|number| Client::new(run.kind, number, target.clone(), &run.tool))
        .collect();
    match run.kind {
        Kind::Older => deal_sessions(run, &target, &mut clients)?,
        Kind::List => clients.iter_mut().for_each(|client| client.expected_tools = run.tools),
        Kind::Raw | Kind::Modern | Kind::Stateless | Kind::Create => {}
    }
    let plan = Plan {
        warm_up: Duration::from_secs_f64(run.warm_up),
        window: Duration::from_secs_f64(run.seconds),
        processes: processes::with_children(&run.common.processes),
        runtimes: run.runtimes,
    };
    let (report, _) = measure::run(&plan, &target, clients)?;
    say(&report)
}

/// Gives each client its sessions: one that is made for it, or its share of the file's, far apart from each other.
fn deal_sessions(run: &Run, target: &Target, clients: &mut [Client]) -> Result<()> {
    if let Some(path) = &run.sessions {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let count = clients.len();
        for (index, line) in text.lines().enumerate() {
            clients[index % count].sessions.push(HeaderValue::from_str(line)?);
        }
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = Connection::open(target).await?;
        for client in clients {
            client.sessions.push(dialogue::create(&mut connection, target, &dialogue::headers()).await?);
        }
        Ok(())
    })
}

fn make(wanted: &Sessions) -> Result<()> {
    let target = Target::parse(&wanted.common.url)?;
    let processes = processes::with_children(&wanted.common.processes);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let passive_at = wanted.passive_at.as_deref().map(Target::parse).transpose()?;
    let Sessions { count, streams, .. } = *wanted;
    let made =
        sessions::make(&target, &processes, count, wanted.common.clients, streams, passive_at.as_ref());
    let made = runtime.block_on(made)?;
    if let Some(path) = &wanted.out {
        let ids: Vec<&str> = made.sessions.iter().map(HeaderValue::to_str).collect::<Result<_, _>>()?;
        fs::write(path, ids.join("\n"))?;
    }
    say(&made.report)
}

fn say(report: &impl serde::Serialize) -> Result<()> {
    Ok(writeln!(stdout(), "{}", serde_json::to_string(report)?)?)
}
