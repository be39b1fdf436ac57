//! Whose certificates are accepted between our processes: those of the mesh's own authority, by role.
//!
//! The one URI in the certificate decides, in both directions. DNS names and addresses in it are not looked at: where a
//! process runs changes every day, and whoever can answer at an address must still show the role that was dialled.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::identity::{Identity, Role, TrustDomain};

/// Accepts servers of certain roles.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) roots: RootCertStore,
    pub(super) domain: TrustDomain,
    pub(super) roles: Vec<Role>,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Accepts clients of any role; what each may call is decided call by call.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) by_chain: Arc<dyn ClientCertVerifier>,
    pub(super) domain: TrustDomain,
}

/// A server that is of the mesh and not what was dialled.
#[derive(Debug, thiserror::Error)]
#[error("the server is a {is}, and {wanted} was dialled")]
struct OtherRole {
    is: Role,
    wanted: String,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let is = Identity::of(end_entity, &self.domain).map_err(refuse)?.role();
        if !self.roles.contains(&is) {
            let wanted = self.roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(" or ");
            return Err(refuse(OtherRole { is, wanted }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.by_chain.verify_client_cert(end_entity, intermediates, now)?;
        Identity::of(end_entity, &self.domain).map_err(refuse)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

fn refuse(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(error)))))
}

/// rustls prints what another check says by its `Debug`, which is for people here.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Refused<E: std::error::Error>(E);

impl<E: std::error::Error> fmt::Debug for Refused<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
