//! What the edge tells operators: a span and a duration for each MCP request, refusals, streams, bytes.
//!
//! Exactly one `mcp.server` span for each message that is a request or a notification; what is refused before it can be read
//! has one too, without a method. Handles are taken once; counting a request looks nothing up but the name of its tool.

mod layer;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use api::session::Answer;
use api::{Code, KeyRing, Purpose};
use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Version};
use axum::response::Response;
use chassis::metrics::{Counter, Gauge, Grid, Metrics, Named, Names, SECONDS};
use chassis::telemetry::{Attributes, Origin, Scope, Side, Trace, is_exporting, propagate, records_content};
use mcp::method::{Target, notification};
use mcp::rpc::{Message, Request};
use mcp::telemetry::{Failure, OTHER, Outcome, attribute, bare_uri, metric};
use mcp::{Era, Json, Method, Revision, meta, scan};

pub(crate) use self::layer::Observe;
use crate::http::admit::{Letter, Refusal};
use crate::http::peer::Peer;
use crate::http::reason::Reason;

/// The role that spans, metrics and log lines are shown under.
pub(crate) const ROLE: &str = "gateway";
/// Tools that have series of their own. Only those that exist are counted by name, so only a huge catalogue has more.
const MOST_TOOLS: usize = 256;
/// Longest name that becomes part of a span's name.
const MOST_NAME: usize = 128;

const ERAS: &[&str] = &["older", "modern"];
const OUTCOMES: &[&str] = &["ok", "tool_error", "refused", "error", "lost", "cancelled"];
/// In the order of [`Method`], then notifications, then everything else.
const METHODS: &[&str] = &[
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "subscriptions/listen",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    notification::INITIALIZED,
    notification::CANCELLED,
    notification::PROGRESS,
    notification::ROOTS_CHANGED,
    OTHER,
];
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
const SERVER_HELP: &str = "Duration of MCP requests and notifications as served to clients";

type ByTool = Grid<3>;

/// Everything the edge counts.
#[derive(Debug)]
pub(crate) struct Observed {
    metrics: Metrics,
    operations: Grid<4>,
    tools: Names<ByTool>,
    /// Calls of tools that nobody has vouched for.
    unknown: ByTool,
    refusals: Vec<(Reason, Counter)>,
    received: Counter,
    sent: Counter,
    streams: Gauge,
}

impl Observed {
    pub(crate) fn new(metrics: &Metrics) -> Arc<Self> {
        let metrics = metrics.of_role(ROLE);
        let refused = |reason: Reason| {
            let help = "Requests that were answered with a refusal, by reason";
            (reason, metrics.counter("trunkline_refusals", help, &[("reason", reason.word())]))
        };
        let axes = [
            (metric::METHOD, METHODS),
            (metric::ERA, ERAS),
            (metric::OUTCOME, OUTCOMES),
            (metric::ERROR_TYPE, ERRORS),
        ];
        Arc::new(Self {
            operations: Grid::new(&metrics, (metric::SERVER_OPERATION, SERVER_HELP), SECONDS, &[], axes),
            tools: Names::new(MOST_TOOLS),
            unknown: by_tool(&metrics, OTHER),
            refusals: Reason::ALL.into_iter().map(refused).collect(),
            received: metrics.counter("trunkline_received_bytes", "Bytes of messages from clients", &[]),
            sent: metrics.counter("trunkline_sent_bytes", "Bytes of messages to clients", &[]),
            streams: metrics.gauge("trunkline_streams", "Event streams that are open", &[]),
            metrics,
        })
    }

