//! HTTPS: both protocols, the scheme in the rules, and certificates that are replaced under load.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::http::{Request, StatusCode, Version};
use bytes::Bytes;
use chassis::task::{self, Kind};
use chassis::tls::{Connector, File, Protocols};
use gateway::auth::Anonymous;
use gateway::{App, BuildError, Config, Deps, Local};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use placement::Static;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::kit::{self, Gateway, Node, keys, soon};

/// A certificate authority, and the files of the gateway.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let authority = Self { dir, issuer: Issuer::new(params, key) };
        authority.issue("first");
        authority
    }

    /// Puts a new certificate and its key in the place of those that are there.
    fn issue(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        for (file, text) in [("tls.pem", certificate.pem()), ("tls.key", key.serialize_pem())] {
            let new = self.path("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.path(file)).unwrap();
        }
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.dir.path().join(file)
    }

    fn config(&self) -> Config {
        Config { tls_certificate: self.path("tls.pem"), tls_key: self.path("tls.key"), ..Config::default() }
    }

    fn connector(&self) -> Connector {
        Connector::from_files(File::new("ca", self.path("ca.pem")), None, Protocols::Web).unwrap()
    }
}

/// One request over a connection of its own; the status, and the certificate that was shown.
async fn ask(
    connector: &Connector,
    gateway: &Gateway,
    version: Version,
    target: &str,
) -> (StatusCode, String, Vec<u8>) {
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let stream = soon(connector.connect("localhost", stream)).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(b"h2".as_slice()));
    let shown = session.peer_certificates().unwrap()[0].to_vec();
    let body = kit::Request::modern("tools/list", "");
    let request = Request::post(target)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "*/*")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/list")
        .body(Full::new(Bytes::copy_from_slice(body.body_bytes())))
        .unwrap();
    let io = TokioIo::new(stream);
    // What was agreed on is what a client speaks; here each is spoken, since the gateway tells them apart by their beginning.
    let response = if version == Version::HTTP_2 {
        let (mut send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let driver = task::spawn(Kind::Call, "client", async move { connection.await.is_ok() });
        let response = soon(send.send_request(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = soon(body.collect()).await.unwrap().to_bytes();
        drop(driver);
        (parts.status, body)
    } else {
        let (mut send, connection) = http1::handshake(io).await.unwrap();
        let driver = task::spawn(Kind::Call, "client", async move { connection.await.is_ok() });
        let response = soon(send.send_request(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = soon(body.collect()).await.unwrap().to_bytes();
        drop(driver);
        (parts.status, body)
    };
    (response.0, String::from_utf8(response.1.to_vec()).unwrap(), shown)
}

#[tokio::test]
async fn both_protocols_are_spoken_and_the_scheme_is_compared() {
    let authority = Authority::new();
    let node = Node::new([]);
    let gateway = Gateway::start(authority.config(), &[("a", &node)], 1).await;
    let connector = authority.connector();
    let status = async |version, target: &str| ask(&connector, &gateway, version, target).await.0;
    assert_eq!(status(Version::HTTP_2, "https://localhost/mcp").await, 200);
    assert_eq!(status(Version::HTTP_11, "/mcp").await, 200);
    assert_eq!(status(Version::HTTP_11, "https://localhost/mcp").await, 200);
    assert_eq!(node.seen().len(), 3);
    assert_eq!(status(Version::HTTP_2, "http://localhost/mcp").await, 403);
    assert_eq!(status(Version::HTTP_11, "http://localhost/mcp").await, 403);
    // Plain HTTP is not answered at all.
    let mut plain = gateway.send(&kit::Request::modern("tools/list", "")).await;
    let mut said = Vec::new();
    plain.all(&mut said).await;
    assert!(!said.starts_with(b"HTTP"), "{}", said.escape_ascii());
    assert_eq!(node.seen().len(), 3);
}

#[tokio::test]
async fn a_client_of_http1_alone_agrees_on_that() {
    let authority = Authority::new();
    let node = Node::new([]);
    let gateway = Gateway::start(authority.config(), &[("a", &node)], 1).await;
    let mut roots = rustls::RootCertStore::empty();
    let ca = fs::read(authority.path("ca.pem")).unwrap();
    use rustls::pki_types::pem::PemObject as _;
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    for (offered, agreed) in [
        (vec![b"http/1.1".to_vec()], Some(b"http/1.1".as_slice())),
        (vec![b"http/1.1".to_vec(), b"h2".to_vec()], Some(b"h2".as_slice())),
        (vec![], None),
    ] {
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = offered;
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = soon(connector.connect("localhost".try_into().unwrap(), stream)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
    }
}

#[tokio::test]
async fn certificates_are_replaced_under_load_and_no_call_fails() {
    let authority = Authority::new();
    let node = Node::new([]);
    let gateway = Gateway::start(authority.config(), &[("a", &node)], 1).await;
    let connector = authority.connector();
    let first = ask(&connector, &gateway, Version::HTTP_2, "https://localhost/mcp").await.2;
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let caller = async || {
        let mut seen = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let (status, body, shown) =
                ask(&connector, &gateway, Version::HTTP_2, "https://localhost/mcp").await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, "{}"));
            calls.fetch_add(1, Ordering::Relaxed);
            if !seen.contains(&shown) {
                seen.push(shown);
            }
        }
        seen
    };
    let replace = async {
        let mut last = first.clone();
        for round in 0..2 {
            // One that cannot be used changes nothing.
            if round == 1 {
                fs::write(authority.path("tls.pem"), "no certificate").unwrap();
            }
            authority.issue(&format!("round {round}"));
            let new = async {
                loop {
                    let shown = ask(&connector, &gateway, Version::HTTP_2, "https://localhost/mcp").await.2;
                    if shown != last {
                        return shown;
                    }
                }
            };
            last = soon(Box::pin(new)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (one, two, ()) = tokio::join!(caller(), caller(), replace);
    println!("{} calls while two certificates were replaced", calls.load(Ordering::Relaxed));
    // Each of them began with the first one, and no call of theirs failed.
    assert!(one.contains(&first) && two.contains(&first));
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_by_name() {
    let authority = Authority::new();
    let deps = || Deps {
        keys: keys(),
        locator: Arc::new(Static::embedded(Default::default(), "a")),
        peers: Arc::new(Local(Node::new([]))),
        auth: Arc::new(Anonymous),
        process: Default::default(),
    };
    let build = |certificate: &Path, key: &Path| {
        let config = Config { tls_certificate: certificate.into(), tls_key: key.into(), ..Config::default() };
        App::build(&config, deps()).err()
    };
    let (certificate, key, none) = (authority.path("tls.pem"), authority.path("tls.key"), Path::new(""));
    assert!(build(&certificate, &key).is_none());
    assert!(matches!(build(&certificate, none), Some(BuildError::HalfTls("tls_certificate", "tls_key"))));
    assert!(matches!(build(none, &key), Some(BuildError::HalfTls("tls_key", "tls_certificate"))));
    for (certificate, key, named) in [
        (authority.path("absent"), key.clone(), "gateway.tls_certificate"),
        (certificate.clone(), authority.path("absent"), "gateway.tls_key"),
        (key.clone(), key, "gateway.tls_certificate"),
        (certificate.clone(), certificate, "gateway.tls_key"),
    ] {
        let error = build(&certificate, &key).expect(named).to_string();
        assert!(error.contains(named), "{error}");
    }
}
