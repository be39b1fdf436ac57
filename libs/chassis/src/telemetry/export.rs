//! The way of spans to the collector: bounded, never waited for, and counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{GrpcMethod, Request, Status};

use super::{TelemetryError, wire};
use crate::metrics::{Counter, Metrics};
use crate::task::{self, Kind};

/// Spans that wait for the collector; further ones are dropped.
pub(super) const QUEUE: usize = 8192;
/// Bytes of spans that wait for it.
const MOST_BYTES: usize = 32 << 20;
/// Spans in one request to it.
const BATCH: usize = 1024;
/// Bytes of spans in one request to it. Collectors take 4 MiB.
const FULL: usize = 512 << 10;
/// How long spans wait for others to go with.
const DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take for a request.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What became of spans.
#[derive(Debug, Clone)]
pub(super) struct Fates {
    waiting: Arc<AtomicUsize>,
    sent: Counter,
    failed: Counter,
    dropped: Counter,
}

impl Fates {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let fate = |fate: &str| {
            let help = "Spans by what became of them: sent, failed (the collector refused or was not reached), dropped (too many waited)";
            metrics.counter("trunkline_telemetry_spans", help, &[("fate", fate)])
        };
        let waiting = Arc::<AtomicUsize>::default();
        let gauge =
            metrics.gauge("trunkline_telemetry_spans_waiting", "Spans that wait for the collector", &[]);
        let seen = waiting.clone();
        metrics.probe(move || _ = gauge.set(i64::try_from(seen.load(Ordering::Relaxed)).unwrap_or(i64::MAX)));
        Self { waiting, sent: fate("sent"), failed: fate("failed"), dropped: fate("dropped") }
    }
}

/// Spans of one role that go together, each as a field of `ScopeSpans`.
#[derive(Debug, Default)]
struct Chunk {
    spans: Vec<u8>,
    count: usize,
}

/// The service that a role is shown as.
#[derive(Debug)]
struct Service {
    role: &'static str,
    /// `Resource` as a field of `ResourceSpans`.
    resource: Vec<u8>,
    open: Mutex<Chunk>,
}

impl Service {
    /// `instance` tells runs apart.
    fn new(role: &'static str, instance: &str) -> Self {
        let mut attributes = Vec::new();
        for (key, value) in [
            ("service.name", format!("trunkline-{role}").as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
            // Back ends merge services that share an instance id.
            ("service.instance.id", &format!("{role}-{instance}")),
            ("telemetry.sdk.language", "rust"),
            ("telemetry.sdk.name", "trunkline"),
            ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ] {
            wire::attribute(&mut attributes, 1, key, wire::Any::Text(value));
        }
        let mut resource = Vec::new();
        wire::bytes(&mut resource, 1, &attributes);
        Self { role, resource, open: Mutex::default() }
    }

    /// What goes in front of spans of that length in a request.
    fn head(&self, spans: usize) -> Vec<u8> {
        const SCOPE: &[u8] = b"\x0a\x0b\x0a\x09trunkline";
        let of_scope = SCOPE.len() + spans;
        let mut head = Vec::with_capacity(self.resource.len() + 64);
        wire::open(&mut head, 1, self.resource.len() + wire::field(of_scope));
        head.extend_from_slice(&self.resource);
        wire::open(&mut head, 2, of_scope);
        head.extend_from_slice(SCOPE);
        head
    }
}

/// Where spans that have ended wait.
#[derive(Debug)]
pub(super) struct Sink {
    services: Vec<Service>,
    full: Mutex<VecDeque<(usize, Chunk)>>,
    bytes: AtomicUsize,
    fates: Fates,
    wake: Notify,
}

impl Sink {
    pub(super) fn new(roles: &[&'static str], instance: &str, fates: Fates) -> Arc<Self> {
        let services = roles.iter().map(|role| Service::new(role, instance)).collect();
        Arc::new(Self {
            services,
            full: Mutex::default(),
            bytes: AtomicUsize::new(0),
            fates,
            wake: Notify::new(),
        })
    }

    /// The service of a role.
    pub(super) fn place(&self, role: &str) -> Option<usize> {
        self.services.iter().position(|service| service.role == role)
    }

    /// Takes a span over, or drops it.
    pub(super) fn put(&self, place: usize, span: &[u8]) {
        let Some(service) = self.services.get(place) else { return };
        let size = wire::field(span.len());
        let waiting = self.fates.waiting.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(size, Ordering::Relaxed);
        if waiting >= QUEUE || bytes >= MOST_BYTES {
            self.gone(1, size);
            self.fates.dropped.inc();
            return;
        }
        let mut open = service.open.lock().unwrap_or_else(PoisonError::into_inner);
        wire::bytes(&mut open.spans, 2, span);
        open.count += 1;
        if open.count >= BATCH || open.spans.len() >= FULL {
            let room = open.spans.len();
            let next = Chunk { spans: Vec::with_capacity(room), count: 0 };
            let full = std::mem::replace(&mut *open, next);
            drop(open);
            self.seal(place, full);
        }
    }

    fn seal(&self, place: usize, chunk: Chunk) {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).push_back((place, chunk));
        self.wake.notify_one();
    }

    /// Everything that waits for others goes as it is.
    fn seal_all(&self) {
        for (place, service) in self.services.iter().enumerate() {
            let open = std::mem::take(&mut *service.open.lock().unwrap_or_else(PoisonError::into_inner));
            if open.count > 0 {
                self.seal(place, open);
            }
        }
    }

