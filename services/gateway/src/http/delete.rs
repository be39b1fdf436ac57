//! An older client ends its session.

use api::Principal;
use api::session::Close;
use axum::http::HeaderMap;
use axum::response::Response;

use super::admit;
use super::reply::{self, Asked, Lost};
use crate::app::Edge;
use crate::forward::Call;

pub(super) async fn delete(edge: &Edge, headers: &HeaderMap) -> Response {
    let visit = match admit::delete(edge.keys(), headers) {
        Ok(visit) => visit,
        Err(refusal) => return reply::refusal(refusal),
    };
    let slot = visit.session.slot();
    let call = Call::Close(Close {
        session: visit.session.as_str().to_owned(),
        revision: visit.revision,
        principal: Principal::default(),
        when_idle: false,
    });
    let taken = edge.forward().send(&call, Some(slot)).await;
    reply::taken(edge, Asked { id: None, lost: Lost::Again, waits: false, begins: false }, taken).await
}
