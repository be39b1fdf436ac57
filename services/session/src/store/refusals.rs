//! Counts what a store refuses, whichever it is.

use chassis::metrics::{Counter, Metrics};
use machines::CommitRefusal;

/// See the module.
pub(super) struct Refusals {
    stale: Counter,
    regress: Counter,
    conflict: Counter,
    down: Counter,
}

impl Refusals {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let refusals = "trunkline_store_refusals";
        let refusal = |why| metrics.counter(refusals, "What the session store refused", &[("reason", why)]);
        Self {
            stale: refusal("stale"),
            regress: refusal("regress"),
            conflict: refusal("conflict"),
            down: refusal("down"),
        }
    }

    /// Counts the outcome if it is a refusal, and gives it back.
    pub(super) fn count<T>(&self, outcome: Result<T, CommitRefusal>) -> Result<T, CommitRefusal> {
        outcome.inspect_err(|refusal| _ = self.of(*refusal).inc())
    }

    const fn of(&self, refusal: CommitRefusal) -> &Counter {
        match refusal {
            CommitRefusal::Stale => &self.stale,
            CommitRefusal::Regress => &self.regress,
            CommitRefusal::Conflict => &self.conflict,
            CommitRefusal::Down => &self.down,
        }
    }
}
