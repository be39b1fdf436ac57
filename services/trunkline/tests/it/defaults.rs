//! What holds without any configuration, looked at from outside, and what takes a word of the operator.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::lifecycle::host;
use crate::process::{KEY, Running, command, finished};

const POST: &str = "content-type: application/json\r\naccept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/list\r\n";
const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

/// Sends this and reads the head of the answer, in lower case.
fn head(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // One that has heard enough stops listening.
    let _heard = stream.write_all(request).is_ok();
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap().to_ascii_lowercase()
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    let is_named = headers.lines().any(|line| line.starts_with("host:"));
    let host = if is_named { "" } else { "host: localhost\r\n" };
    format!("POST /mcp HTTP/1.1\r\n{host}{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn plain(line: &str, headers: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").into_bytes()
}

#[test]
fn an_empty_configuration_is_a_safe_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut mesh = Running::start(&mut command(&["up", "--listen", "127.0.0.1:0", "--data", data]));
    let url = mesh.listening("gateway");
    let address = host(&url);
    assert!(address.starts_with("127.0.0.1:"), "{url}");
    let with = |headers: &str| post(&format!("{POST}{headers}"), LIST);
    let older = |body: &str| post("content-type: application/json\r\naccept: */*\r\n", body);
    let many: String = (0..120).map(|n| format!("x-{n}: y\r\n")).collect();
    let preflight = "origin: http://localhost:3000\r\naccess-control-request-method: POST\r\n";
    let table = [
        ("a call", with(""), 200),
        ("a page of this machine", with("origin: http://localhost:6274\r\n"), 200),
        ("another name", with("host: evil.example\r\n"), 403),
        ("another page", with("origin: https://evil.example\r\n"), 403),
        ("no page", with("origin: null\r\n"), 403),
        ("a preflight", plain("OPTIONS /mcp", preflight), 405),
        ("a long target", plain(&format!("GET /mcp?{}", "x".repeat(8 << 10)), ""), 414),
        ("a large head", with(&format!("x: {}\r\n", "y".repeat(16 << 10))), 431),
        ("a head of many", with(&many), 431),
        ("a large body", post(POST, &" ".repeat((4 << 20) + 1)), 413),
        ("a deep body", older(&format!("{}{}", "[".repeat(65), "]".repeat(65))), 400),
        ("a compressed body", with("content-encoding: gzip\r\n"), 415),
        ("a batch in no session", older(&format!("[{LIST}]")), 400),
        ("2024-11-05", plain("GET /sse", "accept: text/event-stream\r\n"), 200),
        ("figures", plain("GET /metrics", ""), 404),
        ("whose tokens are taken", plain("GET /.well-known/oauth-protected-resource", ""), 404),
    ];
    for (name, request, status) in table {
        let head = head(address, &request);
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{name}: {head}");
        assert!(!head.contains("access-control-"), "{name}: {head}");
    }
    mesh.signal("TERM");
    assert_eq!(mesh.ended().code(), Some(0));
}

#[test]
fn other_machines_are_let_in_only_by_name_and_with_authentication() {
    let ring = format!("keys.ring={{k1=\"{KEY}\"}}");
    let args = |more: &[&str]| {
        let common =
            ["gateway", "--check", "--listen", "0.0.0.0:0", "--set", "keys.current=k1", "--set", &ring];
        let mut command = command(&common);
        command.args(more);
        finished(&mut command)
    };
    let names = ["--set", "gateway.allowed_hosts=[\"mesh.example.com\"]"];
    let (code, _, said) = args(&[]);
    assert!(code != Some(0) && said.contains("gateway.allowed_hosts"), "{said}");
    let (code, _, said) = args(&names);
    assert!(code != Some(0), "{said}");
    assert!(said.contains("[auth]") && said.contains("gateway.insecure_no_auth = true"), "{said}");
    let open = [&names[..], &["--set", "gateway.insecure_no_auth=true"]].concat();
    let (code, _, said) = args(&open);
    assert_eq!(code, Some(0), "{said}");
    let key = format!("auth.keys=[{{name=\"a\", hash=\"sha256:{}\"}}]", "0".repeat(64));
    let (code, _, said) = args(&[&names[..], &["--set", &key]].concat());
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn the_url_says_https_when_that_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("tls.pem"), folder.path().join("tls.key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let set = |setting: &str, path: &std::path::Path| format!("gateway.{setting}={}", path.to_str().unwrap());
    let (certificate, key) = (set("tls_certificate", &certificate), set("tls_key", &key));
    let data = folder.path().join("data");
    let common = ["up", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap(), "--set", &certificate];
    let (code, _, said) = finished(&mut command(&common));
    assert!(code != Some(0) && said.contains("gateway.tls_key"), "{said}");
    let mut mesh = Running::start(command(&common).args(["--set", &key]));
    let url = mesh.listening("gateway");
    let address = url.strip_prefix("https://").and_then(|rest| rest.strip_suffix("/mcp")).unwrap();
    // Plain HTTP is not answered.
    assert!(!head(address, &post(POST, LIST)).starts_with("http/1.1"));
}
