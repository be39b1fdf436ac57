//! A message: read, checked, handed over, answered.

use std::sync::Arc;

use api::session::{Delivery, Transport};
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use chassis::telemetry::Scope;
use mcp::Method;

use super::admit::{self, Admitted, Letter, Refusal};
use super::reply::{self, Asked, Lost};
use super::{batch, body, caller, quota};
use crate::app::Edge;
use crate::auth::Caller;
use crate::forward::Call;
use crate::observe::Operation;

pub(super) async fn post(edge: &Edge, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match body::read(body, edge.body()).await {
        Ok(body) => body,
        Err(unread) => return body::refuse(unread),
    };
    let admitted = admit::post(edge.keys(), &parts.headers, &body);
    pass_on(edge, &parts, &body, admitted, Transport::Streamable).await
}

/// Hands over what passed, and answers what did not.
pub(super) async fn pass_on(
    edge: &Edge,
    parts: &Parts,
    body: &Bytes,
    admitted: Result<Admitted, Refusal>,
    transport: Transport,
) -> Response {
    edge.observed().received(body.len());
    let caller = match caller::of(&parts.extensions) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    match admitted {
        Ok(Admitted::Message(letter)) => deliver(edge, parts, caller, *letter, transport).await,
        Ok(Admitted::Batch(whole)) => match transport {
            // Rare, and large.
            Transport::Streamable => Box::pin(batch::deliver(edge, parts, caller, *whole)).await,
            Transport::HttpSse => Box::pin(batch::deliver_whole(edge, parts, caller, *whole)).await,
        },
        Ok(Admitted::Noted) => StatusCode::ACCEPTED.into_response(),
        Err(refusal) => {
            Operation::refused(edge.observed(), parts, body, &refusal);
            reply::refusal(refusal)
        }
    }
}

async fn deliver(
    edge: &Edge,
    parts: &Parts,
    caller: &Caller,
    letter: Letter,
    transport: Transport,
) -> Response {
    let operation = Operation::begin(edge.observed(), edge.keys(), &letter, parts);
    let scope = operation.as_ref().map_or_else(Scope::current, Operation::scope);
    let waits = letter.method == Some(Method::Listen);
    let place = match waits.then(|| quota::stream(edge.limits(), &parts.extensions, letter.id())).transpose()
    {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    // On HTTP+SSE the answer to a request is no answer to its POST.
    let lost = match transport {
        Transport::Streamable if letter.id().is_some() => Lost::Unknown,
        // What has no answer does no harm twice, and must not be said to have arrived.
        Transport::Streamable => Lost::Again,
        Transport::HttpSse => Lost::Nothing,
    };
    let asked = Asked {
        id: letter.id().cloned(),
        lost,
        waits,
        moves: letter.session.is_some() && transport == Transport::Streamable,
        begins: letter.method == Some(Method::Initialize),
        place,
        caller,
        operation,
    };
    let slot = letter.slot();
    let call = Call::Deliver(Box::new(Delivery { transport, ..delivery(edge, caller, letter) }));
    let answering = async {
        let taken = edge.forward().send(call, slot).await;
        reply::taken(edge, asked, taken).await
    };
    scope.within(answering).await
}

/// What a session node is told of a message over Streamable HTTP.
pub(super) fn delivery(edge: &Edge, caller: &Caller, letter: Letter) -> Delivery {
    Delivery {
        message: letter.raw,
        read: Some(Arc::new(letter.message)),
        era: letter.era,
        session: letter.session.map(|session| session.as_str().to_owned()),
        revision: letter.revision,
        principal: caller.principal.clone(),
        group: String::new(),
        param_headers: letter.param_headers,
        request_key: edge.forward().request_key(),
        transport: Transport::Streamable,
        again: None,
        in_batch: false,
    }
}
