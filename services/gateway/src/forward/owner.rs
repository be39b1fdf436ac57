//! The owner of a session is found, and waited for while it changes.
//!
//! Owns: redirections, what is worth waiting for and how long, and who is reported as silent. Before a node has accepted it,
//! what a session owns may be sent again, to the same owner or to the next, under the same key: the owner recognises it by
//! that and by [`api::session::Again`]. Must not know: what becomes of a request that was accepted.

use std::time::Duration;

use api::{Code, Detail, Error, Slot};
use placement::Peer;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::counts::Waiting;
use super::{Call, Forward, Taken, is_uncertain, uncertain};
use crate::limits::Inside;

/// Redirections that are followed in one attempt.
const MAX_HINTS: u32 = 2;
/// The owner is asked again after this long if the table says nothing new; each time after twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A node that could not be reached for so long, owns the slot all the same, and is not known to be missed by others, may be cut
/// off from us alone: what nobody has received is refused then, so that the client may try another gateway.
const CUT_OFF: Duration = Duration::from_secs(3);
/// A node in doubt that has not answered for so long is tried through another one.
const PASSING: Duration = Duration::from_millis(250);
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
            search.owner = search.look_up();
            let error = match search.attempt(call, hint.take()).await {
                Ok(found) if !is_no_answer(call, &found.taken) => return Ok(found),
                Ok(_) => uncertain("the owner cannot say what became of the request"),
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
            // Rare, and large.
            if !Box::pin(search.wait(pause, limit)).await {
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
    fn look_up(&self) -> Option<Peer> {
        self.forward.locator.owner(self.slot)
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
        let Some((since, is_missed)) = node.and_then(|node| self.forward.reach.doubt_of(node)) else {
            return whole;
        };
        // If others miss it too, another owner is to be expected.
        whole.min(since + if is_missed { patience } else { CUT_OFF.min(patience) })
    }

    /// Waits until the table has another owner, or for a pause; false if patience ended meanwhile.
    async fn wait(&mut self, pause: Duration, limit: Instant) -> bool {
        let until = limit.min(Instant::now() + pause);
        while self.look_up() == self.owner {
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
                // Rare, and large.
                Box::pin(self.ask_in_doubt(call, &node)).await
            } else {
                self.forward.ask(call, &node).await
            };
            let error = match asked {
                Ok(taken) => return Ok(Found { node, taken }),
                Err(error) => error,
            };
            call.was_refused(&error);
            match self.sent_to(&error) {
                Some(next) if hints > 0 => {
                    hints -= 1;
                    self.forward.counts.redirects.inc();
                    node = next;
                }
                Some(_) | None => return Err(error),
            }
        }
    }

    /// The node that one which is not the owner names. Whoever has just claimed a slot may still take a node for its owner that we
    /// know to be silent: it is asked again instead.
    fn sent_to(&self, error: &Error) -> Option<Peer> {
        match &error.detail {
            Some(Detail::NotOwner { owner, .. }) if !owner.is_empty() => {
                let named = Peer { address: owner.as_str().into() };
                self.forward.reach.since(&named).is_none().then_some(named)
            }
            Some(_) | None => None,
        }
    }

    /// Asks a node that may not answer: no longer than patience lasts, nor than it is the owner. If it leaves us waiting, another
    /// node is asked to pass the request on: it may be only we who do not reach it.
    async fn ask_in_doubt(&mut self, call: &Call, node: &Peer) -> Result<Taken, Error> {
        let forward = self.forward;
        let limit = self.limit(call, Some(node));
        let probe = Instant::now() + PROBE;
        let end = if self.owner.as_ref() != Some(node) {
            // Somebody has sent us there, and the table says otherwise: either may be behind.
            limit.min(probe)
        } else if self.was_accepted {
            limit
        } else {
            limit.max(probe)
        };
        let twice = if forward.reach.since(node).is_some() { call.twice() } else { call.clone() };
        let passes = call.may_be_passed_on() && forward.reach.may_pass_on(node);
        let is_silent = forward.reach.since(node).is_some_and(|since| since.elapsed() >= PASSING);
        // What a silent node has been sent it may hear late: no calls, while there is another way.
        let is_last_resort = passes && is_silent && !call.is_repeatable();
        let (hurry, resort) = (Notify::new(), Notify::new());
        let asking = async {
            if is_last_resort {
                resort.notified().await;
            }
            if forward.reach.may_try(node) {
                return forward.ask(&twice, node).await;
            }
            let text = format!("{} could not be reached a moment ago", node.address);
            Err(Error::new(Code::Unavailable, text).with(Detail::NotReached))
        };
        if is_silent {
            hurry.notify_one();
        }
        let passing = async {
            drop(timeout(PASSING, hurry.notified()).await);
            forward.pass_on(&twice, node).await
        };
        tokio::pin!(asking, passing);
        let mut ends = Ends { direct: None, passed: None };
        if !passes {
            ends.passed = Some(Error::new(Code::Unavailable, "not passed on").with(Detail::NotReached));
        }
        let mut silent_at = forward.reach.silent_at(node);
        loop {
            if let Some(error) = ends.both() {
                return Err(error);
            }
            tokio::select! {
                biased;
                asked = &mut asking, if ends.direct.is_none() => match asked {
                    // That it drains, the node says itself.
                    Err(error) if is_unheard(&error) && error.detail != Some(Detail::Draining) => {
                        ends.direct = Some(error);
                        hurry.notify_one();
                    }
                    said => return said,
                },
                passed = &mut passing, if ends.passed.is_none() => match passed {
                    Err(error) if is_unheard(&error) => {
                        if error.code == Code::Unavailable {
                            forward.reach.is_missed(node);
                        }
                        resort.notify_one();
                        ends.passed = Some(error);
                    }
                    said => return said,
                },
                () = sleep_until(silent_at.unwrap_or(end)), if silent_at.is_some() => {
                    silent_at = None;
                    if forward.reach.is_silent(node) {
                        forward.locator.suspect(node, "it does not answer");
                    }
                }
                () = self.changes().next() => {
                    let owner = self.look_up();
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

/// What came of asking a node, and of asking another one to pass it on, as far as neither was heard.
struct Ends {
    direct: Option<Error>,
    passed: Option<Error>,
}

impl Ends {
    /// How the attempt ended, if both have: if either may have arrived, nobody can tell.
    fn both(&mut self) -> Option<Error> {
        if self.direct.is_none() || self.passed.is_none() {
            return None;
        }
        self.passed.take().filter(is_uncertain).or_else(|| self.direct.take())
    }
}

/// Whether an owner that refuses for now would make a client repeat what another owner may have begun.
fn is_no_answer(call: &Call, taken: &Taken) -> bool {
    match taken {
        Taken::Refused(answer) => {
            matches!(answer.status, 429 | 503) && call.is_perhaps_there() && !call.is_repeatable()
        }
        Taken::Accepted { .. } => false,
    }
}

/// Whether the owner has said nothing, or nothing that counts.
fn is_unheard(error: &Error) -> bool {
    match error.code {
        // Not implemented by whoever should have passed it on.
        Code::Unavailable | Code::Unimplemented => true,
        Code::InvalidRequest
        | Code::NotFound
        | Code::Precondition
        | Code::Unauthenticated
        | Code::Denied
        | Code::Overloaded
        | Code::Deadline
        | Code::Cancelled
        | Code::OutcomeUnknown
        | Code::Internal => false,
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
