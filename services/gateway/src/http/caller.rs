//! The layer that asks who sends a request, before its body is read, and what it leaves for those behind it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Extensions, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::future::{BoxFuture, Either};
use tower::{Layer, Service};

use super::reason::Reason;
use super::{quota, reply};
use crate::app::Paths;
use crate::auth::{Authenticate, Caller, Denied, Head};
use crate::limits::Limits;

/// Who may ask for what is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Whoever the authentication lets in.
    Caller,
    /// Everybody whom the check of Host and Origin lets in.
    Everybody,
}

/// See the module. A path that is in no table needs no caller: there is nothing there. A handler that works for a caller does
/// not work without one, so that no path leads around this.
#[derive(Clone)]
pub(crate) struct Ask {
    auth: Arc<dyn Authenticate>,
    /// Paths that need a caller.
    guarded: Arc<[String]>,
    limits: Arc<Limits>,
    is_local: bool,
    is_open: bool,
}

/// See [`Ask`].
#[derive(Clone)]
pub(crate) struct Asking<S> {
    inner: S,
    ask: Ask,
}

impl Ask {
    pub(crate) fn new(
        auth: Arc<dyn Authenticate>,
        paths: &Paths,
        limits: Arc<Limits>,
        (is_local, is_open): (bool, bool),
    ) -> Self {
        let needs_caller = |route: &super::Route| match route.policy {
            Policy::Caller => true,
            Policy::Everybody => false,
        };
        let guarded = super::table(paths).into_iter().filter(needs_caller).map(|route| route.path).collect();
        Self { auth, guarded, limits, is_local, is_open }
    }
}

impl<S> Layer<S> for Ask {
    type Service = Asking<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Asking { inner, ask: self.clone() }
    }
}

impl<S> Service<Request> for Asking<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<
        Either<Ready<Result<Response, Infallible>>, S::Future>,
        BoxFuture<'static, Result<Response, Infallible>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if !self.ask.guarded.iter().any(|path| path == request.uri().path()) {
            return Either::Left(Either::Right(self.inner.call(request)));
        }
        let Ask { is_local, is_open, .. } = self.ask;
        let head = Head { uri: request.uri(), headers: request.headers(), is_local, is_open };
        match self.ask.auth.at_once(head) {
            Some(Ok(caller)) => {
                request.extensions_mut().insert(caller);
                return Either::Left(Either::Right(self.inner.call(request)));
            }
            Some(Err(denied)) => return Either::Left(Either::Left(ready(Ok(refuse(denied))))),
            None => {}
        }
        let Some(place) = self.ask.limits.unknown() else {
            return Either::Left(Either::Left(ready(Ok(quota::overloaded()))));
        };
        let auth = self.ask.auth.clone();
        let clone = self.inner.clone();
        // The one that said it was ready.
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Either::Right(Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let head = Head { uri: &parts.uri, headers: &parts.headers, is_local, is_open };
            let told = auth.authenticate(head).await;
            drop(place);
            match told {
                Ok(caller) => {
                    parts.extensions.insert(caller);
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(denied) => Ok(refuse(denied)),
            }
        }))
    }
}

/// Who sends the request with these extensions. Without an answer nothing is done: that would be a defect of the stack.
pub(super) fn of(extensions: &Extensions) -> Result<&Caller, Box<Response>> {
    extensions.get::<Caller>().ok_or_else(|| {
        tracing::error!("a request came past the authentication");
        Box::new(reply::internal(None))
    })
}

fn refuse(denied: Denied) -> Response {
    let (status, reason, challenge) = match denied {
        Denied::Unauthenticated { challenge } => {
            (StatusCode::UNAUTHORIZED, Reason::UNAUTHENTICATED, challenge)
        }
        Denied::Forbidden { challenge } => (StatusCode::FORBIDDEN, Reason::FORBIDDEN, challenge),
        Denied::Unavailable => {
            let mut response = reply::later(StatusCode::SERVICE_UNAVAILABLE, None, "unavailable", 1);
            response.extensions_mut().insert(Reason::UNAVAILABLE);
            return response;
        }
    };
    challenged(status, reason, challenge)
}

fn challenged(status: StatusCode, reason: Reason, challenge: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response.extensions_mut().insert(reason);
    response
}

#[cfg(test)]
mod tests;
