//! Where spans arrive: which traces there are, and whether one of them shows a secret.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A collector of spans.
pub struct Sink {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    refuses: Arc<AtomicBool>,
    _serving: JoinSet<()>,
}

/// What came.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Ids of traces.
    pub traces: BTreeSet<u128>,
    /// Spans that show a secret: the trace, and the text.
    pub leaks: Vec<(String, String)>,
    /// How many spans.
    pub spans: u64,
    secrets: Vec<String>,
}

struct Receiver {
    seen: Arc<Mutex<Seen>>,
    refuses: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Status::internal("the collector is told to refuse"));
        }
        let of_services = request.into_inner().resource_spans.into_iter();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for span in of_services.flat_map(|of| of.scope_spans).flat_map(|scope| scope.spans) {
            seen.spans += 1;
            if seen.secrets.iter().any(|secret| shows(&span, secret)) {
                let leak = (hexadecimal(&span.trace_id), format!("{span:?}"));
                seen.leaks.push(leak);
            }
            if let Ok(trace) = span.trace_id.try_into() {
                seen.traces.insert(u128::from_be_bytes(trace));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Whether a text of a span contains this.
fn shows(span: &Span, secret: &str) -> bool {
    let status = span.status.as_ref().map(|status| status.message.as_str());
    let events = span.events.iter();
    let texts = events.clone().map(|event| event.name.as_str()).chain([span.name.as_str()]).chain(status);
    let attributes = span.attributes.iter().chain(events.flat_map(|event| &event.attributes));
    let values = attributes.filter_map(|attribute| attribute.value.as_ref()?.value.as_ref());
    texts.into_iter().any(|text| text.contains(secret))
        || values.into_iter().any(|value| match value {
            Value::StringValue(text) => text.contains(secret),
            Value::ArrayValue(_) | Value::KvlistValue(_) => format!("{value:?}").contains(secret),
            _ => false,
        })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sink {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let refuses = Arc::<AtomicBool>::default();
        let receiver = Receiver { seen: Arc::clone(&seen), refuses: Arc::clone(&refuses) };
        let service = TraceServiceServer::new(receiver);
        let service = service.accept_compressed(tonic::codec::CompressionEncoding::Gzip);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            // When it ends, traces are missing, and that is told.
            let _served = Server::builder().add_service(service).serve_with_incoming(incoming).await.is_ok();
        });
        Ok(Self { address, seen, refuses, _serving: serving })
    }

    /// Answers with errors from now on, or takes spans again.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Looks for these from now on.
    pub fn watch_for(&self, secrets: Vec<String>) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).secrets = secrets;
    }

    /// What came so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
