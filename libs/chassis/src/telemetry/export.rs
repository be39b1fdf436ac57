//! The queue between whoever ends spans and the collector: bounded, never waited for, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};

use crate::metrics::{Counter, Metrics};

/// Spans that wait for the collector; further ones are dropped.
pub(super) const QUEUE: usize = 8192;
/// Spans in one request to it.
const BATCH: usize = 1024;
/// How long spans wait for others to go with.
const DELAY: Duration = Duration::from_secs(1);

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

    fn gone(&self, count: usize, result: &OTelSdkResult) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        let fate = if result.is_ok() { &self.sent } else { &self.failed };
        fate.inc_by(count as u64);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Bounded {
    inner: BatchSpanProcessor,
    fates: Fates,
}

impl Bounded {
    pub(super) fn new<E: SpanExporter + 'static>(exporter: E, fates: Fates) -> Self {
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let exporter = Counted { inner: exporter, fates: fates.clone() };
        Self { inner: BatchSpanProcessor::builder(exporter).with_batch_config(config).build(), fates }
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        // What is under way to the collector counts too, so the queue behind this never overflows.
        if self.fates.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.fates.waiting.fetch_sub(1, Ordering::Relaxed);
            self.fates.dropped.inc();
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[derive(Debug)]
struct Counted<E> {
    inner: E,
    fates: Fates,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.inner.export(batch).await;
        self.fates.gone(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
