use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use api::session::{Attach, Close, Delivery, Frames};
use api::{Code, Error, KeyRing, SessionHost};
use axum::http::Method;
use chassis::drain::Shutdown;
use chassis::process::Process;
use placement::Static;
use tower::ServiceExt as _;

use super::*;
use crate::auth::{Config as AuthConfig, Gate, new_key};
use crate::http::peer::Peer;
use crate::http::{Stack, table};
use crate::limits::Limits;
use crate::{App, Config, Deps, Local};

/// A session node that only counts.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Counting {
    fn refuse(&self) -> Result<Frames, Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(Error::new(Code::NotFound, "counted"))
    }
}

#[async_trait::async_trait]
impl SessionHost for Counting {
    async fn deliver(&self, _delivery: Delivery) -> Result<Frames, Error> {
        self.refuse()
    }

    async fn attach(&self, _attach: Attach) -> Result<Frames, Error> {
        self.refuse()
    }

    async fn close(&self, _close: Close) -> Result<Frames, Error> {
        self.refuse()
    }
}

/// A gateway that other machines can reach and that takes one key.
fn gateway() -> (impl Stack, Arc<Counting>, Vec<super::super::Route>, String) {
    let made = new_key("team-a", "", "", [1; 32]);
    let gate = Gate::new(&AuthConfig { keys: vec![made.entry], ..AuthConfig::default() }).unwrap();
    let node = Arc::new(Counting::default());
    let deps = Deps {
        keys: KeyRing::single("k1", [7; 32]),
        locator: Arc::new(Static::embedded(Default::default(), "a")),
        peers: Arc::new(Local(node.clone())),
        auth: Arc::new(gate),
        process: Process::default(),
    };
    let config = Config { allowed_hosts: vec!["mesh.example".into()], ..Config::default() };
    let app = App::build(&config, deps).unwrap();
    let paths =
        Paths { mcp: config.mcp_path, sse: config.sse_path, message: config.message_path, resource: None };
    (app.stack(false, &Shutdown::never()), node, table(&paths), made.key)
}

fn request(method: &Method, target: &str, token: Option<&str>) -> Request {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let peer = Peer::new(ip, false, Limits::new(&Config::default()).connection(ip).unwrap());
    let mut request = Request::builder()
        .method(method.clone())
        .uri(target)
        .header("host", "mesh.example")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}}"#;
    request.extension(peer).body(Body::from(body)).unwrap()
}

const METHODS: [Method; 8] = [
    Method::GET,
    Method::POST,
    Method::DELETE,
    Method::PUT,
    Method::PATCH,
    Method::HEAD,
    Method::OPTIONS,
    Method::TRACE,
];

#[tokio::test]
async fn every_route_says_who_may_ask_and_keeps_to_it() {
    let (stack, node, table, key) = gateway();
    let open: BTreeSet<&str> = table
        .iter()
        .filter(|route| route.policy == Policy::Everybody)
        .map(|route| route.path.as_str())
        .collect();
    // Whoever opens another one has to write it here.
    let expected =
        ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp", "/health"];
    assert_eq!(open.into_iter().collect::<Vec<_>>(), expected);
    for route in &table {
        for method in METHODS {
            for token in [None, Some("tlk_wrong"), Some("a.b.c")] {
                let request = request(&method, &route.path, token);
                let status = stack.clone().oneshot(request).await.unwrap().status();
                let is_refused = status == StatusCode::UNAUTHORIZED;
                assert_eq!(is_refused, route.policy == Policy::Caller, "{method} {} {status}", route.path);
            }
        }
    }
    assert_eq!(node.0.load(Ordering::SeqCst), 0);
    let good = request(&Method::POST, "/mcp", Some(&key));
    assert_eq!(stack.oneshot(good).await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(node.0.load(Ordering::SeqCst), 1, "and the right one opens");
}

#[tokio::test]
async fn no_way_of_writing_a_path_leads_around_the_check() {
    let (stack, node, table, _key) = gateway();
    let guarded = table.iter().filter(|route| route.policy == Policy::Caller);
    for path in guarded.map(|route| route.path.as_str()) {
        let name = &path[1..];
        let first = format!("%{:02x}", name.as_bytes()[0]);
        for target in [
            format!("{path}/"),
            format!("/{path}"),
            format!("/{first}{}", &name[1..]),
            format!("/{}", name.to_uppercase()),
            format!("{path}%2f"),
            format!("{path};a"),
            format!("/health/..{path}"),
            format!("/./{name}"),
            format!("{path}?"),
            format!("{path}?a=/health"),
            format!("http://mesh.example{path}"),
        ] {
            let response = stack.clone().oneshot(request(&Method::POST, &target, None)).await.unwrap();
            let status = response.status();
            assert!(matches!(status, StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND), "{target}: {status}");
        }
    }
    assert_eq!(node.0.load(Ordering::SeqCst), 0);
}
