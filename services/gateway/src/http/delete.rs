//! An older client ends its session.

use api::session::{Close, Transport};
use axum::http::request::Parts;
use axum::response::Response;

use super::reply::{self, Asked, Lost};
use super::{admit, caller};
use crate::app::Edge;
use crate::forward::Call;
use crate::observe;

pub(super) async fn delete(edge: &Edge, parts: &Parts) -> Response {
    let visit = match admit::delete(edge.keys(), &parts.headers) {
        Ok(visit) => visit,
        Err(refusal) => return reply::refusal(refusal),
    };
    let caller = match caller::of(&parts.extensions) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let slot = visit.session.slot();
    let call = Call::Close(Close {
        session: visit.session.as_str().to_owned(),
        revision: visit.revision,
        principal: caller.principal.clone(),
        when_idle: false,
        transport: Transport::Streamable,
    });
    let answering = async {
        let taken = edge.forward().send(call, Some(slot)).await;
        reply::taken(
            edge,
            Asked {
                operation: None,
                id: None,
                lost: Lost::Again,
                waits: false,
                moves: false,
                begins: false,
                place: None,
                caller,
            },
            taken,
        )
        .await
    };
    observe::visit(parts, "trunkline.gateway DELETE", answering).await
}
