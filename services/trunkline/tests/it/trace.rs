//! A request is one trace with a span for each hop, in one process and across processes.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::collector::{Collector, Seen};
use crate::lifecycle::{host, post};
use crate::process::{KEY, Running, command};

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// A mesh of the real binary.
pub(crate) struct Mesh {
    pub(crate) host: String,
    pub(crate) processes: Vec<Running>,
    _folder: tempfile::TempDir,
}

impl Mesh {
    pub(crate) fn in_one_process(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        let mut args = vec!["up", "--listen", "127.0.0.1:0", "--data", data];
        args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        let mut process = Running::start(&mut command(&args));
        let host = host(&process.listening("gateway")).to_owned();
        Self { host, processes: vec![process], _folder: folder }
    }

    pub(crate) fn across_processes(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("docs")).unwrap();
        std::fs::create_dir(folder.path().join("prompts")).unwrap();
        std::fs::write(folder.path().join("docs/welcome.md"), "Welcome").unwrap();
        let prompt = "+++\n[[arguments]]\nname = \"who\"\nrequired = true\n\n[[arguments]]\nname = \"manner\"\n\
                      values = [\"friendly\", \"formal\"]\ndefault = \"friendly\"\n+++\nGreet {{ who }}\n";
        std::fs::write(folder.path().join("prompts/greet.md"), prompt).unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let ring = format!("keys.ring={{k1=\"{KEY}\"}}");
        let role = |role: &str, own: &str| {
            let mut args = vec![role, "--listen", "127.0.0.1:0", "--set", "keys.current=k1", "--set", &ring];
            args.extend(["--set", own]);
            args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
            let mut process = Running::start(&mut command(&args));
            let place = process.listening(role);
            (process, place)
        };
        let (tools, first) = role("tool-registry", "tool-registry.tools=[\"echo\",\"calculator\"]");
        let docs =
            format!("resource-registry.directories=[{{path=\"{}\",uri=\"file:///docs/\"}}]", path("docs"));
        let (resources, second) = role("resource-registry", &docs);
        let (prompts, third) =
            role("prompt-registry", &format!("prompt-registry.directory={}", path("prompts")));
        let listed = [first, second, third].map(|address| format!("{{address=\"{address}\"}}")).join(",");
        let (session, address) = role("session", &format!("session.registries=[{listed}]"));
        let (gateway, url) = role("gateway", &format!("gateway.sessions=[{{address=\"{address}\"}}]"));
        let processes = vec![gateway, session, tools, resources, prompts];
        Self { host: host(&url).to_owned(), processes, _folder: folder }
    }

    /// Ends it, from the edge inwards: what it has recorded is sent before. Returns the logs.
    pub(crate) fn stop(self) -> Vec<String> {
        let end = |mut process: Running| {
            process.signal("TERM");
            assert_eq!(process.ended().code(), Some(0));
            process.stderr()
        };
        self.processes.into_iter().map(end).collect()
    }
}

/// What one request is to leave behind.
struct Case {
    method: &'static str,
    /// Without braces and `_meta`.
    params: &'static str,
    /// Name of the span at the edge.
    name: &'static str,
    /// Name of the span towards the registry, if one is asked.
    asks: Option<&'static str>,
    /// Which one answers in a span of its own.
    answers: Option<&'static str>,
    /// `error.type` at the edge, and of whoever asks.
    errors: (&'static str, &'static str),
    /// `rpc.response.status_code`
    code: &'static str,
    /// Whether the edge answers it.
    stays: bool,
}

const fn local(method: &'static str) -> Case {
    Case {
        method,
        params: "",
        name: method,
        asks: None,
        answers: None,
        errors: ("", ""),
        code: "",
        stays: false,
    }
}

const fn asking(
    method: &'static str,
    params: &'static str,
    name: &'static str,
    asks: &'static str,
    answers: &'static str,
) -> Case {
    Case { params, name, asks: Some(asks), answers: Some(answers), ..local(method) }
}

