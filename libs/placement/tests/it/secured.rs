//! etcd that asks for certificates, or for a password.

use placement::Etcd;
use placement::etcd::{EtcdConfig, EtcdConfigError};
use placement::port::{LeaseStore as _, StoreError};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::etcd::{Servers, answers, etcdctl};

/// An authority, and a certificate with its key for each side.
struct Papers {
    folder: TempDir,
    ca: String,
    client: (String, String),
}

impl Papers {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let signed = |usage| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            params.extended_key_usages = usage;
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let server = signed(both);
        let client = signed(vec![ExtendedKeyUsagePurpose::ClientAuth]);
        for (name, text) in [("ca", &ca), ("server", &server.0), ("key", &server.1)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder, ca, client }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

#[tokio::test]
async fn certificates_are_shown_and_checked() {
    let papers = Papers::new();
    let more: Vec<String> = [
        ("--cert-file", papers.path("server")),
        ("--key-file", papers.path("key")),
        ("--trusted-ca-file", papers.path("ca")),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .chain(["--client-cert-auth".to_owned()])
    .collect();
    let servers = Servers::start_with(1, "https", &more);
    let (certificate, key) = papers.client.clone();
    let identity = Some((certificate.into_bytes(), key.into_bytes()));
    let config = EtcdConfig { ca: Some(papers.ca.clone().into_bytes()), identity, ..servers.config() };
    let etcd = Etcd::new(&config, 0).unwrap();
    answers(&etcd).await;

    let stranger = EtcdConfig { identity: None, ..config.clone() };
    let refused = Etcd::new(&stranger, 0).unwrap().list("any/").await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let elsewhere = EtcdConfig { ca: Some(Papers::new().ca.into_bytes()), ..config.clone() };
    let refused = Etcd::new(&elsewhere, 0).unwrap().list("any/").await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let trusting = EtcdConfig { ca: None, ..config };
    assert!(matches!(Etcd::new(&trusting, 0), Err(EtcdConfigError::NoAuthority(_))));
}

#[tokio::test]
async fn passwords_are_given_and_checked() {
    let servers = Servers::start_with(1, "http", &["--auth-token-ttl=2".to_owned()]);
    answers(&servers.client().await).await;
    let url = servers.config().endpoints.remove(0);
    for command in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "mesh:word"],
        &["role", "add", "mesh"],
        &["role", "grant-permission", "mesh", "--prefix=true", "readwrite", "/trunkline/"],
        &["user", "grant-role", "mesh", "mesh"],
        &["auth", "enable"],
    ] {
        etcdctl(&[&["--endpoints", &url][..], command].concat());
    }
    let with =
        |password: &str| EtcdConfig { user: Some(("mesh".into(), password.into())), ..servers.config() };
    let etcd = Etcd::new(&with("word"), 0).unwrap();
    let from = etcd.list("/trunkline/").await.unwrap().revision;
    let lease = etcd.grant(crate::kit::TTL).await.unwrap().lease;
    etcd.keep_alive(lease).await.unwrap();
    drop(etcd.watch("/trunkline/", from).await.unwrap());
    let elsewhere = etcd.list("/other/").await;
    assert!(matches!(elsewhere, Err(StoreError::Refused(_))), "{elsewhere:?}");
    let wrong = Etcd::new(&with("wrong"), 0).unwrap().list("/trunkline/").await;
    assert!(matches!(wrong, Err(StoreError::Refused(_))), "{wrong:?}");
    let nobody = Etcd::new(&servers.config(), 0).unwrap().list("/trunkline/").await;
    assert!(matches!(nobody, Err(StoreError::Refused(_))), "{nobody:?}");

    // The token ends; the client gets another. A restart of etcd forgets all tokens as well.
    let mut servers = servers;
    servers.kill(0);
    servers.restart(0);
    let again = async {
        let mut polls = tokio::time::interval(std::time::Duration::from_millis(50));
        while etcd.list("/trunkline/").await.is_err() {
            polls.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), again).await.expect("a new token");
}

#[test]
fn addresses_are_checked() {
    let new =
        |url: &str| Etcd::new(&EtcdConfig { endpoints: vec![url.to_owned()], ..EtcdConfig::default() }, 0);
    for wrong in ["127.0.0.1:2379", "ftp://a:1", "", "http://"] {
        assert!(matches!(new(wrong), Err(EtcdConfigError::Address(_))), "{wrong}");
    }
    assert!(matches!(Etcd::new(&EtcdConfig::default(), 0), Err(EtcdConfigError::NoEndpoint)));
}
