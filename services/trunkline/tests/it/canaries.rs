//! Nothing that is secret shows in spans, logs, metrics or what others are answered: canaries are driven through every path,
//! failures above all, and looked for afterwards. A leak that is planted is found.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::collector::Collector;
use crate::process::KEY;
use crate::trace::Mesh;

/// What must not be seen, by what it is.
#[derive(Default)]
struct Canaries(BTreeMap<String, String>);

impl Canaries {
    /// A new one.
    fn plant(&mut self, kind: &str) -> String {
        let text = format!("cnry-{kind}-5f3a9c{:04}", self.0.len());
        self.add(kind, &text);
        text
    }

    fn add(&mut self, kind: &str, secret: &str) {
        assert!(self.0.insert(kind.to_owned(), secret.to_owned()).is_none(), "{kind} twice");
    }

    /// Which of them are in a text, as they are or as base64.
    fn in_text(&self, text: &str) -> Vec<&str> {
        let lower = text.to_lowercase();
        let found = |secret: &str| {
            let encoded = STANDARD.encode(secret);
            lower.contains(&secret.to_lowercase()) || text.contains(encoded.trim_end_matches('='))
        };
        self.0.iter().filter(|(_, secret)| found(secret)).map(|(kind, _)| kind.as_str()).collect()
    }
}

