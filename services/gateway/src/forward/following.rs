//! What an owner says, and the next one after it, as if one had said it all.
//!
//! Owns: when an owner counts as lost, what the next one is told, and which of its frames the client has had already. While the
//! owner changes, the client's response stays open and nothing is said; after that it goes on, or ends as honestly as if
//! nobody had been asked. Must not know: how frames become HTTP, and how an owner is found.
//!
//! What a session node guarantees, so that nothing is lost, doubled or made up on the way:
//!
//! * It ends frames with an error, [`Code::Unavailable`] or [`Detail::NotOwner`], when it gives a session up, and only then:
//!   an end without an error, or an answer, is the end of what the client asked for. After [`Frame::Accepted`] there is an
//!   answer, [`Frame::Open`] or an error.
//! * [`Frame::Accepted`] is said once the request is stored, so that it can be found under its key: a later owner that finds
//!   nothing under the key of a delivery with [`Again::accepted`](api::session::Again) answers that the outcome is unknown.
//!   It never takes such a delivery on as a new one. Without `accepted` it goes on with what it finds under the key, running
//!   or answered, and else takes the delivery on.
//! * No event is sent before it is stored, and an id is never used for two events. Of a delivery that comes again, events
//!   after [`Again::last_event_id`](api::session::Again) are sent, all of them and none before; without an id, all that have
//!   none yet acknowledged. The same holds for [`Attach::last_event_id`](api::session::Attach).
//! * The stream of a session of HTTP+SSE ([`Attach::carried`](api::session::Attach)) has an event with an id, and no message, before
//!   anything is said, and from then on ids on all that may be asked for again. Its owner keeps the session for longer without a
//!   reader than it takes to come. What is posted in it is accepted together with its whole answer, once it is stored.
//! * A delivery that comes again may be answered in either shape: an answer whose response is a stream already becomes its
//!   last event.
//! * An owner whose link to the gateway broke, and that is sent a delivery again while it is still at it, goes on with it: it
//!   does not refuse it as a repetition. This holds for every method, not for calls alone.
//! * A delivery may reach an owner twice, in either order, the earlier copy without [`Again`](api::session::Again): what an
//!   owner has begun under a key it never begins again.
//! * A node that is not (yet, or any longer) the owner refuses before `Accepted`, with [`Detail::NotOwner`], the owner's
//!   address if it knows it, or [`Detail::Draining`]. `Draining` says that nothing was begun, `NotOwner` does not: whoever is
//!   sent the delivery next looks under its key. Of a batch of HTTP+SSE nothing was begun before `Accepted`; it is not continued, and
//!   not sent again when it may have been received. What it refuses for now only (a store that is down) it refuses with status 503
//!   or 429: it is asked again for as long as patience lasts.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use api::session::{Answer, Event, Frame, Frames};
use api::{Code, Detail, Error, Slot};
use chassis::clock;
use chassis::telemetry::{Scope, Side};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use mcp::telemetry::attribute;
use mcp::{Json, scan};
use placement::Peer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::counts::GivenUp;
use super::overtaken::Place;
use super::owner::{Found, Lost};
use super::{Call, Forward, Taken, is_uncertain};
use crate::observe::ROLE;

/// Streams that wait for news come to the next owner spread over this time; requests come at once.
const SPREAD_MS: u32 = 500;
/// An owner that is lost sooner than this after it took a request on gives no reason to hurry.
const STEADY: Duration = Duration::from_secs(1);
/// The client of a session of HTTP+SSE cannot come back to it: its stream is followed for so many times as long.
const CARRIED: u32 = 4;
/// Between attempts that lead to nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// The frames of a request that was taken on.
pub(super) struct Following {
    forward: Arc<Forward>,
    slot: Slot,
    state: State,
    /// Whether another owner has taken it on since.
    is_resumed: bool,
    /// Whether the client's response is an event stream.
    has_opened: bool,
    /// Of the last event with an id.
    last_event_id: Option<String>,
    /// The last message.
    last: Option<Json>,
    /// What is said next.
    next: VecDeque<Frame>,
    outage: Option<Outage>,
    /// While an event stream is read from an owner: what has no answer for longer is one.
    place: Option<Place>,
    /// Told of every owner after the first.
    owners: Option<watch::Sender<u64>>,
}

