//! What a session node tells operators: a span and a duration for each request to a registry, sessions, queues, registries.
//!
//! Exactly one `mcp.client` span for each request that a registry is asked; the session's own hop is an internal span. Handles
//! are taken once; counting a request looks nothing up but the name of its tool, which is in the catalogue.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use api::registry::{Operation, Start};
use api::session::Again;
use chassis::metrics::{Counter, Gauge, Grid, LIVES, Metrics, Named, Names, SECONDS};
use chassis::telemetry::{Scope, Side, records_content};
use machines::{CallFrame, Millis, StopReason};
use mcp::rpc::{Message, RpcError};
use mcp::telemetry::{Failure, OTHER, Outcome, attribute, bare_uri, metric};
use mcp::{Json, Method, Revision, scan};

use crate::host::ROLE;
use crate::registries::catalogue::SourceKey;
use crate::registries::{Link, Route};

/// Tools that have series of their own; those of a larger catalogue share one.
const MOST_TOOLS: usize = 256;

const ERAS: &[&str] = &["older", "modern"];
const OUTCOMES: &[&str] = &["ok", "tool_error", "refused", "error", "lost", "cancelled"];
/// What registries are asked, tools apart.
const METHODS: &[&str] =
    &["tools/call", "resources/read", "prompts/get", "completion/complete", "resources/subscribe"];
