//! Building a gateway and serving connections.

use std::io;
use std::net::{self, IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::KeyRing;
use axum::Router;
use chassis::clock;
use chassis::drain::Shutdown;
use chassis::workers::Workers;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use crate::config::Config;
use crate::deps::Deps;
use crate::forward::Forward;
use crate::http;
use crate::http::origin::{EntryError, Rules};

/// Also bounds how long an idle connection is kept, so it is longer than the patience of common proxies.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// More than the header limit, so that a request beyond that is answered and not cut off.
const READ_BUFFER: usize = 64 << 10;
const HTTP2_STREAMS: u32 = 100;
const HTTP2_HEADER_LIST: u32 = 16 << 10;
const HTTP2_PENDING_RESETS: usize = 20;
const HTTP2_PING: Duration = Duration::from_secs(20);
/// Before trying again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A gateway. Cheap to clone: one can be served by several runtimes at a time.
#[derive(Clone)]
pub struct App {
    shared: Arc<Shared>,
}

struct Shared {
    keys: KeyRing,
    forward: Forward,
    rules: Rules,
    paths: Paths,
    keep_alive: Duration,
    write_stall: Duration,
}

/// Where the endpoints are; no two are the same.
pub(crate) struct Paths {
    pub(crate) mcp: String,
    pub(crate) sse: String,
    pub(crate) message: String,
}

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct Edge {
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `listen` is no address.
    #[error("gateway.listen: {0:?} is not an address: write host:port, for example \"127.0.0.1:8080\"")]
    Listen(String),
    /// Other machines can reach the gateway, and no name is configured for it.
    #[error(
        "gateway.listen is {0:?}, which other machines can reach, and gateway.allowed_hosts is empty: list the names \
         clients use in the URL, for example allowed_hosts = [\"mesh.example.com\"], or listen on 127.0.0.1"
    )]
    Public(String),
    /// A path is none.
    #[error("gateway.{key}: {value:?} is not a path: write for example {example:?}")]
    Path {
        /// The setting.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it might be.
        example: &'static str,
    },
    /// Two endpoints cannot be told apart.
    #[error("gateway.mcp_path, gateway.sse_path and gateway.message_path must differ: {0:?} occurs twice")]
    SamePath(String),
    /// An entry of a list that cannot match anything.
    #[error("gateway.{0}")]
    Entry(#[from] EntryError),
    /// The operating system has no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// Why a gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener has no address.
    #[error("the listener has no address: {0}")]
    Listener(#[from] io::Error),
    /// The listener is not the one that was configured, and nothing says by which names it may be called.
    #[error(
        "other machines can reach {0}, and gateway.allowed_hosts is empty: list the names clients use in the URL"
    )]
    Public(SocketAddr),
}

impl App {
    /// Checks the configuration. Opens nothing, starts nothing.
    ///
    /// # Errors
    /// [`BuildError`] naming the setting and what to write.
    pub fn build(config: &Config, deps: Deps) -> Result<Self, BuildError> {
        let host =
            config.listen.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().map(|_| host));
        let host = host.filter(|h| !h.is_empty()).ok_or_else(|| BuildError::Listen(config.listen.clone()))?;
        let rules = Rules::new(&config.allowed_hosts, &config.allowed_origins)?;
        let loopback = host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback());
        if !loopback && rules.no_hosts() {
            return Err(BuildError::Public(config.listen.clone()));
        }
        let paths = Paths::read(config)?;
        let seed = clock::random::<8>().map_err(|error| BuildError::Random(error.to_string()))?;
        let timeout = Duration::from_secs(config.request_timeout_s.max(1));
        let forward = Forward::new(deps.locator, deps.peers, timeout, u64::from_le_bytes(seed));
        let keep_alive = Duration::from_secs(config.keep_alive_s.max(1));
        let write_stall = Duration::from_secs(config.write_stall_s.max(1));
        Ok(Self {
            shared: Arc::new(Shared { keys: deps.keys, forward, rules, paths, keep_alive, write_stall }),
        })
    }

    /// Serves connections until shutdown: then nothing new is accepted, streams that wait for news are closed, answers
    /// under way may finish until the grace period ends.
    ///
    /// # Errors
    /// [`ServeError`] if the listener cannot be used.
    pub async fn serve(&self, listener: TcpListener, shutdown: Shutdown) -> Result<(), ServeError> {
        let address = listener.local_addr()?;
        let loopback = address.ip().to_canonical().is_loopback();
        if !loopback && self.shared.rules.no_hosts() {
            return Err(ServeError::Public(address));
        }
        let guard = Arc::new(self.shared.rules.guard(loopback));
        let edge = Edge { shared: self.shared.clone(), shutdown: shutdown.clone() };
        let router = http::routes(&self.shared.paths, edge, guard);
        let mut connections = JoinSet::new();
        let workers = Workers::current();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _peer)) => {
                        let stall = self.shared.write_stall;
                        let Ok(stream) = stream.into_std() else { continue };
                        let serving = connection(stream, stall, router.clone(), shutdown.clone());
                        connections.spawn_on(serving, &workers.handles()[workers.deal()]);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next(), if !connections.is_empty() => log_panic(ended),
                () = shutdown.requested() => break,
            }
        }
        drop(listener);
        tokio::select! {
            () = async { while let Some(ended) = connections.join_next().await { log_panic(ended) } } => {}
            () = shutdown.expired() => {}
        }
        Ok(())
    }
}

impl Paths {
    fn read(config: &Config) -> Result<Self, BuildError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"/-_.~".contains(&c);
        let path = |key, value: &String, example| {
            if !value.starts_with('/') || value.len() < 2 || !value.bytes().all(plain) {
                return Err(BuildError::Path { key, value: value.clone(), example });
            }
            Ok(value.clone())
        };
        let mcp = path("mcp_path", &config.mcp_path, "/mcp")?;
        let sse = path("sse_path", &config.sse_path, "/sse")?;
        let message = path("message_path", &config.message_path, "/messages")?;
        if sse == mcp || message == mcp {
            return Err(BuildError::SamePath(mcp));
        }
        if sse == message {
            return Err(BuildError::SamePath(sse));
        }
        Ok(Self { mcp, sse, message })
    }
}

impl Edge {
    pub(crate) fn message_path(&self) -> &str {
        &self.shared.paths.message
    }

    pub(crate) fn keys(&self) -> &KeyRing {
        &self.shared.keys
    }

    pub(crate) fn forward(&self) -> &Forward {
        &self.shared.forward
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        self.shared.keep_alive
    }

    pub(crate) fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("connection panicked");
    }
}

async fn connection(stream: net::TcpStream, stall: Duration, router: Router, shutdown: Shutdown) {
    // From here on it belongs to this runtime.
    let stream = match stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream)) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "connection lost at once");
            return;
        }
    };
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(READ_BUFFER);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(HTTP2_HEADER_LIST)
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS);
    // A reader that stops reading must not hold what is meant for it for ever.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(stall));
    let io = TokioIo::new(Box::pin(stream));
    let serving = server.serve_connection(io, TowerToHyperService::new(router));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.requested() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