    fn next(&self) -> Option<(usize, Chunk)> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn gone(&self, count: usize, bytes: usize) {
        self.fates.waiting.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Everything that waits, as requests.
    #[cfg(test)]
    pub(super) fn requests(&self) -> Vec<Vec<u8>> {
        self.seal_all();
        let next = || self.next().map(|(place, chunk)| self.message(place, chunk));
        std::iter::from_fn(next).map(|message| [message.head, message.spans].concat()).collect()
    }

    fn message(&self, place: usize, chunk: Chunk) -> Message {
        let head = self.services.get(place).map(|service| service.head(chunk.spans.len()));
        Message { head: head.unwrap_or_default(), spans: chunk.spans }
    }
}

/// A request to the collector.
#[derive(Debug)]
struct Message {
    head: Vec<u8>,
    spans: Vec<u8>,
}

/// Writes a request as it is; what the collector says beyond its status is not looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Written;

impl Codec for Written {
    type Encode = Message;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Written {
    type Item = Message;
    type Error = Status;

    fn encode(&mut self, message: Message, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use bytes::BufMut as _;
        to.reserve(message.head.len() + message.spans.len());
        to.put_slice(&message.head);
        to.put_slice(&message.spans);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        // Nothing is kept below this: a message comes at a time, and says how long it is.
        BufferSettings::new(0, FULL)
    }
}

impl Decoder for Written {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use bytes::Buf as _;
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// Sends what waits in a [`Sink`]. On a thread of its own, so that a busy mesh neither delays spans nor is delayed by them.
#[derive(Debug)]
pub(super) struct Exporter {
    runtime: tokio::runtime::Runtime,
    _sending: task::Handle<()>,
    close: oneshot::Sender<()>,
    closed: mpsc::Receiver<()>,
}

impl Exporter {
    pub(super) fn start(endpoint: &str, sink: Arc<Sink>) -> Result<Self, TelemetryError> {
        let wrong = |why: &dyn std::fmt::Display| TelemetryError::Endpoint(format!("{endpoint:?}: {why}"));
        let address = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| wrong(&error))?;
        if address.uri().scheme() != Some(&http::uri::Scheme::HTTP) {
            return Err(wrong(&"only http is spoken"));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let channel = address.connect_timeout(CONNECT_TIMEOUT).connect_lazy();
        drop(entered);
        let (close, closing) = oneshot::channel();
        let (done, closed) = mpsc::sync_channel(1);
        let sending = async move {
            Sending { sink, channel, is_failing: false }.run(closing).await;
            drop(done);
        };
        let _sending = task::spawn_on(runtime.handle(), Kind::Upkeep, "spans", sending);
        Ok(Self { runtime, _sending, close, closed })
    }

    /// Sends what is left, if that takes no longer than this. Says whether it did. Outside of async code.
    pub(super) fn shut_down(self, within: Duration) -> bool {
        // If nobody listens any more, it has ended.
        _ = self.close.send(());
        let ended = self.closed.recv_timeout(within);
        self.runtime.shutdown_background();
        ended == Err(mpsc::RecvTimeoutError::Disconnected)
    }
}

struct Sending {
    sink: Arc<Sink>,
    channel: Channel,
    is_failing: bool,
}

impl Sending {
    async fn run(mut self, mut closing: oneshot::Receiver<()>) {
        let mut tick = tokio::time::interval(DELAY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_closing = false;
        while !is_closing {
            tokio::select! {
                biased;
                _ = &mut closing => is_closing = true,
                _ = tick.tick() => self.sink.seal_all(),
                () = self.sink.wake.notified() => {}
            }
            // One at a time, so that rare roles get their turn at every tick.
            if !is_closing && let Some((place, chunk)) = self.sink.next() {
                self.send(place, chunk).await;
                self.sink.wake.notify_one();
            }
        }
        self.sink.seal_all();
        while let Some((place, chunk)) = self.sink.next() {
            self.send(place, chunk).await;
        }
    }

    async fn send(&mut self, place: usize, chunk: Chunk) {
        let (count, bytes) = (chunk.count, chunk.spans.len());
        let message = self.sink.message(place, chunk);
        let sent = match tokio::time::timeout(PATIENCE, self.ask(message)).await {
            Ok(sent) => sent,
            Err(_elapsed) => Err(Status::deadline_exceeded("no answer")),
        };
        self.sink.gone(count, bytes);
        let fate = if sent.is_ok() { &self.sink.fates.sent } else { &self.sink.fates.failed };
        fate.inc_by(count as u64);
        // Said once, until it is well again.
        let was_failing = std::mem::replace(&mut self.is_failing, sent.is_err());
        match sent {
            Err(status) if !was_failing => {
                tracing::warn!(code = ?status.code(), error = status.message(), "spans do not reach the collector")
            }
            Ok(()) if was_failing => tracing::info!("spans reach the collector again"),
            Ok(()) | Err(_) => {}
        }
    }

    async fn ask(&self, message: Message) -> Result<(), Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(message);
        request.extensions_mut().insert(GrpcMethod::new("TraceService", "Export"));
        client.unary(request, PathAndQuery::from_static(EXPORT), Written).await.map(drop)
    }
}