/// In the order of [`Failure`], behind none.
const ERRORS: &[&str] = &[
    "",
    "tool_error",
    "-32700",
    "-32600",
    "-32601",
    "-32602",
    "-32603",
    "-32002",
    "-32020",
    "-32021",
    "-32022",
    OTHER,
    "timeout",
    "cancelled",
    "unavailable",
];
const REVISIONS: &[&str] = &["", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const ENDINGS: &[&str] = &["", "timeout", "handshake_failed", "owner_changed"];
const CLIENT_HELP: &str = "Duration of requests to registries";

type ByTool = Grid<3>;

/// Everything a node counts.
#[derive(Debug)]
pub(crate) struct Observed {
    metrics: Metrics,
    operations: Grid<4>,
    tools: Names<ByTool>,
    others: ByTool,
    lives: Grid<2>,
    begun: Counter,
    stale: Counter,
    repaired: Counter,
    acquired: Counter,
    lost: Counter,
}

impl Observed {
    pub(crate) fn new(metrics: &Metrics) -> Arc<Self> {
        let metrics = metrics.of_role(ROLE);
        let axes = [
            (metric::METHOD, METHODS),
            (metric::ERA, ERAS),
            (metric::OUTCOME, OUTCOMES),
            (metric::ERROR_TYPE, ERRORS),
        ];
        let lives = [(metric::PROTOCOL_VERSION, REVISIONS), (metric::ERROR_TYPE, ENDINGS)];
        let help = "How long sessions lasted";
        let fixed = [(metric::NETWORK_PROTOCOL, "http")];
        Arc::new(Self {
            operations: Grid::new(&metrics, (metric::CLIENT_OPERATION, CLIENT_HELP), SECONDS, &[], axes),
            tools: Names::new(MOST_TOOLS),
            others: by_tool(&metrics, OTHER),
            lives: Grid::new(&metrics, (metric::SERVER_SESSION, help), LIVES, &fixed, lives),
            begun: metrics.counter("trunkline_sessions_begun", "Sessions that began on this node", &[]),
            stale: metrics.counter(
                "trunkline_stale_writes",
                "Writes of this node that the store refused because another one owns the slot",
                &[],
            ),
            repaired: metrics.counter(
                "trunkline_store_repairs",
                "Sessions written anew because the store had lost the end of them",
                &[],
            ),
            acquired: metrics.counter("trunkline_slots_acquired", "Slots that this node took over", &[]),
            lost: metrics.counter("trunkline_slots_lost", "Slots that this node gave up or lost", &[]),
            metrics,
        })
    }

    /// A session has begun.
    pub(crate) fn begun(&self) {
        self.begun.inc();
    }

    /// The store has refused a write of an epoch that is over.
    pub(crate) fn stale_write(&self) {
        self.stale.inc();
    }

    /// A session was written anew.
    pub(crate) fn repaired(&self) {
        self.repaired.inc();
    }

    /// Slots came.
    pub(crate) fn acquired(&self, slots: usize) {
        self.acquired.inc_by(slots as u64);
    }

    /// Slots went.
    pub(crate) fn lost(&self, slots: usize) {
        self.lost.inc_by(slots as u64);
    }

    /// A session is over.
    pub(crate) fn ended(&self, revision: Option<Revision>, began: Millis, now: Millis, reason: StopReason) {
        let version = revision.map_or(0, |revision| {
            REVISIONS.iter().position(|known| *known == revision.as_str()).unwrap_or_default()
        });
        let ending = match reason {
            StopReason::Closed | StopReason::Idle | StopReason::Expired | StopReason::Done => 0,
            StopReason::InitTimeout => 1,
            StopReason::Failed => 2,
            StopReason::Lost => 3,
        };
        #[allow(clippy::cast_precision_loss, reason = "lives of sessions are far below 2^53 milliseconds")]
        let seconds = now.saturating_sub(began) as f64 / 1000.0;
        self.lives.observe([version, ending], seconds);
    }

    /// Whether the registry at `address` is connected to.
    pub(crate) fn link(&self, address: &str) -> Gauge {
        let help = "Whether a registry is connected to (1) or not (0)";
        self.metrics.gauge("trunkline_registry_up", help, &[("registry", address)])
    }

    /// The registry at `address` is none of ours any more.
    pub(crate) fn unlink(&self, address: &str) {
        self.metrics.forget_gauge("trunkline_registry_up", &[("registry", address)]);
    }

    /// Looks at something whenever the metrics are read.
    pub(crate) fn watch(
        &self,
        gauges: &[(&'static str, &'static str)],
        look: impl Fn() -> Option<Vec<usize>> + Send + Sync + 'static,
    ) {
        let gauges: Vec<_> = gauges.iter().map(|(name, help)| self.metrics.gauge(name, help, &[])).collect();
        self.metrics.probe(move || {
            let seen = look().unwrap_or_else(|| vec![0; gauges.len()]);
            for (gauge, count) in gauges.iter().zip(seen) {
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        });
    }
}

fn by_tool(metrics: &Metrics, name: &str) -> ByTool {
    let fixed = [(metric::METHOD, Method::ToolsCall.as_str()), (metric::TOOL, name)];
    let axes = [(metric::ERA, ERAS), (metric::OUTCOME, OUTCOMES), (metric::ERROR_TYPE, ERRORS)];
    Grid::new(metrics, (metric::CLIENT_OPERATION, CLIENT_HELP), SECONDS, &fixed, axes)
}

/// One request to a registry under way. Dropped without an outcome, it was given up.
pub(crate) struct Asking {
    observed: Arc<Observed>,
    scope: Scope,
    begun: Instant,
    method: Method,
    era: usize,
    tool: Option<Named>,
    source: Arc<SourceKey>,
    /// The replica that is asked, the last one if it was refused by others.
    asked: Option<Arc<Link>>,
    is_over: bool,
}

impl Asking {
    /// A call, read or get.
    pub(crate) fn of_start(
        observed: &Arc<Observed>,
        route: &Route,
        start: &Start,
        revision: Revision,
    ) -> Self {
        let method = match start.operation {
            Operation::Call => Method::ToolsCall,
            Operation::Read => Method::ResourcesRead,
            Operation::Get => Method::PromptsGet,
        };
        let asking = Self::begin(observed, route, method, &start.target, revision);
        describe_arguments(&asking.scope, start);
        asking
    }

    /// A call that another owner has begun is shown from here on, if it is shown nowhere: below this hop, and linked to the one that
    /// took it on, which was delivered with the same key.
    pub(crate) fn show(
        &mut self,
        hop: &Scope,
        key: &str,
        (route, start): (&Route, &Start),
        revision: Revision,
    ) {
        if self.is_over || self.scope.is_recorded() {
            return;
        }
        let name = || title(self.method, &start.target);
        let scope = hop.child_of_key(ROLE, Side::Client, (key, false), name);
        describe(&scope, route, (self.method, &start.target), revision);
        describe_arguments(&scope, start);
        self.scope = scope;
    }

    /// Any request; `target` is the registry's own name of what it is about.
    pub(crate) fn begin(
        observed: &Arc<Observed>,
        route: &Route,
        method: Method,
        target: &str,
        revision: Revision,
    ) -> Self {
        let scope = Scope::current().child(ROLE, Side::Client, || title(method, target));
        describe(&scope, route, (method, target), revision);
        // What is routed to is in the catalogue.
        let series = |name: &str| observed.tools.admit(name, || by_tool(&observed.metrics, name));
        Self {
            observed: observed.clone(),
            scope,
            begun: Instant::now(),
            method,
            era: usize::from(revision >= Revision::V2026_07_28),
            tool: (method == Method::ToolsCall).then(|| series(target)).flatten(),
            source: route.entry.source.clone(),
            asked: None,
            is_over: false,
        }
    }

    /// On whose behalf the registry is asked.
    pub(crate) fn scope(&self) -> Scope {
        self.scope.clone()
    }

    /// This replica is asked.
    pub(crate) fn asks(&mut self, link: &Arc<Link>) {
        self.asked = Some(link.clone());
    }

    fn describe_asked(&self) {
        let Some(link) = &self.asked else { return };
        self.scope.describe(|to| {
            if let Some(version) = link.version_of(&self.source.registry) {
                to.set(attribute::REGISTRY_VERSION, version);
            }
            if let Some((host, port)) = link.address().rsplit_once(':')
                && let Ok(port) = port.parse::<i64>()
            {
                to.set(attribute::SERVER_ADDRESS, host.to_owned()).set(attribute::SERVER_PORT, port);
                to.set(attribute::TRANSPORT, "tcp").set(attribute::NETWORK_PROTOCOL, "http");
                to.set(attribute::NETWORK_VERSION, "2");
            }
        });
    }

    /// What the registry said last, if it is an ending.
    pub(crate) fn heard(&mut self, frame: &CallFrame) {
        match frame {
            CallFrame::Result(result) => {
                if self.scope.is_recorded() && self.method == Method::ToolsCall && records_content() {
                    self.scope.describe(|to| _ = to.set(attribute::TOOL_RESULT, result.as_str().to_owned()));
                }
                self.close(Outcome::of_result(Some(self.method), result.as_str()));
            }
            CallFrame::Task(_) => self.close(Outcome::OK),
            CallFrame::Error(error) => self.close(failed(error)),
            CallFrame::Lost { reason, .. } => self.close(Outcome::of(match *reason {
                "timeout" => Failure::Timeout,
                _ => Failure::Unavailable,
            })),
            CallFrame::Accepted { .. }
            | CallFrame::Progress(_)
            | CallFrame::Log(_)
            | CallFrame::Notice { .. }
            | CallFrame::Detach { .. }
            | CallFrame::InputRequired { .. } => {}
        }
    }

    /// It is over.
    pub(crate) fn finish<T>(mut self, answer: &Result<T, RpcError>) {
        self.close(answer.as_ref().map_or_else(failed, |_| Outcome::OK));
    }

    fn close(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let took = self.begun.elapsed().as_secs_f64();
        let error = outcome.failure.map_or(0, |failure| failure as usize + 1);
        let word = Failure::outcome(outcome.failure);
        let at = OUTCOMES.iter().position(|known| *known == word).unwrap_or(OUTCOMES.len());
        match (self.method, self.tool.and_then(|named| self.observed.tools.of(named))) {
            (_, Some(series)) => series.observe([self.era, at, error], took),
            (Method::ToolsCall, None) => self.observed.others.observe([self.era, at, error], took),
            (method, None) => {
                let place = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or_default();
                self.observed.operations.observe([place, self.era, at, error], took);
            }
        }
        self.describe_asked();
        if let Some(code) = outcome.code {
            self.scope.describe(|to| _ = to.set(attribute::RESPONSE_STATUS, code.to_string()));
        }
        // For whoever asks, every error is one.
        if let Some(failure) = outcome.failure {
            let kind = match (failure, outcome.code) {
                (Failure::OtherCode, Some(code)) => Cow::Owned(code.to_string()),
                (failure, _) => failure.as_str().into(),
            };
            self.scope.fail(kind, failure.description());
        }
        self.scope.end();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.close(Outcome::of(Failure::Cancelled));
    }
}

/// The name of the span of a request to a registry.
fn title(method: Method, target: &str) -> Cow<'static, str> {
    if matches!(method, Method::ToolsCall | Method::PromptsGet) {
        return format!("{} {target}", method.as_str()).into();
    }
    method.as_str().into()
}

/// Says what is asked, and whom.
fn describe(scope: &Scope, route: &Route, (method, target): (Method, &str), revision: Revision) {
    scope.describe(|to| {
        to.set(attribute::METHOD, method.as_str());
        to.set(attribute::PROTOCOL_VERSION, revision.as_str());
        to.set(attribute::ERA_UPSTREAM, "modern");
        to.set(attribute::REGISTRY, route.entry.source.registry.clone());
        match method {
            Method::ToolsCall => {
                to.set(attribute::OPERATION, attribute::EXECUTE_TOOL).set(attribute::TOOL, target.to_owned());
            }
            Method::PromptsGet => _ = to.set(attribute::PROMPT, target.to_owned()),
            Method::ResourcesRead | Method::ResourcesSubscribe => {
                to.set(attribute::RESOURCE_URI, bare_uri(target));
            }
            Method::Initialize
            | Method::Ping
            | Method::Discover
            | Method::ToolsList
            | Method::ResourcesList
            | Method::ResourceTemplatesList
            | Method::ResourcesUnsubscribe
            | Method::Listen
            | Method::PromptsList
            | Method::Complete
            | Method::SetLevel => {}
        }
    });
}

/// The arguments of a tool, where they may be recorded.
fn describe_arguments(scope: &Scope, start: &Start) {
    if scope.is_recorded() && start.operation == Operation::Call && records_content() {
        scope.describe(|to| {
            let arguments = scan::member(start.params.as_str(), "arguments").unwrap_or_default();
            to.set(attribute::TOOL_ARGUMENTS, arguments.to_owned());
        });
    }
}

fn failed(error: &RpcError) -> Outcome {
    let reason = error.data.as_ref().and_then(|data: &Json| data.text("reason"));
    Outcome::of_code(Some(error.code), reason.as_deref())
}

/// This hop of a message; its parent is the gateway's.
pub(crate) fn hop(message: &Message) -> Scope {
    Scope::current().child(ROLE, Side::Internal, || name(message))
}

/// The same for one that may come again under its key: what took it on before is linked to.
pub(crate) fn hop_of(message: &Message, key: &str, again: Option<&Again>) -> Scope {
    let was_taken_on = again.is_some_and(|again| again.accepted);
    if key.is_empty() || (again.is_some() && !was_taken_on) {
        return hop(message);
    }
    Scope::current().child_of_key(ROLE, Side::Internal, (key, !was_taken_on), || name(message))
}

fn name(message: &Message) -> Cow<'static, str> {
    match message.method() {
        Some(method) => Method::parse(method).map_or("trunkline.session notification".into(), |known| {
            format!("trunkline.session {}", known.as_str()).into()
        }),
        None => "trunkline.session response".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_are_the_protocols_words_in_their_order() {
        assert!(Failure::ALL.iter().all(|failure| ERRORS[*failure as usize + 1] == failure.as_str()));
        assert!(METHODS.iter().all(|method| Method::parse(method).is_some()));
        let older = Revision::ALL.iter().filter(|revision| revision.era() == mcp::Era::Older);
        assert!(older.map(|revision| revision.as_str()).eq(REVISIONS[1..].iter().copied()));
    }

    #[test]
    fn sessions_are_counted_by_how_they_ended() {
        let metrics = Metrics::default();
        let observed = Observed::new(&metrics);
        observed.ended(Some(Revision::V2025_11_25), 1000, 3500, StopReason::Closed);
        observed.ended(None, 1000, 31_000, StopReason::InitTimeout);
        let text = metrics.text();
        let closed = "mcp_server_session_duration_seconds_sum{role=\"session\",network_protocol_name=\"http\",mcp_protocol_version=\"2025-11-25\"} 2.5\n";
        let late = "mcp_server_session_duration_seconds_sum{role=\"session\",network_protocol_name=\"http\",error_type=\"timeout\"} 30.0\n";
        assert!(text.contains(closed) && text.contains(late), "{text}");
    }
}
