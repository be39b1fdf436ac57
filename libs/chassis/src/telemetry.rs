//! Logs to standard error and spans to an OTLP endpoint, set up once in a process.
//!
//! What is under way on a thread is its [`Scope`]: role, trace, and the span of this hop if it is recorded. The role becomes the
//! service the span is shown under (`trunkline-gateway`, `trunkline-session`, ..), also where several roles share a process.
//! Without an endpoint nothing is recorded, and requests still have a trace id, so that log lines and error answers name it.
//!
//! Spans of libraries that only know `tracing`, such as the registry kit and the tools written with it, join the trace of the
//! scope they are opened in.

mod export;
mod joined;
mod log;
pub mod propagate;
mod scope;
mod span;
mod trace;
mod wire;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use self::export::{Exporter, Fates, Sink};
pub(crate) use self::scope::process_metrics;
pub use self::scope::{Entered, Origin, Scope, Within, adopt, is_exporting, records_content};
pub use self::span::Attributes;
pub use self::trace::Trace;
pub use self::wire::{Any, Value};
use crate::clock;
use crate::metrics::Metrics;
use crate::process::Process;

/// The attribute that names the role of a span.
pub const ROLE: &str = "trunkline.role";

/// How long the last spans may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// The section `[telemetry]`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is logged: a level (error, warn, info, debug, trace), or levels by crate such as `info,session=debug`.
    pub log: String,
    /// How log lines look: `text` for people, `json` for collectors.
    pub format: Format,
    /// Name of this process in logs and health; empty = `session.node` where sessions live here, else the role. `$HOSTNAME` = the
    /// name of the machine.
    pub node: String,
    /// Where spans go, as OTLP over gRPC, for example `http://127.0.0.1:4317`; empty = nowhere.
    pub endpoint: String,
    /// Share of the requests that is recorded and sent, 0.0 to 1.0. Lower it when the collector cannot keep up. What a client
    /// says about sampling can lower it for its own requests, and never raise it.
    pub sample: f64,
    /// Whether arguments and results of tools are recorded in spans, and the texts of panics in logs. They may be secret: set it
    /// only while looking for a fault.
    pub record_content: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: "info".into(),
            format: Format::Text,
            node: String::new(),
            endpoint: String::new(),
            sample: 1.0,
            record_content: false,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `telemetry.log` is not a filter.
    #[error(
        "telemetry.log: {0}; accepted: error, warn, info, debug, trace, also by crate as in info,session=debug"
    )]
    Filter(String),
    /// `telemetry.sample` is not a share.
    #[error("telemetry.sample: {0}; accepted: a number from 0.0 to 1.0")]
    Sample(f64),
    /// `telemetry.endpoint` is no address of a collector.
    #[error("telemetry.endpoint: {0}; accepted: http://HOST:PORT of an OTLP collector, or nothing")]
    Endpoint(String),
    /// No runtime for the exporter.
    #[error("cannot start the exporter's thread: {0}")]
    Runtime(#[from] std::io::Error),
    /// No randomness for the instance id.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// Something in this process has set up tracing already.
    #[error("telemetry was set up before: {0}")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Keeps telemetry going. Dropping it flushes; do that outside of async code.
#[derive(Debug)]
pub struct Guard {
    exporter: Option<Exporter>,
    levels: Option<Levels>,
}

impl Guard {
    /// What changes the levels that are logged, while the process runs.
    #[must_use]
    pub fn levels(&self) -> Option<Levels> {
        self.levels.clone()
    }
}

/// See [`Guard::levels`].
#[derive(Debug, Clone)]
pub struct Levels(reload::Handle<EnvFilter, Registry>);

impl Levels {
    /// Logs by another `telemetry.log` from now on.
    ///
    /// # Errors
    /// [`TelemetryError`] if it is none; everything stays as it was then.
    pub fn replace(&self, log: &str) -> Result<(), TelemetryError> {
        let filter = filter(log)?;
        self.0.reload(filter).map_err(|error| TelemetryError::Filter(error.to_string()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(exporter) = self.exporter.take()
            && !exporter.shut_down(FAREWELL)
        {
            tracing::warn!("spans were lost at the end");
        }
    }
}

/// Checks what the types of [`Config`] cannot.
///
/// # Errors
/// [`TelemetryError`] naming the key.
pub fn check(config: &Config) -> Result<(), TelemetryError> {
    filter(&config.log)?;
    if (0.0..=1.0).contains(&config.sample) { Ok(()) } else { Err(TelemetryError::Sample(config.sample)) }
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    // A bare word that is no level would be taken for the name of a crate, and nothing would be logged at all.
    let bare = text.split(',').map(str::trim).filter(|part| !part.contains('='));
    for word in bare {
        word.parse::<LevelFilter>()
            .map_err(|_unknown| TelemetryError::Filter(format!("{word:?} is no level")))?;
    }
    EnvFilter::try_new(text).map_err(|error| TelemetryError::Filter(error.to_string()))
}

/// Sets up logs and spans for this process, which plays `roles`; the first one also owns what belongs to none.
///
/// # Errors
/// [`TelemetryError`] naming the key that is wrong.
pub fn init(roles: &[&'static str], config: &Config, process: &Process) -> Result<Guard, TelemetryError> {
    check(config)?;
    let (filter, levels) = reload::Layer::new(filter(&config.log)?);
    let levels = Some(Levels(levels));
    let fates = Fates::new(&process.metrics);
    let (exporter, sink) = exporter(roles, config, fates)?.unzip();
    let guard = Guard { exporter, levels };
    let lines = log::Lines {
        format: config.format,
        node: process.health.node().to_owned(),
        role: roles.first().copied().unwrap_or_default(),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal() && config.format == Format::Text)
        .with_writer(std::io::stderr)
        .event_format(lines);
    let subscriber = logging(lines, filter, process.metrics.clone());
    // A layer that is `None` counts as one that wants everything, and every span of every library would be made.
    match sink {
        Some(sink) => set_global_default(with_spans(subscriber, sink, config))?,
        None => set_global_default(subscriber)?,
    }
    log_panics(config.record_content);
    Ok(guard)
}

/// A panic becomes a log line. Its text may quote what it was about, so only its place is told unless content may be recorded.
fn log_panics(content: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = if content { panic.payload_as_str().unwrap_or_default() } else { "" };
        tracing::error!(place, text, "panicked");
    }));
}

/// What is recorded is decided where a request begins, by [`Scope`]; everything that is recorded is sent.
fn exporter(
    roles: &[&'static str],
    config: &Config,
    fates: Fates,
) -> Result<Option<(Exporter, Arc<Sink>)>, TelemetryError> {
    if config.endpoint.is_empty() {
        return Ok(None);
    }
    let instance = format!("{:016x}", u64::from_le_bytes(clock::random()?));
    let sink = Sink::new(roles, &instance, fates);
    Ok(Some((Exporter::start(&config.endpoint, sink.clone())?, sink)))
}

/// Writes lines for the events that `filter` lets pass.
fn logging(
    lines: impl Layer<Registry> + Send + Sync,
    filter: reload::Layer<EnvFilter, Registry>,
    metrics: Metrics,
) -> impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync {
    // Nobody's spans show in lines, so none are made for them. Each layer hints at the levels it wants: without one of the hints
    // every event and span of every library would be looked at.
    let events_only = filter_fn(|meta| meta.is_event()).with_max_level_hint(LevelFilter::TRACE);
    // It is only to be found.
    let nothing = filter_fn(|_| false).with_max_level_hint(LevelFilter::OFF);
    let logs = lines.with_filter(filter.and(events_only));
    tracing_subscriber::registry().with(logs).with(scope::Counts(metrics).with_filter(nothing))
}

/// Records spans, too.
fn with_spans<S>(subscriber: S, sink: Arc<Sink>, config: &Config) -> impl Subscriber + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let ours = filter_fn(scope::is_for_spans).with_max_level_hint(LevelFilter::INFO);
    let tracer = scope::Tracer::new(sink, config.sample, config.record_content);
    subscriber.with(joined::Joined.with_filter(ours)).with(tracer)
}

/// On which side of an exchange a span stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It handles what somebody asked.
    Server,
    /// It asks.
    Client,
    /// Neither: a step inside the mesh.
    Internal,
}

#[cfg(test)]
mod tests;
