//! Chains that do nothing but pass bytes on: what the hops cost before anybody does any work.
//!
//! Nothing is kept, looked up, checked or logged. `edge` is an HTTP server, `service` a gRPC one; each answers with the bytes
//! it was given, or asks the next service for them.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, client, server};
use tonic_prost::ProstCodec;

const CALL: &str = "/load.Floor/Call";

/// What services say to each other.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Message {
    /// Anything.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
}

/// A service to ask, or none.
#[derive(Debug, Clone)]
pub struct Next(Option<Channel>);

impl Next {
    /// The service at this address.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn connect(address: Option<SocketAddr>) -> anyhow::Result<Self> {
        let Some(address) = address else { return Ok(Self(None)) };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        Ok(Self(Some(endpoint.connect().await?)))
    }

    async fn answer(self, message: Message) -> Result<Message, Status> {
        let Some(channel) = self.0 else { return Ok(message) };
        let mut grpc = client::Grpc::new(channel);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec: ProstCodec<Message, Message> = ProstCodec::default();
        let answer = grpc.unary(Request::new(message), PathAndQuery::from_static(CALL), codec).await?;
        Ok(answer.into_inner())
    }
}

/// Serves HTTP until the process ends.
///
/// # Errors
/// When the listener breaks.
pub async fn edge(listener: TcpListener, next: Next) -> anyhow::Result<()> {
    use axum::serve::ListenerExt as _;
    let routes = Router::new().route("/mcp", post(posted)).with_state(next);
    let listener = listener.tap_io(|stream| {
        // Measured without it if the system refuses.
        let _slower = stream.set_nodelay(true).is_err();
    });
    Ok(axum::serve(listener, routes).await?)
}

async fn posted(State(next): State<Next>, body: Bytes) -> impl IntoResponse {
    let json = [(CONTENT_TYPE, "application/json")];
    match next.answer(Message { body }).await {
        Ok(message) => (http::StatusCode::OK, json, message.body),
        Err(status) => (http::StatusCode::BAD_GATEWAY, json, Bytes::from(status.to_string())),
    }
}

/// Serves gRPC until the process ends.
///
/// # Errors
/// When the listener breaks.
pub async fn service(listener: TcpListener, next: Next) -> anyhow::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Server::builder().add_service(Floor(next)).serve_with_incoming(incoming).await?)
}

/// The gRPC service.
#[derive(Debug, Clone)]
struct Floor(Next);

impl NamedService for Floor {
    const NAME: &'static str = "load.Floor";
}

impl tower::Service<http::Request<tonic::body::Body>> for Floor {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let next = self.0.clone();
        Box::pin(async move {
            let codec: ProstCodec<Message, Message> = ProstCodec::default();
            Ok(server::Grpc::new(codec).unary(Answer(next), request).await)
        })
    }
}

/// The answer to one call.
struct Answer(Next);

impl UnaryService<Message> for Answer {
    type Response = Message;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Message>, Status>> + Send>>;

    fn call(&mut self, request: Request<Message>) -> Self::Future {
        let next = self.0.clone();
        Box::pin(async move { next.answer(request.into_inner()).await.map(Response::new) })
    }
}
