//! Carries the trace from one process to the next: the W3C `traceparent` header, as gRPC metadata.
//!
//! [`Inject`] stands around a client's channel, [`Extract`] in a server's stack; handlers never touch either. Baggage is not
//! carried.

use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tower::{Layer, Service};

use super::scope::{Scope, Within};
use super::trace::Trace;

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");

/// Writes the current trace context into the headers of each request.
#[derive(Debug, Clone)]
pub struct Inject<S>(S);

impl<S> Inject<S> {
    /// Around a client's channel.
    pub const fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S, B> Service<Request<B>> for Inject<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        inject(&Scope::current(), request.headers_mut());
        self.0.call(request)
    }
}

/// The layer of [`Extracted`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Extract(&'static str);

impl Extract {
    /// For the role that this is called in.
    #[must_use]
    pub fn here() -> Self {
        Self(Scope::current().role())
    }
}

impl<S> Layer<S> for Extract {
    type Service = Extracted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Extracted { inner, role: self.0 }
    }
}

/// Handles each request inside the trace its headers carry, so that the first span a handler opens has the caller's as its
/// parent.
#[derive(Debug, Clone)]
pub struct Extracted<S> {
    inner: S,
    role: &'static str,
}

impl<S, B> Service<Request<B>> for Extracted<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Within<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let scope = Scope::of_caller(self.role, extract(request.headers()));
        // Some services do their work in `call` itself.
        let _entered = scope.clone().enter();
        scope.within(self.inner.call(request))
    }
}

/// Writes the context of `scope` into `headers`.
pub fn inject(scope: &Scope, headers: &mut HeaderMap) {
    let Some(trace) = scope.trace() else { return };
    if let Ok(parent) = HeaderValue::try_from(trace.parent()) {
        headers.insert(PARENT, parent);
    }
    // An empty tracestate is no tracestate.
    if !trace.state().is_empty()
        && let Ok(state) = HeaderValue::try_from(trace.state())
    {
        headers.insert(STATE, state);
    }
}

/// The context that `headers` carry. One that is not valid, or there twice, is none.
#[must_use]
pub fn extract(headers: &HeaderMap) -> Option<Trace> {
    let mut parents = headers.get_all(PARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let states: Vec<&str> = headers.get_all(STATE).iter().filter_map(|state| state.to_str().ok()).collect();
    Trace::read(parent.to_str().ok()?, &states.join(","))
}

/// The current context as `traceparent` and `tracestate`, for a carrier that is not HTTP. Empty where there is none.
#[must_use]
pub fn current() -> (String, String) {
    let scope = Scope::current();
    scope.trace().map(|trace| (trace.parent(), trace.state().to_owned())).unwrap_or_default()
}

/// Does `work` of a role inside the context that came with it.
pub fn within<F: Future>(role: &'static str, parent: &str, state: &str, work: F) -> Within<F> {
    Scope::of_caller(role, Trace::read(parent, state)).within(work)
}
