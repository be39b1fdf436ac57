//! Checks of 2024-11-05's two endpoints: a GET that opens a session, and POSTs that name it in the query.

use api::{KeyRing, SessionId};
use axum::http::{HeaderMap, Method as Verbatim, StatusCode, Uri};
use bytes::Bytes;
use mcp::rpc::{Body, RpcError};
use mcp::{Era, Method};

use super::media::{Accepted, accepts, is_json};
use super::{Admitted, Letter, One, PROTOCOL_VERSION, Refusal, batch, claim, older, request_id};

/// The name of the session in the query.
pub(crate) const SESSION: &str = "sessionId";

/// Whether a session may begin.
pub(crate) fn events(method: &Verbatim, headers: &HeaderMap) -> Result<(), Refusal> {
    if *method != Verbatim::GET {
        return Err(Refusal::not_allowed("GET"));
    }
    if accepts(headers, "text", "event-stream") == Accepted::No {
        let message = "`Accept` must allow text/event-stream";
        return Err(Refusal::invalid(StatusCode::NOT_ACCEPTABLE, None, message));
    }
    older::version(&One::of(headers, &PROTOCOL_VERSION), None)
}

/// What can be told of a message before the body is read: the session it belongs to. `Accept` says nothing here: the answer
/// has no body.
pub(crate) fn head(
    keys: &KeyRing,
    method: &Verbatim,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<SessionId, Refusal> {
    if *method != Verbatim::POST {
        return Err(Refusal::not_allowed("POST"));
    }
    if !is_json(headers) {
        let message = "the body must be application/json in UTF-8, not compressed";
        return Err(Refusal::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, message));
    }
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut named =
        pairs.filter_map(|pair| pair.strip_prefix(SESSION)).filter_map(|rest| rest.strip_prefix('='));
    let bad = |message| Err(Refusal::invalid(StatusCode::BAD_REQUEST, None, message));
    match (named.next(), named.next()) {
        (None, _) => bad("`sessionId` is missing: post to the address that the `endpoint` event gave"),
        (Some(_), Some(_)) => bad("`sessionId` occurs more than once"),
        (Some(text), None) => SessionId::parse(keys, text).ok_or_else(Refusal::no_session),
    }
}

/// The rest of the checks of a message.
pub(crate) fn message(session: SessionId, headers: &HeaderMap, body: &Bytes) -> Result<Admitted, Refusal> {
    let version = One::of(headers, &PROTOCOL_VERSION);
    let (raw, message) = match Body::parse_whole(body) {
        Ok((raw, Body::One(message))) => (raw, message),
        Ok((raw, Body::Batch(members))) => {
            let batch = batch::of_session(session, headers, raw, members)?;
            return Ok(Admitted::Batch(Box::new(batch)));
        }
        Err(bad) => {
            let error = RpcError::new(bad.code, bad.message);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, bad.id.as_ref(), &error));
        }
    };
    let id = request_id(&message);
    older::version(&version, id)?;
    if claim(&message).is_some() {
        let text = "messages of 2026-07-28 do not belong to a session";
        return Err(Refusal::invalid(StatusCode::BAD_REQUEST, id, text));
    }
    Ok(Admitted::Message(Box::new(Letter {
        era: Era::Older,
        session: Some(session),
        revision: version.text(),
        raw,
        method: message.method().and_then(Method::parse),
        message,
        param_headers: Vec::new(),
    })))
}
