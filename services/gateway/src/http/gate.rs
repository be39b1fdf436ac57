//! Layers that let a request in or answer it themselves. None allocates for a request that is let in.

use std::any::Any;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::extract::Request;
use axum::response::Response;
use futures::future::Either;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::sse::Open;
use crate::limits::Inside;

/// Lets in what the function has no answer to.
#[derive(Debug, Clone)]
pub(super) struct Gate<F>(pub(super) F);

/// See [`Gate`].
#[derive(Debug, Clone)]
pub(super) struct Gated<S, F> {
    inner: S,
    check: F,
}

impl<S, F: Clone> Layer<S> for Gate<F> {
    type Service = Gated<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated { inner, check: self.0.clone() }
    }
}

impl<S, F> Service<Request> for Gated<S, F>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    F: Fn(&Request) -> Option<Response>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match (self.check)(&request) {
            Some(refusal) => Either::Left(ready(Ok(refusal))),
            None => Either::Right(self.inner.call(request)),
        }
    }
}

/// Lets in what the function finds a place for; the place is taken until the answer is complete. An answer that is a stream
/// keeps it, unless it waits for news: then nothing is under way.
#[derive(Debug, Clone)]
pub(super) struct Hold<F>(pub(super) F);

/// See [`Hold`].
#[derive(Debug, Clone)]
pub(super) struct Holding<S, F> {
    inner: S,
    find: F,
}

impl<S, F: Clone> Layer<S> for Hold<F> {
    type Service = Holding<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Holding { inner, find: self.0.clone() }
    }
}

impl<S, F> Service<Request> for Holding<S, F>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    F: Fn(&mut Request) -> Result<Inside, Box<Response>>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, Held<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        match (self.find)(&mut request) {
            Err(refusal) => Either::Left(ready(Ok(*refusal))),
            Ok(place) => Either::Right(Held { inner: self.inner.call(request), place: Some(place) }),
        }
    }
}

pin_project! {
    /// A response that has a place.
    pub(super) struct Held<F> {
        #[pin]
        inner: F,
        place: Option<Inside>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Held<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        if let (Some(open), Some(place)) = (response.extensions().get::<Open>(), this.place.take()) {
            open.keep(place);
        }
        Poll::Ready(Ok(response))
    }
}

/// Answers for whatever panics.
#[derive(Debug, Clone)]
pub(super) struct Rescue<F>(pub(super) F);

/// See [`Rescue`].
#[derive(Debug, Clone)]
pub(super) struct Rescuing<S, F> {
    inner: S,
    answer: F,
}

impl<S, F: Clone> Layer<S> for Rescue<F> {
    type Service = Rescuing<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Rescuing { inner, answer: self.0.clone() }
    }
}

impl<S, F> Service<Request> for Rescuing<S, F>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    F: Fn(&(dyn Any + Send)) -> Response + Clone,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, Rescued<S::Future, F>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
            Ok(inner) => Either::Right(Rescued { inner, answer: self.answer.clone() }),
            Err(panic) => Either::Left(ready(Ok((self.answer)(&*panic)))),
        }
    }
}

pin_project! {
    /// A response that will be there, come what may.
    pub(super) struct Rescued<F, A> {
        #[pin]
        inner: F,
        answer: A,
    }
}

impl<F, A> Future for Rescued<F, A>
where
    F: Future<Output = Result<Response, Infallible>>,
    A: Fn(&(dyn Any + Send)) -> Response,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match catch_unwind(AssertUnwindSafe(|| this.inner.poll(cx))) {
            Ok(polled) => polled,
            Err(panic) => Poll::Ready(Ok((this.answer)(&*panic))),
        }
    }
}
