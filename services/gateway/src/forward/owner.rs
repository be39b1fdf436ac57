//! The owner of a session is found, and waited for while it changes.
//!
//! Owns: redirections, what is worth waiting for and how long, and who is reported as silent. Before a node has accepted it,
//! what a session owns may be sent again, to the same owner or to the next, under the same key: the owner recognises it by
//! that and by [`api::session::Again`]. Must not know: what becomes of a request that was accepted.

use std::time::Duration;

use api::{Code, Detail, Error, Slot};
use placement::Peer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::counts::Waiting;
use super::{Call, Forward, Taken, uncertain};
use crate::limits::Inside;

/// Redirections that are followed in one attempt.
const MAX_HINTS: u32 = 2;
/// The owner is asked again after this long if the table says nothing new; each time after twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A node that could not be reached for so long, and owns the slot all the same, is cut off from us alone: what nobody has
/// received is refused then, so that the client may try another gateway.
const CUT_OFF: Duration = Duration::from_secs(3);
/// What a node in doubt gets to answer one request, however long it has been in doubt.
const PROBE: Duration = Duration::from_millis(2500);

/// A node, and what it said first.
pub(super) struct Found {
    pub(super) node: Peer,
    pub(super) taken: Taken,
}

/// How an owner was lost.
pub(super) struct Lost {
    /// When.
    pub(super) at: Instant,
    /// Whom it named as the next one.
    pub(super) next: Option<Peer>,
}

/// A request that waits, as long as it does.
struct Held {
    _waiting: Waiting,
    _place: Option<Inside>,
}

/// Changes of the table.
struct Changes(watch::Receiver<u64>);

impl Changes {
    /// Waits for the next one; for ever where there is none. Safe to use in `select!`.
    async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What is known while the owner of a slot is looked for.
struct Search<'a> {
    forward: &'a Forward,
    slot: Slot,
    /// Whether an owner that was lost had taken the request on.
    was_accepted: bool,
    /// Since when there is nobody to take it on.
    missed: Option<Instant>,
    /// The owner that the attempt under way began with.
    owner: Option<Peer>,
    changes: Option<Changes>,
}

