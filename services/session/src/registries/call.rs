//! One invocation at a registry: started, followed across broken streams, resumed, cancelled.
//!
//! Frames are numbered, so the same frame heard twice (from the first stream and from an attach) counts once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::registry::{Context, Frame, FrameBody, Frames, InputRequired, InputResponse, Operation, Start};
use api::{Code, Detail, Error};
use chassis::telemetry::Scope;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use machines::CallFrame;
use mcp::scan;
use tokio::time::{Instant, sleep, timeout_at};

use super::Route;
use crate::calling::new_invocation;
use crate::observe::{Asking, Observed};

/// Between two attempts to come back to an invocation.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a registry may be out of reach before the outcome of a running call is given up as unknown.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// Endings heard so far, one for each round.
    endings: AtomicU64,
    asking: Mutex<Asking>,
    scope: Scope,
}

/// How to go on when a stream breaks.
enum Again {
    /// Its frames are kept.
    Attach,
    /// It may be done twice.
    Start(Start),
    /// The same answers to the same round.
    Resume(u32, Vec<InputResponse>),
}

struct State {
    context: Context,
    instance: Option<String>,
}

impl Call {
    pub(crate) fn new(observed: &Arc<Observed>, route: Route, begin: Start, context: Context) -> Arc<Self> {
        let asking = Asking::of_start(observed, &route, &begin, context.revision);
        let state = Mutex::new(State { context, instance: None });
        Arc::new(Self {
            route,
            begin,
            state,
            last: AtomicU64::new(0),
            endings: AtomicU64::new(0),
            scope: asking.scope(),
            asking: Mutex::new(asking),
        })
    }

    /// A call that another owner has begun, and of which frames up to `heard` are known.
    pub(crate) fn taken_over(
        observed: &Arc<Observed>,
        route: Route,
        begin: Start,
        context: Context,
        instance: Option<String>,
        heard: u64,
    ) -> Arc<Self> {
        let call = Self::new(observed, route, begin, context);
        call.state.lock().unwrap_or_else(PoisonError::into_inner).instance = instance;
        call.last.store(heard, Ordering::Relaxed);
        call
    }

