//! Which session node gets a request, and what is tried when one cannot take it.
//!
//! What no session owns goes from node to node until one has accepted it; from then on the outcome belongs to that one. A call
//! of a tool that was lost before that can be told is neither sent again nor said to be safe to send again. What a session owns
//! goes to the owner of its slot, which is waited for while it changes ([`owner`]), and is followed to the next owner when
//! that changes later ([`following`]).

mod call;
mod counts;
mod cut;
mod following;
mod overtaken;
mod owner;
mod reach;

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use api::session::{Answer, Attach, Close, Frame, Frames};
use api::{Code, Detail, Error, Principal, Slot};
use chassis::metrics::Metrics;
use futures::{StreamExt as _, poll};
use placement::{Locator, Peer};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

pub(crate) use self::call::Call;
use self::counts::Counts;
use self::following::Following;
use self::overtaken::Readings;
use self::owner::Found;
use self::reach::Reach;
use crate::limits::Gauge;
use crate::peers::Peers;

/// Requests that may wait for an owner at a time, each with its body.
const MAX_HELD: usize = 10_000;
/// How long a request that no session owns waits for a node that has slots, and how often it looks.
const SETTLING: Duration = Duration::from_secs(2);
const ROUND: Duration = Duration::from_millis(100);

/// What a node said first.
pub(crate) enum Taken {
    /// It took the request on.
    Accepted {
        /// Session that `initialize` began.
        session: Option<String>,
        /// The rest of what it says.
        frames: Frames,
    },
    /// It did not; nothing was executed.
    Refused(Answer),
}

/// Finds the node for a request.
pub(crate) struct Forward {
    locator: Arc<dyn Locator>,
    peers: Arc<dyn Peers>,
    patience: Patience,
    /// What request keys begin with.
    seed: String,
    requests: AtomicU64,
    turn: AtomicU64,
    reach: Reach,
    readings: Readings,
    held: Gauge,
    counts: Counts,
}

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a node to take a request on.
    pub(crate) request: Duration,
    /// For an owner of a session, from when it was missed.
    pub(crate) owner: Duration,
}

impl Forward {
    /// `seed` makes request keys differ from those of every other gateway.
    pub(crate) fn new(
        locator: Arc<dyn Locator>,
        peers: Arc<dyn Peers>,
        patience: Patience,
        seed: u64,
        metrics: &Metrics,
    ) -> Self {
        Self {
            locator,
            peers,
            patience,
            seed: format!("{seed:016x}-"),
            requests: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            reach: Reach::default(),
            readings: Readings::default(),
            held: Gauge::new(MAX_HELD),
            counts: Counts::new(metrics),
        }
    }

    /// Takes responses on to the next owner that the table names, where the one before does not know of it. Runs as long as it is
    /// polled.
    pub(crate) async fn watch_table(&self) {
        self.readings.watch(self.locator.as_ref()).await;
    }

    /// A key that no other request has.
    pub(crate) fn request_key(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut key = String::with_capacity(self.seed.len() + 16);
        key.push_str(&self.seed);
        let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
        let value = |place: u32| usize::try_from((number >> (4 * place)) & 15).unwrap_or_default();
        let digit = |place| char::from(DIGITS[value(place)]);
        key.extend((0..digits).rev().map(digit));
        key
    }

    /// Hands a request to the owner of `slot`, or to any ready node if no session owns it.
    ///
    /// # Errors
    /// Whatever kept the last node that was asked from taking it on. Nothing was accepted, unless the code is
    /// [`Code::OutcomeUnknown`]: then nobody can tell.
    pub(crate) async fn send(self: &Arc<Self>, mut call: Call, slot: Option<Slot>) -> Result<Taken, Error> {
        slot.map_or(Ok(()), |slot| self.has(slot))?;
        let Found { node, taken } = self.find_in_time(&mut call, slot).await?;
        Ok(match (taken, slot) {
            (Taken::Accepted { session, frames }, Some(slot)) if self.follows(&call) => {
                let frames = Following::new(self.clone(), call, slot, node, frames).boxed();
                Taken::Accepted { session, frames }
            }
            (taken, _) => taken,
        })
    }

