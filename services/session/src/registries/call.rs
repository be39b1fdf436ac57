//! One invocation at a registry: started, followed across broken streams, resumed, cancelled.
//!
//! Frames are numbered, so the same frame heard twice (from the first stream and from an attach) counts once. A call that
//! provably was not executed at one replica goes to another; once one may have taken it on, it stays there, whatever happens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::registry::{Context, Frame, FrameBody, Frames, InputRequired, InputResponse, Operation, Start};
use api::{Code, Detail, Error};
use chassis::telemetry::adopt;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use machines::CallFrame;
use mcp::scan;
use tokio::time::{Instant, sleep, timeout_at};

use super::link::Held;
use super::route::{PATIENCE, PAUSE, Search, goes_elsewhere, is_transient};
use super::{Link, Route};
use crate::calling::new_invocation;
use crate::observe::{Asking, Observed};

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
    pub(super) begin: Arc<Start>,
    state: Mutex<State>,
    last: AtomicU64,
    /// Endings heard so far, one for each round.
    endings: AtomicU64,
}

/// How to go on when a stream breaks.
pub(super) enum Again {
    /// Its frames are kept where it was taken on; before, another replica may do it.
    Call(Arc<Start>),
    /// Its frames are kept.
    Attach,
    /// It may be done twice.
    Read(Arc<Start>),
    /// The same answers to the same round.
    Resume(u32, Vec<InputResponse>),
}

struct State {
    asking: Asking,
    context: Context,
    instance: Option<String>,
    place: Place,
    /// It shall not be begun any more.
    cancelled: Option<String>,
}

/// Where an invocation is.
enum Place {
    /// It was not sent anywhere yet.
    Open,
    /// Another owner sent it to a process that has to be found.
    Taken,
    /// At this process, if anywhere.
    At(Held),
    /// No process has it.
    Nowhere,
}

impl Call {
    pub(crate) fn new(observed: &Arc<Observed>, route: Route, begin: Start, context: Context) -> Arc<Self> {
        let asking = Asking::of_start(observed, &route, &begin, context.revision);
        let state = State { asking, context, instance: None, place: Place::Open, cancelled: None };
        let (begin, state) = (Arc::new(begin), Mutex::new(state));
        Arc::new(Self { route, begin, state, last: AtomicU64::default(), endings: AtomicU64::default() })
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
        let mut state = call.state();
        (state.instance, state.place) = (instance, Place::Taken);
        drop(state);
        call.last.store(heard, Ordering::Relaxed);
        call
    }

    /// Takes note of what is passed on.
    pub(super) fn note(&self, frame: CallFrame) -> CallFrame {
        self.asking(|asking| asking.heard(&frame));
        frame
    }

    pub(super) fn asking<T>(&self, act: impl FnOnce(&mut Asking) -> T) -> T {
        act(&mut self.state().asking)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn context(&self) -> Context {
        self.state().context.clone()
    }

    /// Number of the last frame that was passed on.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// The instance that took it on.
    pub(crate) fn instance(&self) -> Option<String> {
        self.state().instance.clone()
    }

    /// The process that it is at; `None` while it was not sent to any.
    pub(crate) fn place(&self) -> Option<Arc<Link>> {
        match &self.state().place {
            Place::At(held) => Some(held.link().clone()),
            Place::Open | Place::Taken | Place::Nowhere => None,
        }
    }

    /// From now on it is at this process.
    pub(crate) fn put(&self, link: &Arc<Link>) {
        self.state().put(link);
    }

    /// It belongs to this registry of its process.
    pub(super) fn found_in(&self, registry: &str) {
        registry.clone_into(&mut self.state().context.registry);
    }

    /// No process has it: what is asked of it from now on is refused.
    pub(crate) fn put_nowhere(&self) {
        self.state().place = Place::Nowhere;
    }

    /// It shall stop. Its registry is told so whatever becomes of whoever began it.
    pub(crate) fn cancel(&self, reason: String) {
        let (context, at) = {
            let mut state = self.state();
            state.cancelled = Some(reason.clone());
            (state.context.clone(), self.everywhere(&state))
        };
        for link in at {
            link.cancel(context.clone(), reason.clone());
        }
    }

    /// It will not be come back to any more.
    pub(crate) fn release(&self) {
        let state = self.state();
        match &state.place {
            Place::At(held) => held.link().release(&state.context),
            Place::Taken | Place::Open | Place::Nowhere => {
                self.everywhere(&state).iter().for_each(|link| link.release(&state.context));
            }
        }
    }

    /// The processes that may have it.
    fn everywhere(&self, state: &State) -> Vec<Arc<Link>> {
        match &state.place {
            Place::At(held) => vec![held.link().clone()],
            Place::Taken => self.route.all.serving(&state.context.registry),
            Place::Open | Place::Nowhere => Vec::new(),
        }
    }

    /// The same call goes on under a new invocation: its frames are numbered anew.
    pub(crate) fn renew(&self, invocation: String) {
        let mut state = self.state();
        state.context.invocation = invocation;
        state.instance = None;
        drop(state);
        self.last.store(0, Ordering::Relaxed);
    }

    /// Starts it and follows it to the ending of the round.
    pub(crate) fn begin(self: Arc<Self>) -> BoxStream<'static, Heard> {
        let begin = self.begin.clone();
        self.start(begin)
    }

