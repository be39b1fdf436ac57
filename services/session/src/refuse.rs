//! Answers of the session role that carry an error, each with its HTTP status.

use std::time::Duration;

use api::session::{Answer, Frame, Frames};
use futures::StreamExt as _;
use futures::stream;
use mcp::code;
use mcp::rpc::{self, Id, RpcError};

/// A stream of one frame.
pub(crate) fn only(frame: Frame) -> Frames {
    stream::iter([Ok(frame)]).boxed()
}

/// Not taken on: nothing was executed.
pub(crate) fn refused(status: u16, id: Option<&Id>, error: &RpcError) -> Frames {
    only(Frame::Refused(Answer::new(status, Some(rpc::error(id, error)))))
}

/// Unknown, ended, expired, or somebody else's: one answer for all.
pub(crate) fn session_not_found() -> Frames {
    refused(404, None, &RpcError::new(code::INVALID_REQUEST, "Session not found"))
}

/// Too much of something; try again soon.
pub(crate) fn rate_limited(id: Option<&Id>, message: &str) -> Frames {
    rate_limited_for(id, message, Duration::ZERO)
}

/// Too much of something; try again after this time.
pub(crate) fn rate_limited_for(id: Option<&Id>, message: &str, wait: Duration) -> Frames {
    let body = rpc::error(id, &RpcError::reason(message, "rate_limited"));
    let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
    only(Frame::Refused(Answer { status: 429, body: Some(body), retry_after_s: Some(seconds) }))
}

/// Not now: the store is down, the node drains, a queue is full.
pub(crate) fn unavailable(id: Option<&Id>, reason: &str) -> Frames {
    let body = rpc::error(id, &RpcError::reason("temporarily unavailable, try again", reason));
    only(Frame::Refused(Answer { status: 503, body: Some(body), retry_after_s: Some(1) }))
}

/// A returned state that cannot be used: one message, whatever the reason.
pub(crate) fn bad_state(id: &Id) -> Frames {
    refused(
        400,
        Some(id),
        &RpcError::new(code::INVALID_PARAMS, "invalid or expired requestState or inputResponses"),
    )
}
