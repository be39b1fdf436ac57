//! Shows each role as a service of its own, also where roles share a process.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// One exporter for each role; a span goes to the one its role attribute names.
#[derive(Debug)]
pub(super) struct ByRole<E> {
    exporters: BTreeMap<&'static str, E>,
    first: &'static str,
}

impl<E: SpanExporter> ByRole<E> {
    /// Spans without a role go to `first`. `instance` tells runs apart.
    pub(super) fn new(mut exporters: BTreeMap<&'static str, E>, first: &'static str, instance: &str) -> Self {
        for (role, exporter) in &mut exporters {
            let resource = Resource::builder()
                .with_service_name(format!("trunkline-{role}"))
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                // Back ends merge services that share an instance id.
                .with_attribute(KeyValue::new("service.instance.id", format!("{role}-{instance}")))
                .build();
            exporter.set_resource(&resource);
        }
        Self { exporters, first }
    }

    fn role_of(&self, span: &SpanData) -> &'static str {
        let named = span.attributes.iter().find(|attribute| attribute.key.as_str() == super::ROLE);
        named
            .and_then(|attribute| self.exporters.get_key_value(attribute.value.as_str().as_ref()))
            .map_or(self.first, |(role, _)| role)
    }
}

impl<E: SpanExporter> SpanExporter for ByRole<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut by_role: BTreeMap<&str, Vec<SpanData>> = BTreeMap::new();
        for span in batch {
            by_role.entry(self.role_of(&span)).or_default().push(span);
        }
        let mut result = Ok(());
        for (role, spans) in by_role {
            if let Some(exporter) = self.exporters.get(role) {
                result = result.and(exporter.export(spans).await);
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.each(|exporter| exporter.shutdown_with_timeout(timeout))
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.each(E::force_flush)
    }
}

impl<E> ByRole<E> {
    /// Does it for all, also after a failure.
    fn each(&self, act: impl Fn(&E) -> Result<(), OTelSdkError>) -> OTelSdkResult {
        self.exporters.values().map(act).fold(Ok(()), Result::and)
    }
}
