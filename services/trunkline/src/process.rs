//! What all subcommands have in common: configuration, telemetry, runtime, the end.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use chassis::admin::{self, Admin};
use chassis::config::{self, ConfigError, Loaded};
use chassis::drain::Signals;
use chassis::entry::{self, Flags};
use chassis::process::Process;
use chassis::serve::{Group, Stopped};
use chassis::telemetry;
use chassis::workers::{Pool, open_many_files};
use tokio::runtime::Runtime;

use crate::cli::Settings;
use crate::config::Config;
use crate::reload::{Hands, Hangup, Reload};
use crate::role::Role;
use crate::{example, named, seeds};

/// Why the process does not run, or ran and failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration, or what it leads to, cannot be used.
    #[error("{0}")]
    Refused(Box<dyn Error + Send + Sync>),
    /// It ran, and failed.
    #[error("{0}")]
    Failed(Box<dyn Error + Send + Sync>),
    /// A second signal came while it was stopping.
    #[error("stopped at once, as the second signal asked")]
    Interrupted,
}

impl Failure {
    pub(crate) fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(cause.into())
    }

    pub(crate) fn failed(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(cause.into())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::refused(error)
    }
}

/// Says what went wrong, and how the process ends.
pub(crate) fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    let (failure, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure @ Failure::Failed(_)) => (failure, 1),
        Err(failure @ Failure::Refused(_)) => (failure, 2),
        Err(failure @ Failure::Interrupted) => (failure, 130),
    };
    let mut text = failure.to_string();
    let mut source = failure.source().and_then(Error::source);
    while let Some(cause) = source {
        // Many errors quote their cause already.
        if !text.contains(&cause.to_string()) {
            text = format!("{text}: {cause}");
        }
        source = cause.source();
    }
    // Nobody is left to be told if standard error is gone too.
    let _told = writeln!(io::stderr(), "trunkline: {text}").is_ok();
    ExitCode::from(code)
}

/// What the process was started with.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The configuration for the role of `section`, from everywhere.
pub(crate) fn load(flags: &Flags, section: &str) -> Result<Loaded<Config>, ConfigError> {
    let environment = environment();
    let mut loaded = flags.load_over::<Config>(section, &environment, seeds::overrides(&environment))?;
    named::by_machine(&mut loaded.config, named::machine);
    Ok(loaded)
}

/// The configuration of `section`, from everywhere, and amended by what else the command line says. `None` if it was only to be
/// printed, which is done.
pub(crate) fn configuration(
    flags: &Flags,
    section: &str,
    amend: impl FnOnce(&mut Config),
) -> Result<Option<Loaded<Config>>, Failure> {
    let mut loaded = load(flags, section)?;
    amend(&mut loaded.config);
    telemetry::check(&loaded.config.telemetry).map_err(Failure::refused)?;
    admin::check(&loaded.config.admin).map_err(Failure::refused)?;
    if flags.dump_config {
        let text = config::dump(&loaded.config).map_err(Failure::failed)?;
        entry::print(text.trim_end()).map_err(Failure::failed)?;
        return Ok(None);
    }
    Ok(Some(loaded))
}

/// Prints what is asked about the configuration.
pub(crate) fn describe(asked: &Settings) -> Result<(), Failure> {
    let text = match &asked.from_seeds {
        None => example::example().map_err(Failure::failed)?,
        Some(None) => seeds::table(),
        Some(Some(path)) => {
            let refused =
                |why: &dyn std::fmt::Display| Failure::refused(format!("{}: {why}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| refused(&error))?;
            seeds::translate(&text).map_err(|why| refused(&why))?
        }
    };
    entry::print(text.trim_end()).map_err(Failure::failed)
}

/// Says that `--check` found nothing.
pub(crate) fn accepted() -> Result<(), Failure> {
    entry::print("the configuration is accepted").map_err(Failure::failed)
}

/// The main thread's runtime: it accepts connections and keeps things fresh. Calls are served by the workers.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)
}

/// What this process is called.
fn node<'a>(names: &[&'static str], config: &'a Config) -> &'a str {
    let has_sessions = names.contains(&Role::Session.name());
    match (config.telemetry.node.as_str(), has_sessions) {
        ("", true) => &config.session.node,
        ("", false) => names.first().copied().unwrap_or_default(),
        (node, _) => node,
    }
}

/// Runs until it is told to stop. `start` builds, binds and starts the roles of `names`, and gives the hands by which they
/// can be told of another configuration, for which `flags` are read again.
pub(crate) fn run<F>(
    flags: &Flags,
    names: &[&'static str],
    config: Config,
    start: impl FnOnce(Config, Process) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(Group, Hands), Failure>>,
{
    let reload = Reload::new(flags, names.first().copied().unwrap_or_default())?;
    let process = Process::new(node(names, &config));
    // Flushed last, when the runtime with everything that could still log is gone.
    let telemetry = telemetry::init(names, &config.telemetry, &process).map_err(Failure::refused)?;
    seeds::remarks(&environment(), &config, names).log();
    let grace = Duration::from_secs(config.limits.drain_grace_s);
    open_many_files();
    let _workers = Pool::start(config.runtime.threads).map_err(Failure::failed)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::install().map_err(Failure::failed)?;
        let hangup = Hangup::install().map_err(Failure::failed)?;
        let admin = Admin::bind(&config.admin, process.clone()).await.map_err(Failure::refused)?;
        let (mut group, mut hands) = start(config, process.clone()).await?;
        group.report_to(&process.health);
        hands.levels = telemetry.levels();
        group.start("reload", |stop| reload.run(hands, hangup, stop));
        if let Some(admin) = admin {
            entry::announce("admin", &admin.url()).map_err(Failure::failed)?;
            // Last, so that a drain can be watched.
            group.start("admin", |stop| admin.serve(stop));
        }
        process.health.started();
        match group.run(&mut signals, grace).await.map_err(Failure::failed)? {
            Stopped::Drained => Ok(()),
            Stopped::CutShort(roles) => {
                tracing::warn!(?roles, "not everything was finished in time");
                Ok(())
            }
            Stopped::Interrupted => Err(Failure::Interrupted),
        }
    });
    // Blocking reads of files may still be under way; nobody waits for their results.
    runtime.shutdown_background();
    outcome
}
