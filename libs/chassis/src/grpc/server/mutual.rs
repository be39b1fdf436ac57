//! Calls between processes that show certificates.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::future::{Ready, ready};
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Service;

use super::*;
use crate::drain::Trigger;
use crate::grpc::channel::{Traced, dial_with};
use crate::tls::testing::Authority;
use crate::tls::{self, Dialler, Role};

/// Stands for a service of ours: answers every method with nothing.
#[derive(Clone)]
struct Session;

impl NamedService for Session {
    const NAME: &'static str = "trunkline.session.v1.Session";
}

impl Service<Request<Body>> for Session {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Body>) -> Self::Future {
        ready(Ok(tonic::Status::ok("").into_http()))
    }
}

struct Node {
    address: String,
    _trigger: Trigger,
    _task: Handle<Result<(), ServeError>>,
}

async fn start(mesh: Mesh) -> Node {
    let listener = crate::serve::bind("test", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (trigger, shutdown) = drain::pair();
    let serving = serve(Routes::new(Session), Incoming::Mesh(listener, mesh), shutdown);
    Node { address, _trigger: trigger, _task: task::spawn(Kind::Role, "server", serving) }
}

fn health(dialler: &Dialler, node: &Node) -> HealthClient<Traced> {
    HealthClient::new(dial_with(dialler, &node.address).unwrap())
}

fn question() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

/// What comes of calling `path`, with these headers besides.
async fn call(dialler: &Dialler, node: &Node, path: &str, headers: &[(&'static str, &'static str)]) -> Code {
    let mut channel = dial_with(dialler, &node.address).unwrap();
    let request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let response = channel.call(request.body(Body::empty()).unwrap()).await.unwrap();
    tonic::Status::from_header_map(response.headers()).map_or(Code::Unknown, |status| status.code())
}

#[tokio::test]
async fn a_role_reaches_what_the_table_gives_it() {
    let authority = Authority::new();
    let node = start(authority.mesh(Role::Session)).await;
    for role in Role::ALL {
        let dialler = authority.mesh(role).dialler(&[Role::Session]).unwrap();
        health(&dialler, &node).check(question()).await.unwrap();
        // Session nodes pass on what gateways have given them.
        let may = matches!(role, Role::Gateway | Role::Session);
        let expected = if may { Code::Ok } else { Code::PermissionDenied };
        assert_eq!(
            call(&dialler, &node, "/trunkline.session.v1.Session/Deliver", &[]).await,
            expected,
            "{role}"
        );
        // What does not exist is refused too: nobody learns what does.
        let unknown = call(&dialler, &node, "/trunkline.session.v1.Session/Unknown", &[]).await;
        assert_eq!(unknown, Code::PermissionDenied, "{role}");
    }
}

#[tokio::test]
async fn what_a_request_says_about_its_role_is_ignored() {
    let authority = Authority::new();
    let node = start(authority.mesh(Role::Session)).await;
    let dialler = authority.mesh(Role::Registry).dialler(&[Role::Session]).unwrap();
    let claims = [
        ("role", "gateway"),
        ("trunkline-role", "gateway"),
        ("x-forwarded-client-cert", "URI=spiffe://trunkline/gateway"),
        ("x-spiffe-id", "spiffe://trunkline/gateway"),
        ("authorization", "Bearer gateway"),
    ];
    let code = call(&dialler, &node, "/trunkline.session.v1.Session/Deliver", &claims).await;
    assert_eq!(code, Code::PermissionDenied);
}

#[tokio::test]
async fn without_tls_there_is_no_role_and_no_check() {
    let node = start(Mesh::default()).await;
    let code = call(&Dialler::default(), &node, "/trunkline.session.v1.Session/Deliver", &[]).await;
    assert_eq!(code, Code::Ok);
}

#[tokio::test]
async fn who_is_not_of_the_mesh_gets_no_answer() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let node = start(ours.mesh(Role::Session)).await;
    let anybody = Role::ALL;
    // Trusts our authority, shows a certificate of another.
    let stranger = theirs.role(Role::Gateway);
    let section = tls::Config { ca: ours.ca(), ..theirs.section(&stranger) };
    let expired = ours.expired(Role::Gateway);
    let staging = ours.of_uri("staging", "spiffe://staging/gateway");
    let sections = [
        ("wrong authority", section),
        ("expired", ours.section(&expired)),
        (
            "other trust domain",
            tls::Config { trust_domain: "staging".parse().unwrap(), ..ours.section(&staging) },
        ),
    ];
    for (case, section) in sections {
        let dialler = Mesh::new(&section, None).unwrap().dialler(&anybody).unwrap();
        let refused = health(&dialler, &node).check(question()).await.unwrap_err();
        // In TLS 1.3 a client is through before the server has seen its certificate.
        assert!([Code::Unavailable, Code::Unknown].contains(&refused.code()), "{case}: {refused}");
    }
    // Without TLS at all.
    let refused = health(&Dialler::default(), &node).check(question()).await.unwrap_err();
    assert_ne!(refused.code(), Code::Ok, "{refused}");
    // And the other way round.
    let plain = start(Mesh::default()).await;
    let dialler = ours.mesh(Role::Gateway).dialler(&anybody).unwrap();
    let refused = health(&dialler, &plain).check(question()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}

#[tokio::test]
async fn a_server_with_another_role_is_not_called() {
    let authority = Authority::new();
    let node = start(authority.mesh(Role::Gateway)).await;
    let dialler = authority.mesh(Role::Gateway).dialler(&[Role::Session]).unwrap();
    let refused = health(&dialler, &node).check(question()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let mut said = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&refused);
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    assert!(said.contains("the server is a gateway, and session was dialled"), "{said}");
}

/// 600 calls on new connections and on an old one while both ends' certificates are replaced three times.
#[tokio::test]
async fn certificates_are_replaced_under_load_without_a_failed_call() {
    let authority = Authority::new();
    let files = [authority.role(Role::Session), authority.role(Role::Gateway)];
    let [session, gateway] = files.clone().map(|pair| Mesh::new(&authority.section(&pair), None).unwrap());
    let node = start(session).await;
    let dialler = gateway.dialler(&[Role::Session]).unwrap();
    let mut old = health(&dialler, &node);
    old.check(question()).await.unwrap();
    let (done, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let calls = async {
        while !done.load(Ordering::Relaxed) || made.load(Ordering::Relaxed) < 600 {
            old.check(question()).await.unwrap();
            health(&dialler, &node).check(question()).await.unwrap();
            made.fetch_add(2, Ordering::Relaxed);
        }
    };
    let serial = || async {
        let stream = TcpStream::connect(&node.address).await.unwrap();
        let stream = dialler.connector().unwrap().connect("127.0.0.1", stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let rotation = async {
        for round in 0..3 {
            let before = serial().await;
            for (pair, role) in files.iter().zip([Role::Session, Role::Gateway]) {
                let uri = format!("spiffe://trunkline/{role}");
                pair.replace(&authority.of_uri(&format!("new-{round}-{role}"), &uri));
            }
            let deadline = tokio::time::Instant::now() + tls::LOOK * 5;
            while serial().await == before {
                assert!(tokio::time::Instant::now() < deadline, "the new certificate is not in use");
                tokio::task::yield_now().await;
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(calls, rotation);
    assert!(made.load(Ordering::Relaxed) >= 600);
}

#[tokio::test]
async fn handshakes_that_dribble_do_not_hold_up_others() {
    let authority = Authority::new();
    let node = start(authority.mesh(Role::Session)).await;
    let mut dribblers = Vec::new();
    for _ in 0..HANDSHAKES / 2 {
        let mut stream = TcpStream::connect(&node.address).await.unwrap();
        stream.write_all(&[22, 3]).await.unwrap();
        dribblers.push(stream);
    }
    let dialler = authority.mesh(Role::Gateway).dialler(&[Role::Session]).unwrap();
    health(&dialler, &node).check(question()).await.unwrap();
    // Something that is no handshake is answered with its end.
    let mut stream = TcpStream::connect(&node.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let ended: io::Result<usize> = stream.read_to_end(&mut answer).await;
    assert!(ended.is_err() || !answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn metadata_beyond_its_bound_is_refused() {
    let node = start(Mesh::default()).await;
    let mut client = health(&Dialler::default(), &node);
    let mut request = tonic::Request::new(question());
    for index in 0..10_000 {
        let name: tonic::metadata::AsciiMetadataKey = format!("m{index}").parse().unwrap();
        request.metadata_mut().insert(name, "1".parse().unwrap());
    }
    assert!(client.check(request).await.is_err());
    client.check(question()).await.unwrap();
}

#[tokio::test]
async fn other_machines_are_not_listened_to_without_tls() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (_trigger, shutdown) = drain::pair();
    let refused = serve(Routes::default(), Incoming::Tcp(listener), shutdown).await.unwrap_err();
    assert!(matches!(refused, ServeError::PlainText(_)), "{refused}");
}
