//! What is asked of a session node, and what is known of attempts before.

use api::session::{Again, Attach, Close, Delivery, Frames, Transport};
use api::{Error, SessionHost};
use mcp::scan::is_object;
use mcp::{Era, Method};

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
            Self::Deliver(delivery) => {
                let message = &delivery.message;
                is_object(message.as_str()) && message.text("method").as_deref() != Some(TOOLS_CALL)
            }
            Self::Attach(_) | Self::Close(_) => true,
        }
    }

    /// Whether the next owner of the session can go on with it. What is said in HTTP+SSE ends with its stream, and that with
    /// the owner; what no session owns has no next owner.
    pub(super) fn can_move(&self) -> bool {
        match self {
            Self::Deliver(delivery) => {
                delivery.era == Era::Older
                    && delivery.session.is_some()
                    && delivery.transport == Transport::Streamable
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

    /// Whether it waits for news rather than for an answer.
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self, Self::Attach(_))
    }

    /// Whether a single answer ends it.
    pub(super) fn has_one_answer(&self) -> bool {
        match self {
            Self::Deliver(delivery) => is_object(delivery.message.as_str()),
            Self::Attach(_) => true,
            Self::Close(_) => false,
        }
    }

    /// A node may have it and has not said so.
    pub(super) fn may_be_there(&mut self) {
        if let Self::Deliver(delivery) = self
            && delivery.session.is_some()
        {
            delivery.again.get_or_insert_default();
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

    pub(super) async fn on(&self, host: &dyn SessionHost) -> Result<Frames, Error> {
        match self {
            Self::Deliver(delivery) => host.deliver(delivery.as_ref().clone()).await,
            Self::Attach(attach) => host.attach(attach.clone()).await,
            Self::Close(close) => host.close(close.clone()).await,
        }
    }
}
