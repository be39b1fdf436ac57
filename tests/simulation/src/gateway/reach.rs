//! Which session nodes a gateway has trouble to reach. Mirrors `services/gateway/src/forward/reach.rs`.

use std::cell::RefCell;
use std::collections::BTreeMap;

const SILENCE_MS: u64 = 1_000;
const BETWEEN_REPORTS_MS: u64 = 1_000;
const PING_LOST_MS: u64 = 3_000;

#[derive(Clone, Copy)]
struct Doubt {
    since: u64,
    reported: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Reach {
    doubts: RefCell<BTreeMap<String, Doubt>>,
    /// Since when a node has not answered pings.
    pings: RefCell<BTreeMap<String, (u64, u64)>>,
}

impl Reach {
    pub(crate) fn answered(&self, node: &str) {
        self.doubts.borrow_mut().remove(node);
    }

    pub(crate) fn lost(&self, node: &str, now: u64) {
        self.doubts.borrow_mut().entry(node.to_owned()).or_insert(Doubt { since: now, reported: None });
    }

    /// No connection could be made; true if that should be reported.
    pub(crate) fn failed(&self, node: &str, now: u64) -> bool {
        self.lost(node, now);
        self.report(node, now)
    }

    /// It has not answered for a while; true if that should be reported.
    pub(crate) fn is_silent(&self, node: &str, now: u64) -> bool {
        let since = self.doubts.borrow().get(node).map(|doubt| doubt.since);
        since.is_some_and(|since| now >= since + SILENCE_MS) && self.report(node, now)
    }

    fn report(&self, node: &str, now: u64) -> bool {
        let mut doubts = self.doubts.borrow_mut();
        let Some(doubt) = doubts.get_mut(node) else { return false };
        let due = doubt.reported.is_none_or(|at| now >= at + BETWEEN_REPORTS_MS);
        if due {
            doubt.reported = Some(now);
        }
        due
    }

    /// A ping was not answered. True once that has been so for long enough to give the link up.
    pub(crate) fn misses_a_ping(&self, node: &str, now: u64) -> bool {
        let mut pings = self.pings.borrow_mut();
        let (since, last) = pings.entry(node.to_owned()).or_insert((now, now));
        if now > *last + 2 * SILENCE_MS {
            *since = now;
        }
        *last = now;
        now >= *since + PING_LOST_MS - SILENCE_MS
    }
}
