//! The exchange machine: one request of a 2026-07-28 client, from its call to its one ending.
//!
//! It lives for one request, commits nothing and belongs to nobody: a reader that goes away cancels it. The host has
//! admitted the request (method, `_meta`, headers) before, and hands in with `InputRequired` a state that it has sealed.

use std::collections::BTreeSet;

use bytes::Bytes;
use mcp::edit::{self, ObjectEditor};
use mcp::log::Level;
use mcp::rpc::{self, Id, RpcError};
use mcp::{Json, Method, Revision, code, meta, scan};

use crate::asks;
use crate::effect::{CallContext, Effect, Effects, Event, StopReason};
use crate::input::{CallFrame, CallId, Continuation, Input, Millis, StreamId};
use crate::journal::Answer;
use crate::wire::{self, Outcome};

/// Extension that lets a call go on as a task.
const TASKS: &str = "io.modelcontextprotocol/tasks";

/// What an exchange is told once.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeSettings {
    /// The server's Implementation object.
    pub server_info: Json,
    /// What is asked for.
    pub method: Method,
    /// The client's request id.
    pub id: Id,
    /// The client's progress token.
    pub progress_token: Option<Json>,
    /// Least severe log level wanted.
    pub log_level: Option<Level>,
    /// The client's capabilities object.
    pub client_capabilities: Option<Json>,
    /// Without any frame for this long the answer becomes an event stream.
    pub open_after_ms: Millis,
    /// The call has to end within this.
    pub call_timeout_ms: Millis,
}

/// One exchange. Its stream is [`Exchange::STREAM`], its call [`Exchange::CALL`].
#[derive(Debug, Clone)]
pub struct Exchange {
    settings: ExchangeSettings,
    stage: Stage,
    open_at: Millis,
    deadline: Millis,
    progress: Option<f64>,
    /// The request carried answers of its user: the result must not be cached.
    personal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No byte of the answer was sent.
    Waiting,
    /// The answer is an event stream.
    Open,
    /// The answer was given.
    Over,
}

/// What becomes of the call behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// It has ended.
    Ended,
    /// It waits for the client's next request.
    Parked,
    /// It may still be running.
    Running(&'static str),
}

impl Exchange {
    /// The stream of the answer.
    pub const STREAM: StreamId = StreamId(1);
    /// The call it makes.
    pub const CALL: CallId = CallId(1);

    /// An exchange that has not started.
    #[must_use]
    pub const fn new(settings: ExchangeSettings, now: Millis) -> Self {
        let open_at = now.saturating_add(settings.open_after_ms);
        let deadline = now.saturating_add(settings.call_timeout_ms);
        Self { settings, stage: Stage::Waiting, open_at, deadline, progress: None, personal: false }
    }

    /// Params as a registry gets them: without what only the mesh and the client speak about.
    #[must_use]
    pub fn payload(params: &Json) -> Json {
        // Most have nothing of it, and looking is cheaper than editing.
        let keys = [meta::META, meta::INPUT_RESPONSES, meta::REQUEST_STATE];
        let [kept, responses, state] = params.part().fields(keys);
        let [token, baggage] =
            kept.map_or([None; 2], |kept| kept.fields([meta::PROGRESS_TOKEN, meta::BAGGAGE]));
        if [responses, state, token, baggage].iter().all(Option::is_none) {
            return params.clone();
        }
        let (params, _) = wire::without_token(Some(params.clone()));
        let mut editor = ObjectEditor::new(params.as_str());
        editor.remove(meta::INPUT_RESPONSES).remove(meta::REQUEST_STATE);
        if editor.is_unchanged() { params.clone() } else { editor.finish_json() }
    }

    /// Makes the call. `params` as the client sent them.
    pub fn start(&mut self, params: &Json) -> Effects {
        self.personal = params.part().get(meta::INPUT_RESPONSES).is_some();
        let params = Self::payload(params);
        let context = CallContext {
            revision: Revision::V2026_07_28,
            client_capabilities: self.settings.client_capabilities.clone(),
            log_level: self.settings.log_level,
            progress: self.settings.progress_token.is_some(),
        };
        let call = Effect::Call {
            call: Self::CALL,
            method: self.settings.method,
            params,
            context,
            deadline: self.deadline,
        };
        vec![call, self.wake()]
    }

    /// Continues a call with the answers of a retried request, instead of [`Exchange::start`].
    pub fn resume(&mut self, round: u32, responses: Vec<(String, Answer)>, state: Option<Bytes>) -> Effects {
        self.personal = true;
        vec![Effect::Resume { call: Self::CALL, round, responses, state }, self.wake()]
    }

