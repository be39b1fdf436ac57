//! Stopping: a request to drain, and the end of the patience for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Counter, Metrics};

/// Tells one role to stop. Held by whoever started the role; dropping it lets the role run on.
#[derive(Debug)]
pub struct Trigger(Shutdown);

/// What a role watches. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    draining: CancellationToken,
    expired: CancellationToken,
    /// Set before `draining` is cancelled: whoever is busy looks often, and a token locks for each look.
    is_draining: Arc<AtomicBool>,
}

/// A trigger and what it acts on.
#[must_use]
pub fn pair() -> (Trigger, Shutdown) {
    let shutdown = Shutdown::never();
    (Trigger(shutdown.clone()), shutdown)
}

/// Counts the calls of a registry that a drain had no more time for.
#[derive(Debug, Clone)]
pub struct CutShort {
    running: Counter,
    parked: Counter,
}

impl CutShort {
    /// Takes the counters out.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let of = |was| {
            let help = "Calls that ended with their registry, because its drain had no more time for them";
            metrics.counter("trunkline_registry_cut_short", help, &[("was", was)])
        };
        Self { running: of("running"), parked: of("parked") }
    }

    /// So many were at work, and so many waited for their clients.
    pub fn count(&self, running: usize, parked: usize) {
        self.running.inc_by(running as u64);
        self.parked.inc_by(parked as u64);
    }
}

impl Trigger {
    /// Asks the role to take nothing new and to finish what it has.
    pub fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Release);
        self.0.draining.cancel();
    }

    /// Says that the grace period is over: whatever is still open is dropped.
    pub fn expire(&self) {
        self.drain();
        self.0.expired.cancel();
    }
}

impl Shutdown {
    /// One that never comes.
    #[must_use]
    pub fn never() -> Self {
        Self {
            draining: CancellationToken::new(),
            expired: CancellationToken::new(),
            is_draining: Arc::default(),
        }
    }

    /// Waits until draining was asked for. Safe to use in `select!`.
    pub async fn requested(&self) {
        self.draining.cancelled().await;
    }

    /// Waits until the grace period is over. Safe to use in `select!`.
    pub async fn expired(&self) {
        self.expired.cancelled().await;
    }

    /// Whether draining was asked for. As cheap as looks.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }
}

/// The process' stop signals, SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over from their default action. Needs a runtime.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and names it. Safe to use in `select!`.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_comes_before_the_end_of_patience() {
        let (trigger, shutdown) = pair();
        assert!(!shutdown.is_requested());
        trigger.drain();
        shutdown.requested().await;
        assert!(!shutdown.expired.is_cancelled());
        trigger.expire();
        shutdown.expired().await;
    }

    #[test]
    fn dropping_the_trigger_stops_nothing() {
        let (trigger, shutdown) = pair();
        drop(trigger);
        assert!(!shutdown.is_requested());
    }
}
