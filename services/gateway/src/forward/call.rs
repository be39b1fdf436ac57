//! What is asked of a session node, and what is known of attempts before.

use api::session::{Again, Attach, Close, Delivery, Frames, Request, Transport};
use api::{Detail, Error, SessionHost};
use mcp::{Era, Method, scan};

const TOOLS_CALL: &str = Method::ToolsCall.as_str();

/// One thing to ask of a session node.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Deliver(Box<Delivery>),
    Attach(Attach),
    Close(Close),
}

impl Call {
    /// Whether nothing is executed twice when a request that may have been taken on is sent again by the client.
    pub(super) fn is_repeatable(&self) -> bool {
        match self {
            // Members that were answered would be answered twice.
            Self::Deliver(delivery) if is_batch(delivery) => false,
            Self::Deliver(delivery) => !is_call(delivery.message.as_str()),
            Self::Attach(_) | Self::Close(_) => true,
        }
    }

    /// Whether the next owner of the session can go on with it. What no session owns has no next owner; what came of each member
    /// of a batch that goes whole is not kept.
    pub(super) fn can_move(&self) -> bool {
        match self {
            Self::Deliver(delivery) => {
                delivery.era == Era::Older && delivery.session.is_some() && !is_batch(delivery)
            }
            Self::Attach(attach) => !attach.begin,
            Self::Close(close) => !close.when_idle,
        }
    }

    /// The session it belongs to.
    pub(super) fn session(&self) -> Option<&str> {
        let session = match self {
            Self::Deliver(delivery) => delivery.session.as_deref(),
            Self::Attach(attach) => Some(attach.session.as_str()),
            Self::Close(close) => Some(close.session.as_str()),
        };
        session.filter(|id| !id.is_empty())
    }

    /// Whether it waits for news rather than for an answer. On the stream of HTTP+SSE all answers come.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Attach(_)) && !self.is_carried()
    }

    /// Whether it is the stream of a session of HTTP+SSE, which ends with the session alone, or says that its client has gone: what
    /// comes of it nobody can do later.
    pub(super) fn is_carried(&self) -> bool {
        match self {
            Self::Attach(attach) => attach.carried,
            Self::Close(close) => close.transport == Transport::HttpSse && !close.when_idle,
            Self::Deliver(_) => false,
        }
    }

    /// Notes that a node has not taken it on, and why. An owner that gives a session up says so in the same words to whom it has
    /// begun to serve, and who goes on with that finds it under its key.
    pub(super) fn was_refused(&mut self, error: &Error) {
        let Self::Deliver(delivery) = self else { return };
        let may_have_begun = match error.detail {
            Some(Detail::Draining | Detail::NotReached) => false,
            Some(Detail::OutcomeUnknown { .. }) => true,
            // A batch that was begun was accepted before.
            Some(
                Detail::NotOwner { .. }
                | Detail::StaleEpoch { .. }
                | Detail::BadState
                | Detail::Overloaded { .. },
            )
            | None => !is_batch(delivery),
        };
        if may_have_begun && delivery.session.is_some() {
            delivery.again.get_or_insert_default();
        }
    }

    /// Whether an owner that is sent it recognises what an earlier one has done with it.
    pub(super) fn is_recognised(&self) -> bool {
        match self {
            Self::Deliver(delivery) => delivery.again.is_none() || !is_batch(delivery),
            Self::Attach(_) | Self::Close(_) => true,
        }
    }

    /// Whether a node may have it.
    pub(super) const fn is_perhaps_there(&self) -> bool {
        match self {
            Self::Deliver(delivery) => delivery.again.is_some(),
            Self::Attach(_) | Self::Close(_) => false,
        }
    }

    /// It was taken on, and the client has been sent everything up to this event.
    pub(super) fn goes_on(&mut self, last_event_id: Option<String>) {
        match self {
            Self::Deliver(delivery) => delivery.again = Some(Again { accepted: true, last_event_id }),
            Self::Attach(attach) => {
                attach.last_event_id = last_event_id.or_else(|| attach.last_event_id.take());
            }
            Self::Close(_) => {}
        }
    }

    /// The same, as one that a node may meet twice: over a link that is silent, and beside it.
    pub(super) fn twice(&self) -> Self {
        let mut call = self.clone();
        if let Self::Deliver(delivery) = &mut call
            && delivery.session.is_some()
            && !is_batch(delivery)
        {
            delivery.again.get_or_insert_default();
        }
        call
    }

    /// Whether another node may pass it on: the owner recognises what it meets twice.
    pub(super) fn may_be_passed_on(&self) -> bool {
        self.can_move()
    }

    pub(super) fn request(&self) -> Request {
        match self.clone() {
            Self::Deliver(delivery) => Request::Deliver(delivery),
            Self::Attach(attach) => Request::Attach(attach),
            Self::Close(close) => Request::Close(close),
        }
    }

    pub(super) async fn on(&self, host: &dyn SessionHost) -> Result<Frames, Error> {
        match self {
            Self::Deliver(delivery) => host.deliver(delivery.as_ref().clone()).await,
            Self::Attach(attach) => host.attach(attach.clone()).await,
            Self::Close(close) => host.close(close.clone()).await,
        }
    }
}

/// Whether it is a batch of a session of HTTP+SSE, the only one that is delivered whole.
fn is_batch(delivery: &Delivery) -> bool {
    !scan::is_object(delivery.message.as_str())
}

fn is_call(message: &str) -> bool {
    scan::member(message, "method").and_then(scan::string).as_deref() == Some(TOOLS_CALL)
}