    /// A request was refused.
    pub(crate) fn refused(&self, reason: Reason) {
        if let Some((_, counter)) = self.refusals.iter().find(|(known, _)| *known == reason) {
            counter.inc();
        }
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    fn count(&self, place: usize, era: usize, tool: Option<&Tool>, outcome: Outcome, took: f64) {
        let error = outcome.failure.map_or(0, |failure| failure as usize + 1);
        let word = Failure::outcome(outcome.failure);
        let at = OUTCOMES.iter().position(|known| *known == word).unwrap_or(OUTCOMES.len());
        let Some(tool) = tool else {
            return self.operations.observe([place, era, at, error], took);
        };
        // Who was answered with a result has named something that exists. So has who was answered that it took too long: session
        // nodes refuse at once what nobody serves. Where no node answered in time, nobody vouches for anything.
        let vouched = match outcome.failure {
            None | Some(Failure::Tool) => true,
            Some(Failure::Timeout) => outcome.code.is_some(),
            Some(_) => false,
        };
        let series = match tool {
            Tool::Known(named) => Some(*named),
            Tool::Named(name) if vouched => self.tools.admit(name, || by_tool(&self.metrics, name)),
            Tool::Named(_) => None,
        };
        let series = series.and_then(|named| self.tools.of(named));
        series.unwrap_or(&self.unknown).observe([era, at, error], took);
    }
}

fn by_tool(metrics: &Metrics, name: &str) -> ByTool {
    let fixed = [(metric::METHOD, Method::ToolsCall.as_str()), (metric::TOOL, name)];
    let axes = [(metric::ERA, ERAS), (metric::OUTCOME, OUTCOMES), (metric::ERROR_TYPE, ERRORS)];
    Grid::new(metrics, (metric::SERVER_OPERATION, SERVER_HELP), SECONDS, &fixed, axes)
}

#[derive(Debug)]
enum Tool {
    Known(Named),
    Named(Box<str>),
}

/// One request under way. Dropped without an outcome, it was given up.
#[derive(Debug)]
pub(crate) struct Operation {
    observed: Arc<Observed>,
    scope: Scope,
    begun: Instant,
    method: Option<Method>,
    place: usize,
    era: usize,
    tool: Option<Tool>,
    /// Whether giving it up is the ordinary end.
    open_ended: bool,
    is_over: bool,
}

impl Operation {
    /// `None` for a response, which belongs to a request of the server's.
    pub(crate) fn begin(
        observed: &Arc<Observed>,
        keys: &KeyRing,
        letter: &Letter,
        parts: &Parts,
    ) -> Option<Self> {
        let name = letter.message.method()?;
        let place = match letter.method {
            Some(method) => method as usize,
            None => METHODS.iter().position(|known| *known == name).unwrap_or(METHODS.len() - 1),
        };
        let target = target(letter);
        let tool = target.as_ref().filter(|_| letter.method == Some(Method::ToolsCall)).map(|name| {
            observed.tools.find(name).map_or_else(|| Tool::Named(name.as_ref().into()), Tool::Known)
        });
        let from = || origin(params(&letter.message), &parts.headers);
        let scope = Scope::of_origin(ROLE, Side::Server, from, || {
            let method = METHODS.get(place).copied().unwrap_or(OTHER);
            match target.as_deref().filter(|name| is_plain(name)) {
                Some(target) => format!("{method} {target}").into(),
                None => method.into(),
            }
        });
        scope.describe(|to| describe(to, keys, letter, parts, place, target.as_deref()));
        Some(Self {
            observed: observed.clone(),
            scope,
            begun: Instant::now(),
            method: letter.method,
            place,
            era: era(letter.era),
            tool,
            open_ended: letter.method == Some(Method::Listen),
            is_over: false,
        })
    }

    /// A message that was refused before anybody could say what it asked for.
    pub(crate) fn refused(observed: &Arc<Observed>, parts: &Parts, body: &Bytes, refusal: &Refusal) {
        let Some(answer) = &refusal.body else { return };
        // Read again, because nobody else needs what was refused.
        let message = if is_exporting() { Message::parse(body).ok() } else { None };
        let name = message.as_ref().and_then(Message::method);
        let name =
            name.and_then(|name| METHODS.iter().find(|known| **known == name)).copied().unwrap_or(OTHER);
        let from = || origin(message.as_ref().and_then(params), &parts.headers);
        let scope = Scope::of_origin(ROLE, Side::Server, from, || name.into());
        scope.describe(|to| {
            to.set(attribute::METHOD, name);
            if let Some(Message::Request(request)) = &message {
                identify(to, request);
            }
            network(to, parts);
        });
        let modern = parts.headers.get(mcp::header::METHOD).is_some();
        Self {
            observed: observed.clone(),
            scope,
            begun: Instant::now(),
            method: None,
            place: METHODS.len() - 1,
            era: era(if modern { Era::Modern } else { Era::Older }),
            tool: None,
            open_ended: false,
            is_over: false,
        }
        .answered(Some(answer));
    }