    /// Whether the answer was given, or nobody waits for it any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Takes one input and says what is to be done.
    pub fn step(&mut self, now: Millis, input: Input) -> Effects {
        if self.is_over() {
            return Effects::new();
        }
        match input {
            Input::Frame { call, frame, .. } if call == Self::CALL => self.frame(frame),
            Input::ReaderGone(_) => self.abandoned(),
            Input::DeadlineReached if self.deadline <= now => {
                self.fail(&wire::lost("timeout", Outcome::Unknown), Call::Running("timeout"))
            }
            Input::DeadlineReached if self.open_at <= now => self.open(),
            Input::DeadlineReached => vec![self.wake()],
            // A message that is not this exchange's business.
            Input::Client { stream, .. } | Input::Forgotten { stream, .. } | Input::Close { stream } => {
                vec![Effect::Answer { stream, status: 400, body: None }]
            }
            // A drain lets it end; the rest happens to sessions only.
            Input::Frame { .. }
            | Input::ReaderAttached(_)
            | Input::CatalogChanged(_)
            | Input::ResourceUpdated { .. }
            | Input::CommitRefused(_)
            | Input::Drain => Effects::new(),
        }
    }

    fn frame(&mut self, frame: CallFrame) -> Effects {
        match frame {
            CallFrame::Accepted { .. } | CallFrame::Detach { .. } => Effects::new(),
            CallFrame::Progress(params) => {
                let message =
                    wire::progress(&params, self.settings.progress_token.as_ref(), &mut self.progress);
                self.say(message)
            }
            CallFrame::Log(params) => {
                let message = self.settings.log_level.and_then(|least| wire::log(&params, least));
                self.say(message)
            }
            CallFrame::Notice { method, params } => {
                self.say(wire::notice(&method, &params, Revision::V2026_07_28))
            }
            CallFrame::Result(result) => {
                let result = self.completed(&result);
                self.succeed(&result, Call::Ended)
            }
            CallFrame::Error(error) => self.fail(&wire::modern_error(error), Call::Ended),
            CallFrame::InputRequired { requests, round: _, continuation } => {
                self.ask(&requests, &continuation)
            }
            CallFrame::Task(task) => self.task(&task),
            CallFrame::Lost { reason, not_executed } => {
                let outcome = if not_executed { Outcome::NotExecuted } else { Outcome::Unknown };
                self.fail(&wire::lost(reason, outcome), Call::Ended)
            }
        }
    }

    /// The client is gone: that cancels.
    fn abandoned(&mut self) -> Effects {
        self.stage = Stage::Over;
        let reason = "the client is gone".to_owned();
        let call = Self::CALL;
        vec![Effect::CancelCall { call, reason }, Effect::Release { call }, Effect::Stop(StopReason::Done)]
    }

    const fn wake(&self) -> Effect {
        match self.stage {
            Stage::Waiting if self.open_at < self.deadline => Effect::WakeAt(self.open_at),
            Stage::Waiting | Stage::Open | Stage::Over => Effect::WakeAt(self.deadline),
        }
    }

    fn open(&mut self) -> Effects {
        match self.stage {
            Stage::Waiting => {
                self.stage = Stage::Open;
                vec![Effect::Open { stream: Self::STREAM }, self.wake()]
            }
            Stage::Open => vec![self.wake()],
            Stage::Over => Effects::new(),
        }
    }

    fn say(&mut self, message: Option<Json>) -> Effects {
        let Some(message) = message else { return Effects::new() };
        let mut effects = if self.stage == Stage::Waiting { self.open() } else { Effects::new() };
        effects.push(send(message));
        effects
    }

    /// The one ending.
    fn end(&mut self, status: u16, message: Json, call: Call) -> Effects {
        let stream = Self::STREAM;
        let mut effects = match self.stage {
            Stage::Waiting => vec![Effect::Answer { stream, status, body: Some(message) }],
            Stage::Open => vec![send(message), Effect::Finish { stream }],
            Stage::Over => return Effects::new(),
        };
        self.stage = Stage::Over;
        match call {
            Call::Ended => effects.push(Effect::Release { call: Self::CALL }),
            Call::Parked => {}
            Call::Running(reason) => {
                effects.push(Effect::CancelCall { call: Self::CALL, reason: reason.to_owned() });
                effects.push(Effect::Release { call: Self::CALL });
            }
        }
        effects.push(Effect::Stop(StopReason::Done));
        effects
    }

    fn succeed(&mut self, result: &Json, call: Call) -> Effects {
        let message = rpc::result(&self.settings.id, result);
        self.end(200, message, call)
    }

    /// Before the first byte, a capability that is missing is an HTTP error; everything else after acceptance is not.
    fn fail(&mut self, error: &RpcError, call: Call) -> Effects {
        let status = if error.code == code::MISSING_CAPABILITY { 400 } else { 200 };
        let message = rpc::error(Some(&self.settings.id), error);
        self.end(status, message, call)
    }

