//! The public keys of an issuer: read from a file or a URL, kept, and read again when a token names a key nobody knows.
//!
//! However many tokens name unknown keys, the source is read at most once in its pause, and by one task at a time. While it
//! cannot be read, the keys that are known stay. Reading is no part of any request: one that is given up does not stop it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use chassis::outbound::{Guard, Target};
use chassis::task::{self, Handle, Kind};
use jsonwebtoken::DecodingKey;
use mcp::{Json, scan};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Span;

use super::config::Algorithm;

/// Most keys of a set that are looked at.
const MAX_KEYS: usize = 100;
/// Bytes of an RSA modulus: 2048 to 4096 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// Where a key set is.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The text of the set.
    async fn read(&self) -> Result<Vec<u8>, SourceError>;

    /// How often it may be read.
    fn pace(&self) -> Pace;
}

/// How often a source is read.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Never sooner after the last time, whatever is asked for.
    pub pause: Duration,
    /// Again after this time, so that keys that were taken back are noticed.
    pub refresh: Duration,
}

/// Why a source cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// A file.
pub(super) struct File(pub(super) PathBuf);

/// A URL behind the address guard.
pub(super) struct Url {
    pub(super) guard: Guard,
    pub(super) target: Target,
}

/// A public key.
pub(super) struct Key {
    kid: Option<String>,
    form: Form,
    algorithm: Option<String>,
    pub(super) key: DecodingKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// See the module.
pub(super) struct KeySet {
    source: Box<dyn Source>,
    state: Mutex<State>,
    /// Counts the readings that have ended.
    done: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    keys: Vec<Arc<Key>>,
    text: Vec<u8>,
    /// Counts the sets; 0 = none was read yet.
    generation: u64,
    tried: Option<Instant>,
    is_reading: bool,
    reader: Option<Handle<()>>,
    /// What was last complained of: said once.
    complaint: String,
}

/// The keys a token may have been signed with, out of which set.
pub(super) struct Found {
    pub(super) keys: Vec<Arc<Key>>,
    pub(super) generation: u64,
}

/// No set was ever read, so nothing can be said of any token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoKeys;

#[async_trait]
impl Source for File {
    async fn read(&self) -> Result<Vec<u8>, SourceError> {
        let named = |error| SourceError(format!("{}: {error}", self.0.display()));
        tokio::fs::read(&self.0).await.map_err(named)
    }

    fn pace(&self) -> Pace {
        Pace { pause: Duration::from_secs(1), refresh: Duration::from_secs(2) }
    }
}

#[async_trait]
impl Source for Url {
    async fn read(&self) -> Result<Vec<u8>, SourceError> {
        self.guard.get(&self.target).await.map_err(|error| SourceError(error.to_string()))
    }

    fn pace(&self) -> Pace {
        Pace { pause: Duration::from_secs(10), refresh: Duration::from_secs(300) }
    }
}

impl KeySet {
    /// Nothing is read before it is needed.
    pub(super) fn new(source: Box<dyn Source>) -> Arc<Self> {
        Arc::new(Self { source, state: Mutex::default(), done: watch::Sender::new(0) })
    }

    /// With a set that was read already.
    pub(super) fn begin_with(&self, text: Vec<u8>) -> Result<(), SourceError> {
        let keys = parse(&text)?;
        self.lock().take(keys, text);
        Ok(())
    }

