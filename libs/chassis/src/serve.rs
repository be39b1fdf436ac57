//! Binding, and running roles until the process is told to stop.
//!
//! Drain order is the order in which roles were added, so the edge comes first: a role is asked to stop only after the
//! one before it has stopped. All share one grace period; a second signal ends it at once.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};

use crate::drain::{self, Shutdown, Signals, Trigger};
use crate::process::Health;
use crate::task::{self, Ended, Handle, Kind};
use crate::telemetry::Scope;
use crate::tls::Mesh;

/// Where a role's connections come from.
#[derive(Debug)]
pub enum Incoming {
    /// From this machine, without TLS.
    Tcp(TcpListener),
    /// From the network, as the section `[mtls]` says.
    Mesh(TcpListener, Mesh),
    /// From nowhere: the role is used through its handle, in this process.
    None,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}; use HOST:PORT with a free port, or port 0 for any")]
pub struct BindError {
    key: String,
    address: String,
    source: io::Error,
}

/// Listens on `address`, which came from the setting `key`.
///
/// # Errors
/// [`BindError`] naming the setting.
pub async fn bind(key: &str, address: &str) -> Result<TcpListener, BindError> {
    let refused = |source| BindError { key: key.to_owned(), address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(refused)
}

/// What a role ends with.
pub type RoleResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// How a group of roles ended.
#[derive(Debug)]
pub enum Stopped {
    /// Asked to, and every role ended in time.
    Drained,
    /// Asked to, and these had to be cut short.
    CutShort(Vec<&'static str>),
    /// Asked to twice.
    Interrupted,
}

/// A role that ended though nobody had asked it to.
#[derive(Debug)]
pub struct RoleFailed {
    role: &'static str,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for RoleFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "{} stopped: {cause}", self.role),
            None => write!(f, "{} stopped unasked", self.role),
        }
    }
}

impl std::error::Error for RoleFailed {}

struct Role {
    name: &'static str,
    trigger: Trigger,
    shutdown: Shutdown,
    task: Handle<RoleResult>,
}

/// Roles that live and stop together.
#[derive(Default)]
pub struct Group {
    roles: Vec<Role>,
}

impl Group {
    /// A group of none.
    #[must_use]
    pub const fn new() -> Self {
        Self { roles: Vec::new() }
    }

    /// Starts a role. `serve` gets the shutdown that it must obey.
    pub fn start<F>(&mut self, name: &'static str, serve: impl FnOnce(Shutdown) -> F)
    where
        F: Future<Output = RoleResult> + Send + 'static,
    {
        let (trigger, shutdown) = drain::pair();
        let task = task::spawn(Kind::Role, name, Scope::of_role(name).within(serve(shutdown.clone())));
        self.roles.push(Role { name, trigger, shutdown, task });
    }

    /// Tells `health` of all roles, so that it knows when one drains.
    pub fn report_to(&self, health: &Health) {
        for role in &self.roles {
            health.role(role.name, role.shutdown.clone(), || true);
        }
    }

    /// Runs until a signal comes or a role fails, then drains within `grace`.
    ///
    /// # Errors
    /// [`RoleFailed`] when a role ended unasked; the others were drained.
    pub async fn run(self, signals: &mut Signals, grace: Duration) -> Result<Stopped, RoleFailed> {
        self.run_until(signals, grace).await
    }

    async fn run_until(mut self, stop: &mut impl Stop, grace: Duration) -> Result<Stopped, RoleFailed> {
        let failed = tokio::select! {
            failed = first_end(&mut self.roles) => Some(failed),
            why = stop.next() => {
                tracing::info!(signal = why, "draining");
                None
            }
        };
        let stopped = tokio::select! {
            stopped = drain_in_order(self.roles, grace) => stopped,
            _ = stop.next() => Stopped::Interrupted,
        };
        failed.map_or(Ok(stopped), Err)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.roles.iter().map(|role| role.name)).finish()
    }
}

/// Something that asks to stop, possibly again and again.
trait Stop {
    fn next(&mut self) -> impl Future<Output = &'static str>;
}

impl Stop for Signals {
    fn next(&mut self) -> impl Future<Output = &'static str> {
        Self::next(self)
    }
}

/// Waits until any role ends, takes it out of the list and says why it ended.
async fn first_end(roles: &mut Vec<Role>) -> RoleFailed {
    if roles.is_empty() {
        return std::future::pending().await;
    }
    let (at, result) = std::future::poll_fn(|cx| {
        for (at, role) in roles.iter_mut().enumerate() {
            if let std::task::Poll::Ready(result) = std::pin::Pin::new(&mut role.task).poll(cx) {
                return std::task::Poll::Ready((at, result));
            }
        }
        std::task::Poll::Pending
    })
    .await;
    let role = roles.remove(at).name;
    let cause = match result {
        Ok(Ok(())) => None,
        Ok(Err(cause)) => Some(cause),
        Err(ended @ (Ended::Cancelled | Ended::Panicked)) => Some(ended.into()),
    };
    RoleFailed { role, cause }
}

async fn drain_in_order(roles: Vec<Role>, grace: Duration) -> Stopped {
    let end = Instant::now() + grace;
    let mut cut = Vec::new();
    let mut later = u32::try_from(roles.len()).unwrap_or(u32::MAX);
    for mut role in roles {
        // What the edge waits for is what the others are busy with, so it gets most of the time; a tenth is kept for each
        // role that follows, and what is not used is theirs too.
        later = later.saturating_sub(1);
        let share = end.saturating_duration_since(Instant::now()).saturating_sub(grace / 10 * later);
        role.trigger.drain();
        let ended = match timeout_at(Instant::now() + share, &mut role.task).await {
            Ok(result) => result,
            Err(_elapsed) => {
                cut.push(role.name);
                role.trigger.expire();
                // It has been told to drop what it holds; a role that does not even do that is cancelled with its handle.
                timeout(Duration::from_secs(1), &mut role.task).await.unwrap_or(Err(Ended::Cancelled))
            }
        };
        match ended {
            Ok(Ok(())) => tracing::debug!(role = role.name, "stopped"),
            Ok(Err(error)) => tracing::warn!(role = role.name, %error, "stopped with an error"),
            Err(ended) => tracing::warn!(role = role.name, %ended, "did not stop"),
        }
    }
    if cut.is_empty() { Stopped::Drained } else { Stopped::CutShort(cut) }
}

#[cfg(test)]
mod tests;