const ECHO: Case = asking(
    "tools/call",
    r#""name":"echo","arguments":{"message":"hello"}"#,
    "tools/call echo",
    "tools/call echo",
    "trunkline-tool-registry",
);
const READ: Case = asking(
    "resources/read",
    r#""uri":"file:///docs/welcome.md""#,
    "resources/read",
    "resources/read",
    "trunkline-resource-registry",
);
const GREET: Case = asking(
    "prompts/get",
    r#""name":"greet","arguments":{"who":"you"}"#,
    "prompts/get greet",
    "prompts/get greet",
    "trunkline-prompt-registry",
);
const COMPLETE: Case = Case {
    answers: None,
    ..asking(
        "completion/complete",
        r#""ref":{"type":"ref/prompt","name":"greet"},"argument":{"name":"manner","value":"f"}"#,
        "completion/complete",
        "completion/complete",
        "",
    )
};
const BY_ZERO: Case = Case {
    errors: ("tool_error", "tool_error"),
    ..asking(
        "tools/call",
        r#""name":"calculator","arguments":{"operation":"divide","a":1,"b":0}"#,
        "tools/call calculator",
        "tools/call calculator",
        "trunkline-tool-registry",
    )
};
const UNKNOWN_TOOL: Case = Case {
    params: r#""name":"nothing","arguments":{}"#,
    name: "tools/call nothing",
    code: "-32602",
    ..local("tools/call")
};
const UNKNOWN_METHOD: Case = Case { name: "_OTHER", code: "-32601", ..local("tools/invent") };
/// It may be one of the directory's, so its registry is asked. Whoever asks sees an error, whoever answers a mistake.
const UNKNOWN_RESOURCE: Case = Case { params: r#""uri":"file:///docs/none.md""#, ..READ };

fn modern() -> Vec<Case> {
    vec![
        local("server/discover"),
        local("tools/list"),
        local("resources/list"),
        local("resources/templates/list"),
        local("prompts/list"),
        ECHO,
        READ,
        GREET,
        COMPLETE,
        BY_ZERO,
        UNKNOWN_TOOL,
        Case { stays: true, ..UNKNOWN_METHOD },
        Case { code: "-32602", errors: ("", "-32602"), ..UNKNOWN_RESOURCE },
    ]
}

fn older() -> Vec<Case> {
    vec![
        local("ping"),
        local("tools/list"),
        local("resources/list"),
        local("resources/templates/list"),
        local("prompts/list"),
        Case { params: r#""level":"info""#, ..local("logging/setLevel") },
        ECHO,
        READ,
        GREET,
        COMPLETE,
        BY_ZERO,
        UNKNOWN_TOOL,
        UNKNOWN_METHOD,
        Case { code: "-32002", errors: ("", "-32602"), ..UNKNOWN_RESOURCE },
        Case {
            params: r#""uri":"file:///docs/welcome.md""#,
            asks: Some("resources/subscribe"),
            ..local("resources/subscribe")
        },
        Case { params: r#""uri":"file:///docs/welcome.md""#, ..local("resources/unsubscribe") },
    ]
}

const MODERN_META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
/// The context of the HTTP request, which is not the parent.
const AROUND: &str = "traceparent: 00-99999999999999999999999999999999-9999999999999999-01\r\n";

/// A trace of its own for each request.
fn trace_id(number: usize) -> String {
    format!("{:032x}", 0xabc0_0000 + number)
}

fn request(case: &Case, number: usize, meta: &str) -> String {
    let parent = format!("00-{}-00000000000000aa-01", trace_id(number));
    let comma = if case.params.is_empty() { "" } else { "," };
    format!(
        r#"{{"jsonrpc":"2.0","id":"r{number}","method":"{}","params":{{{}{comma}"_meta":{{{meta}"traceparent":"{parent}","baggage":"who=me"}}}}}}"#,
        case.method, case.params
    )
}

fn ask_modern(host: &str, case: &Case, number: usize) {
    let name = ["\"name\":\"", "\"uri\":\""].iter().find_map(|key| {
        let named = ["tools/call", "prompts/get", "resources/read"].contains(&case.method);
        case.params.split_once(key).filter(|_| named).map(|(_, rest)| rest.split('"').next().unwrap())
    });
    let name = name.map(|name| format!("mcp-name: {name}\r\n")).unwrap_or_default();
    let headers =
        format!("{AROUND}mcp-protocol-version: 2026-07-28\r\nmcp-method: {}\r\n{name}", case.method);
    let answer = post(host, &headers, &request(case, number, MODERN_META));
    assert!(answer.contains(&format!("\"r{number}\"")), "{answer}");
}

fn begin_session(host: &str) -> String {
    let answer = post(host, "", INITIALIZE);
    let session = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
    let headers = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
    post(host, &headers, INITIALIZED);
    headers
}

fn ask_older(host: &str, session: &str, case: &Case, number: usize) {
    let answer = post(host, &format!("{AROUND}{session}"), &request(case, number, ""));
    assert!(answer.contains(&format!("\"r{number}\"")), "{answer}");
}

/// One call in a session.
pub(crate) fn call_older(host: &str) {
    let session = begin_session(host);
    ask_older(host, &session, &ECHO, 0);
}

/// The one span of a trace in this service that is of this kind.
fn only<'a>(trace: &'a [Seen], service: &str, kind: i32) -> &'a Seen {
    let found: Vec<_> = trace.iter().filter(|span| span.service == service && span.kind == kind).collect();
    assert_eq!(found.len(), 1, "{service} {kind}: {trace:#?}");
    found[0]
}

fn check(collector: &Collector, case: &Case, number: usize, is_modern: bool) {
    let trace = collector.trace(&trace_id(number));
    assert!(!trace.is_empty(), "{} ({number}) left no trace", case.method);
    let edge = only(&trace, "trunkline-gateway", SERVER);
    let mut count = 2;
    assert_eq!((edge.name.as_str(), edge.parent.as_str()), (case.name, "00000000000000aa"));
    assert_eq!(edge.links, ["9999999999999999"], "the HTTP context is a link");
    let (era, revision) = if is_modern { ("modern", "2026-07-28") } else { ("older", "2025-11-25") };
    let method = if case.name == "_OTHER" { "_OTHER" } else { case.method };
    let id = format!("r{number}");
    for (name, expected) in [
        ("mcp.method.name", method),
        ("mcp.protocol.version", if case.stays { "" } else { revision }),
        ("jsonrpc.request.id", &id),
        ("trunkline.era.client", if case.stays { "" } else { era }),
        ("network.transport", "tcp"),
        ("network.protocol.name", "http"),
        ("client.address", "127.0.0.1"),
        ("rpc.response.status_code", case.code),
        ("error.type", case.errors.0),
        ("gen_ai.operation.name", if case.method == "tools/call" { "execute_tool" } else { "" }),
    ] {
        assert_eq!(edge.attribute(name), expected, "{name} of {edge:#?}");
    }
    assert_eq!(edge.failed, !case.errors.0.is_empty(), "{edge:#?}");
    assert_eq!(edge.attribute("mcp.session.id").is_empty(), is_modern, "{edge:#?}");
    if case.stays {
        assert_eq!(trace.len(), 1, "{trace:#?}");
        return;
    }
    let hop = only(&trace, "trunkline-session", INTERNAL);
    assert_eq!(hop.parent, edge.id);
    if case.name != "_OTHER" {
        assert_eq!(hop.name, format!("trunkline.session {}", case.method));
    }
    assert_eq!(hop.attribute("trunkline.owner"), "session-1", "{hop:#?}");
    if let Some(asks) = case.asks {
        let call = only(&trace, "trunkline-session", CLIENT);
        assert_eq!((call.name.as_str(), call.parent.as_str()), (asks, hop.id.as_str()));
        assert_eq!(call.attribute("error.type"), case.errors.1);
        assert_eq!(call.failed, !case.errors.1.is_empty());
        assert!(!call.attribute("trunkline.registry").is_empty(), "{call:#?}");
        count += 1;
        if let Some(service) = case.answers {
            let handler = only(&trace, service, SERVER);
            assert_eq!((handler.name.as_str(), handler.parent.as_str()), (asks, call.id.as_str()));
            assert_eq!(handler.attribute("error.type"), case.errors.0);
            count += 1;
        }
    }
    assert_eq!(trace.len(), count, "{trace:#?}");
}

fn every_method_is_one_trace(start: fn(&[&str]) -> Mesh) {
    let collector = Collector::start();
    let mesh = start(&[&collector.setting]);
    let (modern, older) = (modern(), older());
    for (number, case) in modern.iter().enumerate() {
        ask_modern(&mesh.host, case, number);
    }
    let session = begin_session(&mesh.host);
    for (number, case) in older.iter().enumerate() {
        ask_older(&mesh.host, &session, case, 100 + number);
    }
    mesh.stop();
    for (number, case) in modern.iter().enumerate() {
        check(&collector, case, number, true);
    }
    for (number, case) in older.iter().enumerate() {
        check(&collector, case, 100 + number, false);
    }
    let spans = collector.spans();
    let services: BTreeSet<_> =
        spans.iter().map(|span| (span.service.as_str(), span.instance.as_str())).collect();
    assert_eq!(services.len(), 5, "five services, one instance each: {services:?}");
    let instances: BTreeSet<_> = services.iter().map(|(_, instance)| instance).collect();
    assert_eq!(instances.len(), 5, "{services:?}");
    let begun: Vec<_> = spans.iter().filter(|span| span.name == "initialize").collect();
    assert!(begun.len() == 1 && begun[0].parent.is_empty(), "without a parent it begins a trace: {begun:#?}");
    assert!(spans.iter().any(|span| span.name == "notifications/initialized" && span.kind == SERVER));
    // One session, by a name that only this deployment can tell.
    let sessions: BTreeSet<_> =
        spans.iter().map(|span| span.attribute("mcp.session.id")).filter(|id| !id.is_empty()).collect();
    assert!(sessions.len() == 1 && !session.contains(sessions.first().unwrap()), "{sessions:?}");
}

#[test]
fn every_method_in_one_process_is_one_trace() {
    every_method_is_one_trace(Mesh::in_one_process);
}

#[test]
fn every_method_across_processes_is_one_trace() {
    every_method_is_one_trace(Mesh::across_processes);
}

#[test]
fn without_a_parent_in_meta_the_header_is_the_parent_and_what_is_invalid_is_none() {
    let collector = Collector::start();
    let mesh = Mesh::in_one_process(&[&collector.setting]);
    let headers = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/list\r\n";
    let body = |id: usize, parent: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":"p{id}","method":"tools/list","params":{{"_meta":{{{MODERN_META}"x":1{parent}}}}}}}"#
        )
    };
    post(&mesh.host, &format!("{AROUND}{headers}"), &body(0, ""));
    post(&mesh.host, headers, &body(1, r#","traceparent":"00-zz-1-01""#));
    post(&mesh.host, headers, &body(2, ""));
    // Who does not record is not recorded; the flag of others cannot be raised.
    post(
        &mesh.host,
        &format!("traceparent: {}\r\n{headers}", "00-77777777777777777777777777777777-7777777777777777-00"),
        &body(3, ""),
    );
    mesh.stop();
    let edge = |id: &str| {
        collector
            .spans()
            .into_iter()
            .find(|span| span.attribute("jsonrpc.request.id") == id && span.kind == SERVER)
    };
    assert_eq!(edge("p0").unwrap().parent, "9999999999999999");
    for id in ["p1", "p2"] {
        assert!(edge(id).unwrap().parent.is_empty(), "{id}");
    }
    assert!(edge("p3").is_none());
}

#[test]
fn what_is_refused_at_the_edge_is_seen_there_and_is_no_failure() {
    let collector = Collector::start();
    let mesh = Mesh::in_one_process(&[&collector.setting]);
    post(&mesh.host, "", "{no json");
    post(&mesh.host, "", r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#);
    mesh.stop();
    let mut seen: Vec<_> = collector.spans().into_iter().filter(|span| span.name == "_OTHER").collect();
    seen.sort_by_key(|span| span.attribute("rpc.response.status_code").to_owned());
    let codes: Vec<_> = seen.iter().map(|span| span.attribute("rpc.response.status_code")).collect();
    assert_eq!(codes, ["-32600", "-32700"]);
    assert!(seen.iter().all(|span| !span.failed && span.attribute("error.type").is_empty()), "{seen:#?}");
}

/// Calls are answered all the same, and the process ends in time.
fn nobody_notices(setting: &str) {
    let mesh = Mesh::in_one_process(&[setting]);
    for number in 0..50 {
        ask_modern(&mesh.host, &ECHO, number);
    }
    call_older(&mesh.host);
    mesh.stop();
}

#[test]
fn a_collector_that_refuses_is_not_noticed_by_callers() {
    nobody_notices(&Collector::refusing().setting);
}

#[test]
fn a_collector_that_is_not_there_is_not_noticed_by_callers() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    nobody_notices(&format!("telemetry.endpoint=http://{free}"));
}

#[test]
fn a_collector_that_says_nothing_is_not_noticed_by_callers() {
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    nobody_notices(&format!("telemetry.endpoint=http://{}", hole.local_addr().unwrap()));
}

#[test]
fn a_listen_stream_is_a_span_that_ends_well_with_its_client() {
    let collector = Collector::start();
    let mesh = Mesh::in_one_process(&[&collector.setting]);
    let case =
        Case { params: r#""notifications":{"toolsListChanged":true}"#, ..local("subscriptions/listen") };
    let body = request(&case, 7, MODERN_META);
    let mut stream = TcpStream::connect(&mesh.host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         mcp-protocol-version: 2026-07-28\r\nmcp-method: subscriptions/listen\r\ncontent-length: {}\r\n\r\n{body}",
        mesh.host,
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("notifications/subscriptions/acknowledged") {
        let mut part = [0; 1024];
        let read = stream.read(&mut part).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&part[..read]);
    }
    drop(stream);
    mesh.stop();
    let trace = collector.trace(&trace_id(7));
    let edge = only(&trace, "trunkline-gateway", SERVER);
    assert!(edge.name == "subscriptions/listen" && !edge.failed, "{edge:#?}");
}
