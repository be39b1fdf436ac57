//! Serves one request of a 2026-07-28 client: nothing is kept, the exchange machine lives as long as the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::registry::{Continuation as Goes, InputRequired, InputResponse, Operation, Round, Start};
use api::session::{Answer, Delivery, Event, Frame, Frames};
use chassis::telemetry::Scope;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use machines::{CallContext, CallFrame, Continuation, Effect, Exchange, ExchangeSettings, Input, Millis};
use mcp::json::Part;
use mcp::log::Level;
use mcp::rpc::{Id, Message, Request, RpcError};
use mcp::{Json, Method, Revision, code, header, meta, scan};

use crate::calling::{self, Caller, Found, Opened, Wish};
use crate::host::Shared;
use crate::refuse;
use crate::registries::call::{Call, Heard};
use crate::{seal, wake};

/// Longest that a sealed state is accepted.
const STATE_LIFE_MS: u64 = 600_000;

/// A request as far as it was read before it is taken on.
struct Admitted {
    method: Method,
    id: Id,
    params: Json,
    /// Members of the params.
    state: Option<Json>,
    responses: Option<Json>,
    context: CallContext,
    progress_token: Option<Json>,
    caller: Caller,
}

/// Answers a message of a modern client.
pub(crate) fn serve(shared: &Arc<Shared>, delivery: &Delivery, message: &Message) -> Frames {
    let scope = crate::observe::hop(message);
    shared.describe(&scope, None);
    let request = match message {
        Message::Request(request) => request,
        Message::Notification(_) => return refuse::only(Frame::Answer(Answer::new(202, None))),
        Message::Response(response) => {
            let error = RpcError::new(code::INVALID_REQUEST, "2026-07-28 has no responses from clients");
            return refuse::refused(400, Some(&response.id), &error);
        }
    };
    let id = &request.id;
    match admit(shared, delivery, request) {
        Ok(admitted) if admitted.method == Method::Listen => {
            crate::listen::serve(shared, admitted.into_listen(), scope)
        }
        Ok(admitted) => match prepare(shared, delivery, &admitted) {
            Ok(prepared) => run(shared.clone(), admitted, prepared, scope),
            Err(Refusal::Rpc(status, error)) => refuse::refused(status, Some(id), &error),
            Err(Refusal::BadState) => refuse::bad_state(id),
        },
        Err((status, error)) => refuse::refused(status, Some(id), &error),
    }
}

impl Admitted {
    fn into_listen(self) -> crate::listen::Wanted {
        crate::listen::Wanted { principal: self.caller.principal, id: self.id, params: self.params }
    }
}

fn admit(shared: &Shared, delivery: &Delivery, request: &Request) -> Result<Admitted, (u16, RpcError)> {
    let method = Method::parse(&request.method)
        .filter(|m| m.exists_in(Revision::V2026_07_28))
        .ok_or_else(|| (404, RpcError::new(code::METHOD_NOT_FOUND, "Method not found")))?;
    let params = request.params.clone().unwrap_or_else(Json::empty_object);
    let of_params = [meta::META, meta::REQUEST_STATE, meta::INPUT_RESPONSES];
    let [meta, state, responses] = params.part().fields(of_params);
    let of_meta = [meta::LOG_LEVEL, meta::PROGRESS_TOKEN, meta::CLIENT_CAPABILITIES];
    let [log_level, progress_token, client_capabilities] =
        meta.map_or([None; 3], |meta| meta.fields(of_meta));
    let kept = |part: Option<Part<'_>>| part.map(|part| params.slice(part.as_str()));
    let log_level = match log_level {
        None => None,
        Some(raw) => {
            let level = raw.string().and_then(|text| Level::parse(&text));
            let refuse = || {
                (
                    400,
                    RpcError::new(
                        code::INVALID_PARAMS,
                        "unknown log level: use debug, info, notice, warning, error, critical, alert or emergency",
                    ),
                )
            };
            Some(level.ok_or_else(refuse)?)
        }
    };
    let progress_token = kept(progress_token).filter(|raw| Id::read(raw).is_some());
    let context = CallContext {
        revision: Revision::V2026_07_28,
        client_capabilities: kept(client_capabilities),
        log_level,
        progress: progress_token.is_some(),
    };
    let caller = Caller {
        mesh: shared.mesh.clone(),
        owner: None,
        principal: delivery.principal.clone(),
        affinity: String::new(),
    };
    let (state, responses, id) = (kept(state), kept(responses), request.id.clone());
    Ok(Admitted { method, id, params, state, responses, context, progress_token, caller })
}

