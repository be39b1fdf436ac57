//! The only place where tasks are spawned. A task has a kind, a name, an owner and an end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle as Runtime;
use tokio::task::JoinHandle;

use crate::telemetry::Scope;

/// What a task is for, which says what its failure means. Every kind ends when its owner lets go of the handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Carries a role. Its owner waits for it: when it ends before it was asked to, the process stops.
    Role,
    /// Works for one caller. A panic fails that caller and nobody else.
    Call,
    /// Keeps something fresh (a watch, a probe, a sweep). A panic costs freshness; its owner decides whether to start it again.
    Upkeep,
}

impl Kind {
    /// Only work for a caller belongs to the caller's trace; a task that outlives a request must not hold its span.
    fn scope(self) -> Scope {
        let scope = Scope::current();
        match self {
            Self::Role | Self::Upkeep => Scope::of_role(scope.role()),
            Self::Call => scope,
        }
    }
}

/// Why a task has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Its owner cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// It panicked; this was logged.
    #[error("panicked")]
    Panicked,
}

/// The ownership of a task: dropping it cancels the task at its next await. Awaiting it gives the result.
#[derive(Debug)]
#[must_use = "a task ends with its handle"]
pub struct Handle<T> {
    kind: Kind,
    name: &'static str,
    join: JoinHandle<T>,
}

/// Starts `future` in the current runtime, in the current role.
pub fn spawn<T, F>(kind: Kind, name: &'static str, future: F) -> Handle<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    let join = tokio::spawn(kind.scope().within(future));
    Handle { kind, name, join }
}

/// Starts `future` in another runtime, in the current role.
pub fn spawn_on<T, F>(runtime: &Runtime, kind: Kind, name: &'static str, future: F) -> Handle<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let join = runtime.spawn(kind.scope().within(future));
    Handle { kind, name, join }
}

impl<T> Handle<T> {
    /// Asks the task to stop at its next await. Does not wait.
    pub fn cancel(&self) {
        self.join.abort();
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.join.is_finished()
    }

    /// The name it was spawned with.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> Future for Handle<T> {
    type Output = Result<T, Ended>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (kind, name) = (self.kind, self.name);
        Pin::new(&mut self.join).poll(cx).map(|joined| {
            joined.map_err(|error| {
                if error.is_cancelled() {
                    return Ended::Cancelled;
                }
                match kind {
                    Kind::Role => tracing::error!(task = name, "role panicked"),
                    Kind::Call => tracing::error!(task = name, "call panicked"),
                    Kind::Upkeep => tracing::warn!(task = name, "upkeep panicked"),
                }
                Ended::Panicked
            })
        })
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.join.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_result_reaches_the_owner() {
        assert_eq!(spawn(Kind::Call, "sum", async { 1 + 1 }).await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_reaches_the_owner_only() {
        let handle = spawn(Kind::Call, "bad", async { panic!("on purpose") });
        assert_eq!(handle.await, Err::<(), _>(Ended::Panicked));
    }

    #[tokio::test]
    async fn a_task_ends_with_its_owner() {
        let (held, released) = oneshot::channel::<()>();
        let handle = spawn(Kind::Upkeep, "holder", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(handle);
        assert!(released.await.is_err(), "what the task held is dropped");
    }

    #[tokio::test]
    async fn cancelling_is_told_from_panicking() {
        let handle = spawn(Kind::Role, "sleeper", std::future::pending::<()>());
        handle.cancel();
        assert_eq!(handle.await, Err(Ended::Cancelled));
    }
}