    /// Tells the owner of a session of HTTP+SSE that its client has gone, or whoever is its owner next: it is tried for as long as the
    /// stream would have been followed.
    ///
    /// # Errors
    /// Why the last node did not take it on.
    pub(crate) async fn part(self: &Arc<Self>, close: Close, slot: Slot) -> Result<Taken, Error> {
        self.has(slot)?;
        following::insist(self.clone(), Call::Close(close), slot).await
    }

    fn has(&self, slot: Slot) -> Result<(), Error> {
        if self.locator.slots().has(slot) {
            return Ok(());
        }
        // Made when the mesh had more of them, or in another one with the same keys.
        Err(Error::new(Code::NotFound, "the session is in a slot that the mesh does not have"))
    }

    /// Begins a session of HTTP+SSE on any ready node, and follows it from owner to owner, each of which `owners` is told of.
    /// `slot_of` reads the slot in the id of the session.
    ///
    /// # Errors
    /// As [`Forward::send`].
    pub(crate) async fn begin(
        self: &Arc<Self>,
        principal: Principal,
        slot_of: impl Fn(&str) -> Option<Slot>,
        owners: watch::Sender<u64>,
    ) -> Result<Taken, Error> {
        let carried = !self.patience.owner.is_zero();
        let (session, revision, last_event_id) = (String::new(), None, None);
        let attach = Attach { session, revision, principal, last_event_id, begin: true, carried };
        let mut call = Call::Attach(attach.clone());
        let Found { node, taken } = self.find_in_time(&mut call, None).await?;
        Ok(match taken {
            Taken::Accepted { session: Some(session), frames } if carried => {
                let Some(slot) = slot_of(&session) else {
                    return Err(Error::new(Code::Internal, "a session node began a session without a slot"));
                };
                let call = Call::Attach(Attach { session: session.clone(), begin: false, ..attach });
                let frames = Following::new(self.clone(), call, slot, node, frames).telling(owners).boxed();
                Taken::Accepted { session: Some(session), frames }
            }
            taken @ (Taken::Accepted { .. } | Taken::Refused(_)) => taken,
        })
    }

    async fn find_in_time(&self, call: &mut Call, slot: Option<Slot>) -> Result<Found, Error> {
        let found = {
            let mut finding = pin!(async {
                match slot {
                    Some(slot) => self.find(call, slot, None).await,
                    None => self.ask_in_turn(call).await,
                }
            });
            // Within one process it is found at once, and needs no timer.
            match poll!(finding.as_mut()) {
                Poll::Ready(found) => Ok(found),
                Poll::Pending => tokio::time::timeout(self.patience.request, finding).await,
            }
        };
        found.unwrap_or_else(|_late| {
            let code = if call.is_repeatable() { Code::Deadline } else { Code::OutcomeUnknown };
            Err(Error::new(code, "no session node took the request on in time"))
        })
    }

    fn follows(&self, call: &Call) -> bool {
        call.can_move() && !self.patience.owner.is_zero()
    }

    /// Asks one ready node after the other until one takes the request on. Where slots are just given from one to others, nobody
    /// may have any: that passes in a moment.
    async fn ask_in_turn(&self, call: &Call) -> Result<Found, Error> {
        let mut nodes = self.candidates();
        if nodes.is_empty() {
            // Rare, and large.
            Box::pin(self.somebody_is_ready()).await;
            nodes = self.candidates();
        }
        let mut until = None;
        loop {
            let error = match self.ask_each(call, nodes).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let until = *until.get_or_insert_with(|| Instant::now() + self.patience.owner.min(SETTLING));
            if !has_moved(&error) || Instant::now() >= until {
                return Err(error);
            }
            sleep_until(until.min(Instant::now() + ROUND)).await;
            nodes = self.candidates();
        }
    }

    async fn ask_each(&self, call: &Call, nodes: VecDeque<Peer>) -> Result<Found, Error> {
        let mut moved = None;
        let mut last = Error::new(Code::Unavailable, "no session node is ready");
        for node in nodes {
            let error = match self.ask(call, &node).await {
                Ok(taken) => return Ok(Found { node, taken }),
                Err(error) => error,
            };
            // A session that began in a slot which was given away just then is nobody's: it begins elsewhere.
            if has_moved(&error) {
                moved = Some(Error { code: Code::Unavailable, ..error });
                continue;
            }
            if error.code != Code::Unavailable {
                return Err(error);
            }
            if is_uncertain(&error) && !call.is_repeatable() {
                return Err(Error { code: Code::OutcomeUnknown, ..error });
            }
            last = error;
        }
        Err(moved.unwrap_or(last))
    }