enum Refusal {
    Rpc(u16, RpcError),
    BadState,
}

/// How the exchange begins.
enum Prepared {
    /// The machine is told to start.
    Fresh(Option<Found>),
    /// The same, with answers to questions that the client expects. A handler may use them, or ask.
    Brought(Found, Vec<InputResponse>),
    /// A retry with answers.
    Retry { call: Arc<Call>, round: u32, responses: Vec<InputResponse>, state: Option<bytes::Bytes> },
}

fn prepare(shared: &Arc<Shared>, delivery: &Delivery, admitted: &Admitted) -> Result<Prepared, Refusal> {
    let Some(operation) = calling::operation(admitted.method) else { return Ok(Prepared::Fresh(None)) };
    let found = calling::find(&shared.registries, operation, &admitted.params, true)
        .map_err(|error| Refusal::Rpc(200, error))?;
    if operation == Operation::Call {
        let arguments = admitted.params.part().get("arguments").map(Part::as_str);
        header::check_params(&delivery.param_headers, arguments, &found.route.entry.headers).map_err(
            |mismatch| Refusal::Rpc(400, RpcError::new(code::HEADER_MISMATCH, mismatch.to_string())),
        )?;
    }
    match (&admitted.state, &admitted.responses) {
        (None, None) => Ok(Prepared::Fresh(Some(found))),
        (None, Some(responses)) => Ok(Prepared::Brought(found, answers(responses).ok_or(Refusal::BadState)?)),
        (Some(state), responses) => retry(shared, admitted, found, operation, state, responses.clone()),
    }
}

/// A retry is judged by what was sealed; it never falls through to a fresh call.
fn retry(
    shared: &Shared,
    admitted: &Admitted,
    found: Found,
    operation: Operation,
    state: &Json,
    responses: Option<Json>,
) -> Result<Prepared, Refusal> {
    let Found { target, route } = found;
    let text = scan::string(state.as_str()).ok_or(Refusal::BadState)?;
    let state = seal::open(&shared.keys, &text).ok_or(Refusal::BadState)?;
    let responses = responses.unwrap_or_else(Json::empty_object);
    let good = state.belongs_to(&admitted.caller.principal)
        && *state.mesh == *shared.mesh
        && state.registry == route.entry.source.registry
        && state.method == admitted.method.as_str()
        && state.target == target
        && state.digest == seal::digest(&admitted.params)
        && state.expires_unix_ms > chassis::clock::unix_millis();
    let answers = answers(&responses).filter(|_| good).ok_or(Refusal::BadState)?;
    let handler_state = unbase64(&state.handler_state).ok_or(Refusal::BadState)?;
    let deadline = calling::instant(chassis::clock::dated_millis() + shared.config.call_timeout_s * 1000);
    let parked = !state.invocation.is_empty();
    let invocation = if parked { Some(state.invocation) } else { calling::new_invocation() };
    let invocation =
        invocation.ok_or_else(|| Refusal::Rpc(500, RpcError::new(code::INTERNAL_ERROR, "internal error")))?;
    let (caller, context) = (&admitted.caller, &admitted.context);
    let context = calling::registry_context(caller, &state.registry, context, Some(deadline), invocation);
    let own = if operation == Operation::Read { target } else { route.entry.own.clone() };
    let begin =
        Start { operation, target: own, params: Exchange::payload(&admitted.params), continuation: None };
    let call = Call::new(&shared.observed, route, begin, context);
    if parked {
        match shared.registries.holder(&state.instance, &state.address) {
            Some(link) => call.put(&link),
            None => call.put_nowhere(),
        }
    }
    Ok(Prepared::Retry {
        call,
        round: state.round,
        responses: answers,
        state: (!parked).then_some(handler_state),
    })
}

/// The client's answers by key; `None` if they are not an object.
fn answers(responses: &Json) -> Option<Vec<InputResponse>> {
    let one =
        |m: scan::Member<'_>| InputResponse { key: m.key.into_owned(), answer: Ok(responses.slice(m.value)) };
    scan::is_object(responses.as_str()).then(|| scan::members(responses.as_str()).map(one).collect())
}

