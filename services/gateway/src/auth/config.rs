//! Settings of who may call.

use std::path::PathBuf;

use chassis::outbound::TargetError;
use serde::{Deserialize, Serialize};

/// The section `[auth]`: who may call. With neither keys nor issuers, this machine may, and nobody else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Lets callers in that show no credentials, beside those with a key or a token. Together they are one principal, with a
    /// small budget where other machines can call. A gateway on loopback behind a proxy takes whoever the proxy passes on for
    /// somebody of this machine: configure keys or issuers there, or let the proxy authenticate.
    pub anonymous: bool,
    /// API keys, each for one team or program: `{ name = "team-a", hash = "sha256:..." }`. `trunkline key new` makes one and prints
    /// its line. Removing a line ends the streams of its owner.
    pub keys: Vec<ApiKey>,
    /// URL of the MCP endpoint as clients know it, for example `https://mesh.example.com/mcp`: lower-case host, no slash at the
    /// end. Tokens have to be made for it. Needed with issuers.
    pub resource: String,
    /// Who issues tokens (JWT) that are accepted.
    pub issuers: Vec<Issuer>,
    /// Targets, as `host:port`, that key sets may be fetched from although their address is private or their port is not 443:
    /// an issuer in your own network.
    pub private_targets: Vec<String>,
    /// PEM file with certificate authorities for fetching key sets, besides those of the system. Empty = none.
    pub authorities: PathBuf,
    /// Lets key sets be fetched from this machine by plain http. For development.
    pub loopback_http: bool,
}

/// An API key. The key itself is not kept: it has 256 random bits, so its SHA-256 cannot be guessed back, and needs no salt
/// and no slow hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Who it belongs to: the subject of the principal.
    pub name: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub hash: String,
    /// Tenant of the principal; empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// When it ends, as "2027-01-31T00:00:00Z"; empty = never.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expires: String,
}

/// An issuer of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Its URL, exactly as tokens have it in `iss`.
    pub issuer: String,
    /// What tokens must have in `aud`; empty = `auth.resource`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub audience: String,
    /// Where its public keys are (a JWK set): a file, read again when it changes, or an https URL.
    pub jwks: String,
    /// Name of the claim that holds the tenant; tokens must have it then. Empty = no tenant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant_claim: String,
    /// Signatures that are accepted.
    #[serde(default = "all_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Scopes a token must have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// A signature algorithm with a public key. There are no others: neither `none` nor a shared secret can be configured.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[allow(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// Why the section `[auth]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A key without a name, or two with the same one.
    #[error("auth.keys[{0}].name: every key needs a name of its own, for example name = \"team-a\"")]
    KeyName(usize),
    /// A hash that is none.
    #[error(
        "auth.keys[{0}].hash: write sha256: and 64 hexadecimal digits; `trunkline key new` prints the line"
    )]
    KeyHash(usize),
    /// A time that is none.
    #[error("auth.keys[{0}].expires: write a time in UTC, for example \"2027-01-31T00:00:00Z\"")]
    KeyExpires(usize),
    /// No resource, or not a fit one.
    #[error(
        "auth.resource: with issuers, write the URL of the MCP endpoint as clients know it, for example \
         \"https://mesh.example.com/mcp\": lower-case host, no query, no slash at the end"
    )]
    Resource,
    /// An issuer without a URL, or two with the same one.
    #[error("auth.issuers[{0}].issuer: write the URL of an issuer, once, exactly as tokens have it in iss")]
    Issuer(usize),
    /// No algorithm.
    #[error(
        "auth.issuers[{0}].algorithms: name at least one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
    )]
    Algorithms(usize),
    /// A scope that is none.
    #[error("auth.issuers[{0}].scopes: a scope is a word of printable ASCII without quotes and backslashes")]
    Scopes(usize),
    /// A key set that cannot be read.
    #[error("auth.issuers[{index}].jwks: {problem}; write the path of a JWK set or its https URL")]
    Jwks {
        /// Which issuer.
        index: usize,
        /// What is wrong.
        problem: String,
    },
    /// A URL of a key set that is none.
    #[error("auth.issuers[{index}].jwks: {problem}")]
    Url {
        /// Which issuer.
        index: usize,
        /// What is wrong.
        problem: TargetError,
    },
    /// A target that is none.
    #[error("auth.private_targets[{0}]: write host:port, lower case, for example \"idp.internal:8443\"")]
    Target(usize),
    /// Authorities that cannot be read.
    #[error("auth.authorities: {0}; write the path of a PEM file with certificates")]
    Authorities(String),
}

fn all_algorithms() -> Vec<Algorithm> {
    Algorithm::ALL.to_vec()
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDsa,
    ];

    /// As tokens have it in `alg`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }
}
