//! A message: read, checked, handed over, answered.

use std::time::Duration;

use api::Principal;
use api::session::{Delivery, Transport};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use mcp::rpc::RpcError;
use mcp::{Era, Method, code};
use tokio::time::{Instant, timeout_at};

use super::admit::{self, Admitted, Batch, Letter, Refusal};
use super::reply::{self, Asked, Lost};
use super::stack;
use crate::app::Edge;
use crate::forward::Call;

/// Largest body.
pub(super) const MAX_BODY: usize = 4 << 20;
/// How long a client may pause while it sends.
const BODY_IDLE: Duration = Duration::from_secs(10);
/// How long it may send in all.
const BODY_TOTAL: Duration = Duration::from_secs(30);
/// How long, and how much, a client whose body is too large may go on before it is cut off. Until it has sent what it has,
/// most clients do not read.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 8 << 20;

pub(super) async fn post(edge: &Edge, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let admitted = match read(body).await {
        Ok(body) => admit::post(edge.keys(), &parts.headers, &body),
        Err(unread) => return refuse_body(unread),
    };
    pass_on(edge, admitted, Transport::Streamable).await
}

/// Hands over what passed, and answers what did not.
pub(super) async fn pass_on(
    edge: &Edge,
    admitted: Result<Admitted, Refusal>,
    transport: Transport,
) -> Response {
    match admitted {
        Ok(Admitted::Message(letter)) => deliver(edge, *letter, transport).await,
        Ok(Admitted::Batch(batch)) => deliver_batch(edge, *batch, transport).await,
        Ok(Admitted::Noted) => StatusCode::ACCEPTED.into_response(),
        Err(refusal) => reply::refusal(refusal),
    }
}

async fn deliver(edge: &Edge, letter: Letter, transport: Transport) -> Response {
    stack::describe(&letter);
    // On HTTP+SSE the answer to a request is no answer to its POST.
    let lost = match transport {
        Transport::Streamable if letter.id().is_some() => Lost::Unknown,
        Transport::Streamable | Transport::HttpSse => Lost::Nothing,
    };
    let asked = Asked {
        id: letter.id().cloned(),
        lost,
        waits: letter.method == Some(Method::Listen),
        begins: letter.method == Some(Method::Initialize),
    };
    let slot = letter.slot();
    let call = Call::Deliver(Box::new(Delivery {
        message: letter.raw,
        era: letter.era,
        session: letter.session.map(|session| session.as_str().to_owned()),
        revision: letter.revision,
        principal: Principal::default(),
        group: String::new(),
        param_headers: letter.param_headers,
        request_key: edge.forward().request_key(),
        transport,
    }));
    let taken = edge.forward().send(&call, slot).await;
    reply::taken(edge, asked, taken).await
}

async fn deliver_batch(edge: &Edge, batch: Batch, transport: Transport) -> Response {
    stack::describe_batch();
    let slot = batch.session.slot();
    let call = Call::Deliver(Box::new(Delivery {
        message: batch.raw,
        era: Era::Older,
        session: Some(batch.session.as_str().to_owned()),
        revision: batch.revision,
        principal: Principal::default(),
        group: String::new(),
        param_headers: Vec::new(),
        request_key: edge.forward().request_key(),
        transport,
    }));
    let taken = edge.forward().send(&call, Some(slot)).await;
    let members = match transport {
        Transport::Streamable => batch.requests,
        // Their answers do not come here.
        Transport::HttpSse => Vec::new(),
    };
    reply::batch(edge, members, taken).await
}

/// Why there is no body to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    TooLarge,
    TooSlow,
    Broken,
}

/// Reads the body, counting what comes and not what was announced.
pub(super) async fn read(mut body: Body) -> Result<Bytes, Unread> {
    let end = Instant::now() + BODY_TOTAL;
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    loop {
        let frame = match timeout_at(end.min(Instant::now() + BODY_IDLE), body.frame()).await {
            Err(_elapsed) => return Err(Unread::TooSlow),
            Ok(Some(Err(_broken))) => return Err(Unread::Broken),
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + more.len() + data.len() > MAX_BODY {
            drop((first, more));
            linger(body).await;
            return Err(Unread::TooLarge);
        }
        if first.is_empty() {
            first = data;
        } else {
            more.extend_from_slice(&data);
        }
    }
    if more.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + more.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&more);
    Ok(whole.freeze())
}

async fn linger(mut body: Body) {
    let end = Instant::now() + LINGER;
    let mut left = LINGER_BYTES;
    while let Ok(Some(Ok(frame))) = timeout_at(end, body.frame()).await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

pub(super) fn refuse_body(unread: Unread) -> Response {
    let (status, code, message) = match unread {
        Unread::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, code::INVALID_REQUEST, "the body exceeds 4 MiB"),
        Unread::TooSlow => {
            (StatusCode::REQUEST_TIMEOUT, code::INVALID_REQUEST, "the body did not arrive in time")
        }
        Unread::Broken => (StatusCode::BAD_REQUEST, code::PARSE_ERROR, "the body is incomplete"),
    };
    let mut response = reply::refusal(Refusal::new(status, None, &RpcError::new(code, message)));
    // What is left of the body must not be taken for the next request.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
