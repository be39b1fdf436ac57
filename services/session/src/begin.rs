//! How a session begins: by `initialize`, or by the stream that carries it.

use std::sync::Arc;

use api::session::{Attach, Delivery, Frame, Frames, Transport};
use api::{Code, Detail, Error, Principal, SessionId};
use futures::{StreamExt as _, stream};
use machines::{CommitRefusal, Session};
use mcp::rpc::{self, Message, RpcError};
use mcp::{Method, code, scan};

use crate::carry::Visit;
use crate::host::Host;
use crate::letter::Letter;
use crate::reader::{Queue, queue};
use crate::residents::{Repeated, Resident};
use crate::{observe, refuse};

impl Host {
    /// A new session in a slot of this node, or the answer that says why there is none.
    async fn create(
        &self,
        request: Option<&rpc::Id>,
        principal: Principal,
        transport: Transport,
    ) -> Result<Result<SessionId, Frames>, Error> {
        let shared = &self.0;
        // Held until the session is counted.
        let _place = match shared.budget.begin(&shared.residents, &principal) {
            Ok(place) => place,
            Err(wait) => return Ok(Err(refuse::rate_limited_for(request, "too many sessions", wait))),
        };
        let random = |_| Error::new(Code::Internal, "no random bytes");
        let pick = u64::from_le_bytes(chassis::clock::random().map_err(random)?);
        let nobody = Detail::NotOwner { owner: String::new(), epoch: 0 };
        let none = || Error::new(Code::Unavailable, "this node owns no slot").with(nobody);
        let (slot, epoch) = shared.slots.pick(pick).ok_or_else(none)?;
        let id = SessionId::mint(&shared.keys, slot, chassis::clock::random().map_err(random)?);
        if let Err(refusal) = shared.store.create(&id, epoch, &principal, transport).await {
            if refusal == CommitRefusal::Stale {
                shared.overtaken(slot, epoch);
                return Err(shared.not_owner(slot));
            }
            tracing::warn!(?refusal, "a session could not be stored");
            return Ok(Err(refuse::unavailable(request, "store_down")));
        }
        let settings = shared.settings();
        shared.residents.insert(Box::new(Resident {
            id: id.clone(),
            epoch,
            principal: Arc::new(principal),
            transport,
            machine: carried_by(
                transport,
                Session::new(settings, chassis::clock::dated_millis()).owned_by(epoch.0),
            ),
            version: 0,
            subscriptions: std::collections::HashMap::new(),
            begun: chassis::clock::dated_millis(),
            is_restored: false,
            repeated: Repeated::default(),
            unsaved: Vec::new(),
            is_in_doubt: false,
        }));
        shared.observed.begun();
        Ok(Ok(id))
    }

    /// A new session of HTTP+SSE; the frames are its reader.
    pub(crate) async fn begin_http_sse(&self, attach: Attach) -> Result<Frames, Error> {
        let id = match self.create(None, attach.principal, Transport::HttpSse).await? {
            Ok(id) => id,
            Err(refused) => return Ok(refused),
        };
        let (reply, frames) = queue();
        // The queue of a session that nobody knows yet has room.
        let visit = Visit { cursor: None, goes_on: attach.carried };
        let _known = self.0.post(&id, None, Letter::Carry { visit, reply }).is_ok();
        Ok(accepted(Some(id.as_str().to_owned()), frames))
    }

    /// `initialize`: a new session in a slot of this node.
    pub(crate) async fn initialise(&self, delivery: Delivery, message: Message) -> Result<Frames, Error> {
        let shared = &self.0;
        let Message::Request(request) = &message else {
            return Ok(refuse::refused(
                400,
                None,
                &RpcError::new(code::INVALID_REQUEST, "Mcp-Session-Id is missing"),
            ));
        };
        if request.method != Method::Initialize.as_str() {
            let error = RpcError::new(code::INVALID_REQUEST, "Mcp-Session-Id is missing");
            return Ok(refuse::refused(400, Some(&request.id), &error));
        }
        let id = match self.create(Some(&request.id), delivery.principal, Transport::Streamable).await? {
            Ok(id) => id,
            Err(refused) => return Ok(refused),
        };
        let (reply, mut frames) = queue();
        let scope = observe::hop(&message);
        shared.describe(&scope, Some(&id));
        let letter =
            Letter::Message { message, key: String::new(), again: None, in_batch: false, reply, scope };
        let _known = shared.post(&id, None, letter).is_ok();
        let first = match frames.recv().await {
            Some(Err(lost)) => return Err(lost),
            first => first,
        };
        // A refused handshake leaves no session behind, so no id is handed out.
        let session = Some(id.as_str().to_owned()).filter(|_| first.as_ref().is_some_and(is_success));
        let head = stream::iter([Ok(Frame::Accepted { session })]).chain(stream::iter(first));
        Ok(head.chain(frames).boxed())
    }
}

/// In HTTP+SSE one reader stands for all streams.
pub(crate) fn carried_by(transport: Transport, machine: Session) -> Session {
    match transport {
        Transport::Streamable => machine,
        Transport::HttpSse => machine.carried(),
    }
}

fn accepted(session: Option<String>, frames: Queue) -> Frames {
    stream::iter([Ok(Frame::Accepted { session })]).chain(frames).boxed()
}

fn is_success(frame: &Result<Frame, Error>) -> bool {
    match frame {
        Ok(Frame::Answer(answer)) => {
            answer.body.as_ref().is_some_and(|body| scan::member(body.as_str(), "result").is_some())
        }
        Ok(Frame::Accepted { .. } | Frame::Refused(_) | Frame::Open | Frame::Event(_)) | Err(_) => false,
    }
}
