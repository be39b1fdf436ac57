//! Cross-origin requests of web pages: what browsers ask before, and what they need to see in answers.
//!
//! Off unless origins are listed. A page whose origin is not listed never sees a CORS header. A preflight is answered here
//! and reaches nothing else; it says nothing about the request it asks for, which passes every check by itself. Credentials
//! of browsers (cookies) are never allowed: tokens travel in `Authorization`.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::future::Either;
use mcp::header as names;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::admit::Refusal;
use super::origin::Guard;
use super::reason::Reason;
use super::reply;
use crate::app::Paths;

/// Headers that pages may send, and those that begin with [`names::PARAM_PREFIX`].
const ALLOWED: [&str; 10] = [
    "accept",
    "authorization",
    "content-type",
    names::LAST_EVENT_ID,
    names::METHOD,
    names::NAME,
    names::PROTOCOL_VERSION,
    names::SESSION_ID,
    "traceparent",
    "tracestate",
];
/// Headers of answers that pages may read.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("mcp-session-id, www-authenticate, retry-after, mcp-protocol-version");
/// How long a browser may remember an answer, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// Whatever depends on the origin says so, to caches between.
const VARY: HeaderValue = HeaderValue::from_static("origin");
const VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");

/// Answers preflights and marks answers. Stands behind the check of Host and Origin.
#[derive(Clone)]
pub(super) struct Cors {
    pub(super) guard: Arc<Guard>,
    pub(super) paths: Arc<Paths>,
}

/// See [`Cors`].
#[derive(Clone)]
pub(super) struct Crossing<S> {
    inner: S,
    cors: Cors,
}

impl<S> Layer<S> for Cors {
    type Service = Crossing<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Crossing { inner, cors: self.clone() }
    }
}

impl<S> Service<Request> for Crossing<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, Marked<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if !self.cors.guard.lists_origins() {
            return Either::Right(Marked { inner: self.inner.call(request), mark: Mark::None });
        }
        let origin =
            request.headers().get(header::ORIGIN).filter(|_| self.cors.guard.is_listed(request.headers()));
        let mark = match origin {
            None => Mark::Vary,
            Some(origin) if is_preflight(&request) => {
                let answer = self.cors.preflight(origin, &request);
                return Either::Left(ready(Ok(answer)));
            }
            Some(origin) => Mark::Readable(origin.clone()),
        };
        Either::Right(Marked { inner: self.inner.call(request), mark })
    }
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Cors {
    /// The answer to a page that is listed.
    fn preflight(&self, origin: &HeaderValue, request: &Request) -> Response {
        let methods = self.methods(request.uri().path());
        let asked = single(request.headers(), &header::ACCESS_CONTROL_REQUEST_METHOD);
        let offered = methods.zip(asked).is_some_and(|(all, asked)| all.split(", ").any(|one| one == asked));
        let mut response = match methods {
            Some(methods) if offered && headers_allowed(request.headers()) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                let headers = response.headers_mut();
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
                if let Some(asked) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
                    // Only names that are allowed; echoed, since no list can hold the names of all parameters.
                    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
                }
                headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
                response
            }
            Some(_) => {
                let text = "a page may not send such a request";
                reply::refusal_for(Reason::PREFLIGHT, Refusal::invalid(StatusCode::FORBIDDEN, None, text))
            }
            None => super::unknown_path(),
        };
        response.headers_mut().insert(header::VARY, VARY_PREFLIGHT);
        response
    }

    /// What is offered at a path.
    fn methods(&self, path: &str) -> Option<&'static str> {
        if path == self.paths.mcp {
            Some("GET, POST, DELETE")
        } else if path == self.paths.sse {
            Some("GET")
        } else if path == self.paths.message {
            Some("POST")
        } else if super::metadata::paths(&self.paths).iter().any(|one| one == path) {
            Some("GET")
        } else {
            None
        }
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.to_str().ok())?
}

/// Whether everything the page wants to send is a header of the protocol.
fn headers_allowed(headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        return true;
    }
    let Some(asked) = single(headers, &header::ACCESS_CONTROL_REQUEST_HEADERS) else { return false };
    asked.split(',').map(|name| name.trim_matches([' ', '\t'])).all(|name| {
        let name = name.to_ascii_lowercase();
        let of_parameter = || {
            name.strip_prefix(names::PARAM_PREFIX).is_some_and(|rest| !rest.is_empty())
                && HeaderName::from_bytes(name.as_bytes()).is_ok()
        };
        ALLOWED.contains(&name.as_str()) || of_parameter()
    })
}

/// What an answer says about pages.
enum Mark {
    /// Nothing: no page is listed.
    None,
    /// That other origins might see more.
    Vary,
    /// That this page may read it.
    Readable(HeaderValue),
}

pin_project! {
    /// An answer to be marked.
    pub(super) struct Marked<F> {
        #[pin]
        inner: F,
        mark: Mark,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Marked<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        match this.mark {
            Mark::None => return Poll::Ready(Ok(response)),
            Mark::Vary => {}
            Mark::Readable(origin) => {
                let headers = response.headers_mut();
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            }
        }
        response.headers_mut().append(header::VARY, VARY);
        Poll::Ready(Ok(response))
    }
}
