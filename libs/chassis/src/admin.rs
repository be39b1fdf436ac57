//! The listener for operators: metrics, health, liveness, readiness. It shows nothing else and changes nothing.
//!
//! It is no part of the edge: other machines reach it only where that is asked for.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::drain::Shutdown;
use crate::metrics;
use crate::process::Process;
use crate::serve::{self, BindError};

/// Connections at a time; further ones wait.
const CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Every path, in the order in which people are told of them.
pub const PATHS: [&str; 4] = ["/metrics", "/health", "/livez", "/readyz"];

/// The section `[admin]`: the listener for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where `/metrics`, `/health`, `/livez` and `/readyz` of this process are, `host:port`; port 0 takes a free one, which is
    /// printed. Empty = nowhere. Give it a fixed port when something is to scrape or probe it.
    pub listen: String,
    /// Whether `listen` may be an address that other machines can reach. Anybody who reaches it can read the metrics: set it
    /// only where the network keeps others away, as in a cluster.
    pub allow_remote: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0".into(), allow_remote: false }
    }
}

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// `admin.listen` is no address.
    #[error(
        "admin.listen: {0:?} is not an address: write host:port, for example \"127.0.0.1:9090\", or nothing"
    )]
    Listen(String),
    /// It could be reached from elsewhere, and nobody said that it should be.
    #[error(
        "admin.listen is {0:?}, which other machines can reach: listen on 127.0.0.1, or set admin.allow_remote = true \
         where the network keeps others away"
    )]
    Remote(String),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The listener has no address.
    #[error("the listener has no address: {0}")]
    Listener(#[from] io::Error),
}

/// Checks what the types of [`Config`] cannot.
///
/// # Errors
/// [`AdminError`] naming the key.
pub fn check(config: &Config) -> Result<(), AdminError> {
    if config.listen.is_empty() {
        return Ok(());
    }
    let host = config.listen.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let Some(host) = host.map(|(host, _)| host).filter(|host| !host.is_empty()) else {
        return Err(AdminError::Listen(config.listen.clone()));
    };
    if config.allow_remote || is_loopback(host) {
        Ok(())
    } else {
        Err(AdminError::Remote(config.listen.clone()))
    }
}

/// An open admin listener.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    process: Process,
}

impl Admin {
    /// Listens where the configuration says; `None` if it says nowhere.
    ///
    /// # Errors
    /// [`AdminError`] naming the key.
    pub async fn bind(config: &Config, process: Process) -> Result<Option<Self>, AdminError> {
        check(config)?;
        if config.listen.is_empty() {
            return Ok(None);
        }
        let listener = serve::bind("admin.listen", &config.listen).await?;
        let address = listener.local_addr()?;
        // A name may mean another address than it seems to.
        if !config.allow_remote && !address.ip().to_canonical().is_loopback() {
            return Err(AdminError::Remote(config.listen.clone()));
        }
        Ok(Some(Self { listener, address, process }))
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers until shutdown. It outlives the roles, so that a drain can be watched.
    ///
    /// # Errors
    /// None; the signature is that of every role.
    pub async fn serve(self, shutdown: Shutdown) -> serve::RoleResult {
        let mut connections = JoinSet::new();
        let local = self.address.ip().to_canonical().is_loopback();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _peer)) => _ = connections.spawn(connection(stream, self.process.clone(), local)),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
                () = shutdown.requested() => return Ok(()),
            }
        }
    }
}

async fn connection(stream: TcpStream, process: Process, local: bool) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let answer = answer(&process, local, request.method(), request.uri().path(), request.headers());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "an admin connection ended");
    }
}

fn answer(
    process: &Process,
    local: bool,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    // A web page that has bound its name to this address is not to read anything.
    if local && !is_local_host(headers) {
        return say(StatusCode::FORBIDDEN, TEXT, "this host is not allowed\n");
    }
    if !PATHS.contains(&path) {
        return say(StatusCode::NOT_FOUND, TEXT, format!("here are {}\n", PATHS.join(" ")));
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refused = say(StatusCode::METHOD_NOT_ALLOWED, TEXT, "");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let ready = process.health.is_ready();
    match path {
        "/metrics" => say(StatusCode::OK, metrics::MEDIA_TYPE, process.metrics.text()),
        "/health" => say(StatusCode::OK, "application/json", process.health.json()),
        "/livez" => say(StatusCode::OK, TEXT, "alive\n"),
        _ if ready => say(StatusCode::OK, TEXT, "ready\n"),
        _ => say(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n"),
    }
}

fn say(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn is_local_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let authority = host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok());
    authority.is_some_and(|authority| is_loopback(authority.host()))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests;
