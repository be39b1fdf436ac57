//! What a handler knows about its call, and what it can say while it works.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Principal;
use api::registry::{Context, FrameBody, Round, Start};
use mcp::edit::ObjectEditor;
use mcp::log::Level;
use mcp::{Json, Revision, meta, scan};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ask::{Answers, Ask};
use crate::error::Error;
use crate::invocation::Invocation;

/// One call of a tool, reading of a resource or filling in of a prompt. Cheap to clone.
#[derive(Clone)]
pub struct Call {
    invocation: Arc<Invocation>,
    context: Arc<Context>,
    start: Arc<Start>,
}

impl Call {
    pub(crate) fn new(invocation: Arc<Invocation>, context: Arc<Context>, start: Start) -> Self {
        Self { invocation, context, start: Arc::new(start) }
    }

    /// The registry's own name of the tool or prompt, or the URI.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.start.target
    }

    /// The request's params as the client sent them, less `progressToken`, `inputResponses` and `requestState`.
    #[must_use]
    pub fn params(&self) -> &Json {
        &self.start.params
    }

    /// `arguments` of the params; an empty object if there are none.
    #[must_use]
    pub fn raw_arguments(&self) -> Json {
        self.start.params.member("arguments").unwrap_or_else(Json::empty_object)
    }

    /// `arguments` of the params as a type.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] where they do not fit it.
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.raw_arguments().read().map_err(Error::invalid_params)
    }

    /// `arguments` of the params as a prompt has them: text by name.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] naming an argument that is not text.
    pub fn text_arguments(&self) -> Result<BTreeMap<String, String>, Error> {
        let arguments = self.raw_arguments();
        if !scan::is_object(arguments.as_str()) {
            return Err(Error::invalid_params("`arguments` must be an object"));
        }
        scan::members(arguments.as_str())
            .map(|member| match scan::string(member.value) {
                Some(text) => Ok((member.key.into_owned(), text.into_owned())),
                None => Err(Error::invalid_params(format!("the argument `{}` must be a string", member.key))),
            })
            .collect()
    }

    /// `_meta` of the params.
    #[must_use]
    pub fn meta(&self) -> Option<Json> {
        self.start.params.member(meta::META)
    }

    /// On whose behalf.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.context.principal
    }

    /// The client's revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.context.revision
    }

    /// The client's capabilities object, as of its latest request.
    #[must_use]
    pub fn client_capabilities(&self) -> Option<Json> {
        self.invocation.context().client_capabilities.clone()
    }

    /// The mesh's identifier of this invocation.
    #[must_use]
    pub fn invocation(&self) -> &str {
        &self.context.invocation
    }

    /// The whole context of the request.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// When the caller stops waiting, as of its latest request.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.invocation.deadline()
    }

    /// The round before, if this handler answered it with [`crate::Output::input_required`].
    #[must_use]
    pub fn round(&self) -> Option<&Round> {
        self.start.continuation.as_ref().filter(|round| round.round > 0)
    }

    /// The answers of the round before, if this handler answered it with [`crate::Output::input_required`]; else what the
    /// client sent along with its first request, before it was asked anything.
    #[must_use]
    pub fn round_answers(&self) -> Option<Answers> {
        let round = self.start.continuation.as_ref()?;
        Some(Answers(round.responses.iter().map(|r| (r.key.clone(), r.answer.clone())).collect()))
    }

    /// Says how far the work is. What does not go forward is not sent.
    pub fn progress(&self, done: impl Into<f64>, total: impl Into<f64>, message: &str) {
        self.say_progress(done.into(), Some(total.into()), message);
    }

    /// Says how far the work is when nobody knows how much it is.
    pub fn progress_so_far(&self, done: impl Into<f64>, message: &str) {
        self.say_progress(done.into(), None, message);
    }

    /// Sends the params of a progress notification as they are, less `progressToken`.
    pub fn progress_raw(&self, params: Json) {
        let done = params.member("progress").and_then(|raw| raw.as_str().parse().ok()).unwrap_or(0.0);
        self.invocation.progress(done, params);
    }

    /// Logs something to the client, if it wants messages of this level.
    pub fn log<T: Serialize + ?Sized>(&self, level: Level, data: &T) {
        if self.wants(level) {
            let (level, data) = (Json::of(level.as_str()), Json::of(data));
            let mut params = ObjectEditor::new("{}");
            params.set("level", level.as_str()).set("data", data.as_str());
            self.invocation.say(FrameBody::Log(params.finish_json()));
        }
    }

    /// Sends the params of a log message as they are, if the client wants messages of their level.
    pub fn log_raw(&self, params: Json) {
        let level = params.text("level").as_deref().and_then(Level::parse);
        if level.is_some_and(|level| self.wants(level)) {
            self.invocation.say(FrameBody::Log(params));
        }
    }

    /// Sends another notification that belongs to this request.
    pub fn notice(&self, method: &str, params: Json) {
        self.invocation.say(FrameBody::Notice { method: method.to_owned(), params });
    }

    /// Asks the client to come back for the rest after this long, where its revision can.
    pub fn detach(&self, retry: Duration) {
        let retry_ms = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
        self.invocation.say(FrameBody::Detach { retry_ms });
    }

    /// Asks the client and waits for all of its answers. The handler stands still meanwhile, for minutes perhaps: hold no
    /// locks. One question is asked at a time. A client that sent all the answers along with its request is not asked.
    ///
    /// # Errors
    /// [`Error::MissingCapability`] if the client did not declare what is asked for, [`Error::Expired`] if it did not
    /// answer in time, [`Error::Cancelled`] if the call was cancelled. Each may simply be returned.
    pub async fn ask(&self, ask: Ask) -> Result<Answers, Error> {
        match self.round_answers().filter(|_| self.round().is_none()) {
            Some(brought) if ask.keys().all(|key| brought.has_object(key)) => Ok(brought.of(&ask)),
            Some(_) | None => self.invocation.ask(ask).await,
        }
    }

    /// Ends when the call is cancelled or its deadline has passed. A handler that has awaited this once is given a little
    /// time to end by itself; any other is dropped where it stands.
    pub async fn cancelled(&self) {
        self.invocation.cancelled().await;
    }

    /// Whether the call is cancelled or its deadline has passed.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.invocation.is_cancelled()
    }

    fn wants(&self, level: Level) -> bool {
        self.invocation.context().log_level.is_some_and(|least| level >= least)
    }

    fn say_progress(&self, done: f64, total: Option<f64>, message: &str) {
        let mut params = ObjectEditor::new("{}");
        params.set("progress", number(done));
        if let Some(total) = total {
            params.set("total", number(total));
        }
        if !message.is_empty() {
            params.set("message", mcp::edit::quote(message));
        }
        self.invocation.progress(done, params.finish_json());
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("target", &self.start.target).finish_non_exhaustive()
    }
}

/// Whole numbers without a fraction.
fn number(value: f64) -> String {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        format!("{value:.0}")
    } else {
        Json::of(&value).to_string()
    }
}
