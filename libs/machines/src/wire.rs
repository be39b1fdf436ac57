//! Text of what is sent to clients, and what is taken out of what they send.

use std::borrow::Cow;

use mcp::edit::ObjectEditor;
use mcp::log::Level;
use mcp::method::{notification, server_request};
use mcp::rpc::{self, Id, RpcError};
use mcp::{Json, Method, Revision, code, content, edit, meta, scan};

use crate::input::ListKind;

/// Whether a call that went wrong has been executed, as far as anybody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    NotExecuted,
    Unknown,
}

/// An internal error with `data.reason` and `data.outcome`.
pub(crate) fn lost(reason: &str, outcome: Outcome) -> RpcError {
    let (message, outcome) = match outcome {
        Outcome::NotExecuted => ("the call was not executed", "not_executed"),
        Outcome::Unknown => ("it is not known whether the call was executed", "unknown"),
    };
    let data = format!("{{\"reason\":{},\"outcome\":\"{outcome}\"}}", edit::quote(reason));
    RpcError::new(code::INTERNAL_ERROR, message).with_data(Json::trusted(data))
}

/// The session is unknown, over, or somebody else's: one text for all of them.
pub(crate) fn session_not_found() -> RpcError {
    RpcError::new(code::INVALID_REQUEST, "Session not found")
}

/// A limit of this client is reached.
pub(crate) fn rate_limited(message: &str) -> RpcError {
    RpcError::reason(message, "rate_limited")
}

/// Params without the progress token and without baggage, and the token in its own form, if it is text or an integer as it has to be. `_meta`
/// goes if nothing is left in it.
pub(crate) fn without_token(params: Option<Json>) -> (Json, Option<Json>) {
    let params = params.unwrap_or_else(Json::empty_object);
    let Some(kept) = params.member(meta::META) else { return (params, None) };
    let token = kept.member(meta::PROGRESS_TOKEN);
    if token.is_none() && scan::member(kept.as_str(), meta::BAGGAGE).is_none() {
        return (params, None);
    }
    let mut inner = ObjectEditor::new(kept.as_str());
    inner.remove(meta::PROGRESS_TOKEN).remove(meta::BAGGAGE);
    let inner = inner.finish();
    let mut outer = ObjectEditor::new(params.as_str());
    if scan::members(&inner).next().is_none() {
        outer.remove(meta::META);
    } else {
        outer.set(meta::META, inner);
    }
    (outer.finish_json(), token.filter(|token| Id::read(token).is_some()))
}

/// A progress notification with the client's token as first member of its params; the value must have risen.
pub(crate) fn progress(params: &Json, token: Option<&Json>, last: &mut Option<f64>) -> Option<Json> {
    let token = token?;
    let value: f64 = scan::member(params.as_str(), "progress")?.parse().ok()?;
    if last.is_some_and(|last| value <= last) {
        return None;
    }
    *last = Some(value);
    let rest = ObjectEditor::new(params.as_str()).remove(meta::PROGRESS_TOKEN).finish();
    let rest = rest.trim_ascii().get(1..)?;
    let comma = if rest.trim_ascii_start().starts_with('}') { "" } else { "," };
    let params = Json::trusted(format!("{{\"{}\":{token}{comma}{rest}", meta::PROGRESS_TOKEN));
    Some(rpc::notification(notification::PROGRESS, Some(&params)))
}

/// A log notification, if it is at or above the level.
pub(crate) fn log(params: &Json, least: Level) -> Option<Json> {
    let level = Level::parse(&scan::string(scan::member(params.as_str(), "level")?)?)?;
    (level >= least).then(|| rpc::notification(notification::MESSAGE, Some(params)))
}

/// Any other notification of a registry about a request. Those that the mesh itself answers for do not pass, nor those a
/// revision does not know, nor what is no notification.
pub(crate) fn notice(method: &str, params: &Json, revision: Revision) -> Option<Json> {
    let passes = match method {
        notification::INITIALIZED
        | notification::CANCELLED
        | notification::PROGRESS
        | notification::MESSAGE
        | notification::TOOLS_CHANGED
        | notification::PROMPTS_CHANGED
        | notification::RESOURCES_CHANGED
        | notification::RESOURCE_UPDATED
        | notification::ROOTS_CHANGED
        | notification::LISTEN_ACKNOWLEDGED => false,
        notification::ELICITATION_COMPLETE => revision == Revision::V2025_11_25,
        other => !other.is_empty() && !names_a_request(other),
    };
    passes.then(|| rpc::notification(method, Some(params)))
}

