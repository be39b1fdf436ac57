//! Checks of the revisions with sessions, in order.

use api::{KeyRing, SessionId};
use axum::http::{HeaderMap, StatusCode};
use mcp::Method;
use mcp::rpc::{Id, Message};

use super::{One, Refusal, SESSION_ID, is_older, request_id};

/// The session a message belongs to; `None` for `initialize`, which begins one and belongs to none, whatever it carries.
pub(super) fn check(
    keys: &KeyRing,
    headers: &HeaderMap,
    version: &One<'_>,
    message: &Message,
) -> Result<Option<SessionId>, Refusal> {
    let begins = match message {
        Message::Request(request) => request.method == Method::Initialize.as_str(),
        Message::Notification(_) | Message::Response(_) => false,
    };
    if begins {
        return Ok(None);
    }
    let id = request_id(message);
    let session = session(keys, headers, id)?;
    self::version(version, id)?;
    Ok(Some(session))
}

/// The session that the header names. An id this mesh did not make is refused without asking anybody.
pub(super) fn session(keys: &KeyRing, headers: &HeaderMap, id: Option<&Id>) -> Result<SessionId, Refusal> {
    let bad = |message| Err(Refusal::invalid(StatusCode::BAD_REQUEST, id, message));
    match One::of(headers, &SESSION_ID) {
        One::None => bad("`Mcp-Session-Id` is missing: send `initialize` first, or 2026-07-28 requests"),
        One::Many => bad("`Mcp-Session-Id` occurs more than once"),
        One::Value(value) => std::str::from_utf8(value)
            .ok()
            .and_then(|text| SessionId::parse(keys, text))
            .ok_or_else(Refusal::no_session),
    }
}

/// A version header may be left out; it may not name what cannot be negotiated.
pub(super) fn version(version: &One<'_>, id: Option<&Id>) -> Result<(), Refusal> {
    let bad = |message| Err(Refusal::invalid(StatusCode::BAD_REQUEST, id, message));
    match *version {
        One::None => Ok(()),
        One::Value(value) if is_older(value) => Ok(()),
        One::Value(_) => bad("`MCP-Protocol-Version` names an unsupported version"),
        One::Many => bad("`MCP-Protocol-Version` occurs more than once"),
    }
}
