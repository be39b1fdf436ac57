//! The layer around all others: the trace of a request, and what goes out.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use chassis::telemetry::{Scope, Trace, Within, propagate};
use hyper::body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{Observed, ROLE};
use crate::http::reason::Reason;

/// Everything that is done for an HTTP request is done in the trace it came with, until it is known what it is; what goes out
/// is counted, refusals by their reasons. Stands around all else.
#[derive(Debug, Clone)]
pub(crate) struct Observe(pub(crate) Arc<Observed>);

/// See [`Observe`].
#[derive(Debug, Clone)]
pub(crate) struct Observing<S> {
    inner: S,
    observed: Arc<Observed>,
}

impl<S> Layer<S> for Observe {
    type Service = Observing<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observing { inner, observed: self.0.clone() }
    }
}

impl<S> Service<Request> for Observing<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let trace = propagate::extract(request.headers()).map(Trace::unsampled);
        let scope = Scope::of_caller(ROLE, trace);
        // Layers answer some requests before anything is polled.
        let entered = scope.clone().enter();
        let inner = self.inner.call(request);
        drop(entered);
        Answering { inner: scope.within(inner), observed: self.observed.clone() }
    }
}

pin_project! {
    /// A response to be counted.
    pub(crate) struct Answering<F> {
        #[pin]
        inner: Within<F>,
        observed: Arc<Observed>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Answering<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(count(this.observed, response)))
    }
}

fn count(observed: &Arc<Observed>, response: Response) -> Response {
    if let Some(reason) = response.extensions().get::<Reason>() {
        observed.refused(*reason);
    }
    if let Some(bytes) = response.body().size_hint().exact() {
        observed.sent.inc_by(bytes);
        return response;
    }
    observed.streams.inc();
    let observed = observed.clone();
    response.map(|body| Body::new(Counted { body, observed }))
}

pin_project! {
    /// An event stream that is open.
    struct Counted {
        #[pin]
        body: Body,
        observed: Arc<Observed>,
    }

    impl PinnedDrop for Counted {
        fn drop(this: Pin<&mut Self>) {
            this.observed.streams.dec();
        }
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            this.observed.sent.inc_by(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