fn names_a_request(method: &str) -> bool {
    let asks = [server_request::ELICIT, server_request::SAMPLE, server_request::ROOTS];
    Method::parse(method).is_some() || asks.contains(&method)
}

/// Tells the client that a request of ours is withdrawn.
pub(crate) fn cancelled(id: &Id, reason: &str) -> Json {
    let params =
        edit::object([("requestId", Cow::Borrowed(id.raw())), ("reason", Cow::Owned(edit::quote(reason)))]);
    rpc::notification(notification::CANCELLED, Some(&params))
}

/// The notification that a list has changed.
pub(crate) const fn list_changed(kind: ListKind) -> &'static str {
    match kind {
        ListKind::Tools => notification::TOOLS_CHANGED,
        ListKind::Resources => notification::RESOURCES_CHANGED,
        ListKind::Prompts => notification::PROMPTS_CHANGED,
    }
}

/// Whether the server announces changes of this list.
pub(crate) fn announces(capabilities: &Json, kind: ListKind) -> bool {
    let name = match kind {
        ListKind::Tools => "tools",
        ListKind::Resources => "resources",
        ListKind::Prompts => "prompts",
    };
    scan::path(capabilities.as_str(), &[name, "listChanged"]) == Some("true")
}

/// A result for a client of an older revision: nothing that only the newest has, only content that it knows.
pub(crate) fn older_result(method: Method, result: Json, revision: Revision) -> Json {
    // First what looks at the content: of what comes from a registry it is known where that stands.
    let result = content::downgrade(method, result, revision);
    let foreign = [meta::RESULT_TYPE, "ttlMs", "cacheScope"];
    let foreign = if method.is_cacheable() { &foreign[..] } else { &foreign[..1] };
    edit::without(&result, foreign).unwrap_or(result)
}

/// An error for a client of an older revision: codes that came with the newest are replaced.
pub(crate) fn older_error(method: Method, mut error: RpcError) -> RpcError {
    match error.code {
        code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION => {
            error.code = code::INTERNAL_ERROR;
        }
        // A resource that does not exist names itself; other bad params do not.
        code::INVALID_PARAMS if reads(method) && names_uri(&error) => {
            error.code = code::RESOURCE_NOT_FOUND;
        }
        _ => {}
    }
    error
}

fn reads(method: Method) -> bool {
    method == Method::ResourcesRead || method == Method::ResourcesSubscribe
}

fn names_uri(error: &RpcError) -> bool {
    error.data.as_ref().is_some_and(|data| data.member("uri").is_some())
}