enum State {
    Reading(Box<Call>, Peer, Frames),
    Asking(BoxFuture<'static, (Box<Call>, Result<Found, Error>)>),
    Over,
}

/// The last time that the owner was lost.
#[derive(Debug, Clone, Copy)]
struct Outage {
    /// When.
    since: Instant,
    /// When the next owner had taken it on.
    ended: Instant,
    /// Whether anything was said after that.
    has_led_on: bool,
}

impl Following {
    pub(super) fn new(forward: Arc<Forward>, call: Call, slot: Slot, node: Peer, frames: Frames) -> Self {
        Self {
            forward,
            slot,
            state: State::Reading(Box::new(call), node, frames),
            is_resumed: false,
            has_opened: false,
            last_event_id: None,
            last: None,
            next: VecDeque::new(),
            outage: None,
            place: None,
            owners: None,
        }
    }

    /// Somebody wants to know when the next owner has taken it on, and that there is none any more.
    pub(super) fn telling(mut self, owners: watch::Sender<u64>) -> Self {
        self.owners = Some(owners);
        self
    }

    /// What of a frame the client has not had.
    fn pass(&mut self, frame: Frame) -> Option<Frame> {
        match frame {
            Frame::Accepted { .. } if self.is_resumed => return None,
            Frame::Open if self.is_resumed && self.has_opened => return None,
            Frame::Answer(answer) if self.is_resumed && self.has_opened => {
                self.state = State::Over;
                self.next = events(answer).collect();
                return self.next.pop_front();
            }
            Frame::Answer(_) => self.state = State::Over,
            Frame::Open => {
                self.has_opened = true;
                self.take_place();
            }
            Frame::Event(ref event) => {
                if event.id.is_some() {
                    self.last_event_id.clone_from(&event.id);
                }
                if event.message.is_some() {
                    self.last.clone_from(&event.message);
                }
            }
            Frame::Accepted { .. } | Frame::Refused(_) => {}
        }
        if let Some(outage) = &mut self.outage {
            outage.has_led_on = true;
        }
        Some(frame)
    }

    /// From now on it matters whether the table knows a later owner.
    fn take_place(&mut self) {
        if let State::Reading(_, node, _) = &self.state {
            let forward = &self.forward;
            self.place = Some(forward.readings.begin(forward.locator.as_ref(), self.slot, node));
        }
    }

    /// The owner that the table has instead of the one that is read from.
    fn overtaken(&self) -> Error {
        let owner = self.forward.locator.holder(self.slot);
        let (address, epoch) =
            owner.map_or((String::new(), 0), |owner| (owner.peer.address.to_string(), owner.epoch.0));
        let detail = Detail::NotOwner { owner: address, epoch };
        Error::new(Code::Precondition, "the table knows a later owner").with(detail)
    }

