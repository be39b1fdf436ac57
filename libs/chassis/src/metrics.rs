//! What a process counts, as OpenMetrics text.
//!
//! One [`Metrics`] for each process, handed to its roles; each role's carries its label. Handles are taken out once, where a
//! role is built: counting touches nothing but the handle. What has several labels and is counted for each call stands in a
//! [`Grid`], by position. Labels come from closed sets; names of things are labels only if the mesh itself knows them
//! ([`Names`]), so that nobody outside can make series.

mod grid;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::registry::Registry;

pub use self::grid::{Axis, Grid, Named, Names};

/// The media type of [`Metrics::text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of durations in seconds, as the OpenTelemetry conventions for MCP advise.
pub const SECONDS: &[f64] = &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Upper bounds of the life of a session in seconds.
pub const LIVES: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 86_400.0];

type Labels = Vec<(&'static str, Cow<'static, str>)>;
type Histograms = Family<Labels, Histogram, Bounds>;

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
    /// On everything that is made of this one.
    fixed: Labels,
}

#[derive(Default)]
struct Inner {
    registry: Mutex<Registry>,
    families: Mutex<BTreeMap<&'static str, Made>>,
    probes: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

enum Made {
    Counters(Family<Labels, Counter>),
    Gauges(Family<Labels, Gauge>),
    Histograms(Histograms),
}

#[derive(Clone, Copy)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

impl Metrics {
    /// The same, with `role` on everything that is made of it.
    #[must_use]
    pub fn of_role(&self, role: &'static str) -> Self {
        let fixed = self.fixed.iter().filter(|(name, _)| *name != "role").cloned();
        let fixed = fixed.chain([("role", Cow::Borrowed(role))]).collect();
        Self { inner: self.inner.clone(), fixed }
    }

    /// A count that only rises; its name is shown with `_total` behind it.
    #[must_use]
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
    ) -> Counter {
        let mut families = lock(&self.inner.families);
        let made = families.entry(name).or_insert_with(|| {
            let family = Family::<Labels, Counter>::default();
            lock(&self.inner.registry).register(name, help, family.clone());
            Made::Counters(family)
        });
        match made {
            Made::Counters(family) => family.get_or_create_owned(&self.labels(labels)),
            Made::Gauges(_) | Made::Histograms(_) => Counter::default(),
        }
    }

    /// A number that rises and falls.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        let mut families = lock(&self.inner.families);
        let made = families.entry(name).or_insert_with(|| {
            let family = Family::<Labels, Gauge>::default();
            lock(&self.inner.registry).register(name, help, family.clone());
            Made::Gauges(family)
        });
        match made {
            Made::Gauges(family) => family.get_or_create_owned(&self.labels(labels)),
            Made::Counters(_) | Made::Histograms(_) => Gauge::default(),
        }
    }

    /// Such a number is no longer shown: what it was about is gone.
    pub fn forget_gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) {
        if let Some(Made::Gauges(family)) = lock(&self.inner.families).get(name) {
            family.remove(&self.labels(labels));
        }
    }

    /// How values are spread; the bounds are those of whoever asks first.
    #[must_use]
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        labels: &[(&'static str, &str)],
    ) -> Histogram {
        let mut families = lock(&self.inner.families);
        let made = families.entry(name).or_insert_with(|| {
            let family = Histograms::new_with_constructor(Bounds(bounds));
            lock(&self.inner.registry).register(name, help, family.clone());
            Made::Histograms(family)
        });
        match made {
            Made::Histograms(family) => family.get_or_create_owned(&self.labels(labels)),
            Made::Counters(_) | Made::Gauges(_) => Bounds(bounds).new_metric(),
        }
    }

    /// Something to do before the metrics are read, for what is cheaper to look up than to follow.
    pub fn probe(&self, look: impl Fn() + Send + Sync + 'static) {
        lock(&self.inner.probes).push(Box::new(look));
    }

    /// Everything, as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        lock(&self.inner.probes).iter().for_each(|look| look());
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _written =
            prometheus_client::encoding::text::encode(&mut text, &lock(&self.inner.registry)).is_ok();
        text
    }

    /// An empty value is no label.
    fn labels(&self, labels: &[(&'static str, &str)]) -> Labels {
        let given = labels.iter().filter(|(_, value)| !value.is_empty());
        let given = given.map(|(name, value)| (*name, Cow::Owned((*value).to_owned())));
        self.fixed.iter().cloned().chain(given).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("families", &lock(&self.inner.families).keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_share_a_family_and_differ_in_a_label() {
        let metrics = Metrics::default();
        metrics.of_role("gateway").counter("calls", "Calls", &[("how", "well")]).inc();
        metrics.of_role("session").counter("calls", "Calls", &[("how", "")]).inc_by(2);
        let text = metrics.text();
        assert_eq!(text.matches("# TYPE calls counter").count(), 1, "{text}");
        assert!(text.contains("calls_total{role=\"gateway\",how=\"well\"} 1\n"), "{text}");
        assert!(text.contains("calls_total{role=\"session\"} 2\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_handle_taken_twice_is_the_same() {
        let metrics = Metrics::default();
        let (first, second) = (metrics.gauge("open", "Open", &[]), metrics.gauge("open", "Open", &[]));
        first.inc();
        assert_eq!(second.get(), 1);
    }

    #[test]
    fn probes_look_when_metrics_are_read() {
        let metrics = Metrics::default();
        let gauge = metrics.gauge("seen", "Seen", &[]);
        metrics.probe(move || _ = gauge.inc());
        assert!(metrics.text().contains("seen{} 1\n"), "{}", metrics.text());
        assert!(metrics.text().contains("seen{} 2\n"));
    }

    #[test]
    fn a_hostile_label_breaks_no_line() {
        let metrics = Metrics::default();
        metrics.counter("odd", "Odd", &[("name", "a\"}\n# evil \\")]).inc();
        let text = metrics.text();
        assert!(text.contains(r#"odd_total{name="a\"}\n# evil \\"} 1"#), "{text}");
    }
}
