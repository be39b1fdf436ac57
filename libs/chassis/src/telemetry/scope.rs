//! On whose behalf a thread works: the role, the trace, and the span if one is recorded.
//!
//! A [`Scope`] is a few words that are cheap to clone; it is current while something wrapped in it is polled. Log lines take
//! role and trace from it, calls to other processes their trace context. Most requests are not recorded: for them a span is
//! nothing at all, and its attributes are never made.

use std::borrow::Cow;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures::Stream;
use pin_project_lite::pin_project;
use tracing::Metadata;
use tracing::subscriber::Interest;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;

use super::export::Sink;
use super::span::{Above, Attributes, Draft, Recorded};
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
    live: Option<Live>,
}

/// What is recorded.
#[derive(Debug, Clone)]
enum Live {
    /// In another process, where the span is.
    Above,
    /// The span ends with the last clone.
    Here(Arc<Recorded>),
}

/// What records spans in this process, and which. Found through the subscriber, so that tests have their own.
#[derive(Debug, Clone)]
pub(super) struct Tracer {
    sink: Arc<Sink>,
    /// Share of the requests that is recorded, as a bound on a draw.
    bound: u64,
    content: bool,
}

/// It also decides whether a span of a library is made at all. Filters of single layers cannot: a span that all of them refuse is
/// made for nobody, and costs nearly as much as one that is recorded.
impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Tracer {
    fn register_callsite(&self, meta: &'static Metadata<'static>) -> Interest {
        match (meta.is_span(), is_for_spans(meta)) {
            (false, _) => Interest::always(),
            (true, false) => Interest::never(),
            (true, true) => Interest::sometimes(),
        }
    }

    fn enabled(&self, meta: &Metadata<'_>, _: Context<'_, S>) -> bool {
        !meta.is_span() || (is_current_recorded() && is_for_spans(meta))
    }

    /// Which events there are is for others to say.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::OFF)
    }
}

/// Crates whose own spans say nothing about a request.
const TOO_DEEP: [&str; 5] = ["h2", "hyper", "hyper_util", "tonic", "tower"];

/// Whether it is a span that says something about a request.
pub(super) fn is_for_spans(meta: &Metadata<'_>) -> bool {
    let root = meta.target().split("::").next().unwrap_or_default();
    meta.is_span() && *meta.level() <= tracing::Level::INFO && !TOO_DEEP.contains(&root)
}

