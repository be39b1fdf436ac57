//! `up --trace-ui`: calls can be looked at in this process, and others may send their spans to it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tonic::codec::CompressionEncoding;

use crate::lifecycle::host;
use crate::process::{Running, command, finished};

const PATIENCE: Duration = Duration::from_secs(60);

/// A mesh that shows its traces, and where.
struct Shown {
    mesh: Running,
    gateway: String,
    page: String,
    otlp: String,
}

fn up(data: &Path, more: &[&str]) -> Shown {
    let mut args = vec!["up", "--listen", "127.0.0.1:0", "--trace-ui", "127.0.0.1:0"];
    args.extend(["--data", data.to_str().unwrap()]);
    args.extend(more);
    let mut mesh = Running::start(&mut command(&args));
    let gateway = host(&mesh.listening("gateway")).to_owned();
    let page = mesh.listening("trace-ui").strip_prefix("http://").unwrap().to_owned();
    let otlp = mesh.listening("otlp");
    Shown { mesh, gateway, page, otlp }
}

impl Shown {
    /// The whole answer to a GET.
    fn get(&self, path: &str, host: &str) -> String {
        let mut stream = TcpStream::connect(&self.page).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks until the answer is as it should be: spans come in batches.
    fn until(&self, path: &str, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path, &self.page);
            if fits(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{answer}");
            std::thread::yield_now();
        }
    }

    /// A call whose trace begins here: one that continues a trace of somebody who does not report it is never listed.
    fn call(&self, era: &str) {
        let url = format!("http://{}/mcp", self.gateway);
        let args = ["call", &url, "echo", "--json-args", r#"{"message":"hi"}"#, "--era", era];
        let (code, _, said) = finished(&mut command(&args));
        assert_eq!(code, Some(0), "{said}");
    }

    fn stop(mut self) {
        self.mesh.signal("INT");
        assert_eq!(self.mesh.ended().code(), Some(0));
    }
}

#[test]
fn calls_of_both_eras_are_listed_hop_by_hop() {
    let folder = tempfile::tempdir().unwrap();
    let shown = up(folder.path(), &[]);
    assert!(shown.get("/", "localhost").starts_with("HTTP/1.1 200 "));
    assert!(shown.get("/", &shown.page).contains("Jaeger UI"));
    shown.call("modern");
    shown.call("older");
    let calls = |answer: &str| answer.matches("\"serviceName\":\"trunkline-tool-registry\"").count();
    let traces = shown.until("/api/traces?limit=100&service=trunkline-gateway", |answer| calls(answer) == 2);
    assert!(traces.contains("\"serviceName\":\"trunkline-session\""), "{traces}");
    // Nothing of the page's own stack is a trace.
    let services = shown.get("/api/services", &shown.page);
    assert!(services.contains("\"data\":[\"trunkline-gateway\"]"), "{services}");
    shown.stop();
}

/// Sends spans as another process, `billing`, does.
fn send(shown: &Shown, spans: Vec<Span>) {
    let text = |value: &str| AnyValue { value: Some(any_value::Value::StringValue(value.into())) };
    let attribute =
        |key: &str, value| KeyValue { key: key.into(), value: Some(text(value)), ..Default::default() };
    let resource = Resource {
        attributes: vec![attribute("service.name", "billing"), attribute("service.instance.id", "billing-1")],
        ..Default::default()
    };
    let scope_spans = vec![ScopeSpans { spans, ..Default::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() }];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = TraceServiceClient::connect(shown.otlp.clone()).await.unwrap();
        let mut client = client.send_compressed(CompressionEncoding::Gzip);
        client.export(ExportTraceServiceRequest { resource_spans }).await.unwrap();
    });
}

fn span(trace: u8, id: u64, name: &str) -> Span {
    let (trace_id, span_id) = (vec![trace; 16], id.to_be_bytes().to_vec());
    Span { trace_id, span_id, name: name.into(), ..Default::default() }
}

#[test]
fn another_process_may_send_its_spans_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let shown = up(folder.path(), &[]);
    send(&shown, vec![span(7, 7, "invoice")]);
    let trace = shown.get(&format!("/api/traces/{}", "07".repeat(16)), &shown.page);
    assert!(trace.contains("\"operationName\":\"invoice\"") && trace.contains("billing"), "{trace}");
    shown.stop();
}

#[test]
fn what_the_page_cannot_show_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let shown = up(folder.path(), &[]);
    let own_parent = Span { parent_span_id: 1_u64.to_be_bytes().to_vec(), ..span(1, 1, "own parent") };
    let backwards = Span { start_time_unix_nano: 2, end_time_unix_nano: 1, ..span(2, 2, "backwards") };
    let nameless = Span { span_id: vec![3; 3], ..span(3, 3, "short") };
    send(&shown, vec![own_parent, backwards, nameless, span(4, 4, "invoice")]);
    let traces = shown.get("/api/traces?limit=10&service=billing", &shown.page);
    assert_eq!(traces.matches("\"operationName\"").count(), 1, "{traces}");
    shown.stop();
}

#[test]
fn one_trace_does_not_grow_without_bound_and_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let shown = up(folder.path(), &[]);
    let spans = |trace| (1..=300).map(move |id| span(trace, id, "invoice"));
    send(&shown, (1..=12).flat_map(spans).collect());
    for trace in ["01", "0c"] {
        let trace = shown.get(&format!("/api/traces/{}", trace.repeat(16)), &shown.page);
        assert_eq!(trace.matches("\"operationName\"").count(), 200);
    }
    shown.stop();
}

#[test]
fn another_site_that_points_here_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let shown = up(folder.path(), &[]);
    for host in ["evil.example", "evil.example:16686", "127.0.0.1.evil.example", ""] {
        let answer = shown.get("/api/services", host);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{host}: {answer}");
    }
    shown.stop();
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    for (address, word) in [("0.0.0.0:0", "access control"), ("nowhere", "HOST:PORT")] {
        for more in [["--data", data].as_slice(), &["--data", data, "--check"]] {
            let mut args = vec!["up", "--listen", "127.0.0.1:0", "--trace-ui", address];
            args.extend(more);
            let (code, _, stderr) = finished(&mut command(&args));
            assert!(code == Some(2) && stderr.contains("--trace-ui") && stderr.contains(word), "{stderr}");
        }
    }
}

#[test]
fn an_address_in_use_is_named_with_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args =
        ["up", "--listen", "127.0.0.1:0", "--data", folder.path().to_str().unwrap(), "--trace-ui", &address];
    let (code, _, stderr) = finished(&mut command(&args));
    assert!(code == Some(1) && stderr.contains("--trace-ui") && stderr.contains(&address), "{stderr}");
}

#[test]
fn the_flag_wins_over_a_configured_collector() {
    let folder = tempfile::tempdir().unwrap();
    let shown = up(folder.path(), &["--set", "telemetry.endpoint=http://127.0.0.1:1"]);
    shown.call("modern");
    shown.until("/api/traces?limit=1", |answer| answer.contains("trunkline-tool-registry"));
    shown.stop();
}
