//! What one caller may ask for and have under way.
//!
//! Requests that were authenticated are counted by their principal, others by their address. Nothing is kept of a request
//! that is refused here.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use mcp::rpc::Id;

use super::peer::Peer;
use super::reason::Reason;
use super::reply;
use crate::auth::Caller;
use crate::limits::{Account, Inside, Limits};

/// When to try again for what ends when it ends.
const SOON: Duration = Duration::from_secs(1);

/// Whether the address a request comes from asks too often.
pub(super) fn address(request: &Request) -> Option<Response> {
    let peer = request.extensions().get::<Peer>()?;
    peer.address()?.ask().err().map(|wait| refuse(Reason::RATE, None, wait))
}

/// A place for a request among all.
pub(super) fn room(limits: &Limits) -> Result<Inside, Box<Response>> {
    limits.request().ok_or_else(|| Box::new(overloaded()))
}

/// More than this process bears.
pub(super) fn overloaded() -> Response {
    let mut response = reply::later(StatusCode::SERVICE_UNAVAILABLE, None, "overloaded", 1);
    response.extensions_mut().insert(Reason::OVERLOAD);
    response
}

/// A place for a request among those of its caller.
pub(super) fn caller(limits: &Limits, request: &Request) -> Result<Inside, Box<Response>> {
    place(limits, request.extensions(), None, |account| {
        account.ask().map_err(|wait| (Reason::RATE, wait))?;
        account.places.enter().ok_or((Reason::QUOTA, SOON))
    })
}

/// A place for a stream that waits for news, among those of the caller.
pub(super) fn stream(
    limits: &Limits,
    extensions: &Extensions,
    id: Option<&Id>,
) -> Result<Inside, Box<Response>> {
    place(limits, extensions, id, |account| account.streams.enter().ok_or((Reason::QUOTA, SOON)))
}

/// A place in the account of whoever sends a request.
fn place(
    limits: &Limits,
    extensions: &Extensions,
    id: Option<&Id>,
    find: impl FnOnce(&Account) -> Result<Inside, (Reason, Duration)>,
) -> Result<Inside, Box<Response>> {
    let Some(peer) = extensions.get::<Peer>() else {
        return Err(Box::new(reply::internal(id)));
    };
    // All strangers are one principal; here they are told apart by where they are.
    let known = extensions.get::<Caller>().filter(|caller| !caller.is_anonymous);
    let found = peer.caller(limits, known.map(|caller| &caller.principal), find);
    found.map_err(|(reason, wait)| Box::new(refuse(reason, id, wait)))
}

fn refuse(reason: Reason, id: Option<&Id>, wait: Duration) -> Response {
    let seconds = wait.as_millis().div_ceil(1000);
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    let mut response = reply::later(StatusCode::TOO_MANY_REQUESTS, id, "rate_limited", seconds);
    response.extensions_mut().insert(reason);
    response
}