impl Tracer {
    pub(super) fn new(sink: Arc<Sink>, sample: f64, content: bool) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it saturates, which is right"
        )]
        let bound = if sample >= 1.0 { u64::MAX } else { (sample * u64::MAX as f64) as u64 };
        Self { sink, bound, content }
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
fn is_current_recorded() -> bool {
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
        Self::record(
            tracer.sink.clone(),
            role,
            side,
            name(),
            parent.as_ref().map(|parent| (parent, true)),
            link,
        )
    }

    /// A request from another process of the mesh, in the trace it came with; it records if its caller does.
    #[must_use]
    pub fn of_caller(role: &'static str, trace: Option<Trace>) -> Self {
        let Some(trace) = trace else { return Self { role, trace: Some(Trace::fresh()), live: None } };
        let recorded = trace.is_sampled() && is_exporting();
        Self { role, trace: Some(trace), live: recorded.then_some(Live::Above) }
    }

    /// A hop of the same request. Records a span if this one is recorded.
    #[must_use]
    pub fn child(&self, role: &'static str, side: Side, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        let recorded = self.sink().map(|sink| Self::record(sink, role, side, name(), self.above(), None));
        recorded.unwrap_or_else(|| Self { role, ..self.clone() })
    }

    /// The same for a hop that another process goes on with if this one is lost, without having been told of it: `key` is what both
    /// know. The span of whoever is first has an id that is made of the key; the others' are linked to that.
    #[must_use]
    pub fn child_of_key(
        &self,
        role: &'static str,
        side: Side,
        (key, is_first): (&str, bool),
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Self {
        let Some(sink) = self.sink() else { return Self { role, ..self.clone() } };
        let mut draft = Self::draft(&sink, role, side, name());
        let first = self.trace.as_ref().map(|above| above.below_as(digest(key)));
        if let (false, Some(first)) = (is_first, &first) {
            draft.link(first);
        }
        Self::of_draft(role, sink, draft, self.above(), first.filter(|_| is_first))
    }

    /// Where spans below this one go, if it is recorded.
    fn sink(&self) -> Option<Arc<Sink>> {
        match self.live.as_ref()? {
            Live::Above => Tracer::with(|tracer| tracer.sink.clone()),
            Live::Here(recorded) => Some(recorded.sink().clone()),
        }
    }

    /// The parent of spans below this one, and whether it is in another process.
    fn above(&self) -> Option<(&Trace, bool)> {
        self.trace.as_ref().map(|trace| (trace, matches!(self.live, Some(Live::Above))))
    }

    fn record(
        sink: Arc<Sink>,
        role: &'static str,
        side: Side,
        name: Cow<'static, str>,
        above: Option<(&Trace, bool)>,
        link: Option<Trace>,
    ) -> Self {
        let mut draft = Self::draft(&sink, role, side, name);
        if let Some(link) = link {
            draft.link(&link);
        }
        Self::of_draft(role, sink, draft, above, None)
    }

    fn draft(sink: &Sink, role: &'static str, side: Side, name: Cow<'static, str>) -> Draft {
        let mut draft = Draft::new(sink.place(role).unwrap_or_default(), name, side);
        draft.written.set(ROLE, role);
        draft
    }

    /// Begins a span, `at` a place that is known or at one of its own.
    fn of_draft(
        role: &'static str,
        sink: Arc<Sink>,
        draft: Draft,
        above: Option<(&Trace, bool)>,
        at: Option<Trace>,
    ) -> Self {
        let trace = at.unwrap_or_else(|| above.map_or_else(Trace::begun, |(trace, _)| trace.below()));
        let above = above.map(|(trace, is_remote)| Above { span: trace.span(), is_remote });
        let live = Live::Here(Arc::new(Recorded::begin(sink, draft, &trace, above)));
        Self { role, trace: Some(trace), live: Some(live) }
    }

    /// A span below this one that somebody else describes, who is told which service a role is.
    pub(super) fn joined(
        &self,
        name: &'static str,
        describe: impl FnOnce(&mut Draft, &mut dyn FnMut(&str) -> Option<usize>),
    ) -> Option<Self> {
        let sink = self.sink()?;
        let mut draft = Draft::new(sink.place(self.role).unwrap_or_default(), name.into(), Side::Internal);
        describe(&mut draft, &mut |role| sink.place(role));
        Some(Self::of_draft(self.role, sink.clone(), draft, self.above(), None))
    }

    /// Adds to the span, if it is recorded here and has not ended.
    pub(super) fn change(&self, change: impl FnOnce(&mut Draft)) {
        if let Some(Live::Here(recorded)) = &self.live {
            recorded.change(change);
        }
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
        self.change(|draft| attributes(&mut draft.written));
    }

    /// Gives the span the name that it could not have from the beginning.
    pub fn rename(&self, name: impl FnOnce() -> Cow<'static, str>) {
        self.change(|draft| draft.name = name());
    }

    /// Marks the span as failed. `kind` is the low-cardinality `error.type`.
    pub fn fail(&self, kind: impl Into<Cow<'static, str>>, description: &str) {
        self.change(|draft| {
            draft.written.set("error.type", kind.into());
            draft.failed = Some(description.to_owned().into());
        });
    }

    /// Ends the span now, though clones of it may live on.
    pub fn end(&self) {
        if let Some(Live::Here(recorded)) = &self.live {
            recorded.end();
        }
    }

    /// Makes this current until the guard is dropped. Not across an await: see [`Scope::within`].
    #[must_use]
    pub fn enter(self) -> Entered {
        Entered { before: Some(CURRENT.replace(self)) }
    }

    /// A future inside of which this is current.
    pub const fn within<F>(self, inner: F) -> Within<F> {
        Within { inner, scope: self }
    }
}

/// FNV-1a: the same in every process.
fn digest(key: &str) -> u64 {
    key.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Makes the current scope's request another one, for as long as whatever it is in is polled.
pub fn adopt(scope: Scope) {
    CURRENT.set(scope);
}

/// See [`Scope::enter`].
#[derive(Debug)]
pub struct Entered {
    before: Option<Scope>,
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
}

impl<'a> Swapped<'a> {
    fn new(scope: &'a mut Scope) -> Self {
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, scope));
        Self { scope }
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
