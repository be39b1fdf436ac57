//! Certificates for tests, made on the spot.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tempfile::TempDir;

use super::{Acceptor, Config, File, FileError, Mesh, Protocols, Role, TrustDomain};

/// A certificate authority of its own, and a directory for what it makes.
pub(crate) struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of one certificate.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().to_string_lossy().into_owned();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn issue(&self, name: &str, sans: Vec<SanType>, until: Option<Duration>) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if let Some(ago) = until {
            params.not_after = (SystemTime::now() - ago).into();
        }
        let pair = Pair {
            certificate: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        fs::write(&pair.certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    pub(crate) fn of_uri(&self, name: &str, uri: &str) -> Pair {
        self.issue(name, vec![SanType::URI(uri.try_into().unwrap())], None)
    }

    pub(crate) fn role(&self, role: Role) -> Pair {
        self.of_uri(role.name(), &TrustDomain::default().uri(role))
    }

    pub(crate) fn expired(&self, role: Role) -> Pair {
        let uri = SanType::URI(TrustDomain::default().uri(role).try_into().unwrap());
        self.issue("expired", vec![uri], Some(Duration::from_secs(60)))
    }

    pub(crate) fn host(&self, name: &str) -> Pair {
        self.issue("host", vec![SanType::DnsName(name.try_into().unwrap())], None)
    }

    /// The section of a process with this certificate.
    pub(crate) fn section(&self, pair: &Pair) -> Config {
        let Pair { certificate, key } = pair.clone();
        Config { certificate, key, ca: self.ca(), ..Config::default() }
    }

    pub(crate) fn mesh(&self, role: Role) -> Mesh {
        Mesh::new(&self.section(&self.role(role)), Some(role)).unwrap()
    }
}

impl Pair {
    pub(crate) fn files(&self) -> (File, File) {
        (File::new("gateway.tls_certificate", &self.certificate), File::new("gateway.tls_key", &self.key))
    }

    pub(crate) fn acceptor(&self) -> Result<Acceptor, FileError> {
        let (certificate, key) = self.files();
        Acceptor::from_files(certificate, key, None, Protocols::Web)
    }

    /// Puts what another pair has into these files.
    pub(crate) fn replace(&self, by: &Self) {
        fs::copy(&by.certificate, &self.certificate).unwrap();
        fs::copy(&by.key, &self.key).unwrap();
    }
}
