//! Who may call the binary, and that it never says what they showed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::lifecycle::{host, post};
use crate::process::{Running, command, finished};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;

fn key(name: &str) -> (String, String) {
    let (_, made, _) = finished(&mut command(&["key", "new", "--name", name]));
    let (key, line) = made.trim_end().split_once('\n').unwrap();
    (key.to_owned(), line.to_owned())
}

fn get(host: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_configured_key_is_asked_for_and_never_said() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let ((good, line), (other, _)) = (key("team-a"), key("team-b"));
    let keys = format!("auth.keys=[{line}]");
    let mut mesh = Running::start(&mut command(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().unwrap(),
        "--set",
        &keys,
        "--set",
        "telemetry.log=info,gateway=trace,session=trace,api=trace,hyper=trace",
    ]));
    let url = mesh.listening("gateway");
    let host = host(&url);
    let place = "\"headers\": { \"Authorization\": \"Bearer YOUR-KEY\" }";
    while !mesh.line().contains(place) {}
    let bearing = |key: &str| post(host, &format!("authorization: Bearer {key}\r\n"), INITIALIZE);
    let refused = post(host, "", INITIALIZE);
    assert!(
        refused.starts_with("HTTP/1.1 401 ") && refused.contains("www-authenticate: Bearer\r\n"),
        "{refused}"
    );
    for wrong in [other.as_str(), "eyJhbGciOiJub25lIn0.e30."] {
        let refused = bearing(wrong);
        assert!(
            refused.starts_with("HTTP/1.1 401 ") && refused.contains("error=\"invalid_token\""),
            "{refused}"
        );
    }
    assert!(get(host, &format!("/sse?access_token={good}")).starts_with("HTTP/1.1 401 "));
    assert!(get(host, "/.well-known/oauth-protected-resource/mcp").starts_with("HTTP/1.1 404 "), "no issuer");
    let accepted = bearing(&good);
    assert!(accepted.starts_with("HTTP/1.1 200 ") && accepted.contains("mcp-session-id: "), "{accepted}");
    mesh.signal("TERM");
    assert_eq!(mesh.ended().code(), Some(0));
    let log = mesh.stderr();
    for secret in [&good, &other] {
        assert!(!log.contains(secret.as_str()) && !log.contains(&secret[10..]), "a key is in the log");
    }
    assert!(log.len() > 100 && !log.contains("eyJhbGciOiJub25lIn0"), "{} bytes of log", log.len());
}

#[test]
fn tokens_of_an_issuer_are_asked_for_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("keys.json");
    std::fs::write(&set, "{\"keys\":[]}").unwrap();
    let issuers = format!(
        "auth.issuers=[{{issuer=\"https://idp.example\",jwks=\"{}\",scopes=[\"mcp\"]}}]",
        set.to_str().unwrap()
    );
    let data = folder.path().join("data");
    let mut mesh = Running::start(&mut command(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().unwrap(),
        "--set",
        &issuers,
        "--set",
        "auth.resource=https://mesh.example/mcp",
    ]));
    let url = mesh.listening("gateway");
    let refused = post(host(&url), "", INITIALIZE);
    let challenge = "www-authenticate: Bearer resource_metadata=\"https://mesh.example/.well-known/oauth-protected-resource/mcp\", scope=\"mcp\"\r\n";
    assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains(challenge), "{refused}");
    let metadata = get(host(&url), "/.well-known/oauth-protected-resource/mcp");
    assert!(metadata.contains("\"authorization_servers\":[\"https://idp.example\"]"), "{metadata}");
    mesh.signal("TERM");
    assert_eq!(mesh.ended().code(), Some(0));
}
