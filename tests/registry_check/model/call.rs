//! An invocation of the model: its frames, its handler, and those who read them.

use std::sync::Mutex;
use std::time::Duration;

use api::pb::registry::v1 as pb;
use api::pb::registry::v1::frame::Kind as Body;
use api::pb::registry::v1::input_required::Continuation;
use futures::stream::{self, BoxStream, StreamExt as _};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{Notify, oneshot, watch};
use tonic::Status;

use super::Fault;

/// Frames on their way to a caller.
pub(super) type Frames = BoxStream<'static, Result<pb::Frame, Status>>;

/// Where an invocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Parked,
    Over,
}

/// See the module.
pub(super) struct Call {
    pub(super) context: pb::RequestContext,
    pub(super) cancelled: Notify,
    state: watch::Sender<State>,
    reply: Mutex<Option<oneshot::Sender<Vec<pb::InputResponse>>>>,
    fault: Option<Fault>,
}

struct State {
    frames: Vec<pb::Frame>,
    phase: Phase,
    released: bool,
    readers: usize,
}

pub(super) fn failure(code: i32, message: &str) -> Body {
    Body::Error(pb::Failure { code, message: message.to_owned(), ..Default::default() })
}

pub(super) fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn question(raw: &Value, round: u32, continuation: Continuation) -> Body {
    Body::InputRequired(pb::InputRequired {
        raw_input_requests: raw.to_string().into(),
        round,
        expires_unix_ms: u64::MAX,
        continuation: Some(continuation),
    })
}

