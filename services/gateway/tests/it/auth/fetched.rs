//! Key sets that are fetched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chassis::task::{self, Handle, Kind};
use gateway::auth::{Config, Gate, new_key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::forge::{Forge, Signer, claims};
use super::{asking, bearing, list};
use crate::kit::{Gateway, Node};

/// An issuer's web server: says the same to everybody, and counts.
async fn serving(answer: String) -> (String, Arc<AtomicUsize>, Handle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let serving = task::spawn(Kind::Role, "issuer", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 1024];
            let _read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked, serving)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn config(forge: &Forge, url: &str) -> Config {
    let mut config = forge.config();
    config.issuers[0].jwks = url.to_owned();
    Config { loopback_http: true, ..config }
}

#[tokio::test]
async fn a_key_set_is_fetched_once_however_many_keys_are_unknown() {
    let forge = Forge::new();
    let set = format!("{{\"keys\":[{},{}]}}", forge.ec.jwk(), forge.rsa.jwk());
    let (url, asked, _serving) = serving(ok(&set)).await;
    let node = Node::new([]);
    let gateway = asking(Arc::new(Gate::new(&config(&forge, &url)).unwrap()), &node).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0, "not before it is needed");
    assert_eq!(gateway.ask(&bearing(&forge.ec.token(&claims()))).await.status, 200);
    for _ in 0..100 {
        let unknown = Signer { kid: "unknown", ..forge.attacker.clone() };
        assert_eq!(gateway.ask(&bearing(&unknown.token(&claims()))).await.status, 401);
    }
    assert_eq!(gateway.ask(&bearing(&forge.rsa.token(&claims()))).await.status, 200);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_a_key_set_nothing_is_said_of_tokens() {
    let forge = Forge::new();
    let token = forge.ec.token(&claims());
    let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    for answer in [moved.to_owned(), ok("<html>"), "HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n".to_owned()] {
        let (url, asked, _serving) = serving(answer).await;
        let node = Node::new([]);
        let gateway = asking(Arc::new(Gate::new(&config(&forge, &url)).unwrap()), &node).await;
        for _ in 0..3 {
            let response = gateway.ask(&bearing(&token)).await;
            assert_eq!(response.verdict(), (503, Some(-32603), None), "{}", response.body);
            assert!(
                response.header("retry-after").is_some() && response.header("www-authenticate").is_none()
            );
        }
        assert_eq!(gateway.ask(&list()).await.status, 401);
        assert_eq!(node.seen(), []);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn whoever_waits_for_a_key_set_takes_nobodys_place() {
    let forge = Forge::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let made = new_key("team-a", "", "", [1; 32]);
    let url = format!("http://{}/keys", silent.local_addr().unwrap());
    let config = Config { keys: vec![made.entry], ..config(&forge, &url) };
    let gate = Arc::new(Gate::new(&config).unwrap());
    let most = gateway::Config { max_requests: 1, ..gateway::Config::default() };
    let node = Node::new([]);
    let gateway = Gateway::asking(gate, most, &[("a", &node)], 1).await;
    let _waits = gateway.send(&bearing(&forge.ec.token(&claims()))).await;
    // The key set is asked for, and nobody answers.
    let _asked = silent.accept().await.unwrap();
    assert_eq!(gateway.ask(&bearing(&made.key)).await.status, 200);
    // As many may wait as may be under way.
    let response = gateway.ask(&bearing(&forge.rsa.token(&claims()))).await;
    assert_eq!(response.status, 503);
    assert_eq!(response.at(&["error", "data", "reason"]), Some("\"overloaded\""));
}

#[tokio::test]
async fn a_key_set_inside_the_network_is_not_fetched_unless_it_is_listed() {
    let forge = Forge::new();
    let (url, asked, _serving) = serving(ok("{\"keys\":[]}")).await;
    let https = url.replace("http:", "https:");
    for config in [
        Config { loopback_http: false, ..config(&forge, &url) },
        config(&forge, &https),
        config(&forge, "https://169.254.169.254/latest/meta-data"),
        config(&forge, "https://localhost/keys"),
    ] {
        let node = Node::new([]);
        let gateway = asking(Arc::new(Gate::new(&config).unwrap()), &node).await;
        assert_eq!(gateway.ask(&bearing(&forge.ec.token(&claims()))).await.status, 503);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}
