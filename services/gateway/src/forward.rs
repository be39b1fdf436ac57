//! Which session node gets a request, and what is tried when one cannot take it.
//!
//! A node may be asked again, or another one instead, only until one has accepted; from then on the outcome belongs to it.
//! A call of a tool that was lost before that can be told is neither sent again nor said to be safe to send again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::session::{Answer, Attach, Close, Delivery, Frame, Frames};
use api::{Code, Detail, Error, SessionHost, Slot};
use futures::StreamExt as _;
use mcp::Method;
use mcp::scan::is_object;
use placement::{Locator, Peer};

use crate::peers::Peers;

/// Redirections that are followed for one request.
const MAX_HINTS: u32 = 2;
const TOOLS_CALL: &str = Method::ToolsCall.as_str();

/// One thing to ask of a session node.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Deliver(Box<Delivery>),
    Attach(Attach),
    Close(Close),
}

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
    timeout: Duration,
    seed: u64,
    requests: AtomicU64,
    turn: AtomicU64,
}

impl Call {
    /// Whether nothing is executed twice when a request that may have been taken on is sent again, by us or by the client.
    fn is_repeatable(&self) -> bool {
        match self {
            Self::Deliver(delivery) => {
                let message = &delivery.message;
                is_object(message.as_str()) && message.text("method").as_deref() != Some(TOOLS_CALL)
            }
            Self::Attach(_) | Self::Close(_) => true,
        }
    }

    async fn on(&self, host: &dyn SessionHost) -> Result<Frames, Error> {
        match self {
            Self::Deliver(delivery) => host.deliver(delivery.as_ref().clone()).await,
            Self::Attach(attach) => host.attach(attach.clone()).await,
            Self::Close(close) => host.close(close.clone()).await,
        }
    }
}

impl Forward {
    /// `seed` makes request keys differ from those of every other gateway.
    pub(crate) fn new(
        locator: Arc<dyn Locator>,
        peers: Arc<dyn Peers>,
        timeout: Duration,
        seed: u64,
    ) -> Self {
        Self { locator, peers, timeout, seed, requests: AtomicU64::new(0), turn: AtomicU64::new(0) }
    }

    /// A key that no other request has.
    pub(crate) fn request_key(&self) -> String {
        format!("{:016x}-{:x}", self.seed, self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a request to the owner of `slot`, or to any ready node if no session owns it.
    ///
    /// # Errors
    /// Whatever kept the last node that was asked from taking it on. Nothing was accepted, unless the code is
    /// [`Code::OutcomeUnknown`]: then nobody can tell.
    pub(crate) async fn send(&self, call: &Call, slot: Option<Slot>) -> Result<Taken, Error> {
        let asked = tokio::time::timeout(self.timeout, self.ask_in_turn(call, slot)).await;
        asked.unwrap_or_else(|_elapsed| {
            let code = if call.is_repeatable() { Code::Deadline } else { Code::OutcomeUnknown };
            Err(Error::new(code, "no session node took the request on in time"))
        })
    }

    async fn ask_in_turn(&self, call: &Call, slot: Option<Slot>) -> Result<Taken, Error> {
        let mut nodes = self.candidates(slot);
        let mut hints = MAX_HINTS;
        let mut last = Error::new(Code::Unavailable, "no session node is ready");
        while let Some(node) = nodes.pop_front() {
            let error = match self.ask(call, &node).await {
                Ok(taken) => return Ok(taken),
                Err(error) => error,
            };
            if let Some(Detail::NotOwner { owner, .. }) = &error.detail {
                if hints == 0 || owner.is_empty() {
                    return Err(Error::new(Code::Unavailable, "the owner of the slot could not be found"));
                }
                hints -= 1;
                nodes.push_front(Peer { address: owner.as_str().into() });
            } else if error.code != Code::Unavailable {
                return Err(error);
            } else if matches!(error.detail, Some(Detail::OutcomeUnknown { .. })) && !call.is_repeatable() {
                return Err(Error { code: Code::OutcomeUnknown, ..error });
            }
            last = error;
        }
        Err(last)
    }

    /// The owner alone, or every ready node, each request beginning with the next one.
    fn candidates(&self, slot: Option<Slot>) -> VecDeque<Peer> {
        if let Some(slot) = slot {
            return self.locator.owner(slot).into_iter().collect();
        }
        let mut nodes = VecDeque::from(self.locator.ready());
        if let Some(first) = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(nodes.len() as u64) {
            nodes.rotate_left(usize::try_from(first).unwrap_or_default());
        }
        nodes
    }

    async fn ask(&self, call: &Call, node: &Peer) -> Result<Taken, Error> {
        let unreachable = || Error::new(Code::Unavailable, format!("{} is not an address", node.address));
        let host = self.peers.get(&node.address).ok_or_else(unreachable)?;
        let mut frames = call.on(host.as_ref()).await?;
        match frames.next().await {
            Some(Ok(Frame::Accepted { session })) => Ok(Taken::Accepted { session, frames }),
            Some(Ok(Frame::Refused(answer))) => Ok(Taken::Refused(answer)),
            Some(Ok(Frame::Answer(_) | Frame::Open | Frame::Event(_))) => {
                Err(Error::new(Code::Internal, "a session node answered without accepting"))
            }
            Some(Err(error)) => Err(error),
            None => {
                let lost = Detail::OutcomeUnknown { invocation: String::new() };
                Err(Error::new(Code::Unavailable, "a session node said nothing").with(lost))
            }
        }
    }
}