/// What the model asks.
fn asked() -> Value {
    json!({"who": {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": {}}}})
}

impl Call {
    pub(super) fn new(context: pb::RequestContext, instance: &str, fault: Option<Fault>) -> Arc<Self> {
        let state = watch::Sender::new(State {
            frames: Vec::new(),
            phase: Phase::Running,
            released: false,
            readers: 0,
        });
        let (cancelled, reply) = (Notify::new(), Mutex::new(None));
        let call = Self { context, cancelled, state, reply, fault };
        let other = call.fault == Some(Fault::AcceptedOfAnother);
        let instance = if other { "another" } else { instance }.to_owned();
        let accepted = Body::Accepted(pb::Accepted { invocation: call.context.invocation.clone(), instance });
        match call.fault {
            Some(Fault::AcceptedMissing) => {}
            Some(Fault::AcceptedLate) => {
                call.push(Phase::Running, Body::Detach(pb::Detach { retry_ms: 1 }));
                call.push(Phase::Running, accepted);
            }
            Some(_) | None => call.push(Phase::Running, accepted),
        }
        Arc::new(call)
    }

    pub(super) fn owned(&self) -> bool {
        (self.context.slot, self.context.epoch) != (0, 0)
    }

    /// Whether it is not to be kept.
    pub(super) fn released(&self) -> bool {
        self.state.borrow().released
    }

    /// Not to be kept from now on, or from its ending on.
    pub(super) fn release(&self) -> Phase {
        if self.fault != Some(Fault::ReleaseOfRunningIgnored) {
            self.state.send_modify(|state| state.released = true);
        }
        self.phase()
    }

    pub(super) fn phase(&self) -> Phase {
        self.state.borrow().phase
    }

    fn push(&self, phase: Phase, kind: Body) {
        self.state.send_modify(|state| {
            let number = state.frames.len() as u64 + 1;
            let number = match self.fault {
                Some(Fault::NumbersGap) if number > 1 => number + 1,
                Some(Fault::NumbersFromZero) => number - 1,
                Some(_) | None => number,
            };
            state.frames.push(pb::Frame { number, kind: Some(kind) });
            state.phase = phase;
        });
    }

    fn progress(&self, done: u32) {
        if !self.context.progress {
            return;
        }
        let mut params = json!({"progress": done});
        match self.fault {
            Some(Fault::ProgressWithToken) => params["progressToken"] = json!(1),
            Some(Fault::ProgressBackwards) => params["progress"] = json!(10 - done),
            Some(_) | None => {}
        }
        self.push(Phase::Running, Body::RawProgress(params.to_string().into()));
    }

    fn log(&self) {
        if !self.context.log_level.is_empty() || self.fault == Some(Fault::LogUnwanted) {
            let params = json!({"level": "emergency", "data": "called"});
            self.push(Phase::Running, Body::RawLog(params.to_string().into()));
        }
    }

    /// The ending, or what comes instead.
    pub(super) fn end(&self, ending: Body) {
        match (self.fault, ending) {
            (Some(Fault::EndingMissing), _) => self.state.send_modify(|state| state.phase = Phase::Over),
            (Some(Fault::EndingTwice), ending) => {
                self.push(Phase::Running, ending.clone());
                self.push(Phase::Over, ending);
            }
            (Some(Fault::EndingThenProgress), ending) => {
                self.push(Phase::Running, ending);
                self.push(Phase::Over, Body::RawProgress("{\"progress\": 99}".into()));
            }
            (Some(Fault::ResultNotJson), Body::RawResult(_)) => {
                self.push(Phase::Over, Body::RawResult("{'content': []}".into()));
            }
            (Some(Fault::ResultTwoValues), Body::RawResult(bytes)) => {
                self.push(Phase::Over, Body::RawResult([&bytes[..], b"{}"].concat().into()));
            }
            (_, ending) => self.push(Phase::Over, ending),
        }
    }

    /// The handlers of the tools; `run` counts them.
    pub(super) async fn tool(&self, name: &str, run: u64, continuation: Option<pb::Continuation>) -> Body {
        match name {
            "plain" => {
                self.progress(1);
                self.progress(2);
                self.log();
                if self.fault == Some(Fault::ContentMissing) {
                    return Body::RawResult("{\"result\": 1}".into());
                }
                Body::RawResult(text(&format!("run {run}")).to_string().into())
            }
            "hold" => {
                self.progress(1);
                std::future::pending().await
            }
            "ask" | "ask_again" if !self.may_ask() => failure(-32021, "the client cannot be asked"),
            "ask" => self.ask().await,
            "ask_again" => match continuation {
                Some(back) if back.state == "state" && self.fault != Some(Fault::StateIgnored) => {
                    Body::RawResult(text("asked").to_string().into())
                }
                Some(_) | None => question(&asked(), 1, Continuation::State("state".into())),
            },
            "add" => Body::RawResult(text("added").to_string().into()),
            _ if self.fault == Some(Fault::UnknownToolAnswers) => {
                Body::RawResult(json!({"content": [], "isError": true}).to_string().into())
            }
            name => failure(-32602, &format!("unknown tool {name}")),
        }
    }

    fn may_ask(&self) -> bool {
        let capabilities = String::from_utf8_lossy(&self.context.raw_client_capabilities);
        capabilities.contains("elicitation") || self.fault == Some(Fault::UndeclaredAsked)
    }

    async fn ask(&self) -> Body {
        loop {
            let (reply, answered) = oneshot::channel();
            *self.reply.lock().unwrap() = Some(reply);
            self.push(Phase::Parked, question(&asked(), 1, Continuation::Parked(true)));
            let answers = answered.await.unwrap_or_default();
            let complete = answers.iter().any(|answer| answer.key == "who");
            if complete || self.fault == Some(Fault::IncompleteTaken) {
                return Body::RawResult(text("asked").to_string().into());
            }
        }
    }

    /// The number behind which the answer to a round begins; `None` if it was not asked.
    pub(super) fn resume(&self, request: pb::ResumeRequest) -> Option<u64> {
        let state = self.state.borrow();
        let asked = state.frames.iter().rev().find_map(|frame| match &frame.kind {
            Some(Body::InputRequired(input)) if input.round == request.round => Some(frame.number),
            Some(_) | None => None,
        });
        let parked = state.phase == Phase::Parked;
        drop(state);
        if asked.is_some() && !parked && self.fault == Some(Fault::RoundRunsAgain) {
            self.push(Phase::Over, Body::RawResult(text("asked again").to_string().into()));
        }
        if asked.is_none() {
            return (self.fault == Some(Fault::RoundUnknownTaken)).then_some(0);
        }
        if let Some(reply) = self.reply.lock().unwrap().take() {
            self.state.send_modify(|state| state.phase = Phase::Running);
            // A handler that was cancelled meanwhile does not listen.
            drop(reply.send(request.responses));
        }
        asked
    }

    /// Frames from a place in the list on, until an ending that nothing follows.
    pub(super) fn frames(self: &Arc<Self>, after: u64) -> Frames {
        self.state.send_modify(|state| state.readers += 1);
        let reader = Reader { call: self.clone(), seen: after, ended: false };
        let frames = stream::unfold(reader, |mut reader| async move {
            let frame = reader.next().await?;
            Some((Ok(frame), reader))
        });
        match self.fault {
            Some(Fault::EndingThenOpen) => frames.chain(stream::pending()).boxed(),
            Some(Fault::EndingThenError) => {
                frames.chain(stream::iter([Err(Status::internal("broken"))])).boxed()
            }
            Some(_) | None => frames.boxed(),
        }
    }

    /// Cancelled, past its deadline, or left by the only one who cared.
    pub(super) async fn stopped(&self, deadline: Option<Duration>) {
        let deadline = deadline.filter(|_| self.fault != Some(Fault::DeadlineIgnored));
        let late = async {
            match deadline {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.cancelled.notified() => {}
            () = late => {}
        }
    }
}

struct Reader {
    call: Arc<Call>,
    seen: u64,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<pb::Frame> {
        let mut changes = self.call.state.subscribe();
        loop {
            let (frame, phase) = {
                let state = changes.borrow_and_update();
                let at = usize::try_from(self.seen).unwrap();
                (state.frames.get(at).cloned(), state.phase)
            };
            if let Some(frame) = frame {
                self.seen += 1;
                let step = matches!(
                    frame.kind,
                    Some(Body::Accepted(_) | Body::RawProgress(_) | Body::RawLog(_) | Body::Detach(_))
                );
                self.ended = !step;
                return Some(frame);
            }
            let waits = self.call.fault != Some(Fault::ParkedAttachCloses);
            if phase == Phase::Over || phase == Phase::Parked && (self.ended || !waits) {
                self.ended = true;
                return None;
            }
            changes.changed().await.ok()?;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.call.state.send_modify(|state| state.readers -= 1);
        let last = self.call.state.borrow().readers == 0;
        let abandons = match self.call.fault {
            Some(Fault::LeavingCancels) => true,
            Some(Fault::OwnerlessGoesOn) => false,
            Some(Fault::OwnerlessLeftEarly) => !self.call.owned(),
            Some(_) | None => !self.call.owned() && last,
        };
        if abandons && !self.ended {
            self.call.cancelled.notify_one();
        }
    }
}
