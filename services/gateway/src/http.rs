//! The route table.

pub(crate) mod admit;
mod delete;
mod get;
mod http_sse;
pub(crate) mod origin;
mod post;
pub(crate) mod reason;
mod reply;
mod sse;
mod stack;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;
use axum::{Extension, Router};

use self::admit::Verb;
use self::origin::Guard;
use self::reason::Reason;
use crate::app::{Edge, Paths};

/// One endpoint, and the two of 2024-11-05; every other path is unknown.
pub(crate) fn routes(paths: &Paths, edge: Edge, guard: Arc<Guard>) -> Router {
    let router = Router::new()
        .route(&paths.mcp, any(endpoint))
        .route(&paths.sse, any(http_sse::events))
        .route(&paths.message, any(http_sse::messages))
        .fallback(unknown_path);
    stack::around(router.with_state(edge), guard)
}

async fn endpoint(State(edge): State<Edge>, request: Request) -> Response {
    match admit::head(request.method(), request.headers()) {
        Err(refusal) => reply::refusal(refusal),
        Ok(Verb::Post) => post::post(&edge, request).await,
        Ok(Verb::Get) => get::get(&edge, request.headers()).await,
        Ok(Verb::Delete) => delete::delete(&edge, request.headers()).await,
    }
}

/// Without a body: a JSON-RPC error in a 404 would say that there is an endpoint.
async fn unknown_path() -> (StatusCode, Extension<Reason>) {
    (StatusCode::NOT_FOUND, Extension(Reason::PATH))
}
