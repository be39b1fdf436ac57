//! Batches: arrays of messages, legal in sessions that negotiated 2025-03-26 and nowhere else.

use api::{KeyRing, SessionId};
use axum::http::{HeaderMap, StatusCode};
use mcp::rpc::{self, Malformed, Message, RpcError};
use mcp::{Era, Json, Method, Revision, scan};

use super::{Letter, One, PROTOCOL_VERSION, Refusal, SESSION_ID, claim, older};

/// Messages in one batch.
const MOST: usize = 50;

/// A batch that passed. Whether its session negotiated 2025-03-26, the session node knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    pub(crate) session: SessionId,
    /// The version header.
    pub(crate) revision: Option<String>,
    /// As the client sent it.
    pub(crate) raw: Json,
    /// Its messages, at least one.
    pub(crate) members: Vec<Letter>,
    /// The answers to those that are none.
    pub(crate) malformed: Vec<Json>,
}

type Members = Vec<Result<Message, Malformed>>;

/// The checks of a batch at the one endpoint.
pub(super) fn check(
    keys: &KeyRing,
    headers: &HeaderMap,
    raw: Json,
    members: Members,
) -> Result<Batch, Refusal> {
    if One::of(headers, &SESSION_ID) == One::None {
        return Err(refuse(Malformed::bare().message));
    }
    let session = older::session(keys, headers, None)?;
    of_session(session, headers, raw, members)
}

/// The checks of a batch whose session is known.
pub(super) fn of_session(
    session: SessionId,
    headers: &HeaderMap,
    raw: Json,
    members: Members,
) -> Result<Batch, Refusal> {
    let version = One::of(headers, &PROTOCOL_VERSION);
    let batches = match version {
        One::None => true,
        One::Value(value) => value == Revision::V2025_03_26.as_str().as_bytes(),
        One::Many => false,
    };
    let messages = || members.iter().flatten();
    if !batches || messages().any(|message| claim(message).is_some()) {
        return Err(refuse(Malformed::bare().message));
    }
    if members.is_empty() {
        return Err(refuse("a batch must not be empty"));
    }
    if members.len() > MOST {
        return Err(refuse("a batch must not hold more than 50 messages"));
    }
    if messages().any(|message| message.method() == Some(Method::Initialize.as_str())) {
        return Err(refuse("`initialize` must not be part of a batch"));
    }
    let mut batch =
        Batch { session, revision: version.text(), raw, members: Vec::new(), malformed: Vec::new() };
    for (text, member) in scan::elements(batch.raw.as_str()).zip(members) {
        match member {
            Ok(message) => batch.members.push(Letter {
                era: Era::Older,
                session: Some(batch.session.clone()),
                revision: batch.revision.clone(),
                raw: batch.raw.slice(text),
                method: message.method().and_then(Method::parse),
                message,
                param_headers: Vec::new(),
            }),
            Err(bad) => {
                batch.malformed.push(rpc::error(bad.id.as_ref(), &RpcError::new(bad.code, bad.message)));
            }
        }
    }
    if batch.members.is_empty() {
        return Err(refuse("a batch must hold a JSON-RPC message"));
    }
    Ok(batch)
}

fn refuse(message: &str) -> Refusal {
    Refusal::invalid(StatusCode::BAD_REQUEST, None, message)
}
