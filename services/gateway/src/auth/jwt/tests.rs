use async_trait::async_trait;
use jsonwebtoken::{EncodingKey, jwk};
use proptest::prelude::*;

use super::*;
use crate::auth::{Pace, Source, SourceError};

const NOW: u64 = 1_000_000_000_000;

struct Never;

#[async_trait]
impl Source for Never {
    async fn read(&self) -> Result<Vec<u8>, SourceError> {
        Err(SourceError("never".to_owned()))
    }

    fn pace(&self) -> Pace {
        let long = std::time::Duration::from_secs(1 << 30);
        Pace { pause: long, refresh: long }
    }
}

fn key() -> EncodingKey {
    // PKCS #8 of an Ed25519 key; its last 32 bytes are the seed.
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend([7; 32]);
    EncodingKey::from_ed_der(&der)
}

fn issuers() -> Vec<Arc<Trusted>> {
    let public = jwk::Jwk::from_encoding_key(&key(), jsonwebtoken::Algorithm::EdDSA).unwrap();
    let keys = KeySet::new(Box::new(Never));
    keys.begin_with(format!("{{\"keys\":[{}]}}", Json::of(&public)).into_bytes()).unwrap();
    let config = Issuer {
        issuer: "https://idp.example".into(),
        algorithms: Algorithm::ALL.to_vec(),
        ..Issuer::default()
    };
    let withdrawn = Arc::default();
    vec![Arc::new(Trusted { config, audience: "https://mesh.example/mcp".into(), keys, withdrawn })]
}

fn token() -> String {
    let claims =
        r#"{"iss":"https://idp.example","aud":"https://mesh.example/mcp","sub":"ada","exp":1000000060}"#;
    let message = format!("{}.{}", BASE64.encode(r#"{"alg":"EdDSA"}"#), BASE64.encode(claims));
    let signature = crypto::sign(message.as_bytes(), &key(), jsonwebtoken::Algorithm::EdDSA).unwrap();
    format!("{message}.{signature}")
}

/// Whether a token is good, in a runtime of its own.
fn is_good(token: &str, now: u64) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(judge(token, &issuers(), now)).is_ok()
}

#[test]
fn a_token_is_good_until_half_a_minute_after_its_end() {
    let end = 1_000_000_060_000;
    assert!(is_good(&token(), NOW) && is_good(&token(), end + 29_999));
    assert!(!is_good(&token(), end + 30_000));
}

#[test]
fn no_token_is_good_with_one_character_changed() {
    let good = token();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let issuers = issuers();
    for at in 0..good.len() {
        for with in [b'A', b'g', b'.'] {
            let mut changed = good.clone().into_bytes();
            if std::mem::replace(&mut changed[at], with) == with {
                continue;
            }
            let changed = String::from_utf8(changed).unwrap();
            assert!(runtime.block_on(judge(&changed, &issuers, NOW)).is_err(), "{changed}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_was_not_signed_is_never_good(header in "\\PC{0,40}", claims in "\\PC{0,80}", signature in "[A-Za-z0-9_.=-]{0,90}") {
        let token = [BASE64.encode(header), BASE64.encode(claims), signature.clone()].join(".");
        prop_assert!(!is_good(&token, NOW));
        prop_assert!(!is_good(&signature, NOW));
    }
}
