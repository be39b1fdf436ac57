//! Checks a live registry process against the contract of `proto/trunkline/registry/v1`, from outside.
//!
//! Speaks the generated messages and not the port, because the port's adapter repairs or refuses part of what is to be
//! judged. What can be judged without a connection is a pure function ([`frames`], [`shapes`]); the rest are dialogues.
//! Every wait has a limit. Must not know how any registry is implemented.

mod asides;
mod calls;
mod catalog;
mod drain;
mod epochs;
pub mod frames;
mod keeping;
mod peer;
mod raw;
mod report;
mod rounds;
pub mod shapes;

use std::time::Duration;

use api::registry::{Kind, Operation};

pub use self::report::{Outcome, Report, Rule, Verdict};
use self::{
    catalog::{Held, Watcher},
    peer::{Peer, Target, Waits},
};

/// Makes the registry drain, for example by a signal to its process.
pub type Drain = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// What to check, and how.
pub struct Options {
    /// `HOST:PORT` of the process.
    pub address: String,
    /// How long an answer may stay away before it counts as missing.
    pub patience: Duration,
    /// For how long nothing must come where nothing may come.
    pub silence: Duration,
    /// Limit of the whole check.
    pub limit: Duration,
    /// Call only tools that say `readOnlyHint`.
    pub read_only: bool,
    /// A tool without required arguments that changes a list.
    pub changing: Option<String>,
    /// Makes the process drain; done last.
    pub drain: Option<Drain>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            patience: Duration::from_secs(5),
            silence: Duration::from_millis(500),
            limit: Duration::from_secs(240),
            read_only: false,
            changing: None,
            drain: None,
        }
    }
}

/// Checks one process. Never fails: what could not be seen is in the report.
pub async fn check(options: Options) -> Report {
    let limit = options.limit;
    let mut check = Check {
        peer: Peer::new(&options.address, Waits::new(options.patience, options.silence)),
        options,
        report: Report::default(),
        instance: String::new(),
        registries: Vec::new(),
        watcher: None,
        runnable: Vec::new(),
        asking: Vec::new(),
        long: None,
    };
    if tokio::time::timeout(limit, check.run()).await.is_err() {
        check.report.unfinished(limit);
    }
    check.report
}

/// One run of the check.
struct Check {
    options: Options,
    peer: Peer,
    report: Report,
    /// As Describe named it.
    instance: String,
    registries: Vec<Held>,
    watcher: Option<Watcher>,
    /// Tools that gave a result without any argument.
    runnable: Vec<Runnable>,
    /// Tools that asked the client.
    asking: Vec<Runnable>,
    /// A tool that outlasts the patience.
    long: Option<Runnable>,
}

/// A tool that may be called with nothing.
#[derive(Clone)]
struct Runnable {
    registry: String,
    target: Target,
    structured: bool,
}

impl Check {
    async fn run(&mut self) {
        if !self.describe().await {
            return;
        }
        self.watch().await;
        self.lists().await;
        self.unknown_names().await;
        self.tools().await;
        self.reads_and_gets().await;
        self.repeats().await;
        self.attaches().await;
        self.releases().await;
        self.ownerless().await;
        self.cancels().await;
        self.deadlines().await;
        self.epochs().await;
        self.rounds().await;
        self.completions().await;
        self.subscriptions().await;
        self.sizes().await;
        self.unknown_fields().await;
        self.changes().await;
        self.quiet().await;
        self.draining().await;
    }

    /// The registry and a target of it that does not exist: what is started where nothing shall happen.
    fn probe(&self) -> Option<(String, Target)> {
        let kinds = [
            (Kind::Tools, Operation::Call),
            (Kind::Resources, Operation::Read),
            (Kind::Prompts, Operation::Get),
        ];
        kinds.into_iter().find_map(|(kind, operation)| {
            let held = self.registries.iter().find(|held| held.has(kind))?;
            Some((held.name.clone(), Target::unknown(operation, &self.peer.fresh("no-such"))))
        })
    }
}
