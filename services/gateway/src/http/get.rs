//! An older client opens its session's stream, or continues one.

use api::session::Attach;
use axum::http::request::Parts;
use axum::response::Response;

use super::reply::{self, Asked, Lost};
use super::{admit, caller, quota};
use crate::app::Edge;
use crate::forward::Call;
use crate::observe;

pub(super) async fn get(edge: &Edge, parts: &Parts) -> Response {
    let visit = match admit::get(edge.keys(), &parts.headers) {
        Ok(visit) => visit,
        Err(refusal) => return reply::refusal(refusal),
    };
    let caller = match caller::of(&parts.extensions) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let place = match quota::stream(edge.limits(), &parts.extensions, None) {
        Ok(place) => Some(place),
        Err(refusal) => return *refusal,
    };
    let slot = visit.session.slot();
    let call = Call::Attach(Attach {
        session: visit.session.as_str().to_owned(),
        revision: visit.revision,
        principal: caller.principal.clone(),
        last_event_id: visit.last_event_id,
        begin: false,
        carried: false,
    });
    let answering = async {
        let taken = edge.forward().send(call, Some(slot)).await;
        reply::taken(
            edge,
            Asked {
                operation: None,
                id: None,
                lost: Lost::Again,
                waits: true,
                moves: false,
                begins: false,
                place,
                caller,
            },
            taken,
        )
        .await
    };
    observe::visit(parts, "trunkline.gateway GET", answering).await
}
