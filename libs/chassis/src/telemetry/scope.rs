//! On whose behalf a thread works: the role, the trace, and the span if one is recorded.
//!
//! A [`Scope`] is a few words that are cheap to clone; it is current while something wrapped in it is polled. Log lines take
//! role and trace from it, calls to other processes their trace context. Most requests are not recorded: for them a span is
//! nothing at all, and its attributes are never made.

use std::borrow::Cow;
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use futures::Stream;
use opentelemetry::trace::{Link, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, ContextGuard, KeyValue, Value};
use opentelemetry_sdk::trace::SdkTracer;
use pin_project_lite::pin_project;

use super::trace::{Trace, draw};
use super::{ROLE, Side};
use crate::metrics::Metrics;

thread_local! {
    static CURRENT: RefCell<Scope> = const { RefCell::new(Scope { role: "", trace: None, live: None }) };
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    role: &'static str,
    trace: Option<Trace>,
    /// Holds the span that is recorded, which ends with the last clone.
    live: Option<Context>,
}

/// What records spans in this process, and which. Found through the subscriber, so that tests have their own.
#[derive(Debug, Clone)]
pub(super) struct Tracer {
    sdk: SdkTracer,
    /// Share of the requests that is recorded, as a bound on a draw.
    bound: u64,
    content: bool,
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Tracer {}

impl Tracer {
    pub(super) fn new(sdk: SdkTracer, sample: f64, content: bool) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it saturates, which is right"
        )]
        let bound = if sample >= 1.0 { u64::MAX } else { (sample * u64::MAX as f64) as u64 };
        Self { sdk, bound, content }
    }

    /// Does something with that of this process, if there is one.
    fn with<T>(act: impl FnOnce(&Self) -> T) -> Option<T> {
        let mut act = Some(act);
        tracing::dispatcher::get_default(|dispatch| {
            let tracer = dispatch.downcast_ref::<Self>()?;
            act.take().map(|act| act(tracer))
        })
    }

    /// The draw is ours: whoever chooses a trace id must not choose what is recorded.
    fn wants(&self) -> bool {
        self.bound == u64::MAX || draw() < self.bound
    }
}

/// The metrics of this process, found in the same way by what is too deep down to be handed them.
pub(super) struct Counts(pub(super) Metrics);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Counts {}

/// The metrics of this process, if it has any.
pub(crate) fn process_metrics() -> Option<Metrics> {
    tracing::dispatcher::get_default(|dispatch| {
        dispatch.downcast_ref::<Counts>().map(|counts| counts.0.clone())
    })
}

/// Whether the work under way on this thread is recorded.
pub(super) fn is_current_recorded() -> bool {
    CURRENT.with_borrow(Scope::is_recorded)
}

/// Whether anything is recorded at all.
#[must_use]
pub fn is_exporting() -> bool {
    Tracer::with(|_| ()).is_some()
}

/// Whether arguments and results may be recorded.
#[must_use]
pub fn records_content() -> bool {
    Tracer::with(|tracer| tracer.content).unwrap_or_default()
}

/// What a request from outside says about its trace.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Its parent.
    pub parent: Option<Trace>,
    /// Another context it came in, which is no parent.
    pub link: Option<Trace>,
}

impl Scope {
    /// That of the work under way on this thread.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Work of a role that is no request.
    #[must_use]
    pub const fn of_role(role: &'static str) -> Self {
        Self { role, trace: None, live: None }
    }

    /// A request from outside, at the edge. Records a span where the draw says so, unless the caller does not record: a
    /// sampled flag from outside never raises the rate.
    #[must_use]
    ///
    /// What the request says is looked for only if it may be recorded; else the current trace goes on.
    pub fn of_origin(
        role: &'static str,
        side: Side,
        origin: impl FnOnce() -> Origin,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Self {
        let recorded = Tracer::with(|tracer| {
            tracer.wants().then(|| Self::of_wanted(tracer, role, side, origin(), name))
        });
        recorded.flatten().unwrap_or_else(|| {
            let trace = Self::current().trace.map(Trace::unsampled);
            Self { role, trace: Some(trace.unwrap_or_else(Trace::fresh)), live: None }
        })
    }

    fn of_wanted(
        tracer: &Tracer,
        role: &'static str,
        side: Side,
        origin: Origin,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Self {
        let Origin { parent, link } = origin;
        if let Some(parent) = parent.clone().filter(|parent| !parent.is_sampled()) {
            return Self { role, trace: Some(parent), live: None };
        }
        let above = match &parent {
            Some(parent) => Context::new().with_remote_span_context(parent.context()),
            None => Context::new(),
        };
        let links = link.map(|link| vec![Link::new(link.context(), Vec::new(), 0)]);
        let state = parent.as_ref().and_then(Trace::shared_state);
        Self::record(tracer, role, side, name(), links, &above, state)
    }

    /// A request from another process of the mesh, in the trace it came with; it records if its caller does.
    #[must_use]
    pub fn of_caller(role: &'static str, trace: Option<Trace>) -> Self {
        let Some(trace) = trace else { return Self { role, trace: Some(Trace::fresh()), live: None } };
        let recorded = trace.is_sampled() && is_exporting();
        let live = recorded.then(|| Context::new().with_remote_span_context(trace.context()));
        Self { role, trace: Some(trace), live }
    }

    /// A hop of the same request. Records a span if this one is recorded.
    #[must_use]
    pub fn child(&self, role: &'static str, side: Side, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        let recorded = self.live.as_ref().and_then(|above| {
            let state = self.trace.as_ref().and_then(Trace::shared_state);
            Tracer::with(|tracer| Self::record(tracer, role, side, name(), None, above, state))
        });
        recorded.unwrap_or_else(|| Self { role, ..self.clone() })
    }

