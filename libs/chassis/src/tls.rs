//! TLS from PEM files: for clients at the edge, and mutual between our processes.
//!
//! Owns: certificates, keys and certificate authorities, their reload, handshakes and who the peer of one is. Must not know
//! what is spoken inside, or who may call what (see [`crate::grpc`]).
//!
//! rustls with ring, always passed explicitly: there is no process-wide provider that something else could have chosen.
//! Files are looked at when a handshake comes and the last look was [`LOOK`] ago or longer; a connection that exists keeps
//! what it began with. Deliberately absent: revocation lists. Certificates of a mesh are short-lived and replaced instead.

mod expiry;
mod file;
mod fresh;
mod identity;
mod mesh;
mod verify;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
pub use tokio_rustls::{TlsStream, client, server};

pub use self::file::{File, FileError};
use self::fresh::Fresh;
pub use self::fresh::LOOK;
pub use self::identity::{Identity, Role, TrustDomain, TrustDomainError};
pub use self::mesh::{Config, ConfigError, Dialler, Member, Mesh, Mutual, PlainTextError};
use crate::metrics::{Gauge, Metrics};

/// How long a handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// What is spoken inside, which the handshake agrees on (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/2, or HTTP/1.1 for those that know no other.
    Web,
    /// HTTP/2.
    Grpc,
}

impl Protocols {
    fn names(self) -> Vec<Vec<u8>> {
        match self {
            Self::Web => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Grpc => vec![b"h2".to_vec()],
        }
    }
}

/// The listening end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<Fresh<Shown>>,
}

/// What clients are shown.
#[derive(Debug)]
struct Shown {
    config: Arc<ServerConfig>,
    /// Until when, in seconds since 1970.
    until: Option<i64>,
}

/// The dialling end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<Fresh<ClientConfig>>,
}

impl Acceptor {
    /// Shows `certificate` (the chain, its own first). With a `client_ca`, clients need a certificate of it. Blocks.
    ///
    /// # Errors
    /// [`FileError`] for a file that cannot be used.
    pub fn from_files(
        certificate: File,
        key: File,
        client_ca: Option<File>,
        protocols: Protocols,
    ) -> Result<Self, FileError> {
        let files = [&certificate, &key].into_iter().chain(&client_ca).cloned().collect();
        let make = move || server_config(&certificate, &key, client_ca.as_ref(), protocols);
        Ok(Self { config: Arc::new(Fresh::new(files, make)?) })
    }

    /// Shakes hands with a client, within [`HANDSHAKE`].
    ///
    /// # Errors
    /// When the client cannot be agreed with, is gone, or is too slow.
    pub async fn accept<Io>(&self, io: Io) -> io::Result<server::TlsStream<Io>>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.config.get().await.config.clone());
        bounded(acceptor.accept(io)).await
    }

    /// Tells as a metric until when the certificate is good that is shown for this purpose. Whoever reads it has the files looked
    /// at, as a handshake does.
    pub fn tell_expiry(&self, metrics: &Metrics, purpose: &str) {
        let Some(until) = self.config.peek().until else { return };
        let gauge = expiry_gauge(metrics, purpose);
        gauge.set(until);
        let config = self.config.clone();
        metrics.probe(move || _ = config.peek().until.map(|until| gauge.set(until)));
    }
}

impl Connector {
    /// Accepts servers with a certificate of `ca` for the name that is dialled. With a `pair` (certificate and key) it
    /// shows that to servers that ask. Blocks.
    ///
    /// # Errors
    /// [`FileError`] for a file that cannot be used.
    pub fn from_files(ca: File, pair: Option<(File, File)>, protocols: Protocols) -> Result<Self, FileError> {
        let files = std::iter::once(&ca).chain(pair.iter().flat_map(|(c, k)| [c, k])).cloned().collect();
        let make = move || client_config(&ca, pair.as_ref(), protocols);
        Ok(Self { config: Arc::new(Fresh::new(files, make)?) })
    }

    /// Shakes hands with the server that was dialled as `host`, within [`HANDSHAKE`].
    ///
    /// # Errors
    /// When the server cannot be agreed with, is gone, or is too slow.
    pub async fn connect<Io>(&self, host: &str, io: Io) -> io::Result<client::TlsStream<Io>>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no host name"));
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(invalid)?;
        let connector = tokio_rustls::TlsConnector::from(self.config.get().await);
        bounded(connector.connect(name, io)).await
    }
}

/// The same for a certificate in PEM (its chain behind it) that is shown as long as this process lives.
pub fn tell_expiry(pem: &[u8], metrics: &Metrics, purpose: &str) {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).map_while(Result::ok).collect();
    if let Some(until) = expiry::of_chain(&chain) {
        expiry_gauge(metrics, purpose).set(until);
    }
}

fn expiry_gauge(metrics: &Metrics, purpose: &str) -> Gauge {
    let help = "When the certificate ends that is shown, in seconds since 1970";
    metrics.gauge("trunkline_certificate_expiry_timestamp_seconds", help, &[("purpose", purpose)])
}

async fn bounded<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
    timeout(HANDSHAKE, handshake).await.map_err(late)?
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn server_config(
    certificate: &File,
    key: &File,
    client_ca: Option<&File>,
    protocols: Protocols,
) -> Result<Shown, FileError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| certificate.refuse(error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(ca.roots()?), provider())
                .build()
                .map_err(|error| ca.refuse(error))?;
            builder.with_client_cert_verifier(clients)
        }
    };
    let chain = certificate.certificates()?;
    let until = expiry::of_chain(&chain);
    let mut config = builder
        .with_single_cert(chain, key.private_key()?)
        .map_err(|error| pair_refused(certificate, key, error))?;
    config.alpn_protocols = protocols.names();
    if client_ca.is_some() {
        forget_clients(&mut config);
    }
    Ok(Shown { config: Arc::new(config), until })
}

fn client_config(
    ca: &File,
    pair: Option<&(File, File)>,
    protocols: Protocols,
) -> Result<ClientConfig, FileError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| ca.refuse(error))?
        .with_root_certificates(ca.roots()?);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificate.certificates()?, key.private_key()?)
            .map_err(|error| pair_refused(certificate, key, error))?,
    };
    config.alpn_protocols = protocols.names();
    Ok(config)
}

/// Each client proves itself in each handshake: one that is resumed would be let in by what was true before.
fn forget_clients(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// The same for servers.
fn forget_servers(config: &mut ClientConfig) {
    config.resumption = Resumption::disabled();
}

fn pair_refused(certificate: &File, key: &File, error: rustls::Error) -> FileError {
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        return key.refuse(format!("not the key of the certificate in {certificate}"));
    }
    certificate.refuse(error)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
