//! One invocation at a registry: started, followed across broken streams, resumed, cancelled.
//!
//! Frames are numbered, so the same frame heard twice (from the first stream and from an attach) counts once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::registry::{Context, Frame, FrameBody, Frames, InputRequired, InputResponse, Operation, Start};
use api::{Code, Detail, Error};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use machines::CallFrame;
use tokio::time::sleep;

use super::Route;

/// Between two attempts to come back to an invocation.
const ATTACH_PAUSE: Duration = Duration::from_millis(100);
/// How long a registry may be out of reach before the outcome of a running call is given up as unknown.
const ATTACH_PATIENCE: Duration = Duration::from_secs(5);

/// What a call's stream reports to its host.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    /// For the machine as it is.
    Frame(CallFrame),
    /// Input is needed; the host decides how it goes on.
    InputRequired(InputRequired),
}

/// See the module.
pub(crate) struct Call {
    pub(crate) route: Route,
    begin: Start,
    state: Mutex<State>,
    last: AtomicU64,
}

struct State {
    context: Context,
    instance: Option<String>,
}

impl Call {
    pub(crate) fn new(route: Route, begin: Start, context: Context) -> Arc<Self> {
        let state = Mutex::new(State { context, instance: None });
        Arc::new(Self { route, begin, state, last: AtomicU64::new(0) })
    }

