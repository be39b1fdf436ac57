//! Which session nodes this gateway has trouble to reach.
//!
//! Owns: since when a node is in doubt, who may try it next, and when others are told. A node is in doubt from its first
//! failure until it answers. Must not know: what is asked, or who asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use placement::Peer;
use tokio::time::Instant;

/// A node that could not be reached is tried by one request in this time; the others go by what that one finds.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// A node in doubt that leaves a request unanswered for this long is reported. A link that merely broke is back by then.
const SILENCE: Duration = Duration::from_millis(1200);
/// A node is reported once in this time.
const BETWEEN_REPORTS: Duration = Duration::from_secs(1);
/// For so long, whoever may choose asks other nodes first.
const RECENT: Duration = Duration::from_secs(5);
/// A doubt is forgotten when nobody has found it right for this long.
const MEMORY: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Instant,
    /// When it was last found to be right.
    last: Instant,
    /// When the node could last not be reached, or was last tried after that.
    tried: Option<Instant>,
    /// When others could last not reach it either.
    missed: Option<Instant>,
    reported: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reach {
    doubts: Mutex<BTreeMap<Arc<str>, Doubt>>,
    /// How many there are: nearly always none, and then nothing is looked up.
    count: AtomicUsize,
}

impl Reach {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Doubt>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_clear(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Since when a node is in doubt.
    pub(super) fn since(&self, node: &Peer) -> Option<Instant> {
        if self.is_clear() {
            return None;
        }
        self.lock().get(&node.address).filter(|doubt| doubt.last.elapsed() < MEMORY).map(|doubt| doubt.since)
    }

    /// The same, and whether others miss it as well.
    pub(super) fn doubt_of(&self, node: &Peer) -> Option<(Instant, bool)> {
        let since = self.since(node)?;
        let missed = self.lock().get(&node.address).is_some_and(|doubt| doubt.missed.is_some());
        Some((since, missed))
    }

    /// Whether a node was found unreachable a moment ago.
    pub(super) fn is_recent(&self, node: &Peer) -> bool {
        if self.is_clear() {
            return false;
        }
        self.lock().get(&node.address).is_some_and(|doubt| doubt.last.elapsed() < RECENT)
    }

    /// The node has answered.
    pub(super) fn answered(&self, node: &Peer) {
        if self.is_clear() {
            return;
        }
        let mut doubts = self.lock();
        doubts.remove(&node.address);
        self.count.store(doubts.len(), Ordering::Relaxed);
    }

    /// The connection to the node was lost, or it let somebody wait for too long.
    pub(super) fn lost(&self, node: &Peer) {
        self.doubt(node, |_| false);
    }

    /// No connection to the node could be made; true if that should be reported.
    pub(super) fn failed(&self, node: &Peer) -> bool {
        self.doubt(node, |doubt| {
            doubt.tried = Some(doubt.last);
            doubt.report()
        })
    }

    /// Whether a node in doubt may be tried now. Whoever is told so tries it.
    pub(super) fn may_try(&self, node: &Peer) -> bool {
        let now = Instant::now();
        match self.lock().get_mut(&node.address) {
            Some(Doubt { tried: Some(tried), .. }) => {
                let may = now.saturating_duration_since(*tried) >= BETWEEN_TRIES;
                if may {
                    *tried = now;
                }
                may
            }
            Some(Doubt { tried: None, .. }) | None => true,
        }
    }

    /// Whether others may be asked to pass something on to a node in doubt: not if they could not a moment ago.
    pub(super) fn may_pass_on(&self, node: &Peer) -> bool {
        self.lock()
            .get(&node.address)
            .is_some_and(|doubt| doubt.missed.is_none_or(|missed| missed.elapsed() >= BETWEEN_TRIES))
    }

    /// Others could not reach the node either.
    pub(super) fn is_missed(&self, node: &Peer) {
        if let Some(doubt) = self.lock().get_mut(&node.address) {
            doubt.missed = Some(Instant::now());
        }
    }

    /// When somebody who waits for an answer of the node should ask [`Reach::is_silent`].
    pub(super) fn silent_at(&self, node: &Peer) -> Option<Instant> {
        self.since(node).map(|since| (since + SILENCE).max(Instant::now()))
    }

    /// The node has not answered for a while; true if that should be reported.
    pub(super) fn is_silent(&self, node: &Peer) -> bool {
        self.since(node).is_some() && self.doubt(node, Doubt::report)
    }

    fn doubt(&self, node: &Peer, say: impl FnOnce(&mut Doubt) -> bool) -> bool {
        let now = Instant::now();
        let mut doubts = self.lock();
        doubts.retain(|_, doubt| now.saturating_duration_since(doubt.last) < MEMORY);
        let doubt = doubts.entry(node.address.clone());
        let doubt =
            doubt.or_insert(Doubt { since: now, last: now, tried: None, missed: None, reported: None });
        doubt.last = now;
        let said = say(doubt);
        self.count.store(doubts.len(), Ordering::Relaxed);
        said
    }
}

impl Doubt {
    fn report(&mut self) -> bool {
        let now = self.last;
        let due = self.reported.is_none_or(|at| now.saturating_duration_since(at) >= BETWEEN_REPORTS);
        if due {
            self.reported = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn peer(name: &str) -> Peer {
        Peer { address: name.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_in_doubt_from_its_first_failure_until_it_answers() {
        let reach = Reach::default();
        let (a, b) = (peer("a"), peer("b"));
        let start = Instant::now();
        reach.lost(&a);
        advance(Duration::from_secs(2)).await;
        reach.lost(&a);
        assert!(reach.failed(&b));
        assert_eq!((reach.since(&a), reach.since(&b)), (Some(start), Some(Instant::now())));
        reach.answered(&a);
        assert_eq!(reach.since(&a), None);
        reach.answered(&b);
        assert!(reach.is_clear());
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_at_a_time_tries_what_could_not_be_reached() {
        let (reach, a) = (Reach::default(), peer("a"));
        assert!(reach.may_try(&a));
        reach.lost(&a);
        // Everybody who was cut off asks at once.
        assert!(reach.may_try(&a) && reach.may_try(&a));
        reach.failed(&a);
        assert!(!reach.may_try(&a));
        advance(BETWEEN_TRIES).await;
        assert!(reach.may_try(&a));
        assert!(!reach.may_try(&a));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_reached_is_reported_at_once_and_what_is_silent_after_a_while() {
        let (reach, a) = (Reach::default(), peer("a"));
        assert_eq!(reach.silent_at(&a), None);
        assert!(!reach.is_silent(&a), "nobody has lost it");
        reach.lost(&a);
        assert_eq!(reach.silent_at(&a), Some(Instant::now() + SILENCE));
        advance(SILENCE).await;
        assert!(reach.is_silent(&a));
        assert!(!reach.is_silent(&a) && !reach.failed(&a), "it was reported");
        advance(BETWEEN_REPORTS).await;
        assert!(reach.failed(&a));
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_that_nobody_renews_is_forgotten() {
        let (reach, a) = (Reach::default(), peer("a"));
        reach.lost(&a);
        advance(MEMORY).await;
        reach.lost(&peer("b"));
        assert_eq!(reach.since(&a), None);
    }
}
