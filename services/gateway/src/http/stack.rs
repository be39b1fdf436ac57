//! What stands around every route, outermost first.

use std::any::Any;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use chassis::telemetry::{self, Side};
use mcp::rpc::Message;
use mcp::{Era, Method};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument as _, Span};

use super::admit::{Letter, Refusal};
use super::origin::Guard;
use super::reason::Reason;
use super::reply;

/// Bytes of all header names and values of a request.
const MAX_HEADERS: usize = 16 << 10;
/// Bytes of a request target.
const MAX_TARGET: usize = 8 << 10;

/// The one stack. The body has its own bounds, in `post.rs`, where it is read.
pub(super) fn around(routes: Router, guard: Arc<Guard>) -> Router {
    routes.layer(
        ServiceBuilder::new()
            // one span for each request, refused ones too
            .layer(from_fn(span))
            // a defect costs one answer, not the connection
            .layer(CatchPanicLayer::custom(panicked))
            // before anything reads a header: 414, 431
            .layer(from_fn(bounds))
            // before anything else, the body above all: who may call at all, 403
            .layer(from_fn_with_state(guard, rebinding)),
    )
}

async fn span(request: Request, next: Next) -> Response {
    let span = telemetry::hop("gateway", Side::Server, request.method().as_str());
    async move {
        let response = next.run(request).await;
        telemetry::attribute(
            &Span::current(),
            "http.response.status_code",
            i64::from(response.status().as_u16()),
        );
        response
    }
    .instrument(span)
    .await
}

/// Names the span of a request after its message.
pub(super) fn describe(letter: &Letter) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    // Names that clients make up stay out of traces.
    let method = match &letter.message {
        Message::Request(_) => letter.method.map_or("_OTHER", Method::as_str),
        Message::Notification(_) => "notification",
        Message::Response(_) => "response",
    };
    let era = match letter.era {
        Era::Older => "older",
        Era::Modern => "modern",
    };
    telemetry::rename(&span, method);
    telemetry::attribute(&span, "mcp.method.name", method);
    telemetry::attribute(&span, "trunkline.era.client", era);
    if let Some(revision) = &letter.revision {
        telemetry::attribute(&span, "mcp.protocol.version", revision.clone());
    }
}

/// Names the span of a batch.
pub(super) fn describe_batch() {
    telemetry::rename(&Span::current(), "batch");
}

#[allow(clippy::needless_pass_by_value, reason = "the layer hands the payload over")]
fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
    tracing::error!(panic = text, "a handler panicked");
    reply::internal(None)
}

async fn bounds(request: Request, next: Next) -> Response {
    if request.uri().path_and_query().map_or(0, |target| target.as_str().len()) > MAX_TARGET {
        return (StatusCode::URI_TOO_LONG, Extension(Reason::TARGET_SIZE)).into_response();
    }
    if size(request.headers()) > MAX_HEADERS {
        let text = "the header fields exceed 16 KiB";
        return reply::refusal(Refusal::invalid(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None, text));
    }
    next.run(request).await
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

async fn rebinding(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.check(request.version(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(_not_allowed) => {
            let text = "this host or origin is not allowed";
            reply::refusal_for(Reason::ORIGIN, Refusal::invalid(StatusCode::FORBIDDEN, None, text))
        }
    }
}
