//! An issuer of tokens whose every byte can be chosen.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use gateway::auth::{Algorithm as Allowed, Config, Gate, Issuer};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::KeyPair;
use tempfile::TempDir;

pub(crate) const RESOURCE: &str = "https://mesh.example/mcp";
pub(crate) const ISSUER: &str = "https://idp.example/realm";
pub(crate) const OTHER_ISSUER: &str = "https://other.example";
/// For nothing but these tests.
const RSA: &[u8] = include_bytes!("rsa.der");

/// A private key and what tokens call it.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) kid: &'static str,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: EncodingKey,
}

/// Two issuers, their key sets in files, and an attacker's key that is in none.
pub(crate) struct Forge {
    pub(crate) rsa: Signer,
    pub(crate) ec: Signer,
    pub(crate) ed: Signer,
    pub(crate) other: Signer,
    pub(crate) attacker: Signer,
    folder: TempDir,
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn encode(part: impl AsRef<[u8]>) -> String {
    BASE64.encode(part)
}

fn elliptic(kid: &'static str) -> Signer {
    let key = EncodingKey::from_ec_der(&KeyPair::generate().unwrap().serialize_der());
    Signer { kid, algorithm: Algorithm::ES256, key }
}

impl Signer {
    /// The public key as a key set has it.
    pub(crate) fn jwk(&self) -> String {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        let public = mcp::Json::of(&jwk.algorithm);
        let mut members = mcp::edit::ObjectEditor::new(public.as_str());
        members.set("kid", mcp::edit::quote(self.kid));
        members.set("use", "\"sig\"");
        members.finish()
    }

    pub(crate) fn header(&self) -> String {
        let algorithm = mcp::Json::of(&self.algorithm);
        format!(r#"{{"alg":{algorithm},"typ":"JWT","kid":"{}"}}"#, self.kid)
    }

    /// A token of these parts.
    pub(crate) fn sign(&self, header: &str, claims: impl AsRef<[u8]>) -> String {
        self.sign_as(self.algorithm, header, claims)
    }

    pub(crate) fn sign_as(&self, algorithm: Algorithm, header: &str, claims: impl AsRef<[u8]>) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = crypto::sign(message.as_bytes(), &self.key, algorithm).unwrap();
        format!("{message}.{signature}")
    }

    pub(crate) fn token(&self, claims: &str) -> String {
        self.sign(&self.header(), claims)
    }
}

impl Forge {
    pub(crate) fn new() -> Self {
        // PKCS #8 of an Ed25519 key; its last 32 bytes are the seed.
        let mut ed = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        ed.extend([7; 32]);
        let rsa = EncodingKey::from_rsa_der(RSA);
        let forge = Self {
            rsa: Signer { kid: "rsa", algorithm: Algorithm::RS256, key: rsa },
            ec: elliptic("ec"),
            ed: Signer { kid: "ed", algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(&ed) },
            other: elliptic("other"),
            attacker: elliptic("ec"),
            folder: tempfile::tempdir().unwrap(),
        };
        forge.publish("own.json", &[&forge.rsa, &forge.ec, &forge.ed]);
        forge.publish("other.json", &[&forge.other]);
        forge
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn publish(&self, name: &str, signers: &[&Signer]) {
        let keys: Vec<String> = signers.iter().map(|signer| signer.jwk()).collect();
        std::fs::write(self.path(name), format!("{{\"keys\":[{}]}}", keys.join(","))).unwrap();
    }

    pub(crate) fn config(&self) -> Config {
        let issuer = |url: &str, file: &str| Issuer {
            issuer: url.into(),
            jwks: self.path(file).to_str().unwrap().into(),
            algorithms: vec![Allowed::RS256, Allowed::PS256, Allowed::ES256, Allowed::EdDsa],
            ..Issuer::default()
        };
        let own = Issuer {
            scopes: vec!["mcp:use".into(), "mcp:more".into()],
            tenant_claim: "org".into(),
            ..issuer(ISSUER, "own.json")
        };
        Config {
            resource: RESOURCE.into(),
            issuers: vec![own, issuer(OTHER_ISSUER, "other.json")],
            ..Config::default()
        }
    }

    pub(crate) fn gate(&self) -> Gate {
        Gate::new(&self.config()).unwrap()
    }
}

/// Claims that lack nothing.
pub(crate) fn claims() -> String {
    claims_until(now() + 300)
}

pub(crate) fn claims_until(expiry: u64) -> String {
    format!(
        r#"{{"iss":"{ISSUER}","aud":"{RESOURCE}","sub":"ada","org":"acme","client_id":"agent","scope":"mcp:use other mcp:more","iat":{},"exp":{expiry}}}"#,
        now() - 5
    )
}

/// The claims with one of them in another form; `None` takes it out.
pub(crate) fn with(claim: &str, value: Option<&str>) -> String {
    let good = claims();
    let mut claims = mcp::edit::ObjectEditor::new(&good);
    match value {
        Some(value) => claims.set(claim, value),
        None => claims.remove(claim),
    };
    claims.finish()
}
