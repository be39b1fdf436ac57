//! Carries the trace from one process to the next: the W3C `traceparent` header, as gRPC metadata.
//!
//! [`Inject`] stands around a client's channel, [`Extract`] in a server's stack; handlers never touch either. Baggage is not
//! carried.

use std::task::{Context as TaskContext, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{FutureExt as _, WithContext};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tower::{Layer, Service};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Writes the current span's context into the headers of each request.
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

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        inject(&Span::current(), request.headers_mut());
        self.0.call(request)
    }
}

/// The layer of [`Extracted`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Extract;

impl<S> Layer<S> for Extract {
    type Service = Extracted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Extracted(inner)
    }
}

/// Handles each request inside the context its headers carry, so that the first span a handler opens has the caller's as
/// its parent.
#[derive(Debug, Clone)]
pub struct Extracted<S>(S);

impl<S, B> Service<Request<B>> for Extracted<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = WithContext<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = extract(request.headers());
        // Some services do their work in `call` itself.
        let _entered = context.clone().attach();
        self.0.call(request).with_context(context)
    }
}

/// Writes the context of `span` into `headers`.
pub fn inject(span: &Span, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&span.context(), &mut Headers(headers));
}

/// The context that `headers` carry; an empty one if they carry none.
#[must_use]
pub fn extract(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeadersRef(headers))
}

/// The current span's context as `traceparent` and `tracestate`, for a carrier that is not HTTP. Empty where nothing is traced.
#[must_use]
pub fn current() -> (String, String) {
    let mut headers = HeaderMap::new();
    inject(&Span::current(), &mut headers);
    let mut take = |name| {
        let value = headers.remove(name);
        value.and_then(|value| value.to_str().map(str::to_owned).ok()).unwrap_or_default()
    };
    (take("traceparent"), take("tracestate"))
}

/// Does `work` inside the context that came with it.
pub fn within<F: Future>(parent: &str, state: &str, work: F) -> WithContext<F> {
    let mut headers = HeaderMap::new();
    for (name, value) in [("traceparent", parent), ("tracestate", state)] {
        Headers(&mut headers).set(name, value.to_owned());
    }
    work.with_context(extract(&headers))
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty tracestate is no tracestate.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

struct HeadersRef<'a>(&'a HeaderMap);

impl Extractor for HeadersRef<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
