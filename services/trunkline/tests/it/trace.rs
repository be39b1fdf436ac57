//! A call is one trace with a span for each hop, in one process and across processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chassis::serve::{self, Incoming};
use chassis::task::{self, Handle, Kind};
use chassis::{drain, grpc};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::runtime::Runtime;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::lifecycle::{host, post};
use crate::process::{KEY, Running, command};

/// What is remembered of a span.
#[derive(Debug, Clone)]
struct Seen {
    service: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_service in request.into_inner().resource_spans {
            let resource = of_service.resource.unwrap();
            let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
            let Some(Value::StringValue(service)) = &name.value.as_ref().unwrap().value else {
                panic!("{name:?}")
            };
            for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.lock().unwrap().push(Seen {
                    service: service.clone(),
                    name: span.name,
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector of this process.
struct Collector {
    spans: Spans,
    endpoint: String,
    _server: Handle<Result<(), grpc::server::ServeError>>,
    _runtime: Runtime,
}

impl Collector {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(serve::bind("test", "127.0.0.1:0")).unwrap();
        let endpoint = format!("telemetry.endpoint=http://{}", listener.local_addr().unwrap());
        let spans = Spans::default();
        let routes = Routes::new(TraceServiceServer::new(spans.clone()));
        let entered = runtime.enter();
        let server = task::spawn(
            Kind::Role,
            "collector",
            grpc::server::serve(routes, Incoming::Tcp(listener), drain::Shutdown::never()),
        );
        drop(entered);
        Self { spans, endpoint, _server: server, _runtime: runtime }
    }

    /// The hops of the one trace in which the tool ran, from the edge inwards.
    fn hops_of_the_call(&self) -> Vec<(String, String)> {
        let spans = self.spans.0.lock().unwrap();
        let calls: Vec<&Seen> = spans.iter().filter(|span| span.name == "tools/call echo").collect();
        assert_eq!(calls.len(), 1, "{spans:?}");
        let of_trace: BTreeMap<&[u8], &Seen> = spans
            .iter()
            .filter(|span| span.trace == calls[0].trace)
            .map(|span| (span.id.as_slice(), span))
            .collect();
        let mut hops = Vec::new();
        let mut at = Some(calls[0]);
        while let Some(span) = at {
            hops.insert(0, (span.service.clone(), span.name.clone()));
            at = of_trace.get(span.parent.as_slice()).copied();
            assert!(at.is_some() || span.parent.is_empty(), "the parent of {span:?} is not there");
        }
        hops
    }
}

fn expected() -> Vec<(String, String)> {
    let hops = [
        ("trunkline-gateway", "tools/call"),
        ("trunkline-session", "tools/call"),
        ("trunkline-tool-registry", "tools/call echo"),
    ];
    hops.map(|(service, span)| (service.to_owned(), span.to_owned())).to_vec()
}

const MODERN: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}},"name":"echo","arguments":{"message":"hello"}}}"#;
const OLDER: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello"}}}"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

pub(crate) fn call_modern(host: &str) {
    let headers = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n";
    let answer = post(host, headers, MODERN);
    assert!(answer.contains("hello") && answer.contains("\"result\""), "{answer}");
}

pub(crate) fn call_older(host: &str) {
    let answer = post(host, "", INITIALIZE);
    let session = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
    let headers = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
    post(host, &headers, INITIALIZED);
    let answer = post(host, &headers, OLDER);
    assert!(answer.contains("hello") && answer.contains("\"result\""), "{answer}");
}

fn stop(mut process: Running) {
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
}

fn in_one_process(call: fn(&str)) {
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let args = ["up", "--listen", "127.0.0.1:0", "--data", data, "--set", &collector.endpoint];
    let mut mesh = Running::start(&mut command(&args));
    call(host(&mesh.listening("gateway")));
    stop(mesh);
    assert_eq!(collector.hops_of_the_call(), expected());
}

fn across_processes(call: fn(&str)) {
    let collector = Collector::start();
    let ring = format!("keys.ring={{k1=\"{KEY}\"}}");
    let role = |role: &str, setting: &str| {
        let mut args =
            vec![role, "--listen", "127.0.0.1:0", "--set", &collector.endpoint, "--set", "keys.current=k1"];
        args.extend(["--set", &ring]);
        args.extend(["--set", setting]);
        let mut process = Running::start(&mut command(&args));
        let place = process.listening(role);
        (process, place)
    };
    let (tools, address) = role("tool-registry", "tool-registry.tools=[\"echo\"]");
    let (session, address) = role("session", &format!("session.registries=[{{address=\"{address}\"}}]"));
    let (gateway, url) = role("gateway", &format!("gateway.sessions=[{{address=\"{address}\"}}]"));
    call(host(&url));
    for process in [gateway, session, tools] {
        stop(process);
    }
    assert_eq!(collector.hops_of_the_call(), expected());
}

#[test]
fn a_modern_call_in_one_process_is_one_trace() {
    in_one_process(call_modern);
}

#[test]
fn an_older_call_in_one_process_is_one_trace() {
    in_one_process(call_older);
}

#[test]
fn a_modern_call_across_processes_is_one_trace() {
    across_processes(call_modern);
}

#[test]
fn an_older_call_across_processes_is_one_trace() {
    across_processes(call_older);
}
