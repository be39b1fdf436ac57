//! Tokens (JWT): read strictly, judged by the issuer they name, and never asked where their keys are.

use std::sync::Arc;

use api::Principal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::crypto;
use mcp::{Json, scan};
use tokio_util::sync::CancellationToken;

use super::Caller;
use super::config::{Algorithm, Issuer};
use super::jwks::{KeySet, NoKeys};

/// Longest token that is looked at.
const MAX_TOKEN: usize = 8 << 10;
/// Longest name of a caller.
const MAX_NAME: usize = 512;
/// How far clocks may differ, in seconds.
const LEEWAY: f64 = 30.0;
/// What a header must not have: things that change what the rest means. Where a key is (`jku`, `x5u`, `jwk`, `x5c`) may be
/// said, and nobody listens.
const FOREIGN: [&str; 5] = ["crit", "b64", "cty", "enc", "zip"];

/// An issuer whose tokens are taken.
pub(super) struct Trusted {
    pub(super) config: Issuer,
    /// What `aud` must contain.
    pub(super) audience: String,
    pub(super) keys: Arc<KeySet>,
    /// Is cancelled when the issuer is no longer configured.
    pub(super) withdrawn: Arc<CancellationToken>,
}

/// A token that is good.
pub(super) struct Accepted {
    pub(super) caller: Caller,
    pub(super) issuer: Arc<Trusted>,
    /// The key set it was checked with.
    pub(super) generation: u64,
}

/// Why a token is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rejected {
    /// What it is; for the log of a developer, never for the client.
    Invalid(&'static str),
    /// It is good, and lacks one of these scopes.
    Scope(Vec<String>),
    /// There are no keys to check it with.
    Unavailable,
}

/// Judges a token at `now`, in milliseconds since 1970.
pub(super) async fn judge(token: &str, issuers: &[Arc<Trusted>], now: u64) -> Result<Accepted, Rejected> {
    let invalid = Rejected::Invalid;
    let (message, signature) = token.rsplit_once('.').ok_or(invalid("form"))?;
    let (header, claims) = message.split_once('.').ok_or(invalid("form"))?;
    if token.len() > MAX_TOKEN || claims.contains('.') || signature.is_empty() {
        return Err(invalid("form"));
    }
    let header = Header::read(&object(header).ok_or(invalid("header"))?)?;
    let claims = object(claims).ok_or(invalid("claims"))?;
    // Which issuer it claims decides whose keys it is checked with, and those alone.
    let claimed = claims.text("iss").ok_or(invalid("iss"))?;
    let issuer = issuers.iter().find(|trusted| trusted.config.issuer == claimed).ok_or(invalid("iss"))?;
    let allowed = issuer.config.algorithms.iter().find(|allowed| allowed.name() == header.algorithm);
    let algorithm = *allowed.ok_or(invalid("alg"))?;
    let found = issuer.keys.find(header.key.as_deref(), algorithm).await;
    let found = found.map_err(|NoKeys| Rejected::Unavailable)?;
    let verified = found.keys.iter().any(|key| {
        crypto::verify(signature, message.as_bytes(), &key.key, verbatim(algorithm)).unwrap_or(false)
    });
    if !verified {
        return Err(invalid(if found.keys.is_empty() { "kid" } else { "signature" }));
    }
    let caller = caller(&claims, issuer, now)?;
    Ok(Accepted { caller, issuer: issuer.clone(), generation: found.generation })
}

struct Header {
    algorithm: String,
    /// A key to look up, and nothing else.
    key: Option<String>,
}

