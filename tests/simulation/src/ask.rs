//! What clients ask of gateways, gateways of session nodes, and session nodes of registries.

use api::session::{Again, Answer, Frame};
use api::{Code, Detail, Error, Principal};
use mcp::rpc::{self, Id, Message, RpcError};
use mcp::{Json, code};

use crate::world::{Ctx, Net, Proc, Queue, Rx, Tx};

/// One step of an answer.
pub(crate) type Step = Result<Frame, Error>;

/// One thing to ask of a gateway, or of a session node.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) principal: Principal,
    /// The session's id; `None` begins one.
    pub(crate) session: Option<String>,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A message. Keys and what is known of attempts before are the gateway's.
    Deliver { message: Message, key: String, again: Option<Again> },
    /// A stream is continued, or the session's own is opened.
    Attach { last: Option<String> },
    /// The session is ended.
    Close,
}

impl Ask {
    pub(crate) fn is_tools_call(&self) -> bool {
        matches!(&self.kind, Kind::Deliver { message, .. } if message.method() == Some("tools/call"))
    }

    pub(crate) fn request_id(&self) -> Option<&Id> {
        match &self.kind {
            Kind::Deliver { message: Message::Request(request), .. } => Some(&request.id),
            Kind::Deliver { .. } | Kind::Attach { .. } | Kind::Close => None,
        }
    }
}

/// A request at the door of a process, with where the answer goes.
pub(crate) struct Call<A, S: 'static> {
    pub(crate) ask: A,
    pub(crate) reply: Tx<Result<S, Error>>,
}

/// Where a process is reached.
pub(crate) struct Door<A, S: 'static> {
    pub(crate) process: Proc,
    pub(crate) inbox: Queue<Call<A, S>>,
}

impl<A, S: 'static> Clone for Door<A, S> {
    fn clone(&self) -> Self {
        Self { process: self.process, inbox: self.inbox.clone() }
    }
}

impl<A: 'static, S: 'static> Door<A, S> {
    pub(crate) fn of(ctx: &Ctx) -> Self {
        Self { process: ctx.me, inbox: Queue::default() }
    }

    /// Asks. What comes back ends in silence if the process dies, and in nothing at all if it is stopped or cut off.
    pub(crate) fn ask(&self, net: &Net, ctx: &Ctx, ask: A) -> Rx<Result<S, Error>> {
        let (reply, answers) = net.pipe(self.process, ctx.me);
        let (sim, to) = (ctx.sim.clone(), self.clone());
        net.carry(ctx.me, self.process, move || {
            if sim.is_alive(to.process) {
                to.inbox.push(Call { ask, reply });
            } else {
                let refused = Error::new(Code::Unavailable, "connection refused").with(Detail::NotReached);
                reply.send(Err(refused));
            }
        });
        answers
    }
}

/// A JSON-RPC error as a whole answer.
pub(crate) fn refused(status: u16, id: Option<&Id>, error: &RpcError) -> Frame {
    Frame::Refused(answer(status, Some(rpc::error(id, error))))
}

/// "Not now" says when to come again.
pub(crate) fn answer(status: u16, body: Option<Json>) -> Answer {
    let retry_after_s = matches!(status, 429 | 503).then_some(1);
    Answer { status, body, retry_after_s }
}

pub(crate) fn session_not_found() -> Frame {
    refused(404, None, &RpcError::new(code::INVALID_REQUEST, "Session not found"))
}

/// The answer to a call nobody knows the outcome of.
pub(crate) fn outcome_unknown(id: Option<&Id>, reason: &str) -> Json {
    let data = format!("{{\"reason\":\"{reason}\",\"outcome\":\"unknown\"}}");
    let error = RpcError::new(code::INTERNAL_ERROR, "the outcome of the request is not known");
    rpc::error(id, &error.with_data(Json::trusted(data)))
}
