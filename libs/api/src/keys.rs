//! The ring of named keys that identifiers and sealed states are made with.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher24;

/// Named keys of 32 bytes: one signs, all are accepted. Rotation = add the new key everywhere, make it current, remove the old.
/// Clones share one ring: what replaces it in one of them replaces it in all.
#[derive(Clone)]
pub struct KeyRing(Arc<RwLock<Arc<Keys>>>);

struct Keys {
    current: Arc<str>,
    keys: BTreeMap<String, Key>,
}

/// A key, and what is derived from it for each MAC: identifiers are read with every message.
struct Key {
    secret: [u8; 32],
    macs: [[u8; 16]; Purpose::ALL.len()],
}

/// What a MAC is for. One for one purpose is worth nothing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Identifiers of sessions.
    SessionId,
    /// Identifiers of events.
    EventId,
    /// What stands for an identifier in traces.
    Telemetry,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::SessionId, Self::EventId, Self::Telemetry];

    /// Every version of a mesh has to derive the same keys.
    const fn name(self) -> &'static str {
        match self {
            Self::SessionId => "session-id",
            Self::EventId => "event-id",
            Self::Telemetry => "telemetry",
        }
    }
}

impl Key {
    fn new(secret: [u8; 32]) -> Self {
        let half = |purpose: Purpose| {
            let mut half = [0_u8; 16];
            half.copy_from_slice(&derived(&secret, purpose.name())[..16]);
            half
        };
        Self { secret, macs: Purpose::ALL.map(half) }
    }
}

/// The key has a fixed length, so key and purpose cannot be confused.
fn derived(secret: &[u8; 32], purpose: &str) -> [u8; 32] {
    Sha256::new().chain_update(secret).chain_update(purpose.as_bytes()).finalize().into()
}

/// Why a ring cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// `keys.current` names no key of the ring.
    #[error("keys.current is {0:?}, which is not a key of keys.ring")]
    NoCurrent(String),
    /// A name that cannot stand in an identifier.
    #[error("key name {0:?}: use 1 to 16 characters of [A-Za-z0-9]")]
    Name(String),
    /// A value that is not 32 bytes of base64, or is too simple.
    #[error("key {0:?}: use 32 random bytes as base64, for example from `openssl rand -base64 32`")]
    Value(String),
}

impl KeyRing {
    /// A ring from configuration: name -> 32 bytes as base64.
    ///
    /// # Errors
    /// [`KeyError`] naming the offending key.
    pub fn new(current: &str, ring: &BTreeMap<String, String>) -> Result<Self, KeyError> {
        let mut keys = BTreeMap::new();
        for (name, value) in ring {
            if name.is_empty() || name.len() > 16 || !name.bytes().all(|c| c.is_ascii_alphanumeric()) {
                return Err(KeyError::Name(name.clone()));
            }
            let bytes: [u8; 32] = STANDARD
                .decode(value.trim())
                .ok()
                .and_then(|v| v.try_into().ok())
                .filter(|key: &[u8; 32]| distinct(key) >= 8)
                .ok_or_else(|| KeyError::Value(name.clone()))?;
            keys.insert(name.clone(), bytes);
        }
        if keys.contains_key(current) {
            Ok(Self::of(current, keys))
        } else {
            Err(KeyError::NoCurrent(current.to_owned()))
        }
    }

    /// A ring of one key.
    #[must_use]
    pub fn single(name: &str, key: [u8; 32]) -> Self {
        Self::of(name, BTreeMap::from([(name.to_owned(), key)]))
    }

    /// Name of the key that signs.
    #[must_use]
    pub fn current(&self) -> Arc<str> {
        self.now().current.clone()
    }

    /// Names of all accepted keys.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.now().keys.keys().cloned().collect()
    }

    /// Takes over the keys of another ring, in every clone of this one.
    pub fn replace(&self, other: &Self) {
        let keys = other.now();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// A 64-bit MAC of `message` under the named key, for one purpose. `None` if there is no such key.
    #[must_use]
    pub fn mac(&self, key: &str, purpose: Purpose, message: &[u8]) -> Option<u64> {
        let ring = self.now();
        let mut hasher = SipHasher24::new_with_key(&ring.keys.get(key)?.macs[purpose as usize]);
        hasher.write(message);
        Some(hasher.finish())
    }

    /// A key for one purpose, derived from the named key. `None` if there is no such key.
    #[must_use]
    pub fn derive(&self, key: &str, purpose: &str) -> Option<[u8; 32]> {
        self.now().keys.get(key).map(|key| derived(&key.secret, purpose))
    }

    fn of(current: &str, secrets: BTreeMap<String, [u8; 32]>) -> Self {
        let keys = secrets.into_iter().map(|(name, secret)| (name, Key::new(secret))).collect();
        Self(Arc::new(RwLock::new(Arc::new(Keys { current: current.into(), keys }))))
    }

    fn now(&self) -> Arc<Keys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn distinct(key: &[u8]) -> usize {
    key.iter().collect::<std::collections::BTreeSet<_>>().len()
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.now();
        write!(f, "KeyRing {{ current: {:?}, keys: {:?} }}", now.current, now.keys.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_malformed_keys_are_refused() {
        let ring = |value: &str| KeyRing::new("k1", &BTreeMap::from([("k1".to_owned(), value.to_owned())]));
        assert!(ring("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").is_ok());
        assert_eq!(ring("short").err(), Some(KeyError::Value("k1".into())));
        assert_eq!(
            ring("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").err(),
            Some(KeyError::Value("k1".into()))
        );
        assert_eq!(KeyRing::new("k2", &BTreeMap::new()).err(), Some(KeyError::NoCurrent("k2".into())));
    }

    #[test]
    fn a_ring_is_replaced_in_all_clones() {
        let ring = KeyRing::single("k1", [7; 32]);
        let clone = ring.clone();
        let before = clone.mac("k1", Purpose::Telemetry, b"m");
        ring.replace(&KeyRing::single("k2", [8; 32]));
        assert_eq!((&*clone.current(), clone.mac("k1", Purpose::Telemetry, b"m")), ("k2", None));
        assert_ne!(clone.mac("k2", Purpose::Telemetry, b"m"), before);
    }

    #[test]
    fn a_mac_is_worth_nothing_for_another_purpose() {
        let ring = KeyRing::single("k1", [7; 32]);
        let macs = Purpose::ALL.map(|purpose| {
            // As it was when each was derived anew.
            let mut half = [0_u8; 16];
            half.copy_from_slice(&ring.derive("k1", purpose.name()).unwrap()[..16]);
            let mut hasher = SipHasher24::new_with_key(&half);
            hasher.write(b"m");
            assert_eq!(ring.mac("k1", purpose, b"m"), Some(hasher.finish()));
            hasher.finish()
        });
        assert!(macs[0] != macs[1] && macs[1] != macs[2] && macs[0] != macs[2]);
    }

    #[test]
    fn debug_shows_names_only() {
        assert_eq!(
            format!("{:?}", KeyRing::single("k1", [7; 32])),
            "KeyRing { current: \"k1\", keys: [\"k1\"] }"
        );
    }
}