fn unbase64(text: &str) -> Option<bytes::Bytes> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok().map(bytes::Bytes::from)
}

/// Everything that may happen while a request is served.
struct Serving {
    /// The moment of what is being done.
    now: Millis,
    shared: Arc<Shared>,
    admitted: Admitted,
    exchange: Exchange,
    call: Option<Arc<Call>>,
    /// What the request names, until it is called.
    found: Option<Found>,
    /// Answers that came with the request itself.
    brought: Option<Round>,
    heard: BoxStream<'static, Heard>,
    wake: Option<Millis>,
    out: Vec<Frame>,
    done: bool,
}

fn run(shared: Arc<Shared>, admitted: Admitted, prepared: Prepared, scope: Scope) -> Frames {
    let settings = ExchangeSettings {
        server_info: shared.facts.server_info().clone(),
        method: admitted.method,
        id: admitted.id.clone(),
        progress_token: admitted.progress_token.clone(),
        log_level: admitted.context.log_level,
        client_capabilities: admitted.context.client_capabilities.clone(),
        open_after_ms: 500,
        call_timeout_ms: shared.config.call_timeout_s * 1000,
    };
    let now = chassis::clock::dated_millis();
    let exchange = Exchange::new(settings, now);
    let mut serving = Serving {
        now,
        shared,
        admitted,
        exchange,
        call: None,
        found: None,
        brought: None,
        heard: stream::pending().boxed(),
        wake: None,
        out: vec![Frame::Accepted { session: None }],
        done: false,
    };
    let frames = async_stream::stream! {
        serving.begin(prepared);
        // That it was accepted is said together with what follows, which is there within half a second.
        while serving.out.len() == 1 && !serving.done {
            serving.turn().await;
        }
        loop {
            for frame in serving.out.drain(..) {
                yield Ok(frame);
            }
            if serving.done {
                return;
            }
            serving.turn().await;
        }
    };
    scope.within(frames).boxed()
}

impl Serving {
    fn begin(&mut self, prepared: Prepared) {
        let effects = match prepared {
            Prepared::Fresh(found) => {
                self.found = found;
                self.exchange.start(&self.admitted.params)
            }
            Prepared::Brought(found, responses) => {
                self.found = Some(found);
                self.brought = Some(Round { state: bytes::Bytes::new(), round: 0, responses });
                self.exchange.start(&self.admitted.params)
            }
            Prepared::Retry { call, round, responses, state } => {
                self.call = Some(call);
                let responses = responses.into_iter().map(|r| (r.key, r.answer)).collect();
                self.exchange.resume(round, responses, state)
            }
        };
        self.perform(effects);
    }

    async fn turn(&mut self) {
        let timer = wake::reached(self.wake);
        let input = tokio::select! {
            // What is there needs no timer.
            biased;
            heard = self.heard.next() => match heard {
                Some(Heard::Frame(frame)) => self.frame(frame),
                Some(Heard::InputRequired(input)) => {
                    let frame = self.sealed(input);
                    self.frame(frame)
                }
                None => {
                    self.heard = stream::pending().boxed();
                    return;
                }
            },
            () = timer => {
                self.wake = None;
                Input::DeadlineReached
            }
        };
        self.now = chassis::clock::dated_millis();
        let effects = self.exchange.step(self.now, input);
        self.perform(effects);
        // Whoever is never silent does not keep the time from passing.
        if self.wake.is_some_and(|at| at <= self.now) {
            self.wake = None;
            let effects = self.exchange.step(self.now, Input::DeadlineReached);
            self.perform(effects);
        }
    }