    pub(crate) fn context(&self) -> Context {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).context.clone()
    }

    /// The instance that took it on.
    pub(crate) fn instance(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).instance.clone()
    }

    /// The same call goes on under a new invocation: its frames are numbered anew.
    pub(crate) fn renew(&self, invocation: String) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).context.invocation = invocation;
        self.last.store(0, Ordering::Relaxed);
    }

    /// Starts it and follows it to the ending of the round.
    pub(crate) fn begin(self: Arc<Self>) -> BoxStream<'static, Heard> {
        let begin = self.begin.clone();
        self.start(begin)
    }

    /// The same with another beginning.
    pub(crate) fn start(self: Arc<Self>, start: Start) -> BoxStream<'static, Heard> {
        async_stream::stream! {
            let context = self.context();
            let mut outcome = self.route.link.port.start(context.clone(), start.clone()).await;
            loop {
                let broken = match outcome {
                    Ok(mut frames) => {
                        let mut ended = false;
                        let mut broken = None;
                        while let Some(item) = frames.next().await {
                            match item {
                                Ok(frame) => {
                                    let ending = frame.body.is_ending();
                                    if let Some(heard) = self.heard(frame) {
                                        yield heard;
                                    }
                                    if ending {
                                        ended = true;
                                        break;
                                    }
                                }
                                Err(error) => {
                                    broken = Some(error);
                                    break;
                                }
                            }
                        }
                        if ended {
                            return;
                        }
                        broken.unwrap_or_else(|| Error::new(Code::Unavailable, "the stream ended without an ending"))
                    }
                    Err(error) if provably_not_executed(&error) || context.owner.is_none() => {
                        yield lost(&error);
                        return;
                    }
                    Err(error) => error,
                };
                match self.come_back(&start, broken).await {
                    Ok(frames) => outcome = Ok(frames),
                    Err(frame) => {
                        yield Heard::Frame(frame);
                        return;
                    }
                }
            }
        }
        .boxed()
    }

    /// After a broken stream: what is journaled is attached to, what is safe to repeat is sent again, the rest is lost.
    async fn come_back(&self, start: &Start, broken: Error) -> Result<Frames, CallFrame> {
        let context = self.context();
        let unknown = |reason| CallFrame::Lost { reason, not_executed: false };
        let Some(deadline) = context.deadline.filter(|_| context.owner.is_some()) else {
            return Err(unknown(reason_of(&broken)));
        };
        let patience = Instant::now() + ATTACH_PATIENCE;
        loop {
            let now = Instant::now();
            if now >= deadline || now >= patience {
                return Err(unknown(if now >= deadline { "timeout" } else { "registry_lost" }));
            }
            sleep(ATTACH_PAUSE).await;
            let port = &self.route.link.port;
            let again = match self.begin.operation {
                Operation::Call => port.attach(context.clone(), self.last.load(Ordering::Relaxed)).await,
                Operation::Read | Operation::Get => port.start(context.clone(), start.clone()).await,
            };
            match again {
                Ok(frames) => return Ok(frames),
                Err(error) if error.code == Code::Unavailable || error.code == Code::Overloaded => {}
                Err(error) => return Err(unknown(reason_of(&error))),
            }
        }
    }

    /// Hears what a parked invocation says while its questions are open.
    pub(crate) fn attach(self: Arc<Self>) -> BoxStream<'static, Heard> {
        async_stream::stream! {
            let after = self.last.load(Ordering::Relaxed);
            // If this fails, the answers are sent by `resume` all the same, and its outcome counts.
            if let Ok(mut frames) = self.route.link.port.attach(self.context(), after).await {
                while let Some(Ok(frame)) = frames.next().await {
                    if let Some(heard) = self.heard(frame) {
                        yield heard;
                    }
                }
            }
        }
        .boxed()
    }

    /// Answers a parked invocation.
    pub(crate) fn resume(
        self: Arc<Self>,
        round: u32,
        responses: Vec<InputResponse>,
    ) -> BoxStream<'static, Heard> {
        async_stream::stream! {
            match self.route.link.port.resume(self.context(), round, responses).await {
                Ok(mut frames) => {
                    let mut ended = false;
                    while let Some(Ok(frame)) = frames.next().await {
                        ended |= frame.body.is_ending();
                        if let Some(heard) = self.heard(frame) {
                            yield heard;
                        }
                    }
                    if !ended {
                        yield Heard::Frame(CallFrame::Lost { reason: "registry_lost", not_executed: false });
                    }
                }
                Err(error) => yield Heard::Frame(CallFrame::Lost { reason: reason_of(&error), not_executed: false }),
            }
        }
        .boxed()
    }

    /// Takes note of a frame; `None` if it was heard before or is not for the machine.
    fn heard(&self, frame: Frame) -> Option<Heard> {
        if self.last.fetch_max(frame.number, Ordering::Relaxed) >= frame.number {
            return None;
        }
        Some(Heard::Frame(match frame.body {
            FrameBody::Accepted { instance, .. } => {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).instance = Some(instance.clone());
                CallFrame::Accepted { instance }
            }
            FrameBody::Progress(params) => CallFrame::Progress(params),
            FrameBody::Log(params) => CallFrame::Log(params),
            FrameBody::Notice { method, params } => CallFrame::Notice { method, params },
            FrameBody::Detach { retry_ms } => CallFrame::Detach { retry_ms },
            FrameBody::Result(result) => CallFrame::Result(result),
            FrameBody::Error(error) => CallFrame::Error(error),
            FrameBody::Task(task) => CallFrame::Task(task),
            FrameBody::InputRequired(input) => return Some(Heard::InputRequired(input)),
        }))
    }

    /// What to start a handler with that has returned and is called again.
    pub(crate) fn again(&self, round: api::registry::Round) -> Start {
        Start { continuation: Some(round), ..self.begin.clone() }
    }
}

fn provably_not_executed(error: &Error) -> bool {
    match &error.detail {
        Some(Detail::Draining | Detail::NotReached | Detail::Overloaded { .. }) => true,
        Some(
            Detail::NotOwner { .. }
            | Detail::StaleEpoch { .. }
            | Detail::OutcomeUnknown { .. }
            | Detail::BadState,
        )
        | None => matches!(
            error.code,
            Code::InvalidRequest
                | Code::Unimplemented
                | Code::NotFound
                | Code::Unauthenticated
                | Code::Denied
                | Code::Overloaded
        ),
    }
}

fn lost(error: &Error) -> Heard {
    Heard::Frame(CallFrame::Lost { reason: reason_of(error), not_executed: provably_not_executed(error) })
}

fn reason_of(error: &Error) -> &'static str {
    match error.code {
        Code::Overloaded => "overloaded",
        Code::Deadline => "timeout",
        Code::Unavailable | Code::NotFound => "registry_lost",
        Code::Precondition => "owner_changed",
        Code::InvalidRequest
        | Code::Unimplemented
        | Code::Unauthenticated
        | Code::Denied
        | Code::Cancelled
        | Code::OutcomeUnknown
        | Code::Internal => "registry_failed",
    }
}
