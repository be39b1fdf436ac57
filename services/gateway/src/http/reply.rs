//! What a request comes to, as an HTTP response.

use api::session::{Answer, Frame};
use api::{Code, Detail, Error};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chassis::clock;
use chassis::telemetry::{Scope, Trace};
use futures::StreamExt as _;
use mcp::rpc::{self, Id, RpcError};
use mcp::{Json, code, edit, header as names, scan};
use tokio::sync::watch;

use super::admit::Refusal;
use super::http_sse;
use super::reason::Reason;
use super::sse::{self, PIECE, Stream, Whole};
use crate::app::Edge;
use crate::auth::Caller;
use crate::forward::Taken;
use crate::limits::Inside;
use crate::observe::{self, Operation};

/// What an answer needs to know about its request.
pub(super) struct Asked<'a> {
    /// The id to answer with.
    pub(super) id: Option<Id>,
    /// What becomes of a request that was accepted and then lost.
    pub(super) lost: Lost,
    /// Whether an event stream waits for news, and is therefore closed when the gateway drains.
    pub(super) waits: bool,
    /// Whether the rest of an answer may be had at another gateway.
    pub(super) moves: bool,
    /// Whether the answer may hand out a session.
    pub(super) begins: bool,
    /// The place of a stream that waits for news.
    pub(super) place: Option<Inside>,
    /// Who asks: a stream lasts no longer than what they showed is good.
    pub(super) caller: &'a Caller,
    /// What is told of it to operators.
    pub(super) operation: Option<Operation>,
}

/// See [`Asked::lost`].
pub(super) enum Lost {
    /// It may have been executed: the client must decide.
    Unknown,
    /// There is nobody to tell.
    Nothing,
    /// Asking again does no harm.
    Again,
}

/// The response to a client that begins a session of HTTP+SSE, whose owners after the first are told of. `endpoint` says where to
/// post for a session.
pub(super) async fn begun(
    edge: &Edge,
    caller: &Caller,
    (taken, owners): (Result<Taken, Error>, watch::Receiver<u64>),
    place: Inside,
    endpoint: impl FnOnce(&str) -> String,
) -> Response {
    let (session, mut frames) = match taken {
        Ok(Taken::Accepted { session, frames }) => (session, frames),
        Ok(Taken::Refused(refused)) => return answer(edge, refused),
        Err(error) => return not_taken(None, &error),
    };
    match (session, frames.next().await) {
        (Some(session), Some(Ok(Frame::Open))) => {
            let endpoint = endpoint(&session);
            let leaving = http_sse::leave(edge.clone(), session.clone(), caller.principal.clone(), owners);
            let client = http_sse::Client::new(edge.farewells().clone(), session, caller.principal.clone());
            let frames = http_sse::shown(frames);
            let stream = Stream::of_session(edge.stalls(), frames, edge.keep_alive(), &endpoint, leaving);
            sse::response(stream.of(client).holding(Some(place)).lent(caller))
        }
        (_, _) => {
            tracing::warn!("a session was lost before it began");
            later(StatusCode::SERVICE_UNAVAILABLE, None, "unavailable", 1)
        }
    }
}

/// The response for what a node said, or for the reason why none said anything.
pub(super) async fn taken(edge: &Edge, mut asked: Asked<'_>, taken: Result<Taken, Error>) -> Response {
    let (session, mut frames) = match taken {
        Ok(Taken::Accepted { session, frames }) => (session.filter(|_| asked.begins), frames),
        Ok(Taken::Refused(refused)) => {
            observe::answered(asked.operation, &refused);
            return answer(edge, refused);
        }
        Err(error) => {
            observe::failed(asked.operation, error.code);
            return match asked.lost {
                Lost::Nothing if error.code == Code::OutcomeUnknown => {
                    nobody_says(asked.id.as_ref(), "unavailable")
                }
                Lost::Unknown | Lost::Nothing | Lost::Again => not_taken(asked.id.as_ref(), &error),
            };
        }
    };
    let mut response = match frames.next().await {
        Some(Ok(Frame::Answer(whole))) => {
            observe::answered(asked.operation.take(), &whole);
            answer(edge, whole)
        }
        Some(Ok(Frame::Open)) => {
            let listen = asked.id.clone().filter(|_| asked.waits);
            let shutdown = asked.waits.then(|| edge.shutdown());
            let owed = asked.id.clone().filter(|_| !asked.waits);
            // An older client's own stream is opened anew now and then, so that clients spread over new gateways.
            let until = (asked.waits && asked.id.is_none()).then(|| edge.stream_end()).flatten();
            let stream = Stream::new(edge.stalls(), frames, edge.keep_alive(), shutdown, listen);
            let stream = stream.owing(owed).holding(asked.place.take()).until(until);
            let stream = stream.moving(asked.moves.then(|| edge.shutdown()));
            sse::response(stream.lent(asked.caller).observed(asked.operation.take()))
        }
        Some(Ok(Frame::Accepted { .. } | Frame::Refused(_) | Frame::Event(_))) => {
            tracing::error!("a session node broke the order of frames");
            observe::failed(asked.operation.take(), Code::Internal);
            lost(&asked, "unavailable")
        }
        Some(Err(error)) => {
            observe::failed(asked.operation.take(), error.code);
            tracing::warn!(code = ?error.code, error = %error.message, "a request was lost after it had been accepted");
            lost(&asked, if error.code == Code::Deadline { "timeout" } else { "unavailable" })
        }
        None => {
            tracing::warn!("a session node ended without an answer");
            observe::failed(asked.operation.take(), Code::Unavailable);
            lost(&asked, "unavailable")
        }
    };
    if let Some(session) = session.and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert(HeaderName::from_static(names::SESSION_ID), session);
    }
    response
}

