//! Logs to standard error and spans to an OTLP endpoint, set up once in a process.
//!
//! Every hop of a request opens one span with [`hop`]. Its role becomes the service the span is shown under
//! (`trunkline-gateway`, `trunkline-session`, ..), also where several roles share a process. Without an endpoint spans still
//! get ids, so that errors can name their trace, but nothing is recorded or sent.

pub mod propagate;
mod roles;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use self::roles::ByRole;
use crate::clock;

/// The attribute that names the role of a span.
pub const ROLE: &str = "trunkline.role";

/// Crates whose own spans say nothing about a request.
const TOO_DEEP: [&str; 5] = ["h2", "hyper", "hyper_util", "tonic", "tower"];

/// The section `[telemetry]`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is logged: a level (error, warn, info, debug, trace), or levels by crate such as `info,session=debug`.
    pub log: String,
    /// How log lines look: `text` for people, `json` for collectors.
    pub format: Format,
    /// Where spans go, as OTLP over gRPC, for example `http://127.0.0.1:4317`; empty = nowhere.
    pub endpoint: String,
    /// Share of the traces begun here that is sent, 0.0 to 1.0. Lower it when the collector cannot keep up.
    pub sample: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { log: "info".into(), format: Format::Text, endpoint: String::new(), sample: 1.0 }
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
    /// The exporter does not accept `telemetry.endpoint`.
    #[error("telemetry.endpoint: {0}; accepted: http://HOST:PORT of an OTLP collector, or nothing")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
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
    provider: SdkTracerProvider,
    // The exporter's own, so that a busy mesh neither delays spans nor is delayed by them.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(Duration::from_secs(3)) {
            tracing::warn!(%error, "spans were lost at the end");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
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
        word.parse::<tracing_subscriber::filter::LevelFilter>()
            .map_err(|_unknown| TelemetryError::Filter(format!("{word:?} is no level")))?;
    }
    EnvFilter::try_new(text).map_err(|error| TelemetryError::Filter(error.to_string()))
}

/// Sets up logs and spans for this process, which plays `roles`; the first one also owns what belongs to none.
///
/// # Errors
/// [`TelemetryError`] naming the key that is wrong.
pub fn init(roles: &[&'static str], config: &Config) -> Result<Guard, TelemetryError> {
    check(config)?;
    let filter = filter(&config.log)?;
    let (provider, runtime) = provider(roles, config)?;
    let logs = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let logs = match config.format {
        Format::Text => logs.with_target(false).with_filter(filter).boxed(),
        Format::Json => logs.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(logs).with(span_layer(&provider));
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(Guard { provider, runtime })
}

fn provider(
    roles: &[&'static str],
    config: &Config,
) -> Result<(SdkTracerProvider, Option<tokio::runtime::Runtime>), TelemetryError> {
    if config.endpoint.is_empty() {
        let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build();
        return Ok((provider, None));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .enable_all()
        .build()?;
    let entered = runtime.enter();
    let exporters = roles
        .iter()
        .map(|role| {
            Ok((*role, SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint).build()?))
        })
        .collect::<Result<BTreeMap<_, _>, TelemetryError>>()?;
    drop(entered);
    let first = roles.first().copied().unwrap_or_default();
    let instance = format!("{:016x}", u64::from_le_bytes(clock::random()?));
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample))))
        .with_batch_exporter(ByRole::new(exporters, first, &instance))
        .build();
    Ok((provider, Some(runtime)))
}

fn span_layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a> + Send + Sync,
{
    let ours = tracing_subscriber::filter::filter_fn(|meta| {
        let root = meta.target().split("::").next().unwrap_or_default();
        meta.is_span() && *meta.level() <= tracing::Level::INFO && !TOO_DEEP.contains(&root)
    });
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("trunkline"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(ours)
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

/// The span of one hop of a request in one role; its parent is the current span, or the caller's where the request came
/// over the network. `name` is what the trace shows. More attributes: [`attribute`].
#[must_use]
pub fn hop(role: &'static str, side: Side, name: &str) -> Span {
    let kind = match side {
        Side::Server => "server",
        Side::Client => "client",
        Side::Internal => "internal",
    };
    tracing::info_span!("hop", trunkline.role = role, otel.kind = kind, otel.name = name)
}

/// Adds an attribute to a span. Names are constants of whoever owns the convention.
pub fn attribute(span: &Span, name: &'static str, value: impl Into<opentelemetry::Value>) {
    span.set_attribute(name, value);
}

/// Gives a hop the name that it could not have from the beginning.
pub fn rename(span: &Span, name: &str) {
    // Recording the field renames spans that were never entered only.
    span.record("otel.name", name);
    span.context().span().update_name(name.to_owned());
}

/// Marks a span as failed. `kind` is the low-cardinality `error.type`.
pub fn failed(span: &Span, kind: impl Into<String>, description: impl Into<String>) {
    span.set_attribute("error.type", kind.into());
    span.set_status(opentelemetry::trace::Status::error(description.into()));
}

/// The id of the trace a span belongs to, as 32 hexadecimal digits; for people who report an error.
#[must_use]
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let reference = context.span();
    let id = reference.span_context().trace_id();
    (id != opentelemetry::TraceId::INVALID).then(|| id.to_string())
}

#[cfg(test)]
mod tests;
