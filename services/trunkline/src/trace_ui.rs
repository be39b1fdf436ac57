//! `up --trace-ui`: a trace backend in this process, so that a call can be looked at with nothing else installed.
//!
//! Owns: an OTLP/gRPC receiver, the newest traces in bounded memory, and the Jaeger page that shows them; all three are the
//! crate `otlp-embedded`. It runs on a thread of its own and no call waits for it. Must not know: spans and roles. The
//! exporter of this process reaches it over an ordinary OTLP connection, as that of any other process does.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use otlp_embedded::proto::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use otlp_embedded::proto::trace::v1::Span;
use otlp_embedded::{State, TraceService, TraceServiceImpl, TraceServiceServer};
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::process::Failure;

/// Where the page is unless another address is given: Jaeger's own port.
pub(crate) const DEFAULT: &str = "127.0.0.1:16686";
/// Where exporters look for a collector unless they are told otherwise.
const OTLP_PORT: u16 = 4317;
/// What is kept; the trace nobody has looked at or added to for longest goes first.
const MAX_TRACES: u32 = 500;
/// Spans of one trace.
const MAX_SPANS: u32 = 200;

/// A running backend; dropping it ends it. What still exports to it has to be dropped before.
#[derive(Debug)]
pub(crate) struct TraceUi {
    page: SocketAddr,
    otlp: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TraceUi {
    /// Shows the page on `address`. Spans are taken on port 4317 of the same host, or on any free port if that is taken or
    /// the page, too, was given any.
    pub(crate) fn start(address: &str) -> Result<Self, Failure> {
        let address = check(address)?;
        let page = bind(address).map_err(|cause| in_use(address, &cause))?;
        let any = || bind(SocketAddr::new(address.ip(), 0));
        let otlp = match address.port() {
            0 => any(),
            _ => bind(SocketAddr::new(address.ip(), OTLP_PORT)).or_else(|_taken| any()),
        };
        let otlp = otlp.map_err(Failure::failed)?;
        let addresses =
            (page.local_addr().map_err(Failure::failed)?, otlp.local_addr().map_err(Failure::failed)?);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    Err(error) = serve(page, otlp) => tracing::warn!(%error, "no more traces are shown"),
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("trace-ui".into()).spawn(run).map_err(Failure::failed)?;
        Ok(Self { page: addresses.0, otlp: addresses.1, stop: Some(stop), thread: Some(thread) })
    }

    /// What to open in a browser.
    pub(crate) fn page(&self) -> String {
        format!("http://{}", self.page)
    }

    /// Where exporters send spans.
    pub(crate) fn otlp(&self) -> String {
        format!("http://{}", self.otlp)
    }
}

impl Drop for TraceUi {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A thread that panicked has nothing left to stop.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// The address, if it is one that only this machine reaches: whoever reaches the page sees every call.
pub(crate) fn check(address: &str) -> Result<SocketAddr, Failure> {
    let refused = |why: &str| Failure::refused(format!("--trace-ui {address}: {why}"));
    let found = address
        .to_socket_addrs()
        .map_err(|_unknown| refused("use HOST:PORT, for example 127.0.0.1:16686"))?;
    let loopback = found.into_iter().find(|found| found.ip().is_loopback());
    loopback.ok_or_else(|| {
        refused(
            "the page has no access control, so use a loopback address; to see traces from elsewhere, set telemetry.endpoint to \
             an OTLP collector",
        )
    })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn in_use(address: SocketAddr, cause: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot show traces on {address} (--trace-ui): {cause}; use --trace-ui HOST:PORT with a free port, or port 0 for any"
    ))
}

async fn serve(page: TcpListener, otlp: TcpListener) -> Result<(), Box<dyn Error>> {
    let (page, otlp) = (tokio::net::TcpListener::from_std(page)?, tokio::net::TcpListener::from_std(otlp)?);
    // The store's own count of bytes only rises (0.0.2): with a limit on it, the page would be empty for ever after a while.
    let limits = otlp_embedded::Config { max_length: MAX_TRACES, max_memory_usage: usize::MAX };
    let state = State::new(limits);
    let receiver = Receiver { store: TraceServiceImpl::new(state.clone()), spans: Mutex::default() };
    let receiver = TraceServiceServer::new(receiver).accept_compressed(CompressionEncoding::Gzip);
    let receiver = Server::builder().add_service(receiver).serve_with_incoming(TcpIncoming::from(otlp));
    let app = otlp_embedded::ui_app(state, "/").layer(middleware::from_fn(guard));
    tokio::select! {
        served = receiver => served?,
        served = axum::serve(page, app) => served?,
    }
    Ok(())
}

/// Puts into the store what the page can show.
struct Receiver {
    store: TraceServiceImpl,
    /// How many spans have come, by trace.
    spans: Mutex<HashMap<Vec<u8>, u32>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        mut request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let scopes = request.get_mut().resource_spans.iter_mut().flat_map(|of| &mut of.scope_spans);
        scopes.for_each(|scope| scope.spans.retain(|span| is_shown(span) && self.has_room(span)));
        self.store.export(request).await
    }
}

impl Receiver {
    fn has_room(&self, span: &Span) -> bool {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() > 2 * MAX_TRACES as usize {
            // What is forgotten may grow by as much once more.
            spans.clear();
        }
        let count = spans.entry(span.trace_id.clone()).or_default();
        *count = count.saturating_add(1);
        *count <= MAX_SPANS
    }
}

/// The page stumbles over spans that end before they begin, and over those that are their own parents.
fn is_shown(span: &Span) -> bool {
    span.trace_id.len() == 16
        && span.span_id.len() == 8
        && span.parent_span_id != span.span_id
        && span.end_time_unix_nano >= span.start_time_unix_nano
}

/// Answers only those who asked for this machine by its own name: another site's name that was made to point here (DNS
/// rebinding) would let that site read the traces. The page itself comes with status 200; the crate says 307.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return (StatusCode::FORBIDDEN, "open this page as http://localhost or http://127.0.0.1")
            .into_response();
    }
    let mut response = next.run(request).await;
    if response.status() == StatusCode::TEMPORARY_REDIRECT {
        *response.status_mut() = StatusCode::OK;
    }
    response
}