/// The response to a batch. Requests that are `owed` an answer have one, come what may.
pub(super) async fn batch(
    edge: &Edge,
    caller: &Caller,
    owed: Vec<Id>,
    taken: Result<Option<Taken>, Error>,
) -> Response {
    let mut frames = match taken {
        Ok(Some(Taken::Accepted { frames, .. })) => frames,
        Ok(Some(Taken::Refused(refused))) => return answer(edge, refused),
        Ok(None) | Err(_) => return plain(not_now(None)),
    };
    match frames.next().await {
        Some(Ok(Frame::Answer(whole))) => answer(edge, whole),
        Some(Ok(Frame::Open)) => {
            let stream = Stream::new(edge.stalls(), frames, edge.keep_alive(), None, None);
            sse::response(stream.owing_all(owed).lent(caller))
        }
        Some(Ok(Frame::Accepted { .. } | Frame::Refused(_) | Frame::Event(_)) | Err(_)) | None => {
            tracing::error!("the members of a batch broke the order of frames");
            plain(not_now(None))
        }
    }
}

/// A request that is answered at the edge.
pub(super) fn refusal(refusal: Refusal) -> Response {
    let mut response = json(refusal.status, refusal.body);
    if let Some(allow) = refusal.allow {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

/// The same, counted for a reason that status and code do not tell.
pub(super) fn refusal_for(reason: Reason, refused: Refusal) -> Response {
    let mut response = refusal(refused);
    response.extensions_mut().insert(reason);
    response
}

/// A defect of ours. What it was stays in the log.
pub(super) fn internal(id: Option<&Id>) -> Response {
    json(StatusCode::INTERNAL_SERVER_ERROR, Some(internal_error(id)))
}

fn internal_error(id: Option<&Id>) -> Json {
    let mut error = RpcError::new(code::INTERNAL_ERROR, "internal error");
    if let Some(trace) = Scope::current().trace().map(Trace::id) {
        error = error.with_data(Json::trusted(format!("{{\"traceId\":{}}}", edit::quote(&trace))));
    }
    rpc::error(id, &error)
}

fn json(status: StatusCode, body: Option<Json>) -> Response {
    let refused = status.is_client_error() || status.is_server_error();
    let reason = refused.then(|| Reason::of(status, body.as_ref().and_then(error_code)));
    let mut response = match body {
        None => Response::new(Body::empty()),
        Some(body) => {
            let mut response = Response::new(Body::from(body.bytes()));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
    };
    *response.status_mut() = status;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    response
}

fn error_code(body: &Json) -> Option<i32> {
    scan::path(body.as_str(), &["error", "code"])?.parse().ok()
}

fn answer(edge: &Edge, whole: Answer) -> Response {
    let large = whole.body.as_ref().map(Json::bytes).filter(|bytes| bytes.len() > PIECE);
    let mut response = plain(whole);
    if let Some(bytes) = large {
        let whole = Whole::new(edge.stalls(), bytes);
        response.extensions_mut().insert(whole.open());
        *response.body_mut() = Body::new(whole);
    }
    response
}

/// The same for an answer that is small.
fn plain(whole: Answer) -> Response {
    let Ok(status) = StatusCode::from_u16(whole.status) else {
        tracing::error!(status = whole.status, "a session node gave a status that is none");
        return internal(None);
    };
    let mut response = json(status, whole.body);
    if let Some(seconds) = whole.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Accepted by a node that was then lost.
fn lost(asked: &Asked<'_>, reason: &str) -> Response {
    match asked.lost {
        Lost::Unknown => outcome_unknown(asked.id.as_ref(), reason),
        Lost::Nothing => StatusCode::ACCEPTED.into_response(),
        Lost::Again => later(StatusCode::SERVICE_UNAVAILABLE, asked.id.as_ref(), "unavailable", 1),
    }
}

/// HTTP 200: anything else would invite proxies and clients to send it again.
fn outcome_unknown(id: Option<&Id>, reason: &str) -> Response {
    json(StatusCode::OK, Some(unknown_outcome(id, reason)))
}

/// The same where answers come elsewhere, and perhaps never: with a status that says it was taken, the client would wait for one.
fn nobody_says(id: Option<&Id>, reason: &str) -> Response {
    json(StatusCode::GATEWAY_TIMEOUT, Some(unknown_outcome(id, reason)))
}

/// The answer to a request that was accepted and then lost.
pub(super) fn unknown_outcome(id: Option<&Id>, reason: &str) -> Json {
    let data = format!("{{\"reason\":{},\"outcome\":\"unknown\"}}", edit::quote(reason));
    let error = RpcError::new(code::INTERNAL_ERROR, "the outcome of this request is not known");
    rpc::error(id, &error.with_data(Json::trusted(data)))
}

/// Nobody accepted it.
fn not_taken(id: Option<&Id>, error: &Error) -> Response {
    plain(declined(id, error))
}

/// The same, as an answer.
pub(super) fn declined(id: Option<&Id>, error: &Error) -> Answer {
    let refused = |status: StatusCode, code, message| {
        Answer::new(status.as_u16(), Some(rpc::error(id, &RpcError::new(code, message))))
    };
    let unavailable = |reason| {
        tracing::warn!(code = ?error.code, error = %error.message, "no session node took a request on");
        put_off(StatusCode::SERVICE_UNAVAILABLE, id, reason, 1)
    };
    match error.code {
        Code::NotFound => {
            let refusal = Refusal::no_session();
            Answer::new(refusal.status.as_u16(), refusal.body)
        }
        Code::Overloaded => {
            let after = match &error.detail {
                Some(Detail::Overloaded { retry_after }) => retry_after.as_millis().div_ceil(1000),
                _ => 1,
            };
            let after = u32::try_from(after).unwrap_or(u32::MAX);
            put_off(StatusCode::TOO_MANY_REQUESTS, id, "rate_limited", after)
        }
        Code::Unavailable if error.detail == Some(Detail::Draining) => unavailable("draining"),
        Code::Unavailable | Code::Precondition | Code::Cancelled => unavailable("unavailable"),
        Code::Deadline => unavailable("timeout"),
        // HTTP 200: anything else would invite proxies and clients to send it again.
        Code::OutcomeUnknown => Answer::new(200, Some(unknown_outcome(id, "unavailable"))),
        Code::InvalidRequest => refused(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, "invalid request"),
        Code::Unauthenticated => refused(StatusCode::UNAUTHORIZED, code::INVALID_REQUEST, "unauthenticated"),
        Code::Denied => refused(StatusCode::FORBIDDEN, code::INVALID_REQUEST, "not allowed"),
        Code::Unimplemented | Code::Internal => {
            tracing::error!(code = ?error.code, error = %error.message, "a session node failed");
            Answer::new(500, Some(internal_error(id)))
        }
    }
}

/// Nobody can do it now.
pub(super) fn not_now(id: Option<&Id>) -> Answer {
    put_off(StatusCode::SERVICE_UNAVAILABLE, id, "unavailable", 1)
}

/// Not now. Clients that were refused together should not come back together.
pub(super) fn later(status: StatusCode, id: Option<&Id>, reason: &str, after: u32) -> Response {
    plain(put_off(status, id, reason, after))
}

fn put_off(status: StatusCode, id: Option<&Id>, reason: &str, after: u32) -> Answer {
    let message = match status {
        StatusCode::TOO_MANY_REQUESTS => "too many requests, try again later",
        _ => "temporarily unavailable, try again",
    };
    let [draw] = clock::random::<1>().unwrap_or_default();
    let body = Some(rpc::error(id, &RpcError::reason(message, reason)));
    Answer {
        status: status.as_u16(),
        body,
        retry_after_s: Some(after.max(1).saturating_add(u32::from(draw % 3))),
    }
}