/// Sends this and reads what comes, up to the end or to a pause.
fn send(host: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // One that has heard enough stops listening.
    let _heard = stream.write_all(request.as_bytes()).is_ok();
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count) = stream.read(&mut part)
        && count > 0
    {
        answer.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(line: &str, host: &str, headers: &str, body: &str) -> String {
    format!(
        "{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Everything a client has said and heard.
struct Driver<'a> {
    host: &'a str,
    canaries: Canaries,
    /// Bodies of errors.
    errors: Vec<String>,
}

const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;

impl Driver<'_> {
    fn raw(&mut self, text: &str) -> String {
        let answer = send(self.host, text);
        let is_error = |part: &str| part.contains("\"error\"") || part.contains("\"isError\"");
        if !answer.starts_with("HTTP/1.1 2") || is_error(&answer) {
            self.errors.push(answer.clone());
        }
        answer
    }

    fn post(&mut self, headers: &str, body: &str) -> String {
        self.raw(&request("POST /mcp", self.host, headers, body))
    }

    /// A modern request with these params and headers beside what it needs.
    fn modern(&mut self, method: &str, name: &str, headers: &str, params: &str) -> String {
        let name = if name.is_empty() { String::new() } else { format!("mcp-name: {name}\r\n") };
        let headers = format!("mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\n{name}{headers}");
        let comma = if params.is_empty() { "" } else { "," };
        let meta = if params.contains("\"_meta\"") {
            String::new()
        } else {
            format!(r#"{comma}"_meta":{{{META}}}"#)
        };
        self.post(
            &headers,
            &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{meta}}}}}"#),
        )
    }

    fn credentials(&mut self) {
        let echo = r#""name":"echo","arguments":{"message":"x"}"#;
        for (kind, header) in [
            ("bearer", "authorization: Bearer "),
            ("basic", "authorization: Basic "),
            ("digest", "authorization: Digest "),
            ("proxy", "proxy-authorization: Bearer "),
            ("cookie", "cookie: session="),
            ("api-key", "x-api-key: "),
            ("forwarded", "x-forwarded-for: "),
            ("user-agent", "user-agent: "),
            ("referer", "referer: https://a.example/?"),
            ("header-baggage", "baggage: who="),
            ("param-header", "mcp-param-who: "),
            ("session-header", "mcp-session-id: "),
            ("event-header", "last-event-id: "),
        ] {
            let canary = self.canaries.plant(kind);
            self.modern("tools/call", "echo", &format!("{header}{canary}\r\n"), echo);
            self.modern("tools/call", "nothing", &format!("{header}{canary}\r\n"), r#""name":"nothing""#);
            self.raw(&request("GET /mcp", self.host, &format!("{header}{canary}\r\n"), ""));
            self.raw(&request("DELETE /mcp", self.host, &format!("{header}{canary}\r\n"), ""));
        }
        let user = STANDARD.encode(format!("me:{}", self.canaries.plant("basic-user")));
        self.modern("tools/list", "", &format!("authorization: Basic {user}\r\n"), "");
    }

    /// What is refused before anybody reads it.
    fn refusals(&mut self) {
        let list =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{{META}}}}}}}"#);
        for (kind, header) in [
            ("origin", "origin: https://"),
            ("accept", "accept: text/"),
            ("content-type", "content-type: text/"),
            ("encoding", "content-encoding: "),
            ("revision", "mcp-protocol-version: "),
            ("method-header", "mcp-protocol-version: 2026-07-28\r\nmcp-method: "),
            ("name-header", "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: "),
        ] {
            let canary = self.canaries.plant(kind);
            self.post(&format!("{header}{canary}\r\n"), &list);
        }
        let host = self.canaries.plant("host");
        self.raw(&request("POST /mcp", &format!("{host}.example"), "", &list));
        let query = self.canaries.plant("query");
        self.raw(&request(&format!("POST /mcp?access_token={query}"), self.host, "", &list));
        let path = self.canaries.plant("path");
        self.raw(&request(&format!("GET /{path}"), self.host, "", ""));
        let target = self.canaries.plant("long-target");
        self.raw(&request(&format!("GET /mcp?{}", target.repeat(400)), self.host, "", ""));
        let large = self.canaries.plant("large-header");
        self.post(&format!("x: {}\r\n", large.repeat(900)), &list);
        for (kind, body) in [
            ("not-json", "{\"a\": @"),
            ("half-json", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"x\":\"@"),
            ("not-rpc", "{\"password\":\"@\"}"),
            ("doubled", "{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":\"@\",\"method\":\"ping\"}"),
        ] {
            let canary = self.canaries.plant(kind);
            self.post("", &body.replace('@', &canary));
        }
    }

    /// What is in messages, of calls that go well and of those that do not.
    fn contents(&mut self) {
        let pem = self.canaries.plant("pem");
        let pem = format!("-----BEGIN PRIVATE KEY-----\\n{pem}\\n-----END PRIVATE KEY-----");
        let dsn = self.canaries.plant("dsn");
        let (argument, nested) = (self.canaries.plant("argument"), self.canaries.plant("nested"));
        for text in [&argument, &pem, &format!("postgres://me:{dsn}@db.internal/x")] {
            self.modern(
                "tools/call",
                "echo",
                "",
                &format!(r#""name":"echo","arguments":{{"message":"{text}"}}"#),
            );
        }
        let extra = format!(r#""name":"echo","arguments":{{"message":"x","deep":{{"er":["{nested}"]}}}}"#);
        self.modern("tools/call", "echo", "", &extra);
        let unfit = self.canaries.plant("ill-typed");
        self.modern(
            "tools/call",
            "echo",
            "",
            &format!(r#""name":"echo","arguments":{{"message":["{unfit}"]}}"#),
        );
        let meta = self.canaries.plant("meta");
        let baggage = self.canaries.plant("baggage");
        let token = self.canaries.plant("progress-token");
        let info = self.canaries.plant("client-info");
        let all = format!(
            r#""name":"echo","arguments":{{"message":"x"}},"_meta":{{{META},"com.example/secret":"{meta}","baggage":"k={baggage}","progressToken":"{token}","io.modelcontextprotocol/clientInfo":{{"name":"{info}","version":"1"}}}}"#
        );
        self.modern("tools/call", "echo", "", &all);
        let prompt = self.canaries.plant("prompt-argument");
        self.modern(
            "prompts/get",
            "greet",
            "",
            &format!(r#""name":"greet","arguments":{{"who":"{prompt}"}}"#),
        );
        let wrong = self.canaries.plant("prompt-wrong");
        self.modern(
            "prompts/get",
            "greet",
            "",
            &format!(r#""name":"greet","arguments":{{"other":"{wrong}"}}"#),
        );
        let completed = self.canaries.plant("completed");
        let reference = r#""ref":{"type":"ref/prompt","name":"greet"}"#;
        let argument = format!(r#"{reference},"argument":{{"name":"manner","value":"{completed}"}}"#);
        self.modern("completion/complete", "", "", &argument);
        let uri = self.canaries.plant("uri-query");
        let uri = format!("https://files.example/a?token={uri}");
        self.modern("resources/read", &uri, "", &format!(r#""uri":"{uri}""#));
        let user = self.canaries.plant("uri-user");
        let uri = format!("https://me:{user}@files.example/a");
        self.modern("resources/read", &uri, "", &format!(r#""uri":"{uri}""#));
        let cursor = self.canaries.plant("cursor");
        self.modern("tools/list", "", "", &format!(r#""cursor":"{cursor}""#));
        let (state, answers) = (self.canaries.plant("request-state"), self.canaries.plant("input-responses"));
        let retry = format!(
            r#""name":"echo","arguments":{{"message":"x"}},"requestState":"{state}","inputResponses":{{"a":{{"x":"{answers}"}}}}"#
        );
        self.modern("tools/call", "echo", "", &retry);
        let method = self.canaries.plant("method");
        self.modern(&method, "", "", "");
    }

    /// What an older client says in a session, and what only it knows.
    fn session(&mut self) {
        let capability = self.canaries.plant("capability");
        let begin = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{"experimental":{{"{capability}":{{}}}}}},"clientInfo":{{"name":"it","version":"1"}}}}}}"#
        );
        let answer = self.post("", &begin);
        let session =
            answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap().to_owned();
        self.canaries.add("session-id", &session);
        let headers = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
        self.post(&headers, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        let argument = self.canaries.plant("session-argument");
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"echo","arguments":{{"message":"{argument}"}}}}}}"#
        );
        self.post(&headers, &call);
        let reason = self.canaries.plant("cancel-reason");
        let cancel = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":2,"reason":"{reason}"}}}}"#
        );
        self.post(&headers, &cancel);
        let result = self.canaries.plant("response");
        self.post(&headers, &format!(r#"{{"jsonrpc":"2.0","id":"none","result":{{"content":"{result}"}}}}"#));
        let notice = self.canaries.plant("notice");
        self.post(&headers, &format!(r#"{{"jsonrpc":"2.0","method":"notifications/{notice}"}}"#));
        let batch = self.canaries.plant("batch");
        self.post(
            &headers,
            &format!(r#"[{{"jsonrpc":"2.0","id":3,"method":"ping","params":{{"x":"{batch}"}}}}]"#),
        );
        // Its own stream: events have ids. A foreign one is refused.
        let subscribe = r#"{"jsonrpc":"2.0","id":4,"method":"resources/subscribe","params":{"uri":"file:///docs/welcome.md"}}"#;
        self.post(&headers, subscribe);
        self.raw(&request("GET /mcp", self.host, &headers, ""));
        let event = self.canaries.plant("event-id");
        self.raw(&request("GET /mcp", self.host, &format!("{headers}last-event-id: {event}\r\n"), ""));
        let message = self.canaries.plant("message-session");
        self.raw(&request(&format!("POST /messages?sessionId={message}"), self.host, "", &call));
        self.raw(&request("DELETE /mcp", self.host, &headers, ""));
        self.post(&headers, &call);
    }
}

/// Everything that operators can look at: spans, metrics, logs.
struct Watched {
    spans: String,
    metrics: String,
    logs: String,
}

fn watched(start: fn(&[&str]) -> Mesh, more: &[&str], drive: impl FnOnce(&str)) -> Watched {
    let collector = Collector::start();
    let mut settings = vec![collector.setting.as_str(), "telemetry.format=json", "telemetry.log=debug"];
    settings.extend(more);
    let mut mesh = start(&settings);
    let admins: Vec<_> = mesh.processes.iter_mut().map(|process| process.until_listening("admin")).collect();
    let host = mesh.host.clone();
    drive(&host);
    let mut metrics = String::new();
    for admin in admins {
        let admin = admin.strip_prefix("http://").unwrap();
        for path in ["/metrics", "/health"] {
            metrics.push_str(&send(
                admin,
                &format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n"),
            ));
        }
    }
    let logs = mesh.stop().concat();
    let spans: Vec<_> = collector.spans().into_iter().map(|span| span.whole).collect();
    Watched { spans: spans.join("\n"), metrics, logs }
}

fn nothing_leaks(start: fn(&[&str]) -> Mesh) -> Watched {
    let mut told = None;
    let seen = watched(start, &[], |host| {
        let mut driver = Driver { host, canaries: Canaries::default(), errors: Vec::new() };
        driver.canaries.add("signing-key", KEY);
        driver.credentials();
        driver.refusals();
        driver.contents();
        driver.session();
        told = Some((driver.canaries, driver.errors));
    });
    let (canaries, errors) = told.unwrap();
    assert!(canaries.0.len() >= 40, "{}", canaries.0.len());
    assert_eq!(canaries.in_text(&seen.spans), [""; 0], "spans");
    assert_eq!(canaries.in_text(&seen.metrics), [""; 0], "metrics");
    let leaks: Vec<_> = seen.logs.lines().filter(|line| !canaries.in_text(line).is_empty()).collect();
    assert_eq!(leaks, [""; 0], "logs");
    // Who asked for something is told what it was that is not there.
    let echoed = ["uri-query", "uri-user"];
    for error in errors {
        let found: Vec<_> =
            canaries.in_text(&error).into_iter().filter(|kind| !echoed.contains(kind)).collect();
        assert_eq!(found, [""; 0], "{error}");
    }
    assert!(!seen.spans.is_empty() && seen.metrics.contains("mcp_server_operation_duration_seconds_count"));
    for line in seen.logs.lines() {
        let is_whole =
            line.starts_with("{\"timestamp\":") && line.contains("\"node\":") && line.contains("\"role\":");
        assert!(is_whole, "{line}");
    }
    seen
}

#[test]
fn no_canary_is_seen_in_one_process() {
    drop(nothing_leaks(Mesh::in_one_process));
}

#[test]
fn no_canary_is_seen_across_processes() {
    let seen = nothing_leaks(Mesh::across_processes);
    // And everything that is told of is there, but for what only a mesh with Redis, a session file or certificates has.
    let told = include_str!("../../../../docs/watching.md");
    let names = told.lines().filter(|line| line.starts_with("| `")).flat_map(|line| {
        line.split('|')
            .nth(1)
            .unwrap()
            .split('`')
            .filter(|name| name.contains('_') && !name.contains(['[', '.', ' ']))
    });
    let names: Vec<_> = names
        .filter(|name| ["mcp_", "rpc_", "trunkline_"].iter().any(|own| name.starts_with(own)))
        .filter(|name| {
            !["trunkline_store_", "trunkline_certificate_"].iter().any(|own| name.starts_with(own))
        })
        .collect();
    assert!(names.len() >= 18, "{names:?}");
    for name in names {
        let is_there = seen.metrics.lines().any(|line| line.starts_with(name));
        assert!(is_there, "{name} is told of and not there");
    }
}

#[test]
fn a_planted_leak_is_found() {
    let mut canaries = Canaries::default();
    let (argument, encoded) = (canaries.plant("argument"), canaries.plant("encoded"));
    let mut errors = Vec::new();
    // What an operator has to ask for shows content in spans; the client itself plants the rest.
    let seen = watched(Mesh::in_one_process, &["telemetry.record_content=true"], |host| {
        let mut driver = Driver { host, canaries: Canaries::default(), errors: Vec::new() };
        let text = format!("{argument} {}", STANDARD.encode(&encoded));
        driver.modern(
            "tools/call",
            "echo",
            "",
            &format!(r#""name":"echo","arguments":{{"message":"{text}"}}"#),
        );
        driver.modern("resources/read", &argument, "", &format!(r#""uri":"{argument}""#));
        errors = driver.errors;
    });
    assert_eq!(canaries.in_text(&seen.spans), ["argument", "encoded"]);
    assert!(errors.iter().any(|error| canaries.in_text(error) == ["argument"]), "{errors:?}");
    let planted = format!("{}\n{{\"message\":\"{argument}\"}}\n", seen.logs);
    assert_eq!(canaries.in_text(&planted), ["argument"]);
}

#[test]
fn label_sets_stay_closed_whatever_names_clients_make_up() {
    let seen = watched(Mesh::in_one_process, &["telemetry.sample=0"], |host| {
        let mut stream = TcpStream::connect(host).unwrap();
        for number in 0..10_000 {
            let method = if number % 2 == 0 { "tools/call".to_owned() } else { format!("made-up/{number}") };
            let name = format!("made-up-{number}");
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"{name}","arguments":{{}},"_meta":{{{META}}}}}}}"#
            );
            let head =
                format!("mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\nmcp-name: {name}\r\n");
            let text = request("POST /mcp", host, &head, &body).replace("connection: close\r\n", "");
            stream.write_all(text.as_bytes()).unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"}}") {
                let mut part = [0; 2048];
                let count = stream.read(&mut part).unwrap();
                assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
                answer.extend_from_slice(&part[..count]);
            }
        }
    });
    assert!(!seen.metrics.contains("made-up"), "{}", seen.metrics);
    let series = seen
        .metrics
        .lines()
        .filter(|line| line.starts_with("mcp_server_operation_duration_seconds_count"))
        .count();
    assert!(series <= 4, "{}", seen.metrics);
}