impl Forward {
    /// Asks the owner of a slot, and whoever owns it next, until one takes the request on or patience ends. `lost` says how
    /// the owner was lost that had taken it on before; such a request waits for anything that may pass.
    ///
    /// # Errors
    /// Why the last node did not take it on. [`Code::OutcomeUnknown`] if nobody can tell whether one did.
    pub(super) async fn find(&self, call: &mut Call, slot: Slot, lost: Option<Lost>) -> Result<Found, Error> {
        let was_accepted = lost.is_some();
        let (missed, mut hint) = lost.map_or((None, None), |lost| (Some(lost.at), lost.next));
        let mut search = Search { forward: self, slot, was_accepted, missed, owner: None, changes: None };
        let mut held = None;
        let mut pause = FIRST_PAUSE;
        loop {
            search.owner = search.look_up(call);
            let error = match search.attempt(call, hint.take()).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if !may_pass(&error, was_accepted) || !call.is_recognised() {
                return Err(given_up(call, error));
            }
            search.missed.get_or_insert_with(Instant::now);
            let limit = search.limit(call, search.owner.as_ref());
            if limit <= Instant::now() {
                return Err(given_up(call, error));
            }
            if held.is_none() {
                held = Some(self.hold(was_accepted).map_err(|full| given_up(call, full))?);
            }
            if !search.wait(call, pause, limit).await {
                return Err(given_up(call, error));
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A response that is open has its place already.
    fn hold(&self, is_open: bool) -> Result<Held, Error> {
        let place = if is_open { None } else { self.held.enter() };
        if place.is_none() && !is_open {
            return Err(Error::new(Code::Unavailable, "too many requests wait for an owner"));
        }
        Ok(Held { _waiting: self.counts.waiting(), _place: place })
    }
}

impl Search<'_> {
    fn look_up(&self, call: &Call) -> Option<Peer> {
        let locator = &self.forward.locator;
        let pinned = call.session().and_then(|session| locator.pinned(session));
        pinned.or_else(|| locator.owner(self.slot))
    }

    fn changes(&mut self) -> &mut Changes {
        self.changes.get_or_insert_with(|| Changes(self.forward.locator.changed()))
    }

    /// When waiting ends, while this node is all there is to ask.
    fn limit(&self, call: &Call, node: Option<&Peer>) -> Instant {
        let patience = self.forward.patience.owner;
        let whole = self.missed.unwrap_or_else(Instant::now) + patience;
        if self.was_accepted || call.is_perhaps_there() {
            return whole;
        }
        let doubted = node.and_then(|node| self.forward.reach.since(node));
        doubted.map_or(whole, |since| whole.min(since + CUT_OFF.min(patience)))
    }

    /// Waits until the table has another owner, or for a pause; false if patience ended meanwhile.
    async fn wait(&mut self, call: &Call, pause: Duration, limit: Instant) -> bool {
        let until = limit.min(Instant::now() + pause);
        while self.look_up(call) == self.owner {
            tokio::select! {
                () = self.changes().next() => {}
                () = sleep_until(until) => return until < limit,
            }
        }
        true
    }

    /// One attempt: asks the owner, or whoever is said to be, and where it sends us.
    async fn attempt(&mut self, call: &mut Call, hint: Option<Peer>) -> Result<Found, Error> {
        let Some(mut node) = hint.or_else(|| self.owner.clone()) else {
            return Err(Error::new(Code::Unavailable, "nobody owns the slot").with(nobody()));
        };
        let mut hints = MAX_HINTS;
        loop {
            let in_doubt = self.missed.is_some() || self.forward.reach.since(&node).is_some();
            let asked = if in_doubt {
                self.ask_in_doubt(call, &node).await
            } else {
                self.forward.ask(call, &node).await
            };
            let error = match asked {
                Ok(taken) => return Ok(Found { node, taken }),
                Err(error) => error,
            };
            call.was_refused(&error);
            match &error.detail {
                Some(Detail::NotOwner { owner, .. }) if !owner.is_empty() && hints > 0 => {
                    hints -= 1;
                    self.forward.counts.redirects.inc();
                    node = Peer { address: owner.as_str().into() };
                }
                Some(_) | None => return Err(error),
            }
        }
    }

    /// Asks a node that may not answer: no longer than patience lasts, nor than it is the owner.
    async fn ask_in_doubt(&mut self, call: &Call, node: &Peer) -> Result<Taken, Error> {
        let forward = self.forward;
        if !forward.reach.may_try(node) {
            let text = format!("{} could not be reached a moment ago", node.address);
            return Err(Error::new(Code::Unavailable, text).with(Detail::NotReached));
        }
        let limit = self.limit(call, Some(node));
        let end = if self.was_accepted { limit } else { limit.max(Instant::now() + PROBE) };
        let asking = forward.ask(call, node);
        tokio::pin!(asking);
        let mut silent_at = forward.reach.silent_at(node);
        loop {
            tokio::select! {
                biased;
                asked = &mut asking => return asked,
                () = sleep_until(silent_at.unwrap_or(end)), if silent_at.is_some() => {
                    silent_at = None;
                    if forward.reach.is_silent(node) {
                        forward.locator.suspect(node, "it does not answer");
                    }
                }
                () = self.changes().next() => {
                    let owner = self.look_up(call);
                    if owner != self.owner && owner.as_ref() != Some(node) {
                        return Err(uncertain(format!("{} is no longer the owner", node.address)));
                    }
                }
                () = sleep_until(end) => break,
            }
        }
        forward.reach.lost(node);
        Err(uncertain(format!("{} has not answered in time", node.address)))
    }
}

const fn nobody() -> Detail {
    Detail::NotOwner { owner: String::new(), epoch: 0 }
}

/// Whether another attempt may go better. A node that is there and cannot serve is believed, unless it is all that is left
/// to a request that was accepted.
fn may_pass(error: &Error, was_accepted: bool) -> bool {
    match (&error.code, &error.detail) {
        (Code::Precondition, Some(Detail::StaleEpoch { .. })) | (_, Some(Detail::NotOwner { .. })) => true,
        (Code::Unavailable, Some(Detail::Draining | Detail::NotReached | Detail::OutcomeUnknown { .. })) => {
            true
        }
        (code, _) => was_accepted && *code == Code::Unavailable,
    }
}

/// What a request ends with that nobody took on.
fn given_up(call: &Call, error: Error) -> Error {
    let is_lost = error.code == Code::Unavailable || error.code == Code::Precondition;
    if is_lost && call.is_perhaps_there() && !call.is_repeatable() {
        return Error { code: Code::OutcomeUnknown, ..error };
    }
    if matches!(error.detail, Some(Detail::NotOwner { .. })) {
        return Error::new(Code::Unavailable, "the owner of the slot could not be found");
    }
    error
}