    const fn frame(&self, frame: CallFrame) -> Input {
        Input::Frame { call: Exchange::CALL, number: 0, frame }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { status, body, .. } => {
                    self.out.push(Frame::Answer(Answer::new(status, body)))
                }
                Effect::Open { .. } => self.out.push(Frame::Open),
                Effect::Send { event, .. } => {
                    self.out.push(Frame::Event(Event { message: event.message, ..Event::default() }));
                }
                Effect::Call { method, params, context, deadline, .. } => {
                    self.call(method, &params, &context, deadline)
                }
                Effect::Resume { round, responses, state, .. } => self.resume(round, responses, state),
                // Nobody owns the invocation: letting go of its frames cancels it.
                Effect::CancelCall { .. } => self.heard = stream::pending().boxed(),
                Effect::WakeAt(at) => self.wake = Some(at),
                Effect::Stop(_) => self.done = true,
                Effect::Commit(_)
                | Effect::Pause { .. }
                | Effect::Finish { .. }
                | Effect::Release { .. }
                | Effect::Subscribe { .. }
                | Effect::Unsubscribe { .. } => {}
            }
        }
    }

    fn call(&mut self, method: Method, params: &Json, context: &CallContext, deadline: Millis) {
        if method == Method::Discover {
            let result = self.shared.facts.discovery(&self.shared.registries.catalogue());
            self.heard = now(CallFrame::Result(result));
            return;
        }
        let left = Duration::from_millis(deadline.saturating_sub(self.now));
        let deadline = Some(Instant::now() + left);
        let (found, brought) = (self.found.take(), self.brought.take());
        let wish = Wish { method, params, context, deadline, brought, invocation: None, found };
        match calling::open(&self.shared.registries, &self.admitted.caller, wish) {
            Opened::Now(CallFrame::Result(result)) => {
                self.heard = now(CallFrame::Result(self.with_ttl(result)))
            }
            Opened::Now(frame) => self.heard = now(frame),
            Opened::Once(answer) => self.heard = stream::once(answer).map(Heard::Frame).boxed(),
            Opened::Frames(call, frames) => {
                self.call = Some(call);
                self.heard = frames;
            }
        }
    }

    /// How long a list may be cached, and by whom, is what its registries say, within our own bound.
    fn with_ttl(&self, result: Json) -> Json {
        let (ttl, public) = self.shared.registries.caching(self.admitted.method);
        let ttl = ttl.min(self.shared.config.list_ttl_ms).to_string();
        let mut editor = mcp::edit::ObjectEditor::new(result.as_str());
        editor
            .set_default("ttlMs", ttl)
            .set_default("cacheScope", if public { "\"public\"" } else { "\"private\"" });
        editor.finish_json()
    }

    fn resume(
        &mut self,
        round: u32,
        responses: Vec<(String, Result<Json, RpcError>)>,
        state: Option<bytes::Bytes>,
    ) {
        let Some(call) = self.call.clone() else { return };
        let responses: Vec<InputResponse> =
            responses.into_iter().map(|(key, answer)| InputResponse { key, answer }).collect();
        self.heard = match state {
            None => call.resume(round, responses),
            Some(state) => {
                let again = call.again(Round { state, round, responses });
                call.start(Arc::new(again))
            }
        };
    }

    /// Input is needed: what the registry needs to go on is sealed into the client's `requestState`.
    fn sealed(&self, input: InputRequired) -> CallFrame {
        use base64::Engine as _;
        let lost = CallFrame::Lost { reason: "registry_failed", not_executed: false };
        let (Some(call), Ok(nonce)) = (&self.call, chassis::clock::random()) else { return lost };
        let principal = &self.admitted.caller.principal;
        let (invocation, handler_state) = match &input.continuation {
            Goes::Parked => (call.context().invocation, String::new()),
            Goes::State(state) => (String::new(), base64::engine::general_purpose::STANDARD.encode(state)),
        };
        let target = calling::operation(self.admitted.method)
            .and_then(|operation| calling::target(operation, &self.admitted.params).ok());
        let state = seal::State {
            subject: principal.subject.clone(),
            issuer: principal.issuer.clone(),
            tenant: principal.tenant.clone(),
            client: principal.client.clone(),
            mesh: self.shared.mesh.to_string(),
            address: call.place().map(|link| link.address().to_owned()).unwrap_or_default(),
            registry: call.route.entry.source.registry.clone(),
            instance: call.instance().unwrap_or_default(),
            method: self.admitted.method.as_str().to_owned(),
            target: target.unwrap_or_default(),
            digest: seal::digest(&self.admitted.params),
            round: input.round,
            expires_unix_ms: input.expires_unix_ms.min(chassis::clock::unix_millis() + STATE_LIFE_MS),
            invocation,
            handler_state,
        };
        match seal::seal(&self.shared.keys, &state, nonce) {
            Some(text) => {
                let continuation = Continuation::Sealed(Some(text));
                CallFrame::InputRequired { requests: input.requests, round: input.round, continuation }
            }
            None => lost,
        }
    }
}

fn now(frame: CallFrame) -> BoxStream<'static, Heard> {
    stream::iter([Heard::Frame(frame)]).chain(stream::pending()).boxed()
}