    /// On whose behalf the work for it is done.
    pub(crate) fn scope(&self) -> Scope {
        self.scope.clone()
    }

    /// It was answered. A notification is answered without a message.
    pub(crate) fn answered(self, response: Option<&Json>) {
        let outcome = response.map_or(Outcome::OK, |response| Outcome::of_response(self.method, response));
        if self.scope.is_recorded()
            && self.method == Some(Method::ToolsCall)
            && records_content()
            && let Some(result) = response.and_then(|response| scan::member(response.as_str(), "result"))
        {
            self.scope.describe(|to| _ = to.set(attribute::TOOL_RESULT, result.to_owned()));
        }
        self.finish(outcome);
    }

    /// It is over.
    pub(crate) fn finish(mut self, outcome: Outcome) {
        self.close(outcome);
    }

    fn close(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let took = self.begun.elapsed().as_secs_f64();
        self.observed.count(self.place, self.era, self.tool.as_ref(), outcome, took);
        if let Some(code) = outcome.code {
            self.scope.describe(|to| _ = to.set(attribute::RESPONSE_STATUS, code.to_string()));
        }
        // Whoever serves a caller's mistake has not failed.
        if let Some(failure) = outcome.failure.filter(|failure| !failure.is_the_callers()) {
            let kind = match (failure, outcome.code) {
                (Failure::OtherCode, Some(code)) => Cow::Owned(code.to_string()),
                (failure, _) => failure.as_str().into(),
            };
            self.scope.fail(kind, failure.description());
        }
        self.scope.end();
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let outcome = if self.open_ended { Outcome::OK } else { Outcome::of(Failure::Cancelled) };
        self.close(outcome);
    }
}

/// Several messages at once, which go whole: in one span.
pub(crate) fn batch(parts: &Parts) -> Scope {
    beside(parts, "trunkline.gateway batch")
}

/// A request that brings no message, but must not fail without a trace. Its span ends with the beginning of the answer.
pub(crate) async fn visit(
    parts: &Parts,
    name: &'static str,
    answering: impl Future<Output = Response>,
) -> Response {
    let scope = beside(parts, name);
    let response = scope.clone().within(answering).await;
    if response.status().is_server_error() {
        scope.fail(Failure::Unavailable.as_str(), Failure::Unavailable.description());
    }
    scope.end();
    response
}

fn beside(parts: &Parts, name: &'static str) -> Scope {
    let from = || Origin { parent: propagate::extract(&parts.headers), link: None };
    let scope = Scope::of_origin(ROLE, Side::Server, from, || name.into());
    scope.describe(|to| network(to, parts));
    scope
}

/// A session node gave a whole answer.
pub(crate) fn answered(operation: Option<Operation>, answer: &Answer) {
    if let Some(operation) = operation {
        operation.answered(answer.body.as_ref());
    }
}

/// No session node answered.
pub(crate) fn failed(operation: Option<Operation>, code: Code) {
    if let Some(operation) = operation {
        operation.finish(unanswered(code));
    }
}

/// An event stream is over; `answer` is the response it gave, and `lost` why it gave none if the client did not go away.
pub(crate) fn streamed(operation: Option<Operation>, answer: Option<&Json>, lost: Option<Code>) {
    let Some(operation) = operation else { return };
    match (answer, lost) {
        (Some(answer), _) => operation.answered(Some(answer)),
        (None, Some(code)) => operation.finish(unanswered(code)),
        (None, None) => drop(operation),
    }
}

const fn unanswered(code: Code) -> Outcome {
    Outcome::of(match code {
        Code::Deadline => Failure::Timeout,
        Code::Cancelled => Failure::Cancelled,
        Code::InvalidRequest | Code::NotFound | Code::Unauthenticated | Code::Denied => {
            Failure::InvalidRequest
        }
        Code::Internal | Code::Unimplemented => Failure::Internal,
        Code::Unavailable | Code::Overloaded | Code::Precondition | Code::OutcomeUnknown => {
            Failure::Unavailable
        }
    })
}

const fn era(era: Era) -> usize {
    match era {
        Era::Older => 0,
        Era::Modern => 1,
    }
}

const fn params(message: &Message) -> Option<&Json> {
    match message {
        Message::Request(request) => request.params.as_ref(),
        Message::Notification(notification) => notification.params.as_ref(),
        Message::Response(_) => None,
    }
}

/// The tool or prompt it names.
fn target(letter: &Letter) -> Option<Cow<'_, str>> {
    match letter.method?.target() {
        Target::Name => params(&letter.message)?.part().get("name")?.string(),
        Target::Uri | Target::None => None,
    }
}