    /// The keys for a token that names this key or none. Reads the source if there is no such key.
    pub(super) async fn find(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Found, NoKeys> {
        self.freshen();
        let found = self.lock().find(kid, algorithm);
        if !found.keys.is_empty() {
            return Ok(found);
        }
        if let Some(mut done) = self.read() {
            // Fails only when the set is gone, and then there is nothing to find.
            let _ended = done.changed().await.is_ok();
        }
        let found = self.lock().find(kid, algorithm);
        if found.generation == 0 { Err(NoKeys) } else { Ok(found) }
    }

    /// Which set is known. A token that was good with one need not be with the next.
    pub(super) fn generation(self: &Arc<Self>) -> u64 {
        self.freshen();
        self.lock().generation
    }

    /// Reads the source if that was long ago. Nobody waits for it.
    fn freshen(self: &Arc<Self>) {
        let refresh = self.source.pace().refresh;
        let is_old = self.lock().tried.is_none_or(|at| at.elapsed() >= refresh);
        if is_old {
            drop(self.read());
        }
    }

    /// What tells when a reading has ended that began after this or is under way; `None` if the source must be left alone.
    fn read(self: &Arc<Self>) -> Option<watch::Receiver<u64>> {
        let mut state = self.lock();
        if state.is_reading {
            return Some(self.done.subscribe());
        }
        let pause = self.source.pace().pause;
        if state.tried.is_some_and(|at| at.elapsed() < pause) {
            return None;
        }
        state.tried = Some(Instant::now());
        state.is_reading = true;
        let reading = Reading(self.clone());
        let work = async move {
            let read = reading.0.source.read().await;
            reading.0.took(read);
        };
        // No part of the request that happened to need it.
        state.reader = Some(Span::none().in_scope(|| task::spawn(Kind::Upkeep, "key set", work)));
        Some(self.done.subscribe())
    }

    fn took(&self, read: Result<Vec<u8>, SourceError>) {
        let parsed = read.and_then(|text| Ok((parse(&text)?, text)));
        let mut state = self.lock();
        match parsed {
            Ok((keys, text)) => state.take(keys, text),
            Err(SourceError(problem)) => {
                if state.complaint != problem {
                    tracing::warn!(problem, "a key set cannot be read; the keys that are known stay");
                    state.complaint = problem;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reading; it ends with this, whatever becomes of it.
struct Reading(Arc<KeySet>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.lock().is_reading = false;
        self.0.done.send_modify(|count| *count += 1);
    }
}

impl State {
    fn take(&mut self, keys: Vec<Arc<Key>>, text: Vec<u8>) {
        self.complaint.clear();
        self.tried.get_or_insert_with(Instant::now);
        if self.generation == 0 || self.text != text {
            self.generation += 1;
            (self.keys, self.text) = (keys, text);
        }
    }

    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Found {
        let fits = |key: &&Arc<Key>| key.fits(algorithm) && (kid.is_none() || key.kid.as_deref() == kid);
        let keys: Vec<_> = self.keys.iter().filter(fits).cloned().collect();
        // A token that names no key is only clear while there is no choice.
        let keys = if kid.is_none() && keys.len() > 1 { Vec::new() } else { keys };
        Found { keys, generation: self.generation }
    }
}

impl Key {
    fn fits(&self, algorithm: Algorithm) -> bool {
        let form = match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => Form::Rsa,
            Algorithm::ES256 => Form::P256,
            Algorithm::ES384 => Form::P384,
            Algorithm::EdDsa => Form::Ed25519,
        };
        self.form == form && self.algorithm.as_deref().is_none_or(|name| name == algorithm.name())
    }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// A private key has been published; nothing it signs means anything.
    d: Option<String>,
}

/// The keys of a set that can be used. Others are passed over: sets hold keys for other purposes, too.
fn parse(text: &[u8]) -> Result<Vec<Arc<Key>>, SourceError> {
    let bad = || SourceError("not a JWK set: {\"keys\": [..]}".to_owned());
    let limits = scan::Limits { string: 64 << 10, ..scan::Limits::MESSAGE };
    let set = Json::parse(Bytes::copy_from_slice(text), &limits).map_err(|_no_json| bad())?;
    let keys = scan::member(set.as_str(), "keys").filter(|keys| keys.starts_with('[')).ok_or_else(bad)?;
    let keys = scan::elements(keys).take(MAX_KEYS).filter_map(|raw| set.slice(raw).read().ok());
    Ok(keys.filter_map(key).map(Arc::new).collect())
}

fn key(jwk: Jwk) -> Option<Key> {
    let verifies = jwk.key_ops.is_none_or(|operations| operations.iter().any(|o| o == "verify"));
    if jwk.purpose.is_some_and(|purpose| purpose != "sig") || !verifies || jwk.d.is_some() {
        return None;
    }
    let length = |text: &str| BASE64.decode(text).map(|bytes| bytes.len()).ok();
    let (form, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", None) => {
            let (n, e) = (jwk.n?, jwk.e?);
            let fits = length(&n).is_some_and(|bytes| RSA_BYTES.contains(&bytes));
            (Form::Rsa, fits.then(|| DecodingKey::from_rsa_components(&n, &e).ok())??)
        }
        ("EC", Some(curve)) => {
            let (form, bytes) = match curve {
                "P-256" => (Form::P256, 32),
                "P-384" => (Form::P384, 48),
                _ => return None,
            };
            let (x, y) = (jwk.x?, jwk.y?);
            let fits = [&x, &y].iter().all(|part| length(part) == Some(bytes));
            (form, fits.then(|| DecodingKey::from_ec_components(&x, &y).ok())??)
        }
        ("OKP", Some("Ed25519")) => {
            let x = jwk.x?;
            let fits = length(&x) == Some(32);
            (Form::Ed25519, fits.then(|| DecodingKey::from_ed_components(&x).ok())??)
        }
        _ => return None,
    };
    Some(Key { kid: jwk.kid, form, algorithm: jwk.alg, key })
}

#[cfg(test)]
mod tests;
