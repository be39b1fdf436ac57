//! Who a process of the mesh is: a role in a trust domain, as the one URI in its certificate has it.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

/// What a process of the mesh does, and with that what it may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The edge.
    Gateway,
    /// A session node.
    Session,
    /// A registry of tools, resources or prompts, ours or a team's own.
    Registry,
    /// A registry that asks other MCP servers.
    Bridge,
    /// A person or a tool that looks after the mesh.
    Operator,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Gateway, Self::Session, Self::Registry, Self::Bridge, Self::Operator];

    /// As certificates have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Session => "session",
            Self::Registry => "registry",
            Self::Bridge => "bridge",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a mesh that trusts itself: two meshes under one certificate authority do not trust each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

/// Not the name of a trust domain.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no trust domain; use up to 255 lower-case letters, digits and . - _, for example \"trunkline\""
)]
pub struct TrustDomainError(String);

impl Default for TrustDomain {
    fn default() -> Self {
        Self("trunkline".to_owned())
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-_".contains(&c);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(plain) {
            return Err(TrustDomainError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = TrustDomainError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0
    }
}

impl TrustDomain {
    /// The URI that a certificate of `role` has among its names.
    #[must_use]
    pub fn uri(&self, role: Role) -> String {
        format!("spiffe://{}/{role}", self.0)
    }
}

/// Who the peer of a connection is. Made from a verified certificate and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    role: Role,
}

/// Why a certificate says nothing about who shows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate has {0} URI names, and exactly one is wanted")]
    Uris(usize),
    #[error("the certificate is for {0:?}, which is no role of the trust domain {1:?}")]
    Stranger(String, String),
}

impl Identity {
    /// The role.
    #[must_use]
    pub const fn role(self) -> Role {
        self.role
    }

    /// Of a certificate that has been verified, or of one's own.
    pub(super) fn of(certificate: &CertificateDer<'_>, domain: &TrustDomain) -> Result<Self, IdentityError> {
        let parsed =
            webpki::EndEntityCert::try_from(certificate).map_err(|_invalid| IdentityError::Unreadable)?;
        let uris: Vec<&str> = parsed.valid_uri_names().collect();
        let [uri] = uris[..] else { return Err(IdentityError::Uris(uris.len())) };
        let role = Role::ALL.into_iter().find(|role| domain.uri(*role) == uri);
        let stranger = || IdentityError::Stranger(uri.to_owned(), domain.0.clone());
        Ok(Self { role: role.ok_or_else(stranger)? })
    }
}
