//! A load balancer without any affinity: every single HTTP request goes to the next upstream in turn.
//!
//! It owns the turn and the counts. It knows nothing of MCP, buffers nothing, retries nothing, and when a client goes
//! away it drops what it was doing for it, so that the upstream sees the end at once.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Where the counts are read over HTTP.
pub const COUNTS_PATH: &str = "/_counts";

/// Headers that concern one connection only (RFC 9110, 7.6.1) and are not passed on.
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE];

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// The balancer: its upstreams, whose turn it is, and how many requests each was given.
pub struct Proxy {
    upstreams: Vec<Upstream>,
    turn: AtomicUsize,
    client: Client<HttpConnector, Incoming>,
}

struct Upstream {
    address: SocketAddr,
    requests: AtomicU64,
}

impl Proxy {
    /// Makes a balancer over `upstreams`, of which there must be at least one to serve anything.
    #[must_use]
    pub fn new(upstreams: impl IntoIterator<Item = SocketAddr>) -> Arc<Self> {
        let upstreams =
            upstreams.into_iter().map(|address| Upstream { address, requests: AtomicU64::new(0) }).collect();
        // A connection of its own for each request: an upstream that restarts never leaves a stale one behind.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Arc::new(Self { upstreams, turn: AtomicUsize::new(0), client })
    }

    /// How many requests each upstream was given, in the order of [`Proxy::new`].
    pub fn counts(&self) -> impl Iterator<Item = (SocketAddr, u64)> {
        self.upstreams.iter().map(|upstream| (upstream.address, upstream.requests.load(Ordering::Relaxed)))
    }

    /// Serves connections until `shutdown` is ready, then drops those that are open.
    ///
    /// # Errors
    /// When the listener cannot accept any more.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    connections.spawn(Arc::clone(&self).connection(accepted?.0));
                }
                Some(_) = connections.join_next() => {}
                () = &mut shutdown => return Ok(()),
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let proxy = Arc::clone(&self);
            async move { Ok::<_, Infallible>(proxy.answer(request).await) }
        });
        // A client that goes away in the middle ends here, and with it what was under way for it upstream.
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.uri().path() == COUNTS_PATH {
            return plain(StatusCode::OK, self.counts_text());
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some(upstream) = self.upstreams.get(turn % self.upstreams.len().max(1)) else {
            return plain(StatusCode::BAD_GATEWAY, "no upstream".to_owned());
        };
        upstream.requests.fetch_add(1, Ordering::Relaxed);
        match self.forward(request, upstream.address).await {
            Ok(response) => response,
            Err(error) => plain(StatusCode::BAD_GATEWAY, format!("{}: {error}", upstream.address)),
        }
    }

    async fn forward(&self, request: Request<Incoming>, to: SocketAddr) -> anyhow::Result<Answer> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        parts.uri =
            Uri::builder().scheme(Scheme::HTTP).authority(to.to_string()).path_and_query(path).build()?;
        remove_hop_by_hop(&mut parts.headers);
        let mut response = self.client.request(Request::from_parts(parts, body)).await?;
        remove_hop_by_hop(response.headers_mut());
        Ok(response.map(Either::Left))
    }

    /// One line `count ADDRESS REQUESTS` for each upstream.
    #[must_use]
    pub fn counts_text(&self) -> String {
        self.counts().fold(String::new(), |mut text, (address, requests)| {
            let written = writeln!(text, "count {address} {requests}");
            debug_assert!(written.is_ok(), "writing to a String does not fail");
            text
        })
    }
}

fn plain(status: StatusCode, text: String) -> Answer {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}
