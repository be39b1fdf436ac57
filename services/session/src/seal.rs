//! What a modern client carries between the rounds of a request, sealed so that it can only be brought back as it was.
//!
//! Everything a retry is judged by is inside: who may bring it, for which request, until when, and how the registry goes on.

use api::{KeyRing, Principal};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use mcp::Json;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const PURPOSE: &str = "request-state";
const VERSION: &str = "s1";
/// Longest text that is made or looked at.
const MAX_TEXT: usize = 64 << 10;
const NONCE: usize = 24;

/// What is inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) tenant: String,
    pub(crate) client: String,
    pub(crate) mesh: String,
    /// Address of the registry process: the order in which nodes list them does not matter.
    pub(crate) address: String,
    pub(crate) registry: String,
    pub(crate) instance: String,
    pub(crate) method: String,
    pub(crate) target: String,
    /// Of the arguments; never of `_meta`, `inputResponses` or `requestState`.
    pub(crate) digest: String,
    pub(crate) round: u32,
    pub(crate) expires_unix_ms: u64,
    /// The parked invocation; empty if the handler has returned.
    pub(crate) invocation: String,
    /// What the handler returned, base64; empty if it is parked.
    pub(crate) handler_state: String,
}

impl State {
    /// Whether this principal is the one it was made for.
    pub(crate) fn belongs_to(&self, principal: &Principal) -> bool {
        self.subject == principal.subject
            && self.issuer == principal.issuer
            && self.tenant == principal.tenant
            && self.client == principal.client
    }
}

/// Seals with the current key. `None` if it would be too long to be opened again.
pub(crate) fn seal(keys: &KeyRing, state: &State, nonce: [u8; NONCE]) -> Option<String> {
    let name = keys.current();
    let cipher = cipher(keys, &name)?;
    let plain = Json::of(state);
    let payload = Payload { msg: plain.as_str().as_bytes(), aad: name.as_bytes() };
    let sealed = cipher.encrypt(XNonce::from_slice(&nonce), payload).ok()?;
    let body = [nonce.as_slice(), &sealed].concat();
    Some(format!("{VERSION}.{name}.{}", BASE64.encode(body))).filter(|text| text.len() <= MAX_TEXT)
}

/// Opens what was sealed with any key of the ring; `None` whatever is wrong with it.
pub(crate) fn open(keys: &KeyRing, text: &str) -> Option<State> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let mut parts = text.split('.');
    let (version, name, body) = (parts.next()?, parts.next()?, parts.next()?);
    if version != VERSION || parts.next().is_some() {
        return None;
    }
    let body = BASE64.decode(body).ok()?;
    let (nonce, sealed) = body.split_at_checked(NONCE)?;
    let payload = Payload { msg: sealed, aad: name.as_bytes() };
    let plain = cipher(keys, name)?.decrypt(XNonce::from_slice(nonce), payload).ok()?;
    Json::parse(plain.into(), &mcp::scan::Limits::MESSAGE).ok()?.read().ok()
}

fn cipher(keys: &KeyRing, name: &str) -> Option<XChaCha20Poly1305> {
    let key = keys.derive(name, PURPOSE)?;
    XChaCha20Poly1305::new_from_slice(&key).ok()
}

/// Digest of what a retry has to repeat exactly: the params without what changes from round to round.
pub(crate) fn digest(params: &Json) -> String {
    let mut hasher = Sha256::new();
    for member in mcp::scan::members(params.as_str()) {
        if matches!(
            member.key.as_ref(),
            mcp::meta::META | mcp::meta::INPUT_RESPONSES | mcp::meta::REQUEST_STATE
        ) {
            continue;
        }
        for part in [member.key.as_ref(), member.value] {
            hasher.update(part.len().to_be_bytes());
            hasher.update(part);
        }
    }
    BASE64.encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> KeyRing {
        KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef")
    }

    fn state() -> State {
        State {
            subject: "u".into(),
            issuer: "i".into(),
            tenant: String::new(),
            client: String::new(),
            mesh: "m".into(),
            address: "a:1".into(),
            registry: "r".into(),
            instance: "x".into(),
            method: "tools/call".into(),
            target: "t".into(),
            digest: "d".into(),
            round: 1,
            expires_unix_ms: 5,
            invocation: "inv".into(),
            handler_state: String::new(),
        }
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else() {
        let text = seal(&keys(), &state(), [7; NONCE]).unwrap();
        assert_eq!(open(&keys(), &text), Some(state()));
        assert_eq!(open(&KeyRing::single("k1", [3; 32]), &text), None);
        assert_eq!(open(&KeyRing::single("k2", *b"0123456789abcdef0123456789abcdef"), &text), None);
        for bad in
            ["", "s1", "s1.k1.", "s1.k1.AAAA", &format!("{text}-TAMPERED"), &format!("{text}.x"), &text[1..]]
        {
            assert_eq!(open(&keys(), bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_too_long_to_be_opened_is_not_sealed() {
        let of = |length: usize| {
            let state = State { handler_state: "x".repeat(length), ..state() };
            seal(&keys(), &state, [7; NONCE]).map(|text| open(&keys(), &text) == Some(state))
        };
        assert_eq!((of(40 << 10), of(64 << 10)), (Some(true), None));
    }

    proptest! {
        #[test]
        fn any_changed_character_is_refused(at in 0_usize..400, with in "[A-Za-z0-9._-]") {
            let text = seal(&keys(), &state(), [7; NONCE]).unwrap();
            let at = at % text.len();
            let changed = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            // The last character may carry bits that base64 does not use; the decoder refuses those too.
            prop_assume!(changed != text);
            prop_assert_eq!(open(&keys(), &changed), None);
        }
    }

    #[test]
    fn the_digest_covers_arguments_only() {
        let digest = |text: &'static str| digest(&Json::trusted(text));
        let plain = digest(r#"{"name":"t","arguments":{"a":1}}"#);
        assert_eq!(
            digest(
                r#"{"name":"t","_meta":{"x":1},"arguments":{"a":1},"requestState":"s","inputResponses":{}}"#
            ),
            plain
        );
        assert_ne!(digest(r#"{"name":"t","arguments":{"a":2}}"#), plain);
        assert_ne!(digest(r#"{"name":"u","arguments":{"a":1}}"#), plain);
    }
}