    /// Follows it to the ending of the round, from the last frame that is known.
    pub(crate) fn pick_up(self: Arc<Self>) -> BoxStream<'static, Heard> {
        let call = self.clone();
        self.follow(async move { call.once_more(&Again::Attach).await }, Again::Attach)
    }

    /// Takes note of what is passed on.
    fn note(&self, frame: CallFrame) -> CallFrame {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).heard(&frame);
        frame
    }

    pub(crate) fn context(&self) -> Context {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).context.clone()
    }

    /// Number of the last frame that was passed on.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// The instance that took it on.
    pub(crate) fn instance(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).instance.clone()
    }

    /// It shall stop. Its registry is told so whatever becomes of whoever began it.
    pub(crate) fn cancel(&self, reason: String) {
        self.route.link.cancel(self.context(), reason);
    }

    /// It will not be come back to any more.
    pub(crate) fn release(&self) {
        self.route.link.release(self.context());
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
        let again = match start.operation {
            Operation::Call => Again::Attach,
            Operation::Read | Operation::Get => Again::Start(start.clone()),
        };
        let (port, context) = (self.route.link.port.clone(), self.context());
        self.follow(async move { port.start(context, start).await }, again)
    }

    /// Answers a parked invocation. A repeated answer is not answered again, so it may be sent again.
    pub(crate) fn resume(
        self: Arc<Self>,
        round: u32,
        responses: Vec<InputResponse>,
    ) -> BoxStream<'static, Heard> {
        let again = Again::Resume(round, responses.clone());
        let (port, context) = (self.route.link.port.clone(), self.context());
        self.follow(async move { port.resume(context, round, responses).await }, again)
    }

    /// Passes frames on up to the ending of the round, across streams that break. There always is an ending.
    fn follow(
        self: Arc<Self>,
        first: impl Future<Output = Result<Frames, Error>> + Send + 'static,
        again: Again,
    ) -> BoxStream<'static, Heard> {
        let before = self.endings.load(Ordering::Relaxed);
        let scope = self.scope.clone();
        let frames = async_stream::stream! {
            let mut opened = first.await;
            let mut patience = None;
            loop {
                let mut broken = Error::new(Code::Unavailable, "the stream ended without an ending");
                match opened {
                    Err(error) => broken = error,
                    Ok(mut frames) => while let Some(item) = frames.next().await {
                        let frame = match item {
                            Ok(frame) => frame,
                            Err(error) => {
                                broken = error;
                                break;
                            }
                        };
                        let ending = frame.body.is_ending();
                        if let Some(heard) = self.heard(frame) {
                            patience = None;
                            yield heard;
                        }
                        if ending {
                            // Heard before by nobody, though its number was: numbers that do not rise are a defect.
                            if self.endings.load(Ordering::Relaxed) == before {
                                yield Heard::Frame(self.note(FAILED));
                            }
                            return;
                        }
                    },
                }
                let until = *patience.get_or_insert_with(|| Instant::now() + PATIENCE);
                match self.come_back(&again, broken, until).await {
                    Ok(frames) => opened = Ok(frames),
                    Err(frame) => {
                        yield Heard::Frame(self.note(frame));
                        return;
                    }
                }
            }
        };
        scope.within(frames).boxed()
    }

    /// After a stream that broke, or was not opened: what is kept is come back to, what is safe to repeat is sent again, the
    /// rest is lost.
    async fn come_back(&self, again: &Again, broken: Error, until: Instant) -> Result<Frames, CallFrame> {
        let unknown = |reason| CallFrame::Lost { reason, not_executed: false };
        let context = self.context();
        let taken_on = self.last.load(Ordering::Relaxed) > 0;
        let may = match again {
            Again::Start(_) => is_transient(&broken),
            Again::Attach => context.owner.is_some() && (taken_on || !provably_not_executed(&broken)),
            Again::Resume(..) => context.owner.is_some(),
        };
        let Some(deadline) = context.deadline.filter(|_| may) else {
            let untouched = !taken_on && !matches!(again, Again::Resume(..));
            return Err(if untouched { lost(&broken) } else { unknown(reason_of(&broken)) });
        };
        loop {
            if std::time::Instant::now() >= deadline {
                return Err(unknown("timeout"));
            }
            if Instant::now() >= until {
                return Err(unknown("registry_lost"));
            }
            sleep(PAUSE).await;
            // A registry that hangs is as far out of reach as one that is gone.
            match timeout_at(until, self.once_more(again)).await {
                Ok(Ok(frames)) => return Ok(frames),
                Ok(Err(error)) if !is_transient(&error) => return Err(unknown(reason_of(&error))),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    async fn once_more(&self, again: &Again) -> Result<Frames, Error> {
        let port = &self.route.link.port;
        match again {
            Again::Attach => port.attach(self.context(), self.last.load(Ordering::Relaxed)).await,
            Again::Start(start) => {
                // Another invocation: the one before may be ending because its caller was lost.
                let before = self.context();
                if before.owner.is_some() {
                    self.route.link.release(before);
                }
                self.renew(new_invocation().ok_or_else(|| Error::new(Code::Internal, "no random bytes"))?);
                port.start(self.context(), start.clone()).await
            }
            Again::Resume(round, responses) => port.resume(self.context(), *round, responses.clone()).await,
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

    /// Takes note of a frame; `None` if it was heard before or is not for the machine.
    fn heard(&self, frame: Frame) -> Option<Heard> {
        if self.last.fetch_max(frame.number, Ordering::Relaxed) >= frame.number {
            return None;
        }
        if frame.body.is_ending() {
            self.endings.fetch_add(1, Ordering::Relaxed);
        }
        Some(Heard::Frame(self.note(match frame.body {
            FrameBody::Accepted { instance, .. } => {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).instance = Some(instance.clone());
                CallFrame::Accepted { instance }
            }
            FrameBody::Progress(params) => CallFrame::Progress(params),
            FrameBody::Log(params) => CallFrame::Log(params),
            FrameBody::Notice { method, params } => CallFrame::Notice { method, params },
            FrameBody::Detach { retry_ms } => CallFrame::Detach { retry_ms },
            FrameBody::Result(result) if scan::is_object(result.as_str()) => CallFrame::Result(result),
            FrameBody::Task(task) if scan::is_object(task.as_str()) => CallFrame::Task(task),
            FrameBody::Result(_) | FrameBody::Task(_) => FAILED,
            FrameBody::Error(error) => CallFrame::Error(error),
            FrameBody::InputRequired(input) => return Some(Heard::InputRequired(input)),
        })))
    }

    /// What to start a handler with that has returned and is called again.
    pub(crate) fn again(&self, round: api::registry::Round) -> Start {
        Start { continuation: Some(round), ..self.begin.clone() }
    }
}

/// The ending of a call whose registry breaks the contract.
const FAILED: CallFrame = CallFrame::Lost { reason: "registry_failed", not_executed: false };

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

/// The peer cannot be reached or is busy: it may be asked again what is safe to ask twice.
const fn is_transient(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::Overloaded)
}

/// The ending of what was never taken on.
pub(crate) fn lost(error: &Error) -> CallFrame {
    CallFrame::Lost { reason: reason_of(error), not_executed: provably_not_executed(error) }
}

/// Asks for one answer, and again while the registry is out of reach.
///
/// # Errors
/// What kept the registry from answering.
pub(crate) async fn ask_patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(error) if is_transient(&error) && Instant::now() < until => sleep(PAUSE).await,
            answered => return answered,
        }
    }
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

#[cfg(test)]
mod tests;
