//! Runs a handler to its one ending: its own, or that of a cancellation, a deadline or a panic.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};

use api::registry::{Continuation, FrameBody, InputRequired};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use mcp::rpc::RpcError;
use tracing::Span;

use super::{Invocation, Table};
use crate::error::Error;
use crate::output::{Answered, Body};
use crate::runtime::Spawner;
use crate::span;

/// What an invocation does.
pub(crate) struct Work {
    pub(crate) handler: BoxFuture<'static, Answered>,
    /// From 1.
    pub(crate) round: u32,
    /// The handler's, which is told how it ended.
    pub(crate) span: Span,
}

/// Starts the handler. One that is done at once needs no task.
pub(crate) fn start(invocation: Arc<Invocation>, work: Work, table: Weak<Table>, spawner: &dyn Spawner) {
    let mut work = run(invocation, work, table).boxed();
    let mut nobody = Context::from_waker(Waker::noop());
    // Spawned work is polled again with a waker of its own, so nothing is lost with this one.
    if work.as_mut().poll(&mut nobody).is_pending() {
        spawner.spawn(work);
    }
}

async fn run(invocation: Arc<Invocation>, work: Work, table: Weak<Table>) {
    let Work { handler, round, span } = work;
    let finished = Finished { invocation: &invocation, table };
    let ending = match supervise(&invocation, handler).await {
        Ended::Answered(answered) => invocation.ending(answered, round),
        Ended::Cancelled => FrameBody::Error(RpcError::reason("cancelled", "cancelled")),
        Ended::Deadline => {
            FrameBody::Error(RpcError::reason("the call took longer than its caller waits", "deadline"))
        }
        Ended::Panicked => {
            tracing::error!(invocation = invocation.key.invocation, "a handler panicked");
            FrameBody::Error(RpcError::reason("internal error", "panic"))
        }
    };
    span::close(span, invocation.operation, &ending);
    invocation.end(ending);
    drop(finished);
}

/// Tells the table, even where the work itself is dropped before its end.
struct Finished<'a> {
    invocation: &'a Arc<Invocation>,
    table: Weak<Table>,
}

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        if !self.invocation.is_ended() {
            self.invocation.end(FrameBody::Error(RpcError::reason("the registry has stopped", "stopped")));
        }
        if let Some(table) = self.table.upgrade() {
            table.finished(self.invocation);
        }
    }
}

enum Ended {
    Answered(Answered),
    Cancelled,
    Deadline,
    Panicked,
}

async fn supervise(invocation: &Arc<Invocation>, handler: BoxFuture<'static, Answered>) -> Ended {
    let clock = invocation.shared.clock.clone();
    let mut handler = AssertUnwindSafe(handler).catch_unwind();
    // Most are done at once and need neither a timer nor a look at anything else.
    if let Some(done) = (&mut handler).now_or_never() {
        return done.map_or(Ended::Panicked, Ended::Answered);
    }
    let why = loop {
        let timer = match invocation.deadline() {
            Some(until) => clock.sleep_until(until),
            None => futures::future::pending().boxed(),
        };
        tokio::select! {
            biased;
            done = &mut handler => return done.map_or(Ended::Panicked, Ended::Answered),
            () = invocation.cancel.cancelled() => break Ended::Cancelled,
            () = timer => break Ended::Deadline,
            () = invocation.moved.notified() => {}
        }
    };
    invocation.cancel.cancel();
    let until = clock.now() + invocation.shared.limits.cancel_grace;
    let grace = clock.sleep_until(until);
    if !invocation.listens.load(Ordering::Relaxed) {
        // It may be about to notice: once more, then it is dropped.
        return match (&mut handler).now_or_never() {
            Some(Ok(Err(Error::Cancelled))) | None => why,
            Some(done) => done.map_or(Ended::Panicked, Ended::Answered),
        };
    }
    tokio::select! {
        biased;
        done = &mut handler => match done {
            Ok(Err(Error::Cancelled)) => why,
            done => done.map_or(Ended::Panicked, Ended::Answered),
        },
        () = grace => why,
    }
}

impl Invocation {
    fn ending(&self, answered: Answered, round: u32) -> FrameBody {
        let outcome = match answered {
            Ok(output) => match output.0 {
                Body::Result(result) => Ok(result),
                Body::Task(task) => return FrameBody::Task(task),
                Body::InputRequired { ask, state } => {
                    match ask.check(self.context().client_capabilities.as_ref()) {
                        Ok(()) => return self.stateless(&ask, state, round),
                        Err(missing) => missing.into_outcome(self.operation),
                    }
                }
            },
            Err(error) => error.into_outcome(self.operation),
        };
        match outcome {
            Ok(result) if result.as_str().len() > self.shared.limits.result_bytes => {
                tracing::error!(bytes = result.as_str().len(), "a result is too large to be sent");
                FrameBody::Error(RpcError::reason("the result is too large", "result_too_large"))
            }
            Ok(result) => FrameBody::Result(result),
            Err(error) => FrameBody::Error(error),
        }
    }

    fn stateless(&self, ask: &crate::ask::Ask, state: bytes::Bytes, round: u32) -> FrameBody {
        let patience = u64::try_from(ask.patience.as_millis()).unwrap_or(u64::MAX);
        FrameBody::InputRequired(InputRequired {
            requests: ask.to_json(|_| true),
            round,
            expires_unix_ms: self.shared.clock.unix_millis().saturating_add(patience),
            continuation: Continuation::State(state),
        })
    }
}
