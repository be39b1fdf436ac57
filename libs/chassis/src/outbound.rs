//! The one way out to addresses that are named by configuration or by others: a guarded GET.
//!
//! A name that somebody wrote down must not become a way into the machine or the network the mesh runs in. So: https only,
//! one look-up, every address it yields is judged, the connection goes to an address that was judged, redirects are not
//! followed, the answer is small and comes soon. Must not know: what is fetched.

mod address;
mod target;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use self::target::{Host, Target, TargetError};

/// In all, look-up included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer.
const MAX_BODY: usize = 1 << 20;
const HTTPS: u16 = 443;

/// What the operator allows beyond the rules.
#[derive(Debug, Clone, Default)]
pub struct Exceptions {
    /// `host:port`, lower case, that may be reached although its port or its addresses are not public.
    pub targets: BTreeSet<String>,
    /// Plain http to this machine: for development.
    pub loopback_http: bool,
    /// Certificate authorities besides those of the system.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// Looks names up.
pub trait Resolve: Send + Sync + 'static {
    /// Every address of a name.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The resolver of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct System;

/// Why nothing was fetched. Says nothing of what the other side answered.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// Plain http to anything but this machine, or at all.
    #[error("{0}: plain http is allowed to this machine only, and only where it is switched on")]
    Plain(String),
    /// A port that is not listed.
    #[error("{0}: only port 443 may be used, unless this target is listed as an exception")]
    Port(String),
    /// An address that is not public.
    #[error(
        "{target}: its address is {kind}, which may not be reached unless this target is listed as an exception"
    )]
    Address {
        /// What was asked for.
        target: String,
        /// What kind of address.
        kind: &'static str,
    },
    /// The name means nothing.
    #[error("{target}: no address: {source}")]
    Resolve {
        /// What was asked for.
        target: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// Nobody answers, or not as the one who was asked for.
    #[error("{target}: cannot be reached: {source}")]
    Connect {
        /// What was asked for.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// The answer is not HTTP.
    #[error("{0}: the answer could not be read")]
    Broken(String),
    /// Another status than 200; redirects among them.
    #[error("{target}: answered with status {status}; redirects are not followed")]
    Status {
        /// What was asked for.
        target: String,
        /// The status.
        status: u16,
    },
    /// Too much.
    #[error("{0}: the answer exceeds 1 MiB")]
    TooLarge(String),
    /// Too late.
    #[error("{0}: no answer within 5 s")]
    TooSlow(String),
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    exceptions: Arc<Exceptions>,
    ports: BTreeSet<u16>,
    tls: TlsConnector,
    resolver: Arc<dyn Resolve>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("exceptions", &self.exceptions).finish_non_exhaustive()
    }
}

impl Guard {
    /// With the system's resolver and certificate authorities. Reads files.
    ///
    /// # Errors
    /// An authority among the exceptions that is none.
    pub fn new(exceptions: Exceptions) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        if !system.errors.is_empty() {
            tracing::warn!(
                errors = system.errors.len(),
                "not all certificate authorities of the system can be read"
            );
        }
        roots.add_parsable_certificates(system.certs);
        for authority in &exceptions.authorities {
            roots.add(authority.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            exceptions: Arc::new(exceptions),
            ports: BTreeSet::from([HTTPS]),
            tls: TlsConnector::from(Arc::new(config)),
            resolver: Arc::new(System),
        })
    }

    /// The same with another resolver.
    #[must_use]
    pub fn resolving_with(self, resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, ..self }
    }

    /// What is there, as JSON is asked for.
    ///
    /// # Errors
    /// [`OutboundError`]: nothing was fetched, or nothing that may be used.
    pub async fn get(&self, target: &Target) -> Result<Vec<u8>, OutboundError> {
        let fetched = tokio::time::timeout(PATIENCE, self.fetch(target)).await;
        fetched.unwrap_or_else(|_elapsed| Err(OutboundError::TooSlow(target.to_string())))
    }

    async fn fetch(&self, target: &Target) -> Result<Vec<u8>, OutboundError> {
        let addresses = self.judge(target).await?;
        let unreachable = |source| OutboundError::Connect { target: target.to_string(), source };
        // The address that was judged, not the name: a second look-up might yield another one.
        let stream = connect(&addresses).await.map_err(unreachable)?;
        if !target.is_https() {
            return exchange(stream, target).await;
        }
        let name = match target.host() {
            Host::Name(name) => ServerName::try_from(name.clone()).ok(),
            Host::Address(address) => Some(ServerName::from(*address)),
        };
        let name = name.ok_or_else(|| unreachable(io::ErrorKind::InvalidInput.into()))?;
        let stream = self.tls.connect(name, stream).await.map_err(unreachable)?;
        exchange(stream, target).await
    }

    /// The addresses of a target, all of which may be reached.
    async fn judge(&self, target: &Target) -> Result<Vec<SocketAddr>, OutboundError> {
        let listed = self.exceptions.targets.contains(&target.authority());
        if !target.is_https() && !self.exceptions.loopback_http {
            return Err(OutboundError::Plain(target.to_string()));
        }
        if target.is_https() && !listed && !self.ports.contains(&target.port()) {
            return Err(OutboundError::Port(target.to_string()));
        }
        let addresses = match target.host() {
            Host::Address(address) => vec![SocketAddr::new(*address, target.port())],
            Host::Name(name) => self
                .resolver
                .resolve(name, target.port())
                .await
                .map_err(|source| OutboundError::Resolve { target: target.to_string(), source })?,
        };
        for address in &addresses {
            let ip = address.ip();
            let refused = match (target.is_https(), listed) {
                (false, _) if ip.is_loopback() => None,
                (false, _) => return Err(OutboundError::Plain(target.to_string())),
                (true, true) => address::refusal_of_listed(ip),
                (true, false) => address::refusal(ip),
            };
            if let Some(kind) = refused {
                return Err(OutboundError::Address { target: target.to_string(), kind });
            }
        }
        Ok(addresses)
    }
}

impl Resolve for System {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn exchange<S>(stream: S, target: &Target) -> Result<Vec<u8>, OutboundError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = || OutboundError::Broken(target.to_string());
    let handshake = http1::Builder::new().max_headers(64).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_lost| broken())?;
    let request = Request::get(target.path())
        .header(header::HOST, target.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("trunkline/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<&[u8]>::new())
        .map_err(|_unfit| broken())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|_lost| broken())?;
        if answer.status() != StatusCode::OK {
            let status = answer.status().as_u16();
            return Err(OutboundError::Status { target: target.to_string(), status });
        }
        let mut body = answer.into_body();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_lost| broken())?.into_data() else { continue };
            if whole.len() + data.len() > MAX_BODY {
                return Err(OutboundError::TooLarge(target.to_string()));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    };
    // The connection carries the answer, and its end must not hide the last of it.
    let carrying = async {
        if connection.await.is_err() {
            tracing::debug!("a connection to the outside was lost");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = carrying => Err(broken()),
    }
}

#[cfg(test)]
mod tests;