    /// A complete result with the members every modern result has. What a registry says with them stays, where clients can
    /// read it.
    fn completed(&self, result: &Json) -> Json {
        let kept = result.part().fields([meta::RESULT_TYPE, meta::META]);
        if kept.iter().all(Option::is_none) && !self.settings.method.is_cacheable() {
            // Most have nothing of it.
            let name = self.settings.server_info.as_str();
            let signature = edit::append("{}", &[(meta::SERVER_INFO, name)]);
            let members = [(meta::RESULT_TYPE, "\"complete\""), (meta::META, signature.as_str())];
            return Json::trusted(edit::append(result.as_str(), &members));
        }
        let mut editor = ObjectEditor::new(result.as_str());
        editor.set_default(meta::RESULT_TYPE, "\"complete\"");
        if self.settings.method.is_cacheable() {
            let ttl = editor.get("ttlMs").unwrap_or_default();
            let (ttl_is_read, scope) =
                (ttl.parse::<u64>().is_ok(), editor.get("cacheScope").and_then(scan::string));
            let scope_is_read = matches!(scope.as_deref(), Some("public" | "private"));
            if self.personal || !ttl_is_read {
                editor.set("ttlMs", "0");
            }
            if self.personal || !scope_is_read {
                editor.set("cacheScope", "\"private\"");
            }
        }
        self.signed(&mut editor)
    }

    /// The result with the server's name in `_meta`.
    fn signed(&self, editor: &mut ObjectEditor<'_>) -> Json {
        let mut inner = ObjectEditor::new(editor.get(meta::META).unwrap_or("{}"));
        inner.set_default(meta::SERVER_INFO, self.settings.server_info.as_str());
        if !inner.is_unchanged() {
            let inner = inner.finish();
            editor.set(meta::META, inner);
        }
        editor.finish_json()
    }

    /// A registry needs answers of the client: they come with another request.
    fn ask(&mut self, requests: &Json, continuation: &Continuation) -> Effects {
        let none = requests.as_str() == "null";
        let wanted = if none { Some(Vec::new()) } else { asks::read(requests) };
        let bad = "bad_input_request";
        let state = match continuation {
            Continuation::Sealed(state) if self.settings.method.may_ask() => state.as_deref(),
            Continuation::Sealed(_) | Continuation::Parked | Continuation::State(_) => {
                return self.fail(&wire::lost(bad, Outcome::Unknown), Call::Running(bad));
            }
        };
        let needs: Option<BTreeSet<_>> = wanted.and_then(|all| all.iter().map(asks::Wanted::need).collect());
        let Some(needs) = needs.filter(|needs| !needs.is_empty() || state.is_some()) else {
            return self.fail(&wire::lost(bad, Outcome::Unknown), Call::Running(bad));
        };
        let declared = self.settings.client_capabilities.as_ref().map_or("{}", Json::as_str);
        let asks_something = !needs.is_empty();
        let unmet = needs.into_iter().filter(|need| !need.is_met(declared, Revision::V2026_07_28));
        let unmet: BTreeSet<_> = unmet.collect();
        if !unmet.is_empty() {
            return self.lacks(&asks::required(&unmet));
        }
        let mut result = ObjectEditor::new("{\"resultType\":\"input_required\"}");
        if asks_something {
            result.set("inputRequests", requests.as_str());
        }
        if let Some(state) = state {
            result.set(meta::REQUEST_STATE, edit::quote(state));
        }
        let result = self.signed(&mut result);
        self.succeed(&result, Call::Parked)
    }

    fn lacks(&mut self, capabilities: &Json) -> Effects {
        let data = Json::trusted(format!("{{\"requiredCapabilities\":{capabilities}}}"));
        let error =
            RpcError::new(code::MISSING_CAPABILITY, "the client has not declared a capability this needs");
        self.fail(&error.with_data(data), Call::Running("the client lacks a capability"))
    }

    /// A call goes on as a task, for clients that know tasks.
    fn task(&mut self, task: &Json) -> Effects {
        let declared = self.settings.client_capabilities.as_ref().map_or("{}", Json::as_str);
        if scan::path(declared, &["extensions", TASKS]).is_none() {
            return self.lacks(&Json::trusted(format!("{{\"extensions\":{{\"{TASKS}\":{{}}}}}}")));
        }
        let mut result = ObjectEditor::new(task.as_str());
        result.set_default(meta::RESULT_TYPE, "\"task\"");
        let result = self.signed(&mut result);
        self.succeed(&result, Call::Parked)
    }
}

fn send(message: Json) -> Effect {
    let event = Event { seq: None, epoch: 0, message: Some(message), retry_ms: None };
    Effect::Send { stream: Exchange::STREAM, event }
}
