use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::task::{self, Kind};

/// A resolver that gives one list of addresses after the other, whatever the name.
struct Scripted {
    answers: Mutex<Vec<Vec<SocketAddr>>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answers: Vec<Vec<SocketAddr>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers), asked: AtomicUsize::new(0) })
    }
}

impl Resolve for Scripted {
    fn resolve<'a>(&'a self, _host: &'a str, _port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        Box::pin(async move { Ok(answer) })
    }
}

fn guard(exceptions: Exceptions) -> Guard {
    Guard::new(exceptions).unwrap()
}

/// Listens on every address of this machine and counts who comes.
struct Canary {
    port: u16,
    hits: Arc<AtomicUsize>,
    _listening: task::Handle<()>,
}

impl Canary {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hits = Arc::new(AtomicUsize::new(0));
        let count = hits.clone();
        let listening = task::spawn(Kind::Role, "canary", async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, hits, _listening: listening }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// Hosts that mean this machine, its network or its cloud, in all the ways resolvers and parsers know.
const HOSTS: [&str; 88] = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.0.0.2",
    "127.127.127.127",
    "127.255.255.254",
    "2130706433",
    "02130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "0177.1",
    "00000177.0.0.1",
    "0x7f000001",
    "0x7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "0x0000007f.1",
    "127.0.0.0x1",
    "127.0.0.01",
    "127.000.000.001",
    "0",
    "0.0.0.0",
    "0.0",
    "0x0",
    "00",
    "10.0.0.1",
    "10.1",
    "167772161",
    "0xa000001",
    "012.0.0.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.0.1",
    "192.168.1",
    "3232235521",
    "0xc0a80001",
    "0300.0250.0.1",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.169.254",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "256.256.256.256",
    "127.0.0.1.2",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7F00:1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001::7f00:1]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[100::1]",
    "[::1",
    "::1",
    "[::1]x",
    "[127.0.0.1]",
    "[]",
];

/// Whole URLs that parsers disagree about; `P` is the canary's port.
const URLS: [&str; 36] = [
    "http://127.0.0.1:P/",
    "http://localhost:P/",
    "http://[::1]:P/",
    "HTTPS://127.0.0.1:P/",
    "//127.0.0.1:P/",
    "127.0.0.1:P",
    "https:/127.0.0.1:P/",
    "https:127.0.0.1:P/",
    "https:///127.0.0.1:P/",
    "https://public.example@127.0.0.1:P/",
    "https://public.example:443@127.0.0.1:P/",
    "https://127.0.0.1:P@public.example/",
    "https://127.0.0.1:P#@public.example/",
    "https://127.0.0.1:P\\@public.example/",
    "https://public.example\\@127.0.0.1:P/",
    "https://127.0.0.1\t:P/",
    " https://127.0.0.1:P/",
    "https://127.0.0.1:P/ ",
    "https://127.0.0.1:P/\r\nHost: x",
    "https://127.0.0.1%3AP/",
    "https://127.0.0.%31:P/",
    "https://%6cocalhost:P/",
    "https://\u{2460}27.0.0.1:P/",
    "https://127\u{3002}0\u{3002}0\u{3002}1:P/",
    "https://loc\u{e0}lhost:P/",
    "https://\u{ff4c}ocalhost:P/",
    "https://127.0.0.1:0P/",
    "https://127.0.0.1:+P/",
    "https://127.0.0.1:P:443/",
    "https://:P/",
    "https://",
    "ftp://127.0.0.1:P/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:P/_x",
    "javascript:fetch(1)",
    "https://internal.example:22/",
];

#[tokio::test]
async fn no_form_of_an_inner_address_is_reached() {
    let canary = Canary::start().await;
    // Any name that is looked up leads to the canary.
    let inner = SocketAddr::from((Ipv4Addr::LOCALHOST, canary.port));
    let guard = guard(Exceptions::default()).resolving_with(Scripted::new(vec![vec![inner]]));
    let guard = Guard { ports: BTreeSet::from([443, canary.port]), ..guard };
    let port = canary.port.to_string();
    let hosts = HOSTS.iter().map(|host| format!("https://{host}:{port}/keys"));
    let urls = URLS.iter().map(|url| url.replace('P', &port));
    let mut refused = 0;
    for url in hosts.chain(urls) {
        match Target::parse(&url) {
            Err(_) => refused += 1,
            Ok(target) => match guard.get(&target).await {
                Err(OutboundError::Address { .. } | OutboundError::Plain(_) | OutboundError::Port(_)) => {
                    refused += 1;
                }
                other => panic!("{url}: {other:?}"),
            },
        }
    }
    assert_eq!((refused, canary.hits()), (124, 0));
}

