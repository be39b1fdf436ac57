//! API keys: made here, kept as hashes, compared in constant time.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use api::Principal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

use super::Caller;
use super::config::{ApiKey, AuthError};

/// Shows what it is when it is found where it should not be.
const PREFIX: &str = "tlk_";
/// Issuer of the principals that keys stand for. No token has it: those have a URL there.
const ISSUER: &str = "api-key";

/// A key that was just made. It is shown once.
pub struct NewKey {
    /// What its owner sends.
    pub key: String,
    /// What is kept of it, for `auth.keys`.
    pub entry: ApiKey,
    /// The same as text.
    pub line: String,
}

/// The keys of a configuration.
#[derive(Debug, Default)]
pub(super) struct ApiKeys(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    config: ApiKey,
    hash: [u8; 32],
    expires: Option<u64>,
    withdrawn: Arc<CancellationToken>,
}

/// Makes a key out of 32 random bytes.
#[must_use]
pub fn new_key(name: &str, tenant: &str, expires: &str, random: [u8; 32]) -> NewKey {
    let key = format!("{PREFIX}{}", BASE64.encode(random));
    let mut line = format!("{{ name = {}, hash = \"sha256:{}\"", quoted(name), hex(&hash(&key)));
    for (setting, value) in [("tenant", tenant), ("expires", expires)] {
        if !value.is_empty() {
            // Writing to a string does not fail.
            let _written = write!(line, ", {setting} = {}", quoted(value)).is_ok();
        }
    }
    line.push_str(" }");
    let hash = format!("sha256:{}", hex(&hash(&key)));
    let entry = ApiKey { name: name.into(), hash, tenant: tenant.into(), expires: expires.into() };
    NewKey { key, entry, line }
}