    /// The same with another beginning.
    pub(crate) fn start(self: Arc<Self>, start: Arc<Start>) -> BoxStream<'static, Heard> {
        let again = match start.operation {
            Operation::Call => Again::Call(start),
            Operation::Read | Operation::Get => Again::Read(start),
        };
        self.follow(None, again)
    }

    /// Answers a parked invocation. A repeated answer is not answered again, so it may be sent again.
    pub(crate) fn resume(
        self: Arc<Self>,
        round: u32,
        responses: Vec<InputResponse>,
    ) -> BoxStream<'static, Heard> {
        self.follow(None, Again::Resume(round, responses))
    }

    /// Passes frames on up to the ending of the round, across streams that break. There always is an ending.
    pub(super) fn follow(self: Arc<Self>, first: Option<Frames>, again: Again) -> BoxStream<'static, Heard> {
        let before = self.endings.load(Ordering::Relaxed);
        let scope = self.scope();
        let frames = async_stream::stream! {
            let mut search = self.route.search(&self.state().context);
            let mut opened = match first {
                Some(frames) => Ok(frames),
                None => self.open(&again, &mut search).await,
            };
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
                match self.come_back(&again, broken, &mut search, until).await {
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

    async fn open(&self, again: &Again, search: &mut Search<'_>) -> Result<Frames, Error> {
        match again {
            Again::Call(start) | Again::Read(start) => self.somewhere(start, search).await,
            Again::Attach | Again::Resume(..) => self.once_more(again, search).await,
        }
    }

    /// Starts it at the first replica that does not provably refuse it.
    async fn somewhere(&self, start: &Arc<Start>, search: &mut Search<'_>) -> Result<Frames, Error> {
        let mut refused = super::route::nobody();
        while let Some(link) = search.next().await {
            let context = {
                let mut state = self.state();
                state.put(&link);
                if state.cancelled.is_some() {
                    return Err(refused);
                }
                state.context.clone()
            };
            match link.port.start(context, Start::clone(start)).await {
                Err(error) if goes_elsewhere(&error) => {
                    search.exclude(link.id);
                    refused = error;
                }
                answered => return answered,
            }
        }
        Err(refused)
    }

    /// After a stream that broke, or was not opened: what is kept is come back to, what is safe to repeat is sent again, the
    /// rest is lost.
    async fn come_back(
        &self,
        again: &Again,
        mut broken: Error,
        search: &mut Search<'_>,
        until: Instant,
    ) -> Result<Frames, CallFrame> {
        let unknown = |reason| CallFrame::Lost { reason, not_executed: false };
        let taken_on = self.last() > 0;
        if let (Again::Call(start), false, Some(at)) = (again, taken_on, self.place())
            && goes_elsewhere(&broken)
        {
            search.exclude(at.id);
            match self.somewhere(start, search).await {
                Ok(frames) => return Ok(frames),
                Err(error) => broken = error,
            }
        }
        let context = self.context();
        let may = match again {
            Again::Read(_) => is_transient(&broken),
            Again::Call(_) | Again::Attach => {
                context.owner.is_some() && (taken_on || !provably_not_executed(&broken))
            }
            Again::Resume(..) => context.owner.is_some(),
        };
        let Some(deadline) = context.deadline.filter(|_| may) else {
            let untouched = !taken_on && matches!(again, Again::Call(_) | Again::Read(_));
            return Err(if untouched { lost(&broken) } else { unknown(reason_of(&broken)) });
        };
        loop {
            if std::time::Instant::now() >= deadline {
                return Err(unknown("timeout"));
            }
            if Instant::now() >= until {
                return Err(unknown("registry_lost"));
            }
            let is_elsewhere = match (again, self.place()) {
                (Again::Read(_), Some(at)) => search.leave_out(at.id),
                (Again::Read(_) | Again::Call(_) | Again::Attach | Again::Resume(..), _) => false,
            };
            if !is_elsewhere {
                sleep(PAUSE).await;
            }
            // A registry that hangs is as far out of reach as one that is gone.
            match timeout_at(until, self.once_more(again, search)).await {
                Ok(Ok(frames)) => return Ok(frames),
                Ok(Err(error)) if !is_transient(&error) => return Err(unknown(reason_of(&error))),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    async fn once_more(&self, again: &Again, search: &mut Search<'_>) -> Result<Frames, Error> {
        adopt(self.scope());
        match again {
            Again::Call(_) | Again::Attach => self.at().await?.port.attach(self.context(), self.last()).await,
            Again::Read(start) => {
                // Another invocation: the one before may be ending because its caller was lost.
                if self.context().owner.is_some() {
                    self.release();
                }
                self.renew(new_invocation().ok_or_else(|| Error::new(Code::Internal, "no random bytes"))?);
                let link = search.next().await.ok_or_else(super::route::nobody)?;
                self.put(&link);
                link.port.start(self.context(), Start::clone(start)).await
            }
            Again::Resume(round, responses) => {
                self.at().await?.port.resume(self.context(), *round, responses.clone()).await
            }
        }
    }

    /// Where it is. One of another owner is looked for.
    async fn at(&self) -> Result<Arc<Link>, Error> {
        let is_taken = matches!(self.state().place, Place::Taken);
        let found = if is_taken { self.locate().await } else { self.place() };
        found.ok_or_else(|| Error::not_found("no process has the invocation"))
    }

    /// Hears what a parked invocation says while its questions are open.
    pub(crate) fn attach(self: Arc<Self>) -> BoxStream<'static, Heard> {
        let scope = self.scope();
        let frames = async_stream::stream! {
            let Ok(link) = self.at().await else { return };
            // If this fails, the answers are sent by `resume` all the same, and its outcome counts.
            if let Ok(mut frames) = link.port.attach(self.context(), self.last()).await {
                while let Some(Ok(frame)) = frames.next().await {
                    if let Some(heard) = self.heard(frame) {
                        yield heard;
                    }
                }
            }
        };
        scope.within(frames).boxed()
    }

    /// Takes note of a frame; `None` if it was heard before or is not for the machine.
    fn heard(&self, frame: Frame) -> Option<Heard> {
        if self.last.fetch_max(frame.number, Ordering::Relaxed) >= frame.number {
            return None;
        }
        if frame.body.is_ending() {
            self.endings.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = self.state();
        let frame = match frame.body {
            FrameBody::Accepted { instance, .. } => {
                state.accepted(&instance);
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
        };
        state.asking.heard(&frame);
        Some(Heard::Frame(frame))
    }

    /// What to start a handler with that has returned and is called again.
    pub(crate) fn again(&self, round: api::registry::Round) -> Start {
        Start { continuation: Some(round), ..Start::clone(&self.begin) }
    }
}

impl State {
    /// From now on it is at this process.
    fn put(&mut self, link: &Arc<Link>) {
        self.place = Place::At(link.hold());
        // Told before it was known where.
        if let Some(reason) = &self.cancelled {
            link.cancel(self.context.clone(), reason.clone());
        }
        self.asking.asks(link);
    }

    fn accepted(&mut self, instance: &str) {
        self.instance = Some(instance.to_owned());
        // The cancellation may have come there before what it cancels.
        if let (Some(reason), Place::At(held)) = (&self.cancelled, &self.place) {
            held.link().cancel(self.context.clone(), reason.clone());
        }
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

/// The ending of what was never taken on.
pub(crate) fn lost(error: &Error) -> CallFrame {
    CallFrame::Lost { reason: reason_of(error), not_executed: provably_not_executed(error) }
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
