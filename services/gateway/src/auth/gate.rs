//! What the section `[auth]` configures: keys, tokens, anonymity, one after the other.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use axum::http::{HeaderMap, Uri, header};
use bytes::Bytes;
use chassis::clock;
use chassis::outbound::{Exceptions, Guard, Target};
use mcp::Json;
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::api_key::{self, ApiKeys};
use super::challenge::Challenge;
use super::config::{AuthError, Config, Issuer};
use super::jwks::{File, KeySet, Source, Url};
use super::jwt::{self, Rejected, Trusted};
use super::{Authenticate, Caller, Denied, Head};

/// Good tokens that are remembered, so that a signature is checked once and not with every request.
const REMEMBERED: usize = 4096;
/// The name of RFC 6750 for a token in a URL, where it has no business: URLs are logged.
const QUERY_TOKEN: &str = "access_token";

/// See the module.
pub struct Gate {
    rules: RwLock<Arc<Rules>>,
    now: fn() -> u64,
}

/// One configuration, ready to be used.
struct Rules {
    config: Config,
    keys: ApiKeys,
    issuers: Vec<Arc<Trusted>>,
    challenge: Challenge,
    metadata: Option<Bytes>,
    /// Is cancelled when callers without credentials are no longer let in.
    strangers: Arc<CancellationToken>,
    remembered: Mutex<HashMap<[u8; 32], jwt::Accepted>>,
}

/// What a request shows.
enum Shown<'a> {
    Nothing,
    Token(&'a str),
    /// More than one thing, or something that is none.
    Unclear,
}

/// RFC 9728.
#[derive(Serialize)]
struct Metadata<'a> {
    resource: &'a str,
    authorization_servers: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<&'a str>,
    bearer_methods_supported: [&'a str; 1],
    resource_name: &'a str,
}

impl Gate {
    /// Reads what is configured, and the files it names.
    ///
    /// # Errors
    /// [`AuthError`] naming the key and what to write.
    pub fn new(config: &Config) -> Result<Self, AuthError> {
        Ok(Self { rules: RwLock::new(Arc::new(Rules::new(config)?)), now: clock::unix_millis })
    }