impl ApiKeys {
    /// Reads what is configured.
    pub(super) fn new(keys: &[ApiKey]) -> Result<Self, AuthError> {
        let mut names = BTreeSet::new();
        let mut entries = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            if key.name.trim().is_empty() || !names.insert(&key.name) {
                return Err(AuthError::KeyName(index));
            }
            let hash = key.hash.strip_prefix("sha256:").and_then(unhex).ok_or(AuthError::KeyHash(index))?;
            let expires = match key.expires.as_str() {
                "" => None,
                text => {
                    let at =
                        humantime::parse_rfc3339(text).map_err(|_no_time| AuthError::KeyExpires(index))?;
                    Some(at.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
                }
            };
            entries.push(Entry { config: key.clone(), hash, expires, withdrawn: Arc::default() });
        }
        Ok(Self(entries))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose key it is; `None` if it is nobody's, or no longer good at `now`, in milliseconds since 1970.
    pub(super) fn find(&self, key: &str, now: u64) -> Option<Caller> {
        let given = hash(key);
        let mut found = None;
        // All are compared, each in the same time: nothing is told by how long it takes.
        for entry in &self.0 {
            if bool::from(entry.hash.ct_eq(&given)) {
                found = Some(entry);
            }
        }
        let entry = found.filter(|entry| entry.expires.is_none_or(|at| now < at.saturating_mul(1000)))?;
        let principal = Principal {
            subject: entry.config.name.clone(),
            issuer: ISSUER.to_owned(),
            tenant: entry.config.tenant.clone(),
            client: String::new(),
        };
        Some(Caller::known(principal, entry.expires, entry.withdrawn.clone()))
    }

    /// Takes over from `old`: what is still there stays good, what is not ends.
    pub(super) fn succeed(&mut self, old: &Self) {
        for entry in &old.0 {
            match self.0.iter_mut().find(|new| new.config == entry.config) {
                Some(new) => new.withdrawn = entry.withdrawn.clone(),
                None => entry.withdrawn.cancel(),
            }
        }
    }
}

/// Whether it could be a key: it is not looked at as a token then.
pub(super) fn is_key(token: &str) -> bool {
    token.starts_with(PREFIX)
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// As TOML has it.
fn quoted(text: &str) -> String {
    mcp::edit::quote(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, hash: &str, expires: &str) -> ApiKey {
        ApiKey { name: name.into(), hash: hash.into(), tenant: "t".into(), expires: expires.into() }
    }

    fn made(name: &str, seed: u8) -> (String, ApiKey) {
        let made = new_key(name, "t", "", [seed; 32]);
        let hash = made.line.split('"').nth(3).unwrap().to_owned();
        (made.key, key(name, &hash, ""))
    }

    #[test]
    fn a_made_key_is_found_by_its_line_and_no_other_is() {
        let (a, line_a) = made("a", 1);
        let (b, line_b) = made("b", 2);
        let keys = ApiKeys::new(&[line_a, line_b]).unwrap();
        for (key, name) in [(&a, "a"), (&b, "b")] {
            let caller = keys.find(key, 0).unwrap();
            let principal = (caller.principal.subject.as_str(), caller.principal.tenant.as_str());
            assert_eq!((principal, caller.is_anonymous), ((name, "t"), false));
        }
        let hash = hex(&hash(&a));
        for wrong in ["", "tlk_", &a[1..], &a[..a.len() - 1], &format!("{a}x"), &a.to_uppercase(), &hash] {
            assert!(keys.find(wrong, 0).is_none(), "{wrong}");
        }
        assert_eq!(a.len(), PREFIX.len() + 43, "256 bits");
    }

    #[test]
    fn a_key_ends_when_it_says() {
        let (text, mut line) = made("a", 1);
        line.expires = "1970-01-01T00:00:10Z".into();
        let keys = ApiKeys::new(&[line]).unwrap();
        assert_eq!(keys.find(&text, 9_999).unwrap().expires, Some(10));
        assert!(keys.find(&text, 10_000).is_none());
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_place() {
        let good = "sha256:".to_owned() + &"0f".repeat(32);
        for (keys, expected) in [
            (vec![key("", &good, "")], "auth.keys[0].name"),
            (vec![key("a", &good, ""), key("a", &good, "")], "auth.keys[1].name"),
            (vec![key("a", "", "")], "auth.keys[0].hash"),
            (vec![key("a", &good[7..], "")], "auth.keys[0].hash"),
            (vec![key("a", &good[..70], "")], "auth.keys[0].hash"),
            (vec![key("a", &good.replace('f', "g"), "")], "auth.keys[0].hash"),
            (vec![key("a", &good, "tomorrow")], "auth.keys[0].expires"),
        ] {
            let text = ApiKeys::new(&keys).unwrap_err().to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn removing_a_key_ends_what_it_opened_and_keeping_it_does_not() {
        let ((a, line_a), (b, line_b)) = (made("a", 1), made("b", 2));
        let old = ApiKeys::new(&[line_a.clone(), line_b]).unwrap();
        let (kept, removed) = (old.find(&a, 0).unwrap(), old.find(&b, 0).unwrap());
        let mut new = ApiKeys::new(std::slice::from_ref(&line_a)).unwrap();
        new.succeed(&old);
        assert!(removed.withdrawn.is_cancelled() && !kept.withdrawn.is_cancelled());
        let mut other_tenant = ApiKeys::new(&[ApiKey { tenant: "u".into(), ..line_a }]).unwrap();
        other_tenant.succeed(&new);
        assert!(kept.withdrawn.is_cancelled(), "it is somebody else now");
    }

    #[test]
    fn the_line_is_toml_whatever_the_name() {
        let line = new_key("te\"am\\a", "", "2027-01-31T00:00:00Z", [3; 32]).line;
        assert!(line.starts_with(r#"{ name = "te\"am\\a", hash = "sha256:"#), "{line}");
        assert!(line.ends_with(r#", expires = "2027-01-31T00:00:00Z" }"#), "{line}");
    }
}
