//! How our processes trust each other: the section `[mtls]`, and what follows from it for who listens and who dials.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::file::{File, FileError};
use super::fresh::Fresh;
use super::identity::{Identity, Role, TrustDomain};
use super::verify::{Clients, Servers};
use super::{
    Acceptor, Connector, Protocols, Shown, expiry, forget_clients, forget_servers, pair_refused, provider,
    server,
};
use crate::metrics::Metrics;

/// The section `[mtls]`: TLS between the roles, where each shows a certificate. The same in every process but for
/// `certificate` and `key`. `trunkline certificates` makes a first set of files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// PEM file with the certificate of this process, its own first if it is a chain. One of its names is the URI
    /// `spiffe://TRUST_DOMAIN/ROLE`; roles are gateway, session, registry, bridge and operator. Empty: no TLS, and then
    /// no gRPC with other machines. Files may be replaced at any time.
    pub certificate: PathBuf,
    /// PEM file with the key of `certificate`.
    pub key: PathBuf,
    /// PEM file with the certificate authorities whose certificates are accepted; more than one while they are changed.
    pub ca: PathBuf,
    /// Name of this mesh, in the URIs of its certificates. Another one for each mesh that shares an authority.
    pub trust_domain: TrustDomain,
    /// Allows gRPC without TLS and without any check of who calls, to and from other machines. For development, in a
    /// network that nobody else is in.
    pub plain_text: bool,
}

/// A section `[mtls]` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Only some of the files are set.
    #[error("mtls.{0} is not set: certificate, key and ca belong together")]
    Incomplete(&'static str),
    /// It says two things.
    #[error("mtls.plain_text is for meshes without certificates, and mtls.certificate is set: remove one")]
    Both,
    /// A file that cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Without certificates nobody may be reached on, or be reached by, other machines.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{0} is on the network, and gRPC there needs mtls.certificate, mtls.key and mtls.ca: `trunkline certificates --dir DIR` \
     makes a first set of files. For development in a network of your own, mtls.plain_text = true goes without"
)]
pub struct PlainTextError(String);

/// How this process listens for and dials others. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Mesh {
    /// Without TLS: on this machine, or everywhere if that is allowed.
    Plain {
        /// Whether other machines may be spoken with.
        beyond_loopback: bool,
    },
    /// With TLS, where both ends show certificates.
    Mutual(Mutual),
}

/// The certificate of this process and the authority of the mesh. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mutual {
    files: Arc<Files>,
    acceptor: Acceptor,
}

/// How to dial servers of certain roles: without TLS on this machine, by default. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Dialler {
    connector: Option<Connector>,
    beyond_loopback: bool,
}

/// The listening end, by which one knows who dials. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Member {
    acceptor: Acceptor,
    files: Arc<Files>,
}

#[derive(Debug)]
struct Files {
    certificate: File,
    key: File,
    ca: File,
    domain: TrustDomain,
    /// What this process is, if its certificate must say so.
    own: Option<Role>,
}

impl Default for Mesh {
    fn default() -> Self {
        Self::Plain { beyond_loopback: false }
    }
}

impl Mesh {
    /// Reads the files, if there are any; `own` is the role that the certificate must be for. Blocks.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting, and the file if it is one.
    pub fn new(config: &Config, own: Option<Role>) -> Result<Self, ConfigError> {
        let paths = [("certificate", &config.certificate), ("key", &config.key), ("ca", &config.ca)];
        let missing = paths.iter().find(|(_, path)| path.as_os_str().is_empty());
        if paths.iter().all(|(_, path)| path.as_os_str().is_empty()) {
            return Ok(Self::Plain { beyond_loopback: config.plain_text });
        }
        if let Some((key, _)) = missing {
            return Err(ConfigError::Incomplete(key));
        }
        if config.plain_text {
            return Err(ConfigError::Both);
        }
        let files = Arc::new(Files {
            certificate: File::new("mtls.certificate", &config.certificate),
            key: File::new("mtls.key", &config.key),
            ca: File::new("mtls.ca", &config.ca),
            domain: config.trust_domain.clone(),
            own,
        });
        let made = files.clone();
        let fresh = Fresh::new(files.all(), move || made.server())?;
        Ok(Self::Mutual(Mutual { files, acceptor: Acceptor { config: Arc::new(fresh) } }))
    }

    /// Whether one may listen on `address`.
    ///
    /// # Errors
    /// [`PlainTextError`] if that is to be without TLS and other machines could dial it.
    pub fn check_listen(&self, address: SocketAddr) -> Result<(), PlainTextError> {
        match self {
            Self::Plain { beyond_loopback: false } if !is_loopback(address.ip()) => {
                Err(PlainTextError(address.to_string()))
            }
            Self::Plain { .. } | Self::Mutual(_) => Ok(()),
        }
    }