    /// Works by another configuration from now on. Who is no longer let in by it loses the streams that are open.
    ///
    /// # Errors
    /// [`AuthError`]; everything stays as it was then.
    pub fn replace(&self, config: &Config) -> Result<(), AuthError> {
        let mut new = Rules::new(config)?;
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        new.succeed(&rules);
        *rules = Arc::new(new);
        Ok(())
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Authenticate for Gate {
    async fn authenticate(&self, head: Head<'_>) -> Result<Caller, Denied> {
        let rules = self.rules();
        let token = match rules.at_once(head, self.now) {
            Ok(told) => return told,
            Err(token) => token,
        };
        let judged = jwt::judge(token, &rules.issuers, (self.now)()).await;
        match judged {
            Ok(accepted) => Ok(rules.remember(token, accepted)),
            Err(Rejected::Unavailable) => Err(Denied::Unavailable),
            Err(Rejected::Scope(needed)) => {
                Err(Denied::Forbidden { challenge: rules.challenge.insufficient(&needed) })
            }
            Err(Rejected::Invalid(reason)) => {
                tracing::debug!(reason, "a token was refused");
                Err(rules.invalid())
            }
        }
    }

    fn at_once(&self, head: Head<'_>) -> Option<Result<Caller, Denied>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).at_once(head, self.now).ok()
    }

    fn admits_remote(&self) -> bool {
        let rules = self.rules();
        rules.config.anonymous || !rules.takes_nothing()
    }

    fn resource_path(&self) -> Option<String> {
        let rules = self.rules();
        Target::parse(&rules.config.resource).ok().map(|target| target.path().to_owned())
    }

    fn metadata(&self) -> Option<Bytes> {
        self.rules().metadata.clone()
    }
}

impl Rules {
    fn new(config: &Config) -> Result<Self, AuthError> {
        let keys = ApiKeys::new(&config.keys)?;
        let resource = resource(config)?;
        let issuers = issuers(config)?;
        let mut scopes: Vec<String> =
            issuers.iter().flat_map(|issuer| issuer.config.scopes.iter().cloned()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let metadata = resource.as_ref().map(|_| metadata(config, &scopes));
        Ok(Self {
            config: config.clone(),
            keys,
            issuers,
            challenge: Challenge::new(resource.as_ref(), scopes.join(" ")),
            metadata,
            strangers: Arc::default(),
            remembered: Mutex::default(),
        })
    }

    /// Takes over from `old`.
    fn succeed(&mut self, old: &Self) {
        self.keys.succeed(&old.keys);
        let ways = |config: &Config| {
            (config.private_targets.clone(), config.authorities.clone(), config.loopback_http)
        };
        let same_ways = ways(&self.config) == ways(&old.config);
        for issuer in &old.issuers {
            let same = |new: &&mut Arc<Trusted>| {
                same_ways && new.config == issuer.config && new.audience == issuer.audience
            };
            match self.issuers.iter_mut().find(same) {
                Some(new) => *new = issuer.clone(),
                None => issuer.withdrawn.cancel(),
            }
        }
        let admits = |rules: &Self| rules.config.anonymous || rules.takes_nothing();
        if admits(self) {
            self.strangers = old.strangers.clone();
        } else {
            old.strangers.cancel();
        }
    }

    /// Whether neither keys nor issuers are configured.
    const fn takes_nothing(&self) -> bool {
        self.keys.is_empty() && self.issuers.is_empty()
    }

    const fn admits_strangers(&self, head: Head<'_>) -> bool {
        self.config.anonymous || (self.takes_nothing() && (head.is_local || head.is_open))
    }

    /// Whatever needs no waiting; else the token that has to be judged.
    fn at_once<'a>(&self, head: Head<'a>, now: fn() -> u64) -> Result<Result<Caller, Denied>, &'a str> {
        if names_token(head.uri) {
            return Ok(Err(self.invalid()));
        }
        let stranger = || Caller::stranger(head.is_local, self.strangers.clone());
        let token = match shown(head.headers) {
            // Nobody said what a token would have to look like, so whoever sends one is as good as the others.
            _ if self.takes_nothing() && self.admits_strangers(head) => return Ok(Ok(stranger())),
            Shown::Nothing if self.admits_strangers(head) => return Ok(Ok(stranger())),
            Shown::Nothing => {
                return Ok(Err(Denied::Unauthenticated { challenge: self.challenge.missing() }));
            }
            Shown::Unclear => return Ok(Err(self.invalid())),
            Shown::Token(token) => token,
        };
        if api_key::is_key(token) {
            return Ok(self.keys.find(token, now()).ok_or_else(|| self.invalid()));
        }
        self.recall(token, now()).map(Ok).ok_or(token)
    }

    fn invalid(&self) -> Denied {
        Denied::Unauthenticated { challenge: self.challenge.invalid() }
    }

    fn remember(&self, token: &str, accepted: jwt::Accepted) -> Caller {
        let caller = accepted.caller.clone();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(digest(token), accepted);
        caller
    }

    /// Who sent this token before, if it is as good as it was then.
    fn recall(&self, token: &str, now: u64) -> Option<Caller> {
        if self.issuers.is_empty() {
            return None;
        }
        let digest = digest(token);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = remembered.get(&digest)?;
        let is_fresh = accepted.caller.expires.is_none_or(|at| now < at.saturating_mul(1000));
        if is_fresh && accepted.issuer.keys.generation() == accepted.generation {
            return Some(accepted.caller.clone());
        }
        remembered.remove(&digest);
        None
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The URL of the MCP endpoint; `None` where no tokens are taken.
fn resource(config: &Config) -> Result<Option<Target>, AuthError> {
    if config.issuers.is_empty() {
        return Ok(None);
    }
    let text = &config.resource;
    let target = Target::parse(text).map_err(|_no_url| AuthError::Resource)?;
    let canonical = format!("{}{}", target.origin(), target.path().trim_end_matches('/'));
    if *text != canonical || text.contains('?') {
        return Err(AuthError::Resource);
    }
    Ok(Some(target))
}

fn issuers(config: &Config) -> Result<Vec<Arc<Trusted>>, AuthError> {
    let mut guard = None;
    let mut trusted: Vec<Arc<Trusted>> = Vec::new();
    for (index, issuer) in config.issuers.iter().enumerate() {
        let is_known = trusted.iter().any(|other| other.config.issuer == issuer.issuer);
        if is_known || Target::parse(&issuer.issuer).is_err() {
            return Err(AuthError::Issuer(index));
        }
        if issuer.algorithms.is_empty() {
            return Err(AuthError::Algorithms(index));
        }
        let is_word = |scope: &String| {
            !scope.is_empty() && scope.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\\')
        };
        if !issuer.scopes.iter().all(is_word) {
            return Err(AuthError::Scopes(index));
        }
        let audience = if issuer.audience.is_empty() { &config.resource } else { &issuer.audience };
        trusted.push(Arc::new(Trusted {
            config: issuer.clone(),
            audience: audience.clone(),
            keys: key_set(config, index, issuer, &mut guard)?,
            withdrawn: Arc::default(),
        }));
    }
    Ok(trusted)
}

/// A file is read at once, so that a mistake shows at the start; a URL when it is needed, so that issuer and gateway may start
/// in any order.
fn key_set(
    config: &Config,
    index: usize,
    issuer: &Issuer,
    guard: &mut Option<Guard>,
) -> Result<Arc<KeySet>, AuthError> {
    let problem = |problem: String| AuthError::Jwks { index, problem };
    if issuer.jwks.starts_with("https://") || issuer.jwks.starts_with("http://") {
        let target = Target::parse(&issuer.jwks).map_err(|problem| AuthError::Url { index, problem })?;
        let guard = match guard {
            Some(guard) => guard.clone(),
            None => guard.insert(outbound(config)?).clone(),
        };
        return Ok(KeySet::new(Box::new(Url { guard, target })));
    }
    let text = fs::read(&issuer.jwks).map_err(|error| problem(format!("{:?}: {error}", issuer.jwks)))?;
    let set = KeySet::new(Box::new(File(issuer.jwks.clone().into())) as Box<dyn Source>);
    set.begin_with(text).map_err(|error| problem(error.to_string()))?;
    Ok(set)
}

fn outbound(config: &Config) -> Result<Guard, AuthError> {
    let mut targets = std::collections::BTreeSet::new();
    for (index, text) in config.private_targets.iter().enumerate() {
        let target =
            Target::parse(&format!("https://{text}/")).map_err(|_no_target| AuthError::Target(index))?;
        if target.authority() != *text {
            return Err(AuthError::Target(index));
        }
        targets.insert(text.clone());
    }
    let mut authorities = Vec::new();
    if !config.authorities.as_os_str().is_empty() {
        let unreadable = |error: &dyn std::fmt::Display| AuthError::Authorities(error.to_string());
        let read = CertificateDer::pem_file_iter(&config.authorities).map_err(|error| unreadable(&error))?;
        authorities = read.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(&error))?;
        if authorities.is_empty() {
            return Err(unreadable(&"no certificate in it"));
        }
    }
    let exceptions = Exceptions { targets, loopback_http: config.loopback_http, authorities };
    Guard::new(exceptions).map_err(|error| AuthError::Authorities(error.to_string()))
}

fn metadata(config: &Config, scopes: &[String]) -> Bytes {
    let metadata = Metadata {
        resource: &config.resource,
        authorization_servers: config.issuers.iter().map(|issuer| issuer.issuer.as_str()).collect(),
        scopes_supported: scopes.iter().map(String::as_str).collect(),
        bearer_methods_supported: ["header"],
        resource_name: "Trunkline",
    };
    Json::of(&metadata).bytes()
}

fn names_token(uri: &Uri) -> bool {
    let names =
        uri.query().unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    names.into_iter().any(|name| percent_decode_str(name).eq(QUERY_TOKEN.bytes()))
}

fn shown(headers: &HeaderMap) -> Shown<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Shown::Nothing };
    let (None, Ok(text)) = (values.next(), value.to_str()) else { return Shown::Unclear };
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Shown::Nothing;
    }
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~+/".contains(&c);
    match token.trim_end_matches('=').bytes().all(plain) {
        true => Shown::Token(token),
        false => Shown::Unclear,
    }
}
