//! One span that is recorded, from its beginning to where it is handed over to be sent.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use super::export::Sink;
use super::trace::Trace;
use super::{Side, wire};
use crate::clock;

/// What a span with a dozen attributes takes.
const USUAL: usize = 640;

/// Attributes of a span.
#[derive(Debug)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// One more.
    pub fn set(&mut self, name: &'static str, value: impl wire::Value) -> &mut Self {
        self.put(name, value.any());
        self
    }

    pub(super) fn put(&mut self, name: &str, value: wire::Any<'_>) {
        wire::attribute(&mut self.0, 9, name, value);
    }
}

/// What is known of a span that has not ended.
#[derive(Debug)]
pub(super) struct Draft {
    /// Its service.
    pub(super) role: usize,
    pub(super) name: Cow<'static, str>,
    pub(super) side: Side,
    pub(super) failed: Option<Cow<'static, str>>,
    /// Everything else, as it is sent.
    pub(super) written: Attributes,
}

impl Draft {
    pub(super) fn new(role: usize, name: Cow<'static, str>, side: Side) -> Self {
        Self { role, name, side, failed: None, written: Attributes(Vec::with_capacity(USUAL)) }
    }

    /// Another context that it belongs to.
    pub(super) fn link(&mut self, other: &Trace) {
        let (id, span, state) = (other.id_bytes(), other.span_bytes(), other.state());
        let state_size = if state.is_empty() { 0 } else { wire::field(state.len()) };
        let to = &mut self.written.0;
        // The flags are a field of five bytes.
        wire::open(to, 13, wire::field(id.len()) + wire::field(span.len()) + state_size + 5);
        wire::bytes(to, 1, &id);
        wire::bytes(to, 2, &span);
        if !state.is_empty() {
            wire::bytes(to, 3, state.as_bytes());
        }
        wire::fixed32(to, 6, flags(other.is_sampled(), true));
    }

    /// Writes the context it stands in, and when it began.
    fn begin(&mut self, trace: &Trace, above: Option<Above>) {
        let to = &mut self.written.0;
        wire::bytes(to, 1, &trace.id_bytes());
        wire::bytes(to, 2, &trace.span_bytes());
        if !trace.state().is_empty() {
            wire::bytes(to, 3, trace.state().as_bytes());
        }
        if let Some(above) = above {
            wire::bytes(to, 4, &above.span.to_be_bytes());
        }
        wire::fixed64(to, 7, clock::unix_nanos());
        wire::fixed32(to, 16, flags(true, above.is_some_and(|above| above.is_remote)));
    }

    /// Writes what could change until now, and when it ended.
    fn end(&mut self) {
        let to = &mut self.written.0;
        wire::bytes(to, 5, self.name.as_bytes());
        let kind = match self.side {
            Side::Internal => 1,
            Side::Server => 2,
            Side::Client => 3,
        };
        wire::number(to, 6, kind);
        wire::fixed64(to, 8, clock::unix_nanos());
        if let Some(description) = &self.failed {
            wire::open(to, 15, wire::field(description.len()) + 2);
            wire::bytes(to, 2, description.as_bytes());
            wire::number(to, 3, 2);
        }
    }
}

/// Those of the trace, and that it is known whether the parent is in another process.
fn flags(is_sampled: bool, is_remote: bool) -> u32 {
    u32::from(is_sampled) | 0x100 | if is_remote { 0x200 } else { 0 }
}

/// The span that another one is part of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Above {
    pub(super) span: u64,
    pub(super) is_remote: bool,
}

/// See the module. It ends when it is dropped, if it has not before.
#[derive(Debug)]
pub(super) struct Recorded {
    sink: Arc<Sink>,
    /// Nothing once it has ended.
    draft: Mutex<Option<Draft>>,
}

impl Recorded {
    pub(super) fn begin(sink: Arc<Sink>, mut draft: Draft, trace: &Trace, above: Option<Above>) -> Self {
        draft.begin(trace, above);
        Self { sink, draft: Mutex::new(Some(draft)) }
    }

    pub(super) const fn sink(&self) -> &Arc<Sink> {
        &self.sink
    }

    /// Adds to it, unless it has ended.
    pub(super) fn change(&self, change: impl FnOnce(&mut Draft)) {
        if let Some(draft) = &mut *self.draft.lock().unwrap_or_else(PoisonError::into_inner) {
            change(draft);
        }
    }

    pub(super) fn end(&self) {
        let ended = self.draft.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut draft) = ended {
            draft.end();
            self.sink.put(draft.role, &draft.written.0);
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.end();
    }
}