    /// The owner is lost: the next one is looked for, unless the client has everything.
    ///
    /// # Errors
    /// The error, if owners have been lost one after the other for too long.
    fn lose(&mut self, mut call: Box<Call>, node: &Peer, error: Error) -> Result<(), Error> {
        let answered = |last: &Json| scan::member(last.as_str(), "method").is_none();
        if !call.is_carried() && self.last.as_ref().is_some_and(answered) {
            return Ok(());
        }
        if call.is_carried() && self.last_event_id.is_none() {
            // The owner was of a build whose streams end with it.
            return Err(self.give_up(error));
        }
        if is_uncertain(&error) {
            self.forward.reach.lost(node);
        }
        call.goes_on(self.last_event_id.clone());
        let now = Instant::now();
        let again = self.outage.filter(|outage| now < outage.ended + STEADY);
        let since = again.filter(|outage| !outage.has_led_on).map_or(now, |outage| outage.since);
        if now >= since + patience(&self.forward, &call) {
            return Err(self.give_up(error));
        }
        self.outage = Some(Outage { since, ended: now, has_led_on: false });
        let spread = if call.is_idle() { spread() } else { Duration::ZERO };
        let pause = if again.is_some() { PAUSE + spread } else { spread };
        tracing::debug!(slot = %self.slot, owner = %node.address, error = %error.message, "an owner was lost");
        let next = match error.detail {
            Some(Detail::NotOwner { owner, .. }) if !owner.is_empty() => Some(Peer { address: owner.into() }),
            Some(_) | None => None,
        };
        let lost = Lost { at: since, next };
        let asking = ask_again(self.forward.clone(), call, self.slot, lost, pause);
        self.state = State::Asking(asking.boxed());
        Ok(())
    }

    /// What the client is told when nobody goes on with it.
    fn give_up(&self, error: Error) -> Error {
        tracing::debug!(slot = %self.slot, error = %error.message, "a request was given up");
        let is_unknown = error.code == Code::OutcomeUnknown;
        let how = if is_unknown { GivenUp::Unknown } else { GivenUp::Unavailable };
        self.forward.counts.given_up(how);
        error
    }

