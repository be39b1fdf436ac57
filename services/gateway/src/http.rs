//! The route table.

pub(crate) mod admit;
mod batch;
pub(crate) mod body;
pub(crate) mod caller;
mod cors;
mod delete;
mod gate;
mod get;
pub(crate) mod http_sse;
mod metadata;
pub(crate) mod origin;
pub(crate) mod peer;
mod post;
mod quota;
pub(crate) mod reason;
mod reply;
pub(crate) mod sse;
pub(crate) mod stack;

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::future::RouteFuture;
use axum::routing::{MethodRouter, any, get};
use futures::future::{BoxFuture, Either};
use tower::Service;

use self::admit::Verb;
use self::caller::Policy;
use self::reason::Reason;
pub(crate) use self::stack::{Stack, around};
use crate::app::{Edge, Paths};

/// Where load balancers ask how this process is.
pub(crate) const HEALTH: &str = "/health";

/// A path and what is there.
pub(crate) struct Route {
    pub(crate) path: String,
    /// Who may ask. There is no route that does not say so.
    pub(crate) policy: Policy,
    handler: MethodRouter<Edge>,
}

/// One endpoint, the two of 2024-11-05, and what clients have to know before they have a token.
pub(crate) fn table(paths: &Paths) -> Vec<Route> {
    let route = |path: &str, policy, handler| Route { path: path.to_owned(), policy, handler };
    let mut table = vec![
        route(HEALTH, Policy::Everybody, get(health)),
        route(&paths.mcp, Policy::Caller, any(endpoint)),
        route(&paths.sse, Policy::Caller, any(http_sse::events)),
        route(&paths.message, Policy::Caller, any(http_sse::messages)),
    ];
    table
        .extend(metadata::paths(paths).iter().map(|path| route(path, Policy::Everybody, any(metadata::get))));
    table
}

/// What answers, by path. Nearly every request is for the one endpoint: that is compared first, and needs no table.
#[derive(Clone)]
pub(crate) struct Routes {
    edge: Edge,
    table: Router,
}

/// Every path that is not in the table is unknown, to everybody.
pub(crate) fn routes(paths: &Paths, edge: Edge) -> Routes {
    let add = |router: Router<Edge>, route: Route| router.route(&route.path, route.handler);
    let routes = table(paths).into_iter().fold(Router::new(), add).fallback(async || unknown_path());
    Routes { table: routes.with_state(edge.clone()), edge }
}

impl Service<Request> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<BoxFuture<'static, Result<Response, Infallible>>, RouteFuture<Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Tables are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if request.uri().path() != self.edge.mcp_path() {
            return Either::Right(self.table.call(request));
        }
        let edge = self.edge.clone();
        Either::Left(Box::pin(async move { Ok(at_endpoint(&edge, request).await) }))
    }
}

/// Whether clients may be sent here, for load balancers. It names nothing but the node.
async fn health(State(edge): State<Edge>) -> Response {
    let health = edge.health();
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, health.json()).into_response()
}

async fn endpoint(State(edge): State<Edge>, request: Request) -> Response {
    at_endpoint(&edge, request).await
}

async fn at_endpoint(edge: &Edge, request: Request) -> Response {
    let verb = match admit::head(request.method(), request.headers()) {
        Ok(verb) => verb,
        Err(refusal) => return reply::refusal(refusal),
    };
    match verb {
        Verb::Post => post::post(edge, request).await,
        // Rare, and large: so that what every message pays for is not.
        Verb::Get => Box::pin(get::get(edge, &request.into_parts().0)).await,
        Verb::Delete => Box::pin(delete::delete(edge, &request.into_parts().0)).await,
    }
}

/// Without a body: a JSON-RPC error in a 404 would say that there is an endpoint.
fn unknown_path() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.extensions_mut().insert(Reason::PATH);
    response
}
