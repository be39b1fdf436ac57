//! From a machine's wish for a call to the stream that serves it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::registry::{Context, Operation, Round, Start};
use api::{Epoch, Principal, SessionId, Slot};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use machines::{CallContext, CallFrame, CallId, Millis};
use mcp::edit::ObjectEditor;
use mcp::rpc::RpcError;
use mcp::{Json, Method, Revision, code, edit, scan};
use sha2::{Digest as _, Sha256};

use crate::observe::Asking;
use crate::registries::call::{self, Call, Heard};
use crate::registries::{Registries, Route};

/// On whose behalf calls are made.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) mesh: Arc<str>,
    pub(crate) owner: Option<(Slot, Epoch)>,
    pub(crate) principal: Principal,
    pub(crate) affinity: String,
}

/// How a call is served.
pub(crate) enum Opened {
    /// Answered from memory.
    Now(CallFrame),
    /// One answer, later.
    Once(BoxFuture<'static, CallFrame>),
    /// Frames.
    Frames(Arc<Call>, BoxStream<'static, Heard>),
}

/// What a machine asks for.
pub(crate) struct Wish<'a> {
    pub(crate) method: Method,
    pub(crate) params: &'a Json,
    pub(crate) context: &'a CallContext,
    pub(crate) deadline: Option<Instant>,
    /// Answers that came with the request itself.
    pub(crate) brought: Option<Round>,
    /// Name of the invocation; `None` if there is no need to know it again.
    pub(crate) invocation: Option<String>,
    /// What it names and who serves that, where it was looked up already.
    pub(crate) found: Option<Found>,
}

/// What a request names, and who serves that.
pub(crate) struct Found {
    pub(crate) target: String,
    pub(crate) route: Route,
}

/// Looks up what a request names.
pub(crate) fn find(
    registries: &Arc<Registries>,
    operation: Operation,
    params: &Json,
    modern: bool,
) -> Result<Found, RpcError> {
    let target = target(operation, params)?;
    let route = registries.route(operation, &target, modern)?;
    Ok(Found { target, route })
}

/// Begins what the machine asked for.
pub(crate) fn open(registries: &Arc<Registries>, caller: &Caller, wish: Wish<'_>) -> Opened {
    match wish.method {
        Method::ToolsList | Method::ResourcesList | Method::ResourceTemplatesList | Method::PromptsList => {
            Opened::Now(outcome(registries.list(wish.method, Some(wish.params))))
        }
        Method::Complete => complete(registries, caller, &wish),
        Method::ToolsCall => start(registries, caller, Operation::Call, wish),
        Method::ResourcesRead => start(registries, caller, Operation::Read, wish),
        Method::PromptsGet => start(registries, caller, Operation::Get, wish),
        Method::Initialize
        | Method::Ping
        | Method::Discover
        | Method::ResourcesSubscribe
        | Method::ResourcesUnsubscribe
        | Method::Listen
        | Method::SetLevel => {
            Opened::Now(CallFrame::Error(RpcError::new(code::METHOD_NOT_FOUND, "Method not found")))
        }
    }
}

/// The operation of a method that is answered with frames.
pub(crate) const fn operation(method: Method) -> Option<Operation> {
    match method {
        Method::ToolsCall => Some(Operation::Call),
        Method::ResourcesRead => Some(Operation::Read),
        Method::PromptsGet => Some(Operation::Get),
        Method::Initialize
        | Method::Ping
        | Method::Discover
        | Method::ToolsList
        | Method::ResourcesList
        | Method::ResourceTemplatesList
        | Method::ResourcesSubscribe
        | Method::ResourcesUnsubscribe
        | Method::Listen
        | Method::PromptsList
        | Method::Complete
        | Method::SetLevel => None,
    }
}

/// What a request names: `params.name` or `params.uri`.
pub(crate) fn target(operation: Operation, params: &Json) -> Result<String, RpcError> {
    let member = match operation {
        Operation::Call | Operation::Get => "name",
        Operation::Read => "uri",
    };
    params
        .text(member)
        .ok_or_else(|| RpcError::new(code::INVALID_PARAMS, format!("`{member}` must be a string")))
}

fn start(registries: &Arc<Registries>, caller: &Caller, operation: Operation, mut wish: Wish<'_>) -> Opened {
    let modern = wish.context.revision >= Revision::V2026_07_28;
    let found = match wish.found.take() {
        Some(found) => Ok(found),
        None => find(registries, operation, wish.params, modern),
    };
    let Found { target: name, route } = match found {
        Ok(found) => found,
        Err(error) => return Opened::Now(CallFrame::Error(error)),
    };
    // A read by template names the URI, not the template.
    let target = if operation == Operation::Read { name } else { route.entry.own.clone() };
    let invocation = wish.invocation.take().or_else(new_invocation);
    let begin = Start { operation, target, params: wish.params.clone(), continuation: wish.brought };
    let registry = &route.entry.source.registry;
    let Some(context) =
        invocation.map(|i| registry_context(caller, registry, wish.context, wish.deadline, i))
    else {
        return Opened::Now(CallFrame::Lost { reason: "no_randomness", not_executed: true });
    };
    let call = Call::new(registries.observed(), route, begin, context);
    let frames = call.clone().begin();
    Opened::Frames(call, frames)
}

fn complete(registries: &Arc<Registries>, caller: &Caller, wish: &Wish<'_>) -> Opened {
    let params = wish.params;
    let route = match registries.route_completion(params) {
        Ok(route) => route,
        Err(error) => return Opened::Now(CallFrame::Error(error)),
    };
    let registry = &route.entry.source.registry;
    let Some(context) =
        new_invocation().map(|i| registry_context(caller, registry, wish.context, wish.deadline, i))
    else {
        return Opened::Now(CallFrame::Lost { reason: "no_randomness", not_executed: true });
    };
    let own = with_own_name(params, &route.entry.own);
    let revision = wish.context.revision;
    let mut asking =
        Asking::begin(registries.observed(), &route, Method::Complete, &route.entry.own, revision);
    let scope = asking.scope();
    let answer = async move {
        let asked = route.ask(&context, |registry| {
            let (context, own) = (context.clone(), own.clone());
            async move { registry.complete(context, own).await }
        });
        let frame = match asked.await {
            Ok(answer) => outcome(answer),
            Err(error) if error.code == api::Code::Unimplemented => outcome(Ok(no_completions())),
            Err(error) => call::lost(&error),
        };
        asking.heard(&frame);
        frame
    };
    Opened::Once(scope.within(answer).boxed())
}

fn outcome(answer: Result<Json, RpcError>) -> CallFrame {
    match answer {
        Ok(result) => CallFrame::Result(result),
        Err(error) => CallFrame::Error(error),
    }
}

fn no_completions() -> Json {
    Json::trusted(r#"{"completion":{"values":[],"total":0,"hasMore":false}}"#)
}

/// Puts the registry's own name into `ref`.
fn with_own_name(params: &Json, own: &str) -> Json {
    let Some(reference) = scan::member(params.as_str(), "ref") else { return params.clone() };
    if scan::member(reference, "name").and_then(scan::string).is_none_or(|name| name == own) {
        return params.clone();
    }
    let renamed = ObjectEditor::new(reference).set("name", edit::quote(own)).finish();
    ObjectEditor::new(params.as_str()).set("ref", renamed).finish_json()
}

/// What a registry is told.
pub(crate) fn registry_context(
    caller: &Caller,
    registry: &str,
    context: &CallContext,
    deadline: Option<Instant>,
    invocation: String,
) -> Context {
    Context {
        mesh: caller.mesh.to_string(),
        registry: registry.to_owned(),
        invocation,
        owner: caller.owner,
        principal: caller.principal.clone(),
        affinity: caller.affinity.clone(),
        revision: context.revision,
        client_capabilities: context.client_capabilities.clone(),
        log_level: context.log_level,
        progress: context.progress,
        catalogue_digest: String::new(),
        deadline,
    }
}

/// The invocation of a session's call. Every owner of the session finds the same name, and nobody else does: it is made of the
/// session's id, which registries do not learn.
pub(crate) fn invocation_of(session: &SessionId, epoch: u64, call: CallId, generation: u32) -> String {
    let mut name = Sha256::new_with_prefix(session.as_str());
    for number in [epoch, call.0, u64::from(generation)] {
        name.update([0]);
        name.update(itoa::Buffer::new().format(number));
    }
    text(&name.finalize()[..16])
}

/// A fresh invocation id; `None` if the operating system has no random bytes to give.
pub(crate) fn new_invocation() -> Option<String> {
    let random: [u8; 16] = chassis::clock::random().ok()?;
    Some(text(&random))
}

fn text(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A machine's moment as one of the runtime's clock.
pub(crate) fn instant(moment: Millis) -> Instant {
    Instant::now() + Duration::from_millis(moment.saturating_sub(chassis::clock::dated_millis()))
}

#[cfg(test)]
mod tests {
    use api::KeyRing;

    use super::*;

    /// Every version of a mesh has to make the same name of the same call.
    #[test]
    fn the_name_of_an_invocation_stays_what_it_was() {
        let keys = KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef");
        let session = SessionId::mint(&keys, Slot::new(7).unwrap(), [3; 16]);
        let numbers = [(0, 0, 0), (1, 9, 10), (12_345, 100, 99), (u64::MAX, u64::MAX, u32::MAX)];
        for (epoch, call, generation) in numbers {
            let parts =
                [session.as_str().to_owned(), epoch.to_string(), call.to_string(), generation.to_string()];
            let expected = text(&Sha256::digest(parts.join("\0"))[..16]);
            assert_eq!(invocation_of(&session, epoch, CallId(call), generation), expected);
        }
    }
}
