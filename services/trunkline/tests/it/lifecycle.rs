//! Starting, serving, stopping.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::process::{KEY, Running, command, finished};

fn up(data: &Path) -> Running {
    Running::start(&mut command(&["up", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]))
}

/// HOST:PORT of a URL such as `http://127.0.0.1:8080/mcp`.
pub(crate) fn host(url: &str) -> &str {
    url.strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap()
}

/// Posts a message with more headers and returns the whole answer.
pub(crate) fn post(host: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn initialize(host: &str) -> String {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;
    post(host, "", body)
}

#[test]
fn up_serves_mcp_at_the_url_it_prints_and_ends_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for signal in ["TERM", "INT"] {
        let mut mesh = up(&data);
        let url = mesh.listening("gateway");
        let mut block = String::new();
        while !block.ends_with("\n}\n") {
            block.push_str(&mesh.line());
            block.push('\n');
        }
        assert!(
            block.contains(&format!("\"trunkline\": {{ \"type\": \"http\", \"url\": \"{url}\" }}")),
            "{block}"
        );
        let answer = initialize(host(&url));
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"serverInfo\""), "{answer}");
        mesh.signal(signal);
        assert_eq!(mesh.ended().code(), Some(0));
    }
    let keys = fs::metadata(data.join("keys.toml")).unwrap();
    assert_eq!(keys.permissions().mode() & 0o777, 0o600);
    assert!(data.join("resources/welcome.md").exists() && data.join("prompts/greet.md").exists());
}

#[test]
fn every_role_says_where_it_listens_and_ends_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    fs::write(&file, format!("[keys]\ncurrent = \"k1\"\nring = {{ k1 = \"{KEY}\" }}\n")).unwrap();
    for role in ["gateway", "session", "tool-registry", "resource-registry", "prompt-registry"] {
        let args = [role, "--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()];
        let mut process = Running::start(&mut command(&args));
        let place = process.listening(role);
        let address = if role == "gateway" { host(&place) } else { &place };
        TcpStream::connect(address).unwrap();
        process.signal("TERM");
        assert_eq!(process.ended().code(), Some(0), "{role}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = up(folder.path());
    let url = mesh.listening("gateway");
    // A request that never gets finished holds the drain up.
    let mut stream = TcpStream::connect(host(&url)).unwrap();
    stream.write_all(b"POST /mcp HTTP/1.1\r\nhost: ").unwrap();
    // An answer on another connection proves that the first one was accepted before it.
    initialize(host(&url));
    mesh.signal("TERM");
    while TcpStream::connect(host(&url)).is_ok() {
        std::thread::yield_now();
    }
    mesh.signal("TERM");
    assert_eq!(mesh.ended().code(), Some(130));
}

#[test]
fn an_address_in_use_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = up(folder.path());
    let url = first.listening("gateway");
    let data = folder.path().to_str().unwrap();
    let (code, _, stderr) = finished(&mut command(&["up", "--listen", host(&url), "--data", data]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("gateway.listen") && stderr.contains(host(&url)), "{stderr}");
}