    /// Tells as a metric until when the certificate of this process is good.
    pub fn tell_expiry(&self, metrics: &Metrics) {
        match self {
            Self::Plain { .. } => {}
            Self::Mutual(mutual) => mutual.acceptor.tell_expiry(metrics, "mesh"),
        }
    }

    /// What to shake hands with when somebody dials; `None` without TLS.
    #[must_use]
    pub fn member(&self) -> Option<Member> {
        match self {
            Self::Plain { .. } => None,
            Self::Mutual(mutual) => {
                Some(Member { acceptor: mutual.acceptor.clone(), files: mutual.files.clone() })
            }
        }
    }

    /// How to dial servers of these roles. Blocks.
    ///
    /// # Errors
    /// [`FileError`] for a file that has become unusable.
    pub fn dialler(&self, roles: &[Role]) -> Result<Dialler, FileError> {
        match self {
            Self::Plain { beyond_loopback } => {
                Ok(Dialler { connector: None, beyond_loopback: *beyond_loopback })
            }
            Self::Mutual(mutual) => {
                let (files, roles) = (mutual.files.clone(), roles.to_vec());
                let fresh = Fresh::new(files.all(), move || files.client(&roles))?;
                let connector = Some(Connector { config: Arc::new(fresh) });
                Ok(Dialler { connector, beyond_loopback: true })
            }
        }
    }
}

impl Dialler {
    /// Whether one may dial `host`.
    ///
    /// # Errors
    /// [`PlainTextError`] if that is to be without TLS and may be another machine.
    pub fn check(&self, host: &str) -> Result<(), PlainTextError> {
        // Any other name may be this machine today and another one tomorrow.
        let near = host.eq_ignore_ascii_case("localhost")
            || host.trim_matches(['[', ']']).parse().is_ok_and(is_loopback);
        if near || self.beyond_loopback { Ok(()) } else { Err(PlainTextError(host.to_owned())) }
    }

    /// What to shake hands with; `None` without TLS.
    #[must_use]
    pub const fn connector(&self) -> Option<&Connector> {
        self.connector.as_ref()
    }
}

impl Member {
    /// Shakes hands with whoever dials, within [`super::HANDSHAKE`], and says who it is.
    ///
    /// # Errors
    /// When it is nobody of this mesh, is gone, or is too slow.
    pub async fn accept<Io>(&self, io: Io) -> io::Result<(server::TlsStream<Io>, Identity)>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.acceptor.accept(io).await?;
        let peer = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let nobody = || io::Error::new(io::ErrorKind::InvalidData, "the client showed no certificate");
        let identity = Identity::of(peer.ok_or_else(nobody)?, &self.files.domain)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok((stream, identity))
    }
}

impl Files {
    fn all(&self) -> Vec<File> {
        vec![self.certificate.clone(), self.key.clone(), self.ca.clone()]
    }

    fn server(&self) -> Result<Shown, FileError> {
        let by_chain = WebPkiClientVerifier::builder_with_provider(Arc::new(self.ca.roots()?), provider())
            .build()
            .map_err(|error| self.ca.refuse(error))?;
        let clients = Clients { by_chain, domain: self.domain.clone() };
        let chain = self.own_certificates()?;
        let until = expiry::of_chain(&chain);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.certificate.refuse(error))?
            .with_client_cert_verifier(Arc::new(clients))
            .with_single_cert(chain, self.key.private_key()?)
            .map_err(|error| pair_refused(&self.certificate, &self.key, error))?;
        config.alpn_protocols = Protocols::Grpc.names();
        forget_clients(&mut config);
        Ok(Shown { config: Arc::new(config), until })
    }

    fn client(&self, roles: &[Role]) -> Result<ClientConfig, FileError> {
        let servers = Servers {
            roots: self.ca.roots()?,
            domain: self.domain.clone(),
            roles: roles.to_vec(),
            provider: provider(),
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.certificate.refuse(error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers))
            .with_client_auth_cert(self.own_certificates()?, self.key.private_key()?)
            .map_err(|error| pair_refused(&self.certificate, &self.key, error))?;
        config.alpn_protocols = Protocols::Grpc.names();
        forget_servers(&mut config);
        Ok(config)
    }

    /// The chain, if the others of the mesh will take this process for what it is.
    fn own_certificates(&self) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, FileError> {
        let certificates = self.certificate.certificates()?;
        let Some(first) = certificates.first() else { return Ok(certificates) };
        let identity = Identity::of(first, &self.domain).map_err(|error| self.certificate.refuse(error))?;
        match self.own {
            Some(own) if own != identity.role() => {
                Err(self.certificate.refuse(format!("for a {}, and this is a {own}", identity.role())))
            }
            Some(_) | None => Ok(certificates),
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