/// Names that clients make up stay out of the names of spans, unless they could be ours.
fn is_plain(name: &str) -> bool {
    name.len() <= MOST_NAME && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-./".contains(&c))
}

/// What `_meta` says is the parent, and then the context of the HTTP request a link; without it that is the parent.
fn origin(params: Option<&Json>, headers: &HeaderMap) -> Origin {
    let header = propagate::extract(headers);
    match params.and_then(in_meta) {
        Some(parent) => {
            let link = header.filter(|header| header.parent() != parent.parent());
            Origin { parent: Some(parent), link }
        }
        None => Origin { parent: header, link: None },
    }
}

fn in_meta(params: &Json) -> Option<Trace> {
    let meta = scan::member(params.as_str(), meta::META)?;
    let text = |key| scan::member(meta, key).and_then(scan::string);
    Trace::read(&text("traceparent")?, &text("tracestate").unwrap_or_default())
}

fn describe(
    to: &mut Attributes,
    keys: &KeyRing,
    letter: &Letter,
    parts: &Parts,
    place: usize,
    target: Option<&str>,
) {
    to.set(attribute::METHOD, METHODS.get(place).copied().unwrap_or(OTHER));
    to.set(attribute::ERA_CLIENT, ERAS[era(letter.era)]);
    let revision = match letter.era {
        Era::Modern => Some(Revision::V2026_07_28),
        Era::Older => letter.revision.as_deref().and_then(Revision::parse),
    };
    if let Some(revision) = revision {
        to.set(attribute::PROTOCOL_VERSION, revision.as_str());
    }
    if let Message::Request(request) = &letter.message {
        identify(to, request);
    }
    // Revisions without sessions have none to name.
    if let Some(session) = &letter.session
        && let Some(hash) = keys.mac(&keys.current(), Purpose::Telemetry, session.as_str().as_bytes())
    {
        to.set(attribute::SESSION, format!("{hash:016x}"));
        to.set(attribute::SLOT, i64::from(session.slot().number()));
    }
    let name = |name: &str| name.chars().take(MOST_NAME).collect::<String>();
    match (letter.method, target) {
        (Some(Method::ToolsCall), target) => {
            to.set(attribute::OPERATION, attribute::EXECUTE_TOOL);
            if let Some(target) = target {
                to.set(attribute::TOOL, name(target));
            }
            if records_content()
                && let Some(arguments) = params(&letter.message).and_then(|params| params.member("arguments"))
            {
                to.set(attribute::TOOL_ARGUMENTS, arguments.as_str().to_owned());
            }
        }
        (_, Some(target)) => _ = to.set(attribute::PROMPT, name(target)),
        (Some(Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe), None) => {
            if let Some(uri) = params(&letter.message).and_then(|params| params.text("uri")) {
                to.set(attribute::RESOURCE_URI, bare_uri(&uri));
            }
        }
        (_, None) => {}
    }
    network(to, parts);
}

fn identify(to: &mut Attributes, request: &Request) {
    let raw = request.id.raw();
    to.set(attribute::REQUEST_ID, scan::string(raw).unwrap_or(Cow::Borrowed(raw)).into_owned());
}

fn network(to: &mut Attributes, parts: &Parts) {
    to.set(attribute::TRANSPORT, "tcp").set(attribute::NETWORK_PROTOCOL, "http");
    to.set(attribute::NETWORK_VERSION, if parts.version == Version::HTTP_2 { "2" } else { "1.1" });
    if let Some(peer) = parts.extensions.get::<Peer>() {
        to.set(attribute::CLIENT_ADDRESS, peer.ip().to_string());
    }
}

#[cfg(test)]
mod tests;