    fn record(
        tracer: &Tracer,
        role: &'static str,
        side: Side,
        name: Cow<'static, str>,
        links: Option<Vec<Link>>,
        above: &Context,
        state: Option<std::sync::Arc<str>>,
    ) -> Self {
        let kind = match side {
            Side::Server => SpanKind::Server,
            Side::Client => SpanKind::Client,
            Side::Internal => SpanKind::Internal,
        };
        let mut attributes = Vec::with_capacity(24);
        attributes.push(KeyValue::new(ROLE, role));
        let builder = SpanBuilder {
            span_kind: Some(kind),
            attributes: Some(attributes),
            links,
            ..SpanBuilder::from_name(name)
        };
        let span = tracer.sdk.build_with_context(builder, above);
        let live = above.with_span(span);
        let trace = Trace::of(live.span().span_context(), state);
        Self { role, trace: Some(trace), live: Some(live) }
    }

    /// The same trace in another role.
    #[must_use]
    pub fn in_role(self, role: &'static str) -> Self {
        Self { role, ..self }
    }

    /// The role; empty where none is known.
    #[must_use]
    pub const fn role(&self) -> &'static str {
        self.role
    }

    /// Where it stands in its trace; `None` for what is no request.
    #[must_use]
    pub const fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// Whether attributes are worth making.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.live.is_some()
    }

    /// Adds attributes, if it is recorded. Names are constants of whoever owns the convention.
    pub fn describe(&self, attributes: impl FnOnce(&mut Attributes)) {
        let Some(live) = &self.live else { return };
        let mut all = Attributes(Vec::with_capacity(16));
        attributes(&mut all);
        live.span().set_attributes(all.0);
    }

    /// Gives the span the name that it could not have from the beginning.
    pub fn rename(&self, name: impl FnOnce() -> Cow<'static, str>) {
        if let Some(live) = &self.live {
            live.span().update_name(name());
        }
    }

    /// Marks the span as failed. `kind` is the low-cardinality `error.type`.
    pub fn fail(&self, kind: impl Into<Cow<'static, str>>, description: &str) {
        if let Some(live) = &self.live {
            live.span().set_attribute(KeyValue::new("error.type", kind.into()));
            live.span().set_status(Status::error(description.to_owned()));
        }
    }

    /// Ends the span now, though clones of it may live on.
    pub fn end(&self) {
        if let Some(live) = &self.live {
            live.span().end();
        }
    }

    /// Makes this current until the guard is dropped. Not across an await: see [`Scope::within`].
    #[must_use]
    pub fn enter(self) -> Entered {
        let attached = self.live.clone().map(Context::attach);
        Entered { before: Some(CURRENT.replace(self)), _attached: attached }
    }

    /// A future inside of which this is current.
    pub const fn within<F>(self, inner: F) -> Within<F> {
        Within { inner, scope: self }
    }
}

/// Makes the current scope's request another one, for as long as whatever it is in is polled.
pub fn adopt(scope: Scope) {
    CURRENT.set(scope);
}

/// Attributes of a span.
#[derive(Debug)]
pub struct Attributes(Vec<KeyValue>);

impl Attributes {
    /// One more.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) -> &mut Self {
        self.0.push(KeyValue::new(name, value));
        self
    }
}

/// See [`Scope::enter`].
#[derive(Debug)]
pub struct Entered {
    before: Option<Scope>,
    _attached: Option<ContextGuard>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            CURRENT.set(before);
        }
    }
}

pin_project! {
    /// See [`Scope::within`].
    #[derive(Debug)]
    pub struct Within<T> {
        #[pin]
        inner: T,
        scope: Scope,
    }
}

/// Swaps the current scope with that of a [`Within`], and back however the poll ends.
struct Swapped<'a> {
    scope: &'a mut Scope,
    _attached: Option<ContextGuard>,
}

impl<'a> Swapped<'a> {
    fn new(scope: &'a mut Scope) -> Self {
        let _attached = scope.live.clone().map(Context::attach);
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, scope));
        Self { scope, _attached }
    }
}

impl Drop for Swapped<'_> {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, self.scope));
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _swapped = Swapped::new(this.scope);
        this.inner.poll(cx)
    }
}

impl<S: Stream> Stream for Within<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let _swapped = Swapped::new(this.scope);
        this.inner.poll_next(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}
