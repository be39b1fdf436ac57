//! Spans of libraries that only know `tracing`: they join the trace of the scope they are opened in.
//!
//! `otel.name`, `otel.kind`, `otel.status_code` and `otel.status_description` mean what they do elsewhere; all other fields
//! are attributes.

use std::error::Error;
use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::scope::Scope;
use super::span::Draft;
use super::wire::Any;
use super::{ROLE, Side};

/// See the module.
#[derive(Debug)]
pub(super) struct Joined;

impl<S> Layer<S> for Joined
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let above = match attributes.parent() {
            Some(parent) => context.span(parent),
            None => context.lookup_current(),
        };
        let above = above.and_then(|above| above.extensions().get::<Scope>().cloned());
        let above = above.unwrap_or_else(Scope::current);
        let scope = above.joined(attributes.metadata().name(), |draft, role| {
            attributes.record(&mut Fields { draft, role });
        });
        if let Some(scope) = scope {
            span.extensions_mut().insert(scope);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id);
        if let Some(scope) = span.as_ref().and_then(|span| span.extensions().get::<Scope>().cloned()) {
            scope.change(|draft| values.record(&mut Fields { draft, role: &mut |_| None }));
        }
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        let scope_of = |id| context.span(id)?.extensions().get::<Scope>().cloned();
        if let (Some(scope), Some(followed)) = (scope_of(id), scope_of(follows))
            && let Some(trace) = followed.trace()
        {
            scope.change(|draft| draft.link(trace));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let scope = context.span(&id).and_then(|span| span.extensions_mut().remove::<Scope>());
        if let Some(scope) = scope {
            scope.end();
        }
    }
}

/// Takes the fields of a span over.
struct Fields<'a> {
    draft: &'a mut Draft,
    /// Finds the service of a role.
    role: &'a mut dyn FnMut(&str) -> Option<usize>,
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "otel.name" => self.draft.name = value.to_owned().into(),
            "otel.kind" => {
                self.draft.side = match value {
                    "server" => Side::Server,
                    "client" => Side::Client,
                    _ => Side::Internal,
                }
            }
            "otel.status_code" if value.eq_ignore_ascii_case("error") => {
                self.draft.failed.get_or_insert_default();
            }
            "otel.status_code" => {}
            "otel.status_description" => self.draft.failed = Some(value.to_owned().into()),
            name => {
                if name == ROLE {
                    self.draft.role = (self.role)(value).unwrap_or(self.draft.role);
                }
                self.draft.written.put(name, Any::Text(value));
            }
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.draft.written.put(field.name(), Any::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.record_i64(field, value),
            Err(_too_large) => self.record_str(field, &value.to_string()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.draft.written.put(field.name(), Any::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.draft.written.put(field.name(), Any::Bool(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.record_str(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a string does not fail; what formats itself may, and is told as far as it came.
        _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}
