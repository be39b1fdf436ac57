//! An older client opens its session's stream, or continues one.

use api::Principal;
use api::session::Attach;
use axum::http::HeaderMap;
use axum::response::Response;

use super::admit;
use super::reply::{self, Asked, Lost};
use crate::app::Edge;
use crate::forward::Call;

pub(super) async fn get(edge: &Edge, headers: &HeaderMap) -> Response {
    let visit = match admit::get(edge.keys(), headers) {
        Ok(visit) => visit,
        Err(refusal) => return reply::refusal(refusal),
    };
    let slot = visit.session.slot();
    let call = Call::Attach(Attach {
        session: visit.session.as_str().to_owned(),
        revision: visit.revision,
        principal: Principal::default(),
        last_event_id: visit.last_event_id,
        begin: false,
    });
    let taken = edge.forward().send(&call, Some(slot)).await;
    reply::taken(edge, Asked { id: None, lost: Lost::Again, waits: true, begins: false }, taken).await
}