/// An error for a client of the newest revision. What is said about a request before it is taken on is not a registry's to
/// say: a client may answer it by sending the request again.
pub(crate) fn modern_error(mut error: RpcError) -> RpcError {
    match error.code {
        code::RESOURCE_NOT_FOUND => error.code = code::INVALID_PARAMS,
        code::HEADER_MISMATCH | code::UNSUPPORTED_VERSION => error.code = code::INTERNAL_ERROR,
        _ => {}
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::trusted(text.to_owned())
    }

    #[test]
    fn only_token_and_baggage_are_taken_out_of_params() {
        let table = [
            (r#"{"name":"a"}"#, r#"{"name":"a"}"#, None),
            (r#"{"_meta":{"progressToken":1},"name":"a"}"#, r#"{"name":"a"}"#, Some("1")),
            (
                r#"{ "n" : 1.0,"_meta":{"x":1e400, "progressToken":"t"}}"#,
                r#"{ "n" : 1.0,"_meta":{"x":1e400}}"#,
                Some("\"t\""),
            ),
            (r#"{"_meta":{"progressToken":null}}"#, "{}", None),
            (r#"{"_meta":{"progressToken":7.0}}"#, "{}", None),
            (r#"{"_meta":{"progressToken":-7}}"#, "{}", Some("-7")),
            (r#"{"_meta":{}}"#, r#"{"_meta":{}}"#, None),
            (r#"{"_meta":{"baggage":"who=me"}}"#, "{}", None),
            (r#"{"_meta":{"traceparent":"x","baggage":"who=me"}}"#, r#"{"_meta":{"traceparent":"x"}}"#, None),
        ];
        for (given, left, token) in table {
            let (params, found) = without_token(Some(json(given)));
            assert_eq!((params.as_str(), found.as_ref().map(Json::as_str)), (left, token), "{given}");
        }
        assert_eq!(without_token(None).0.as_str(), "{}");
    }

    #[test]
    fn progress_rises_and_carries_the_token_first() {
        let (token, mut last) = (json("\"t\""), None);
        let mut say = |params: &str| progress(&json(params), Some(&token), &mut last).map(|m| m.to_string());
        assert_eq!(
            say(r#"{"progress":1.0,"total":2.50}"#).unwrap(),
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1.0,"total":2.50}}"#
        );
        assert_eq!(say(r#"{"progress":1}"#), None);
        assert_eq!(say(r#"{"progress":"2"}"#), None);
        assert_eq!(say("{}"), None);
        assert!(
            say(r#"{"progressToken":9,"progress":2}"#)
                .unwrap()
                .contains(r#"{"progressToken":"t","progress":2}"#)
        );
        assert_eq!(progress(&json(r#"{"progress":1}"#), None, &mut None), None);
    }

    #[test]
    fn logs_below_the_level_or_without_one_are_dropped() {
        assert!(log(&json(r#"{"level":"info","data":1}"#), Level::Info).is_some());
        assert!(log(&json(r#"{"level":"debug","data":1}"#), Level::Info).is_none());
        assert!(log(&json(r#"{"level":"loud"}"#), Level::Debug).is_none());
        assert!(log(&json("{}"), Level::Debug).is_none());
    }

    #[test]
    fn errors_use_codes_of_the_era() {
        let missing = RpcError::new(code::INVALID_PARAMS, "no").with_data(json(r#"{"uri":"a"}"#));
        assert_eq!(older_error(Method::ResourcesRead, missing.clone()).code, code::RESOURCE_NOT_FOUND);
        assert_eq!(older_error(Method::ToolsCall, missing).code, code::INVALID_PARAMS);
        assert_eq!(
            older_error(Method::ToolsCall, RpcError::new(code::MISSING_CAPABILITY, "")).code,
            code::INTERNAL_ERROR
        );
        assert_eq!(modern_error(RpcError::new(code::RESOURCE_NOT_FOUND, "")).code, code::INVALID_PARAMS);
        assert_eq!(older_error(Method::ToolsCall, RpcError::new(-5, "own")).code, -5);
        for (given, said) in [
            (code::HEADER_MISMATCH, code::INTERNAL_ERROR),
            (code::UNSUPPORTED_VERSION, code::INTERNAL_ERROR),
            (code::MISSING_CAPABILITY, code::MISSING_CAPABILITY),
            (-5, -5),
        ] {
            assert_eq!(modern_error(RpcError::new(given, "")).code, said);
        }
    }

    #[test]
    fn what_names_a_request_is_no_notice() {
        let passes = |method| notice(method, &json("{}"), Revision::V2025_11_25).is_some();
        for method in ["notifications/elicitation/complete", "acme/temperature"] {
            assert!(passes(method), "{method}");
        }
        for method in ["", "ping", "tools/call", "sampling/createMessage", "notifications/progress"] {
            assert!(!passes(method), "{method}");
        }
    }

    #[test]
    fn older_results_lose_what_only_the_newest_has() {
        let result = json(r#"{"resultType":"complete","tools":[],"ttlMs":5,"cacheScope":"public","x":1.0}"#);
        assert_eq!(
            older_result(Method::ToolsList, result, Revision::V2025_11_25).as_str(),
            r#"{"tools":[],"x":1.0}"#
        );
        let own = r#"{"content":[],"ttlMs":"mine"}"#;
        let kept = older_result(Method::ToolsCall, json(own), Revision::V2025_11_25);
        assert_eq!(kept.as_str(), own, "it means nothing there");
    }
}
