//! The span of a handler: what it is asked for, and how that went. Only `tracing`, so that any process can show it.

use api::registry::{FrameBody, Operation};
use mcp::telemetry::{Failure, Outcome, attribute, bare_uri};
use mcp::{Method, Revision};
use tracing::Span;
use tracing::field::Empty;

const fn method(operation: Operation) -> Method {
    match operation {
        Operation::Call => Method::ToolsCall,
        Operation::Read => Method::ResourcesRead,
        Operation::Get => Method::PromptsGet,
    }
}

/// Opens it; its parent is the caller's. A URI is no part of its name: there are too many of them.
pub(crate) fn open(operation: Operation, target: &str, registry: &str, revision: Revision) -> Span {
    let method = method(operation).as_str();
    // What only one of them has is said at once: recording it later costs more than the span.
    macro_rules! span {
        ($role:literal, $name:expr, $($own:tt)*) => {
            tracing::info_span!(
                "hop",
                trunkline.role = $role,
                otel.kind = "server",
                otel.name = $name,
                otel.status_code = Empty,
                otel.status_description = Empty,
                { attribute::METHOD } = method,
                { attribute::PROTOCOL_VERSION } = revision.as_str(),
                { attribute::REGISTRY } = registry,
                { attribute::ERROR_TYPE } = Empty,
                { attribute::RESPONSE_STATUS } = Empty,
                $($own)*
            )
        };
    }
    match operation {
        Operation::Call => span!(
            "tool-registry",
            tracing::field::display(format_args!("{method} {target}")),
            { attribute::OPERATION } = attribute::EXECUTE_TOOL,
            { attribute::TOOL } = target
        ),
        Operation::Get => {
            span!(
                "prompt-registry",
                tracing::field::display(format_args!("{method} {target}")),
                { attribute::PROMPT } = target
            )
        }
        Operation::Read => {
            span!("resource-registry", method, { attribute::RESOURCE_URI } = bare_uri(target))
        }
    }
}

/// Says how it ended. A caller's mistake is no failure of whoever serves it.
pub(crate) fn close(span: Span, operation: Operation, ending: &FrameBody) {
    if span.is_disabled() {
        return;
    }
    let outcome = match ending {
        FrameBody::Result(result) => Outcome::of_result(Some(method(operation)), result.as_str()),
        FrameBody::Error(error) => {
            let reason = error.data.as_ref().and_then(|data| data.text("reason"));
            Outcome::of_code(Some(error.code), reason.as_deref())
        }
        FrameBody::Accepted { .. }
        | FrameBody::Progress(_)
        | FrameBody::Log(_)
        | FrameBody::Notice { .. }
        | FrameBody::Detach { .. }
        | FrameBody::InputRequired(_)
        | FrameBody::Task(_) => Outcome::OK,
    };
    if let Some(code) = outcome.code {
        span.record(attribute::RESPONSE_STATUS, code.to_string());
    }
    if let Some(failure) = outcome.failure.filter(|failure| !failure.is_the_callers()) {
        match (failure, outcome.code) {
            (Failure::OtherCode, Some(code)) => span.record(attribute::ERROR_TYPE, code.to_string()),
            (failure, _) => span.record(attribute::ERROR_TYPE, failure.as_str()),
        };
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", failure.description());
    }
}
