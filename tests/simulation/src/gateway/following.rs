//! What an owner says, and the next one after it, as if one had said it all. Mirrors
//! `services/gateway/src/forward/following.rs`.

use std::rc::Rc;

use api::session::{Again, Event, Frame};
use api::{Code, Detail, Error, Slot};

use super::{Found, Gateway, Lost, OWNER_MS, PAUSE_MS, STEADY_MS, Taken, is_loss, not_taken, uncertain};
use crate::ask::{self, Ask, Kind, Step};
use crate::world::{Rx, Tx};

/// A request that was taken on, across owners.
pub(super) struct Following<'a> {
    gateway: &'a Rc<Gateway>,
    slot: Option<Slot>,
    is_resumed: bool,
    has_opened: bool,
    last_event_id: Option<String>,
    /// The response has been passed on.
    answered: bool,
    /// Since when owners are lost one after the other, and when the last one was found.
    outage: Option<(u64, u64, bool)>,
}

impl<'a> Following<'a> {
    pub(super) const fn new(gateway: &'a Rc<Gateway>, slot: Option<Slot>) -> Self {
        Self {
            gateway,
            slot,
            is_resumed: false,
            has_opened: false,
            last_event_id: None,
            answered: false,
            outage: None,
        }
    }

    pub(super) async fn run(mut self, mut ask: Ask, mut node: String, mut frames: Rx<Step>, reply: Tx<Step>) {
        loop {
            let error = match self.read(&node, &mut frames, &reply).await {
                Ok(()) => return,
                Err(error) => error,
            };
            let Some(slot) = self.slot.filter(|_| is_loss(&error) && !reply.is_gone()) else {
                return self.fail(&ask, &error, &reply);
            };
            if self.answered {
                return;
            }
            match self.again(&mut ask, slot, error).await {
                Ok(Found { node: next, taken: Taken::Accepted(_, next_frames) }) => {
                    self.gateway.scene.pen.count(|counts| counts.followed += 1);
                    self.is_resumed = true;
                    (node, frames) = (next, next_frames);
                }
                Ok(Found { taken: Taken::Refused(answer), .. }) => {
                    if self.has_opened || ask.is_tools_call() {
                        let error = Error::new(Code::OutcomeUnknown, "the next owner refused");
                        return self.fail(&ask, &error, &reply);
                    }
                    reply.send(Ok(Frame::Answer(answer)));
                    return;
                }
                Err(error) => return self.fail(&ask, &error, &reply),
            }
        }
    }

    /// Passes frames on. An error is what ended them.
    async fn read(&mut self, node: &str, frames: &mut Rx<Step>, reply: &Tx<Step>) -> Result<(), Error> {
        loop {
            let gateway = self.gateway;
            let step = loop {
                // The link is pinged each second, and lost after two more without an answer.
                match gateway.ctx.within_ms(1_000, frames.recv()).await {
                    Some(step) => break step,
                    None if reply.is_gone() => return Ok(()),
                    None if gateway.pings_fail(node) => {
                        gateway.reach.lost(node, gateway.ctx.now_ms());
                        return Err(uncertain("no answer to pings"));
                    }
                    None => {}
                }
            };
            let frame = match step {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(error),
                None if self.has_opened => return Ok(()),
                None => return Err(Error::new(Code::Unavailable, "a session node ended without an answer")),
            };
            if let Some((_, _, led_on)) = &mut self.outage {
                *led_on = true;
            }
            match frame {
                Frame::Accepted { .. } => {}
                Frame::Open if self.is_resumed && self.has_opened => {}
                Frame::Open => {
                    self.has_opened = true;
                    reply.send(Ok(Frame::Open));
                }
                Frame::Answer(answer) if self.is_resumed && self.has_opened => {
                    let event = Event { message: answer.body, ..Event::default() };
                    reply.send(Ok(Frame::Event(event)));
                    return Ok(());
                }
                Frame::Answer(answer) | Frame::Refused(answer) => {
                    reply.send(Ok(Frame::Answer(answer)));
                    return Ok(());
                }
                Frame::Event(event) => {
                    if event.id.is_some() {
                        self.last_event_id.clone_from(&event.id);
                    }
                    if let Some(message) = &event.message {
                        self.answered = message.member("method").is_none();
                    }
                    reply.send(Ok(Frame::Event(event)));
                }
            }
        }
    }

    /// Looks for whoever goes on with the request.
    async fn again(&mut self, ask: &mut Ask, slot: Slot, error: Error) -> Result<Found, Error> {
        let gateway = self.gateway;
        match &mut ask.kind {
            Kind::Deliver { again, .. } => {
                *again = Some(Again { accepted: true, last_event_id: self.last_event_id.clone() });
            }
            Kind::Attach { last } => {
                if self.last_event_id.is_some() {
                    last.clone_from(&self.last_event_id);
                }
            }
            Kind::Close => {}
        }
        let now = gateway.ctx.now_ms();
        let recent = self.outage.filter(|(_, ended, _)| now < ended + STEADY_MS);
        let since = recent.filter(|(_, _, led_on)| !led_on).map_or(now, |(since, ..)| since);
        if now >= since + OWNER_MS {
            return Err(error);
        }
        if recent.is_some() {
            gateway.ctx.sleep_ms(PAUSE_MS).await;
        }
        let mut next = match error.detail {
            Some(Detail::NotOwner { owner, .. }) if !owner.is_empty() => Some(owner),
            _ => None,
        };
        loop {
            let lost = Lost { at: since, next: next.take() };
            let found = gateway.find(ask, slot, Some(lost)).await;
            let now = gateway.ctx.now_ms();
            match &found {
                Ok(Found { taken: Taken::Refused(answer), .. })
                    if matches!(answer.status, 429 | 503) && now + PAUSE_MS < since + OWNER_MS =>
                {
                    gateway.ctx.sleep_ms(PAUSE_MS).await;
                }
                Ok(_) | Err(_) => {
                    self.outage = Some((since, now, false));
                    return found;
                }
            }
        }
    }

    /// What the client is told when nobody goes on with it.
    fn fail(&self, ask: &Ask, error: &Error, reply: &Tx<Step>) {
        if !self.has_opened {
            let error = match error.code {
                Code::Unavailable | Code::Precondition if ask.is_tools_call() => {
                    &Error::new(Code::OutcomeUnknown, error.message.clone())
                }
                _ => error,
            };
            reply.send(Ok(not_taken(ask.request_id(), error)));
        } else if error.code == Code::OutcomeUnknown && !self.answered && ask.request_id().is_some() {
            let message = Some(ask::outcome_unknown(ask.request_id(), "unavailable"));
            reply.send(Ok(Frame::Event(Event { message, ..Event::default() })));
        }
    }
}
