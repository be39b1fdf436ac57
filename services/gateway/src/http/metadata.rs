//! What a client has to know before it has a token: whose tokens are taken (RFC 9728).

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;

use super::reason::Reason;
use super::unknown_path;
use crate::app::{Edge, Paths};
use crate::auth::metadata_path;

/// Where it is: beside the endpoint's path, ours and the one clients know, and where clients look that know the host alone.
pub(super) fn paths(paths: &Paths) -> BTreeSet<String> {
    let known = [Some(paths.mcp.as_str()), paths.resource.as_deref(), Some("")];
    known.into_iter().flatten().map(metadata_path).collect()
}

/// There is none where no tokens are taken.
pub(super) async fn get(State(edge): State<Edge>, method: Method) -> Response {
    let Some(metadata) = edge.auth().metadata() else { return unknown_path() };
    if method != Method::GET && method != Method::HEAD {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        response.extensions_mut().insert(Reason::VERB);
        return response;
    }
    let mut response = Response::new(Body::from(metadata));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}