impl Header {
    fn read(header: &Json) -> Result<Self, Rejected> {
        let has = |name| scan::member(header.as_str(), name).is_some();
        if FOREIGN.into_iter().any(has) {
            return Err(Rejected::Invalid("header"));
        }
        if has("typ") {
            let kind = header.text("typ").unwrap_or_default().to_ascii_lowercase();
            if !matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt") {
                return Err(Rejected::Invalid("typ"));
            }
        }
        let key = header.text("kid").filter(|key| key.len() <= MAX_NAME);
        if has("kid") && key.is_none() {
            return Err(Rejected::Invalid("kid"));
        }
        Ok(Self { algorithm: header.text("alg").ok_or(Rejected::Invalid("alg"))?, key })
    }
}

/// Who the claims of a token that was signed by this issuer speak of.
fn caller(claims: &Json, issuer: &Trusted, now: u64) -> Result<Caller, Rejected> {
    let invalid = Rejected::Invalid;
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit for 285,000 years")]
    let now = now as f64 / 1000.0;
    let expires = time(claims, "exp")?.ok_or(invalid("exp"))? + LEEWAY;
    if expires <= now {
        return Err(invalid("exp"));
    }
    for begins in ["nbf", "iat"] {
        if time(claims, begins)?.is_some_and(|at| at - LEEWAY > now) {
            return Err(invalid(begins));
        }
    }
    let audience = words(claims, "aud").ok_or(invalid("aud"))?;
    if !audience.contains(&issuer.audience) {
        return Err(invalid("aud"));
    }
    let subject = name(claims, "sub").ok_or(invalid("sub"))?;
    let tenant = match issuer.config.tenant_claim.as_str() {
        "" => String::new(),
        claim => name(claims, claim).ok_or(invalid("tenant"))?,
    };
    let granted = granted(claims);
    if !issuer.config.scopes.iter().all(|needed| granted.contains(needed)) {
        return Err(Rejected::Scope(issuer.config.scopes.clone()));
    }
    let client = name(claims, "client_id").or_else(|| name(claims, "azp")).unwrap_or_default();
    let principal = Principal { subject, issuer: issuer.config.issuer.clone(), tenant, client };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it lies in the future, and a cast of too much is the most there is"
    )]
    let expires = expires as u64;
    Ok(Caller::known(principal, Some(expires), issuer.withdrawn.clone()))
}

/// A part of a token that is an object in which no name occurs twice: nobody else can read it in another way.
fn object(part: &str) -> Option<Json> {
    let bytes = BASE64.decode(part).ok()?;
    let json = Json::parse(bytes.into(), &scan::Limits::MESSAGE).ok()?;
    if !scan::is_object(json.as_str()) {
        return None;
    }
    let mut names: Vec<_> = scan::members(json.as_str()).map(|member| member.key).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    (names.len() == count).then_some(json)
}

/// A time in seconds since 1970, with a fraction if it has one.
fn time(claims: &Json, claim: &'static str) -> Result<Option<f64>, Rejected> {
    let Some(raw) = scan::member(claims.as_str(), claim) else { return Ok(None) };
    let number =
        raw.starts_with(|c: char| c.is_ascii_digit() || c == '-').then(|| raw.parse().ok()).flatten();
    number.filter(|number: &f64| number.is_finite()).map(Some).ok_or(Rejected::Invalid(claim))
}

/// A claim that names somebody.
fn name(claims: &Json, claim: &str) -> Option<String> {
    let usual = |text: &String| (1..=MAX_NAME).contains(&text.len()) && !text.contains(char::is_control);
    claims.text(claim).filter(usual)
}

/// A string, or an array of nothing but strings.
fn words(claims: &Json, claim: &str) -> Option<Vec<String>> {
    let raw = scan::member(claims.as_str(), claim)?;
    if raw.starts_with('[') {
        return scan::elements(raw).map(|item| scan::string(item).map(|text| text.into_owned())).collect();
    }
    scan::string(raw).map(|text| vec![text.into_owned()])
}

/// Scopes, as RFC 9068 has them and as others do.
fn granted(claims: &Json) -> Vec<String> {
    let lists = ["scope", "scp"].into_iter().filter_map(|claim| words(claims, claim)).flatten();
    lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
}

const fn verbatim(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests;
