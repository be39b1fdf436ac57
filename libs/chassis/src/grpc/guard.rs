//! Refuses calls that are not the caller's to make, before anything of them is read.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::allowed::allows;
use super::sparse::Sparse;
use super::stream::Peer;

/// The layer of [`Guarded`].
#[derive(Debug, Clone, Default)]
pub(super) struct Guard(Arc<Sparse>);

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, said: self.0.clone() }
    }
}

/// Passes on what the table in [`super::allowed`] allows the role of the connection.
#[derive(Debug, Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    said: Arc<Sparse>,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        // A connection without an entry is none of this server's.
        let refusal = match request.extensions().get::<Peer>() {
            Some(Peer(None)) => return Either::Left(self.inner.call(request)),
            Some(Peer(Some(caller))) if allows(caller.role(), path) => {
                return Either::Left(self.inner.call(request));
            }
            Some(Peer(Some(caller))) => {
                let role = caller.role();
                if self.said.is_time() {
                    // The path may be as long as a header.
                    let path: String = path.chars().take(128).collect();
                    tracing::warn!(%role, path, "call refused, it is not this role's to make");
                }
                Status::permission_denied(format!("a {role} may not call this"))
            }
            None => Status::internal("no connection"),
        };
        Either::Right(ready(Ok(refusal.into_http())))
    }
}