    /// The next owner will not go on with it. What may have been executed has an unknown outcome then, whatever it says.
    fn refused(&self, call: &Call, answer: Answer) -> Result<Frame, Error> {
        self.forward.counts.given_up(GivenUp::Refused);
        if self.has_opened || !call.is_repeatable() {
            let text = format!("the next owner refused with status {}", answer.status);
            return Err(Error::new(Code::OutcomeUnknown, text));
        }
        Ok(Frame::Answer(answer))
    }
}

impl Stream for Following {
    type Item = Result<Frame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.next.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            match &mut this.state {
                State::Reading(_, _, frames) => {
                    let item = match frames.poll_next_unpin(cx) {
                        Poll::Ready(item) => item,
                        Poll::Pending => {
                            let place = this.place.as_ref().map(|place| place.poll_overtaken(cx));
                            ready!(place.unwrap_or(Poll::Pending));
                            Some(Err(this.overtaken()))
                        }
                    };
                    if let Some(Ok(frame)) = item {
                        if let Some(frame) = this.pass(frame) {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                        continue;
                    }
                    let State::Reading(call, node, frames) = std::mem::replace(&mut this.state, State::Over)
                    else {
                        continue;
                    };
                    drop(frames);
                    this.place = None;
                    let error = match item {
                        Some(Err(error)) => error,
                        Some(Ok(_)) | None if this.has_opened => return Poll::Ready(None),
                        Some(Ok(_)) | None => {
                            Error::new(Code::Unavailable, "a session node ended without an answer")
                        }
                    };
                    if !is_loss(&error) {
                        return Poll::Ready(Some(Err(error)));
                    }
                    if let Err(error) = this.lose(call, &node, error) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                State::Asking(asking) => {
                    let (call, found) = ready!(asking.poll_unpin(cx));
                    this.state = State::Over;
                    let now = Instant::now();
                    this.outage.iter_mut().for_each(|outage| outage.ended = now);
                    match found {
                        Ok(Found { node, taken: Taken::Accepted { frames, .. } }) => {
                            this.forward.counts.reattached.inc();
                            this.is_resumed = true;
                            if let Some(owners) = &this.owners {
                                owners.send_modify(|count| *count += 1);
                            }
                            this.state = State::Reading(call, node, frames);
                            if this.has_opened {
                                this.take_place();
                            }
                        }
                        Ok(Found { taken: Taken::Refused(answer), .. }) => {
                            return Poll::Ready(Some(this.refused(&call, answer)));
                        }
                        Err(error) => return Poll::Ready(Some(Err(this.give_up(error)))),
                    }
                }
                State::Over => return Poll::Ready(None),
            }
        }
    }
}

/// Whether an error says that the owner is lost, or no longer the owner.
fn is_loss(error: &Error) -> bool {
    match error.code {
        Code::Unavailable => true,
        Code::Precondition => {
            matches!(error.detail, Some(Detail::NotOwner { .. } | Detail::StaleEpoch { .. }))
        }
        Code::InvalidRequest
        | Code::Unimplemented
        | Code::NotFound
        | Code::Unauthenticated
        | Code::Denied
        | Code::Overloaded
        | Code::Deadline
        | Code::Cancelled
        | Code::OutcomeUnknown
        | Code::Internal => false,
    }
}

/// Looks for whoever takes a request on that no owner has, for as long as a stream would be followed.
pub(super) async fn insist(forward: Arc<Forward>, call: Call, slot: Slot) -> Result<Taken, Error> {
    let lost = Lost { at: Instant::now(), next: None };
    let (_, found) = ask_again(forward, Box::new(call), slot, lost, Duration::ZERO).await;
    Ok(found?.taken)
}

/// Looks for whoever goes on with a request, for as long as patience lasts.
async fn ask_again(
    forward: Arc<Forward>,
    mut call: Box<Call>,
    slot: Slot,
    lost: Lost,
    pause: Duration,
) -> (Box<Call>, Result<Found, Error>) {
    let scope = Scope::current().child(ROLE, Side::Internal, || "trunkline.gateway reattach".into());
    scope.describe(|to| _ = to.set(attribute::SLOT, i64::from(slot.number())));
    let Lost { mut at, mut next } = lost;
    let limit = at + patience(&forward, &call);
    let asking = async {
        sleep(pause.min(forward.patience.owner)).await;
        loop {
            let lost = Lost { at, next: next.take() };
            let found = forward.find(&mut call, slot, Some(lost)).await;
            match &found {
                // Not now, is what it says.
                Ok(Found { taken: Taken::Refused(answer), .. })
                    if matches!(answer.status, 429 | 503) && Instant::now() + PAUSE < limit =>
                {
                    sleep_until(Instant::now() + PAUSE).await;
                }
                Err(error) if call.is_carried() && is_loss(error) && Instant::now() + PAUSE < limit => {
                    at = Instant::now() + PAUSE;
                    sleep_until(at).await;
                }
                Ok(_) | Err(_) => return found,
            }
        }
    };
    let found = scope.clone().within(asking).await;
    match &found {
        Ok(found) => scope.describe(|to| _ = to.set(attribute::OWNER, found.node.address.to_string())),
        Err(error) => scope.fail("unavailable", &error.message),
    }
    scope.end();
    (call, found)
}

/// How long the next owner is looked for.
fn patience(forward: &Forward, call: &Call) -> Duration {
    let usual = forward.patience.owner;
    if call.is_carried() { usual * CARRIED } else { usual }
}

/// Clients whose streams were lost together do not all come at once.
fn spread() -> Duration {
    let draw = u32::from(u16::from_le_bytes(clock::random().unwrap_or_default()));
    Duration::from_millis(u64::from(draw * SPREAD_MS / u32::from(u16::MAX)))
}

/// A whole answer to a client that is reading a stream.
fn events(answer: Answer) -> impl Iterator<Item = Frame> {
    let body = answer.body;
    let messages: Vec<Json> = match body {
        Some(body) if body.as_str().trim_start().starts_with('[') => {
            scan::elements(body.as_str()).map(|one| Json::trusted(one.to_owned())).collect()
        }
        body => body.into_iter().collect(),
    };
    messages.into_iter().map(|message| Frame::Event(Event { message: Some(message), ..Event::default() }))
}
