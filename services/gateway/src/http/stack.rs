//! What stands around every route, outermost first.

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tower::{Service, ServiceBuilder};

use super::admit::Refusal;
use super::caller::Ask;
use super::cors::Cors;
use super::gate::{Gate, Hold, Rescue};
use super::origin::Guard;
use super::peer::Peer;
use super::reason::Reason;
use super::{Routes, quota, reply};
use crate::app::Paths;
use crate::config::Config;
use crate::limits::Limits;
use crate::observe::{Observe, Observed};

/// What the layers work with.
pub(crate) struct Around {
    pub(crate) guard: Arc<Guard>,
    pub(crate) ask: Ask,
    pub(crate) limits: Arc<Limits>,
    pub(crate) paths: Arc<Paths>,
    pub(crate) sizes: Sizes,
    pub(crate) observed: Arc<Observed>,
}

/// How large the head of a request may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    target: usize,
    headers: usize,
    header_bytes: usize,
}

impl Sizes {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            target: config.max_target_bytes,
            headers: config.max_headers,
            header_bytes: config.max_header_bytes,
        }
    }
}

/// What every request goes through. It is always ready: what has to be waited for is waited for by the request that needs it.
pub(crate) trait Stack:
    Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> Stack for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The one stack. The body has its own bounds, in `body.rs`, where it is read; those of connections are in `connection.rs`.
pub(crate) fn around(routes: Routes, with: Around) -> impl Stack {
    let Around { guard, ask, limits, paths, sizes, observed } = with;
    let (rules, full, all, each) = (guard.clone(), limits.clone(), limits.clone(), limits);
    ServiceBuilder::new()
        // role and trace for whatever is logged inside; counts what goes out, refusals too
        .layer(Observe(observed))
        // a defect costs one answer, not the connection
        .layer(Rescue(panicked))
        // before anything reads a header: 414, 431
        .layer(Gate(move |request: &Request| bounds(sizes, request)))
        // before anything else, the body above all: who may call at all, 403
        .layer(Gate(move |request: &Request| rebinding(&rules, request)))
        // answers preflights, which have no credentials, and lets listed pages read refusals of all below
        .layer(Cors { guard, paths })
        // before anything that costs time: one address does not keep out the others, 429
        .layer(Gate(quota::address))
        // nothing is begun that could not be ended: more than this process bears is shed, 503
        .layer(Gate(move |_: &Request| full.is_full().then(quota::overloaded)))
        // behind what every request must pass, before the body and what anybody in particular may do: who asks, 401, 403
        .layer(ask)
        // whoever had to wait for an issuer's keys took nobody's place meanwhile
        .layer(Hold(move |_: &mut Request| quota::room(&all)))
        // behind authentication, which tells who asks: one caller does not keep out the others, 429
        .layer(Hold(move |request: &mut Request| quota::caller(&each, request)))
        .service(routes)
}

fn panicked(_: &(dyn Any + Send)) -> Response {
    // The hook that logs panics has said where; the text may quote what it was about.
    tracing::error!("a handler panicked");
    reply::internal(None)
}

fn bounds(most: Sizes, request: &Request) -> Option<Response> {
    if request.uri().path_and_query().map_or(0, |target| target.as_str().len()) > most.target {
        return Some((StatusCode::URI_TOO_LONG, Extension(Reason::TARGET_SIZE)).into_response());
    }
    let headers = request.headers();
    if headers.len() > most.headers || size(headers) > most.header_bytes {
        let text =
            format!("the header fields are more than {} or exceed {} bytes", most.headers, most.header_bytes);
        return Some(reply::refusal(Refusal::invalid(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            None,
            &text,
        )));
    }
    None
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn rebinding(guard: &Guard, request: &Request) -> Option<Response> {
    let is_secure = request.extensions().get::<Peer>().is_some_and(Peer::is_secure);
    if guard.check(request.version(), request.uri(), request.headers(), is_secure).is_ok() {
        return None;
    }
    let text = "this host or origin is not allowed";
    Some(reply::refusal_for(Reason::ORIGIN, Refusal::invalid(StatusCode::FORBIDDEN, None, text)))
}