#[tokio::test]
async fn one_inner_address_among_public_ones_refuses_the_name() {
    let public = SocketAddr::from(([1, 1, 1, 1], 443));
    let inner = SocketAddr::from((Ipv6Addr::LOCALHOST, 443));
    let guard = guard(Exceptions::default()).resolving_with(Scripted::new(vec![vec![public, inner]]));
    let refused = guard.get(&Target::parse("https://two.example/").unwrap()).await;
    assert!(matches!(refused, Err(OutboundError::Address { kind: "loopback", .. })), "{refused:?}");
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_each_fetch() {
    let canary = Canary::start().await;
    let first = SocketAddr::from((Ipv4Addr::LOCALHOST, canary.port));
    let second = SocketAddr::from(([169, 254, 169, 254], canary.port));
    let resolver = Scripted::new(vec![vec![second], vec![first]]);
    let guard = guard(Exceptions::default()).resolving_with(resolver.clone());
    let target = Target::parse("https://flips.example/").unwrap();
    let refused = guard.get(&target).await;
    assert!(matches!(refused, Err(OutboundError::Address { kind: "link-local", .. })), "{refused:?}");
    assert_eq!((resolver.asked.load(Ordering::SeqCst), canary.hits()), (1, 0));
}

/// Answers every connection with these bytes; over TLS if there is a certificate.
async fn answering(answer: &'static str, tls: Option<TlsAcceptor>) -> (SocketAddr, task::Handle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = task::spawn(Kind::Role, "answering", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            match &tls {
                None => say(&mut stream, answer).await,
                Some(tls) => {
                    if let Ok(mut stream) = tls.accept(stream).await {
                        say(&mut stream, answer).await;
                    }
                }
            }
        }
    });
    (address, serving)
}

async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &str) {
    let mut request = [0; 1024];
    let _asked = stream.read(&mut request).await.unwrap();
    stream.write_all(answer.as_bytes()).await.unwrap();
    // The client may have gone.
    drop(stream.shutdown().await);
}

fn authority() -> (CertificateDer<'static>, TlsAcceptor) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["idp.example".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(own.serialize_der()).into())
        .unwrap();
    (root.der().clone(), TlsAcceptor::from(Arc::new(config)))
}

const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test]
async fn a_listed_target_is_fetched_over_tls_and_has_to_be_who_it_should_be() {
    let (root, tls) = authority();
    let (address, _serving) = answering(GOOD, Some(tls)).await;
    let listed = |name: &str| format!("{name}:{}", address.port());
    let exceptions = |authorities| Exceptions {
        targets: [listed("idp.example"), listed("other.example")].into(),
        loopback_http: false,
        authorities,
    };
    let knowing =
        |authorities| guard(exceptions(authorities)).resolving_with(Scripted::new(vec![vec![address]]));
    let url = |name: &str| Target::parse(&format!("https://{}/keys", listed(name))).unwrap();
    let trusting = knowing(vec![root]);
    assert_eq!(trusting.get(&url("idp.example")).await.unwrap(), b"{}");
    for (guard, name) in [(&trusting, "other.example"), (&knowing(Vec::new()), "idp.example")] {
        let refused = guard.get(&url(name)).await;
        assert!(matches!(refused, Err(OutboundError::Connect { .. })), "{name}: {refused:?}");
    }
    let unlisted = trusting.get(&url("third.example")).await;
    assert!(matches!(unlisted, Err(OutboundError::Port(_))), "{unlisted:?}");
}

#[tokio::test]
async fn plain_http_reaches_this_machine_only_where_it_is_switched_on() {
    let (address, _serving) = answering(GOOD, None).await;
    let target = Target::parse(&format!("http://{address}/")).unwrap();
    let allowed = guard(Exceptions { loopback_http: true, ..Exceptions::default() });
    assert_eq!(allowed.get(&target).await.unwrap(), b"{}");
    assert!(matches!(guard(Exceptions::default()).get(&target).await, Err(OutboundError::Plain(_))));
    let elsewhere = Target::parse("http://10.0.0.1/").unwrap();
    assert!(matches!(allowed.get(&elsewhere).await, Err(OutboundError::Plain(_))));
}

#[tokio::test]
async fn what_is_not_a_whole_small_answer_is_refused() {
    let guard = guard(Exceptions { loopback_http: true, ..Exceptions::default() });
    let canary = Canary::start().await;
    let moved = format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{}/\r\n\r\n", canary.port).leak();
    let large = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "x".repeat(MAX_BODY + 1)).leak();
    for (answer, expected) in [
        (&*moved, "answered with status 302"),
        (&*large, "exceeds 1 MiB"),
        ("HTTP/1.1 500 no\r\ncontent-length: 6\r\n\r\nsecret", "answered with status 500"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", "could not be read"),
        ("SSH-2.0-x\r\n", "could not be read"),
    ] {
        let (address, _serving) = answering(answer, None).await;
        let refused = guard.get(&Target::parse(&format!("http://{address}/?secret=1")).unwrap()).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(expected) && !text.contains("secret"), "{text}");
    }
    assert_eq!(canary.hits(), 0);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    // Accepts connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let guard = guard(Exceptions { loopback_http: true, ..Exceptions::default() });
    tokio::time::pause();
    assert!(matches!(guard.get(&target).await, Err(OutboundError::TooSlow(_))));
}

#[test]
fn a_url_is_shown_without_its_query() {
    let target = Target::parse("https://IDP.example:8443/a/keys?token=secret").unwrap();
    assert_eq!(target.to_string(), "https://idp.example:8443/a/keys");
    assert_eq!((target.path(), target.authority().as_str()), ("/a/keys?token=secret", "idp.example:8443"));
    assert_eq!(Target::parse("https://a.example?x").unwrap().path(), "/?x");
}
