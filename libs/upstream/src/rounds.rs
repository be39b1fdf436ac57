//! A request until its result: the rounds in which a modern server asks for input, the session that has to be opened again,
//! the end that the caller or the clock decides.

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mcp::edit::ObjectEditor;
use mcp::method::{notification, server_request};
use mcp::{Era, Json, Method, code, edit, meta, rpc, scan};

use crate::client::{Ask, Client, FAREWELL, State, broken};
use crate::detect::modern_params;
use crate::error::Error;
use crate::exchange::{Answer, Outgoing};
use crate::headers;
use crate::listener::{Listener, Question, Silent};

/// Pauses between rounds in which the server only wants to be asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// Where a request stands, for whoever ends it from outside.
struct Running {
    id: AtomicU64,
}

impl Client {
    /// Asks, and waits for the result. When `cancel` ends first, or the deadline passes, the server is told to stop.
    ///
    /// # Errors
    /// [`Error`], which says whether the server may have done it.
    pub async fn ask(
        &self,
        ask: &Ask,
        listener: &dyn Listener,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<Json, Error> {
        let running = Running { id: AtomicU64::new(0) };
        let (end, reason) = tokio::select! {
            result = self.run(ask, listener, &running) => return result,
            () = cancel => (Error::Cancelled, "the user cancelled"),
            () = self.wire.sleep(ask.deadline) => (Error::Timeout, "no answer in time"),
        };
        // The stream is closed by now, which is how a modern server hears of it.
        self.call_off(running.id.load(Ordering::Relaxed), reason).await;
        Err(end)
    }

    async fn run(&self, ask: &Ask, listener: &dyn Listener, running: &Running) -> Result<Json, Error> {
        match self.era() {
            Era::Modern => self.in_rounds(ask, listener, running).await,
            Era::Older => self.in_session(ask, listener, running).await,
        }
    }

    async fn call_off(&self, id: u64, reason: &str) {
        if id == 0 || self.era() == Era::Modern {
            return;
        }
        let params = format!("{{\"requestId\":{id},\"reason\":{}}}", edit::quote(reason));
        let message = rpc::notification(notification::CANCELLED, Some(&Json::trusted(params)));
        let state = self.state();
        tokio::select! {
            // If it does not arrive, the server ends the request by its own deadline.
            _told = self.wire.tell(&state, &message) => {}
            () = self.wire.sleep(FAREWELL) => {}
        }
    }

    async fn in_session(&self, ask: &Ask, listener: &dyn Listener, running: &Running) -> Result<Json, Error> {
        let mut state = self.state();
        let first = self.older_request(ask, listener, running, &state).await;
        let answered = match first {
            Err(error) if state.session.is_some() && lost_session(&error) => {
                self.reopen(&state).await?;
                state = self.state();
                self.older_request(ask, listener, running, &state).await
            }
            other => other,
        };
        answered.map(|answer| answer.result)
    }

    async fn older_request(
        &self,
        ask: &Ask,
        listener: &dyn Listener,
        running: &Running,
        state: &State,
    ) -> Result<Answer, Error> {
        if let Some(level) = ask.log {
            let params = Json::trusted(format!("{{\"level\":{}}}", edit::quote(level.as_str())));
            let set = self.older_outgoing(Method::SetLevel, params, &Silent, state);
            self.wire.exchange(set).await?;
        }
        let mut out = self.older_outgoing(ask.method, ask.params.clone(), listener, state);
        if ask.progress {
            let token = out.id.to_string();
            let members = [(meta::PROGRESS_TOKEN, token.as_str())];
            out.params = Json::trusted(edit::set_inside(ask.params.as_str(), meta::META, &members));
        }
        running.id.store(out.id, Ordering::Relaxed);
        self.wire.exchange(out).await
    }

    fn older_outgoing<'a>(
        &self,
        method: Method,
        params: Json,
        listener: &'a dyn Listener,
        state: &'a State,
    ) -> Outgoing<'a> {
        let (id, headers) = (self.next_id(), headers::older(state));
        Outgoing { id, method: method.as_str(), params, headers, state, listener }
    }

    async fn in_rounds(&self, ask: &Ask, listener: &dyn Listener, running: &Running) -> Result<Json, Error> {
        let mut params = ask.params.clone();
        let mut pause = PAUSES.0;
        let mut learned = false;
        let mut round = 0;
        loop {
            let answered = self.modern_request(ask, &params, listener, running).await;
            let result = match answered {
                Ok(answer) => answer.result,
                Err(error) if needs_definition(ask.method, &error) && !learned => {
                    // Only the tool's newest definition says which arguments are repeated in headers.
                    learned = true;
                    Box::pin(self.list(Method::ToolsList, ask.deadline)).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match result.text(meta::RESULT_TYPE).as_deref() {
                Some("complete") | None => return Ok(result),
                Some("input_required") if ask.method.may_ask() => {}
                Some(other) => {
                    return Err(Error::protocol(format!("a result of the unknown type {other:?}")));
                }
            }
            round += 1;
            if round > self.wire.limits.rounds {
                return Err(Error::Rounds(self.wire.limits.rounds));
            }
            let requests = result.member("inputRequests");
            let responses = self.respond(requests.as_ref(), listener).await?;
            if responses.is_none() {
                self.wire.sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            params = retry(&ask.params, responses.as_ref(), &result)?;
        }
    }

    async fn modern_request(
        &self,
        ask: &Ask,
        params: &Json,
        listener: &dyn Listener,
        running: &Running,
    ) -> Result<Answer, Error> {
        let id = self.next_id();
        let token = id.to_string();
        let level = ask.log.map(|level| edit::quote(level.as_str()));
        let mut more = Vec::new();
        if ask.progress {
            more.push((meta::PROGRESS_TOKEN, token.as_str()));
        }
        if let Some(level) = &level {
            more.push((meta::LOG_LEVEL, level.as_str()));
        }
        let params = modern_params(params, &self.identity, &more);
        let tool = if ask.method == Method::ToolsCall {
            self.tool_headers(&params.text("name").unwrap_or_default())
        } else {
            Vec::new()
        };
        let state = self.state();
        running.id.store(id, Ordering::Relaxed);
        self.wire
            .exchange(Outgoing {
                id,
                method: ask.method.as_str(),
                headers: headers::modern(ask.method, &params, &tool),
                params,
                state: &state,
                listener,
            })
            .await
    }

    /// Answers what a modern server wants to know; `None` if it asks nothing.
    async fn respond(&self, requests: Option<&Json>, listener: &dyn Listener) -> Result<Option<Json>, Error> {
        let Some(requests) = requests.filter(|requests| scan::members(requests.as_str()).next().is_some())
        else {
            return Ok(None);
        };
        let mut responses = Vec::new();
        for request in scan::members(requests.as_str()) {
            let body = requests.slice(request.value);
            let method = body.text("method").ok_or_else(|| broken("an input request has no method"))?;
            let question = Question { params: body.member("params"), method };
            let response = match listener.answer(&question).await {
                Ok(response) => response,
                Err(_refused) if question.method == server_request::ELICIT => {
                    Json::trusted("{\"action\":\"cancel\"}")
                }
                Err(_refused) => return Err(Error::Unanswerable(question.method)),
            };
            responses.push((request.key.into_owned(), response));
        }
        let members =
            responses.iter().map(|(key, response)| (key.as_str(), Cow::Borrowed(response.as_str())));
        Ok(Some(edit::object(members)))
    }
}

/// The params of the next round: those of the first, the answers, and the server's state as it came.
fn retry(params: &Json, responses: Option<&Json>, result: &Json) -> Result<Json, Error> {
    let state = scan::member(result.as_str(), meta::REQUEST_STATE);
    if responses.is_none() && state.is_none() {
        return Err(broken("it wants input and does not say which"));
    }
    let mut editor = ObjectEditor::new(params.as_str());
    if let Some(responses) = responses {
        editor.set(meta::INPUT_RESPONSES, responses.as_str());
    }
    if let Some(state) = state {
        editor.set(meta::REQUEST_STATE, state);
    }
    Ok(editor.finish_json())
}

fn needs_definition(method: Method, error: &Error) -> bool {
    method == Method::ToolsCall && error.code() == Some(code::HEADER_MISMATCH)
}

/// The server has forgotten the session, so it has not done what it was asked: 404, or the 400 of servers that mean the same.
fn lost_session(error: &Error) -> bool {
    match error.status() {
        Some(404) => error.code() != Some(code::METHOD_NOT_FOUND),
        Some(400) => error.code() == Some(-32000),
        Some(_) | None => false,
    }
}