    /// Waits for the first node of a table that is empty: a gateway that has just started has not read it yet.
    async fn somebody_is_ready(&self) {
        let mut changed = self.locator.changed();
        let waiting = async { while self.locator.ready().is_empty() && changed.changed().await.is_ok() {} };
        // Nobody came: that is said next.
        let _late = tokio::time::timeout(self.patience.owner, waiting).await.is_err();
    }

    /// Every ready node, each request beginning with the next one; those in doubt are the last resort.
    fn candidates(&self) -> VecDeque<Peer> {
        let mut nodes = VecDeque::from(self.locator.ready());
        if nodes.len() < 2 {
            return nodes;
        }
        if let Some(first) = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(nodes.len() as u64) {
            nodes.rotate_left(usize::try_from(first).unwrap_or_default());
        }
        nodes.make_contiguous().sort_by_key(|node| self.reach.is_recent(node));
        nodes
    }

    /// Asks one node, and notes whether it could be reached.
    async fn ask(&self, call: &Call, node: &Peer) -> Result<Taken, Error> {
        let asked = self.first_word(call, node).await;
        match &asked {
            Ok(_) => self.reach.answered(node),
            Err(error) if error.detail == Some(Detail::NotReached) => {
                if self.reach.failed(node) {
                    self.locator.suspect(node, &error.message);
                }
            }
            Err(error) if is_uncertain(error) => self.reach.lost(node),
            Err(_) => {}
        }
        // One that ended without a word is there, and may have taken it on all the same.
        asked?.ok_or_else(|| uncertain("a session node said nothing"))
    }

    async fn first_word(&self, call: &Call, node: &Peer) -> Result<Option<Taken>, Error> {
        let unreachable = || Error::new(Code::Unavailable, format!("{} is not an address", node.address));
        // What no session owns has no second chance: a node that merely pauses is waited for. A stream of HTTP+SSE goes on elsewhere
        // once it is begun, and begins elsewhere until then.
        let moves = call.session().is_some() || call.is_carried();
        let host = if moves { self.peers.get(&node.address) } else { self.peers.patient(&node.address) };
        let host = host.ok_or_else(unreachable)?;
        first_of(call.on(host.as_ref()).await?).await
    }

    /// A node that is well, and can reach another one in our stead.
    fn neighbour_of(&self, node: &Peer) -> Option<Peer> {
        let is_well = |via: &Peer| via != node && self.reach.since(via).is_none();
        self.candidates().into_iter().find(is_well)
    }

    /// Asks a node that is well to pass a request on to one that is not, or that only we do not reach.
    async fn pass_on(&self, call: &Call, node: &Peer) -> Result<Taken, Error> {
        let none = || Error::new(Code::Unimplemented, "nobody is there to pass it on");
        let via = self.neighbour_of(node).ok_or_else(none)?;
        let host = self.peers.get(&via.address).ok_or_else(none)?;
        let frames = host.relay(&node.address, call.request()).await?;
        first_of(frames).await?.ok_or_else(|| uncertain("a session node said nothing to what was passed on"))
    }
}

/// What frames begin with; `None` if there are none.
pub(crate) async fn first_of(mut frames: Frames) -> Result<Option<Taken>, Error> {
    match frames.next().await {
        Some(Ok(Frame::Accepted { session })) => Ok(Some(Taken::Accepted { session, frames })),
        Some(Ok(Frame::Refused(answer))) => Ok(Some(Taken::Refused(answer))),
        Some(Ok(Frame::Answer(_) | Frame::Open | Frame::Event(_))) => {
            Err(Error::new(Code::Internal, "a session node answered without accepting"))
        }
        Some(Err(error)) => Err(error),
        None => Ok(None),
    }
}

/// A request that a node may have, though it has not said so.
fn uncertain(message: impl Into<String>) -> Error {
    let lost = Detail::OutcomeUnknown { invocation: String::new() };
    Error::new(Code::Unavailable, message).with(lost)
}

/// No slot of the node was there for it.
fn has_moved(error: &Error) -> bool {
    matches!(error.detail, Some(Detail::NotOwner { .. }))
}

fn is_uncertain(error: &Error) -> bool {
    error.code == Code::Unavailable && matches!(error.detail, Some(Detail::OutcomeUnknown { .. }))
}

#[cfg(test)]
mod tests;
