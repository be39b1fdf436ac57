//! 2024-11-05's transport: a client opens one event stream, is told where to post, and everything comes back on the stream.

use api::session::{Attach, Close, Transport};
use api::{Principal, SessionId};
use axum::extract::{Request, State};
use axum::response::Response;

use super::admit::http_sse as admit;
use super::{body, caller, post, quota, reply};
use crate::app::Edge;
use crate::forward::Call;

/// Opens a session on any node. It ends with this response.
pub(super) async fn events(State(edge): State<Edge>, request: Request) -> Response {
    if let Err(refusal) = admit::events(request.method(), request.headers()) {
        return reply::refusal(refusal);
    }
    let caller = match caller::of(request.extensions()) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let place = match quota::stream(request.extensions(), None) {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    let call = Call::Attach(Attach {
        session: String::new(),
        revision: None,
        principal: caller.principal.clone(),
        last_event_id: None,
        begin: true,
    });
    let taken = edge.forward().send(call, None).await;
    let endpoint = |session: &str| format!("{}?{}={session}", edge.message_path(), admit::SESSION);
    reply::begun(&edge, caller, taken, place, endpoint).await
}

/// Once this gateway drains, asks the session's node to end it with its last call.
pub(super) async fn leave(edge: Edge, session: String, principal: Principal) {
    edge.shutdown().requested().await;
    let Some(slot) = SessionId::parse(edge.keys(), &session).map(|id| id.slot()) else { return };
    let call = Call::Close(Close { session, revision: None, principal, when_idle: true });
    if let Err(error) = edge.forward().send(call, Some(slot)).await {
        tracing::debug!(error = %error.message, "a session was not told that its gateway drains");
    }
}

/// Takes a message of such a session, at whichever gateway it lands.
pub(super) async fn messages(State(edge): State<Edge>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let session = match admit::head(edge.keys(), &parts.method, &parts.uri, &parts.headers) {
        Ok(session) => session,
        Err(refusal) => return reply::refusal(refusal),
    };
    match body::read(body, edge.body()).await {
        Ok(body) => {
            let admitted = admit::message(session, &parts.headers, &body);
            post::pass_on(&edge, &parts, &body, admitted, Transport::HttpSse).await
        }
        Err(unread) => body::refuse(unread),
    }
}
