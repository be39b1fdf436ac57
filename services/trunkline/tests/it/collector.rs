//! A collector of traces, and what it was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

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
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use tokio::runtime::Runtime;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(60);

/// What is remembered of a span.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) name: String,
    /// 1 internal, 2 server, 3 client.
    pub(crate) kind: i32,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    /// Spans it is linked to.
    pub(crate) links: Vec<String>,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Whether its status is an error.
    pub(crate) failed: bool,
    /// All that was sent of it, for searching.
    pub(crate) whole: String,
}

impl Seen {
    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Clone, Default)]
struct Spans {
    seen: Arc<Mutex<Vec<Seen>>>,
    more: Arc<Condvar>,
    refuses: bool,
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.refuses {
            return Err(Status::permission_denied("not today"));
        }
        for of_service in request.into_inner().resource_spans {
            let resource = attributes(of_service.resource.unwrap().attributes);
            for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let whole = format!("{span:?}");
                self.seen.lock().unwrap().push(Seen {
                    service: resource["service.name"].clone(),
                    instance: resource["service.instance.id"].clone(),
                    name: span.name,
                    kind: span.kind,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                    attributes: attributes(span.attributes),
                    failed: span.status.is_some_and(|status| status.code == 2),
                    whole,
                });
            }
        }
        self.more.notify_all();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(all: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        other => other.map(|value| format!("{value:?}")).unwrap_or_default(),
    };
    all.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector of this process.
pub(crate) struct Collector {
    spans: Spans,
    /// The setting that sends spans here.
    pub(crate) setting: String,
    _server: Handle<Result<(), grpc::server::ServeError>>,
    _runtime: Runtime,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::of(Spans::default())
    }

    /// One that refuses whatever it is sent.
    pub(crate) fn refusing() -> Self {
        Self::of(Spans { refuses: true, ..Spans::default() })
    }

    fn of(spans: Spans) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(serve::bind("test", "127.0.0.1:0")).unwrap();
        let setting = format!("telemetry.endpoint=http://{}", listener.local_addr().unwrap());
        let routes = Routes::new(TraceServiceServer::new(spans.clone()));
        let entered = runtime.enter();
        let server = task::spawn(
            Kind::Role,
            "collector",
            grpc::server::serve(routes, Incoming::Tcp(listener), drain::Shutdown::never()),
        );
        drop(entered);
        Self { spans, setting, _server: server, _runtime: runtime }
    }

    /// Everything so far.
    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.spans.seen.lock().unwrap().clone()
    }

    /// Waits for a span.
    pub(crate) fn until(&self, is_it: impl Fn(&Seen) -> bool) -> Seen {
        let seen = self.spans.seen.lock().unwrap();
        let is_missing = |seen: &mut Vec<Seen>| !seen.iter().any(&is_it);
        let (seen, _) = self.spans.more.wait_timeout_while(seen, PATIENCE, is_missing).unwrap();
        seen.iter().find(|span| is_it(span)).unwrap_or_else(|| panic!("not there: {seen:#?}")).clone()
    }

    /// The spans of one trace.
    pub(crate) fn trace(&self, id: &str) -> Vec<Seen> {
        self.spans().into_iter().filter(|span| span.trace == id).collect()
    }
}
