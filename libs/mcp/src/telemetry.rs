//! The names that MCP has in traces and metrics, and how an answer went.
//!
//! Follows the OpenTelemetry conventions for MCP, which are still in development: a name that changes is changed here and
//! nowhere else. Pure; whoever records and counts is elsewhere.

use std::sync::LazyLock;

use memchr::memmem;

use crate::{Json, Method, code, scan};

/// Attributes of spans.
#[allow(missing_docs, reason = "the values are the names that the conventions define")]
pub mod attribute {
    pub const METHOD: &str = "mcp.method.name";
    pub const PROTOCOL_VERSION: &str = "mcp.protocol.version";
    /// Only for revisions that have sessions, and only as a keyed hash.
    pub const SESSION: &str = "mcp.session.id";
    pub const RESOURCE_URI: &str = "mcp.resource.uri";
    pub const REQUEST_ID: &str = "jsonrpc.request.id";
    pub const RESPONSE_STATUS: &str = "rpc.response.status_code";
    pub const ERROR_TYPE: &str = "error.type";
    pub const TOOL: &str = "gen_ai.tool.name";
    pub const PROMPT: &str = "gen_ai.prompt.name";
    pub const OPERATION: &str = "gen_ai.operation.name";
    /// Of [`OPERATION`], for tool calls and never otherwise.
    pub const EXECUTE_TOOL: &str = "execute_tool";
    pub const TOOL_ARGUMENTS: &str = "gen_ai.tool.call.arguments";
    pub const TOOL_RESULT: &str = "gen_ai.tool.call.result";
    pub const TRANSPORT: &str = "network.transport";
    pub const NETWORK_PROTOCOL: &str = "network.protocol.name";
    pub const NETWORK_VERSION: &str = "network.protocol.version";
    pub const SERVER_ADDRESS: &str = "server.address";
    pub const SERVER_PORT: &str = "server.port";
    pub const CLIENT_ADDRESS: &str = "client.address";
    pub const CLIENT_PORT: &str = "client.port";

    // Ours.
    pub const SLOT: &str = "trunkline.slot";
    pub const EPOCH: &str = "trunkline.epoch";
    pub const OWNER: &str = "trunkline.owner";
    pub const REGISTRY: &str = "trunkline.registry";
    pub const REGISTRY_VERSION: &str = "trunkline.registry.version";
    /// `committed` or `refused`; absent where nothing is journaled.
    pub const JOURNAL_OUTCOME: &str = "trunkline.journal.outcome";
    pub const ERA_CLIENT: &str = "trunkline.era.client";
    pub const ERA_UPSTREAM: &str = "trunkline.era.upstream";
}

/// Metrics, and labels as they are spelled in them.
#[allow(missing_docs, reason = "the values are the names that the conventions define")]
pub mod metric {
    pub const SERVER_OPERATION: &str = "mcp_server_operation_duration_seconds";
    pub const CLIENT_OPERATION: &str = "mcp_client_operation_duration_seconds";
    pub const SERVER_SESSION: &str = "mcp_server_session_duration_seconds";

    pub const METHOD: &str = "mcp_method_name";
    pub const TOOL: &str = "gen_ai_tool_name";
    pub const ERROR_TYPE: &str = "error_type";
    pub const ERA: &str = "era";
    pub const OUTCOME: &str = "outcome";
    pub const PROTOCOL_VERSION: &str = "mcp_protocol_version";
    pub const NETWORK_PROTOCOL: &str = "network_protocol_name";
}

/// What names nobody has vouched for are shown as.
pub const OTHER: &str = "_OTHER";

/// How a request failed, as `error.type`: a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The result says `isError`.
    Tool,
    /// -32700
    Parse,
    /// -32600
    InvalidRequest,
    /// -32601
    MethodNotFound,
    /// -32602
    InvalidParams,
    /// -32603
    Internal,
    /// -32002
    ResourceNotFound,
    /// -32020
    HeaderMismatch,
    /// -32021
    MissingCapability,
    /// -32022
    UnsupportedVersion,
    /// An error with any other code.
    OtherCode,
    /// It took too long.
    Timeout,
    /// Whoever asked gave up.
    Cancelled,
    /// Nobody answered.
    Unavailable,
}

impl Failure {
    /// Every one, in order.
    pub const ALL: [Self; 14] = [
        Self::Tool,
        Self::Parse,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
        Self::Internal,
        Self::ResourceNotFound,
        Self::HeaderMismatch,
        Self::MissingCapability,
        Self::UnsupportedVersion,
        Self::OtherCode,
        Self::Timeout,
        Self::Cancelled,
        Self::Unavailable,
    ];

    /// That of an error code.
    #[must_use]
    pub const fn of_code(code: i32) -> Self {
        match code {
            code::PARSE_ERROR => Self::Parse,
            code::INVALID_REQUEST => Self::InvalidRequest,
            code::METHOD_NOT_FOUND => Self::MethodNotFound,
            code::INVALID_PARAMS => Self::InvalidParams,
            code::INTERNAL_ERROR => Self::Internal,
            code::RESOURCE_NOT_FOUND => Self::ResourceNotFound,
            code::HEADER_MISMATCH => Self::HeaderMismatch,
            code::MISSING_CAPABILITY => Self::MissingCapability,
            code::UNSUPPORTED_VERSION => Self::UnsupportedVersion,
            _ => Self::OtherCode,
        }
    }

    /// `error.type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool_error",
            Self::Parse => "-32700",
            Self::InvalidRequest => "-32600",
            Self::MethodNotFound => "-32601",
            Self::InvalidParams => "-32602",
            Self::Internal => "-32603",
            Self::ResourceNotFound => "-32002",
            Self::HeaderMismatch => "-32020",
            Self::MissingCapability => "-32021",
            Self::UnsupportedVersion => "-32022",
            Self::OtherCode => OTHER,
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
        }
    }

    /// What people are told. Not the message of the error, which may quote what was asked.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Tool => "the tool failed",
            Self::Parse => "Parse error",
            Self::InvalidRequest => "Invalid request",
            Self::MethodNotFound => "Method not found",
            Self::InvalidParams => "Invalid params",
            Self::Internal => "Internal error",
            Self::ResourceNotFound => "Resource not found",
            Self::HeaderMismatch => "Header mismatch",
            Self::MissingCapability => "Missing capability",
            Self::UnsupportedVersion => "Unsupported protocol version",
            Self::OtherCode => "an error of the server's own",
            Self::Timeout => "it took too long",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "the outcome is not known, or nobody took it on",
        }
    }

    /// Whether the caller is at fault, so that whoever served it has not failed (the five codes of the conventions).
    #[must_use]
    pub const fn is_the_callers(self) -> bool {
        matches!(
            self,
            Self::Parse
                | Self::InvalidRequest
                | Self::MethodNotFound
                | Self::InvalidParams
                | Self::ResourceNotFound
        )
    }

    /// `outcome`: fewer words than `error.type`, for people who look at rates.
    #[must_use]
    pub const fn outcome(failure: Option<Self>) -> &'static str {
        match failure {
            None => "ok",
            Some(Self::Tool) => "tool_error",
            Some(Self::Cancelled) => "cancelled",
            Some(Self::Timeout | Self::Unavailable) => "lost",
            Some(failure) if failure.is_the_callers() => "refused",
            Some(Self::HeaderMismatch | Self::MissingCapability | Self::UnsupportedVersion) => "refused",
            Some(_) => "error",
        }
    }
}

/// How an answer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// `None` = well.
    pub failure: Option<Failure>,
    /// The code of the error, if it is one.
    pub code: Option<i32>,
}

impl Outcome {
    /// A success.
    pub const OK: Self = Self { failure: None, code: None };

    /// One without an answer.
    #[must_use]
    pub const fn of(failure: Failure) -> Self {
        Self { failure: Some(failure), code: None }
    }

    /// That of a response. Of a result only tools' are looked into, and those only where they mention `isError`.
    #[must_use]
    pub fn of_response(method: Option<Method>, response: &Json) -> Self {
        let text = response.as_str();
        if let Some(result) = own_result(text) {
            return Self::of_result(method, result);
        }
        for member in scan::members(text) {
            match member.key.as_ref() {
                "error" => return Self::of_error(member.value),
                "result" => return Self::of_result(method, member.value),
                _ => {}
            }
        }
        Self::OK
    }

    /// That of a result.
    #[must_use]
    pub fn of_result(method: Option<Method>, result: &str) -> Self {
        let is_error = method == Some(Method::ToolsCall)
            && mentions_error(result)
            && scan::member(result, "isError") == Some("true");
        if is_error { Self::of(Failure::Tool) } else { Self::OK }
    }

    /// That of an error object.
    #[must_use]
    pub fn of_error(error: &str) -> Self {
        let code = scan::member(error, "code").and_then(|code| code.parse().ok());
        let reason = scan::path(error, &["data", "reason"]).and_then(scan::string);
        Self::of_code(code, reason.as_deref())
    }

    /// That of an error with a code, and a reason of ours if it has one.
    #[must_use]
    pub fn of_code(code: Option<i32>, reason: Option<&str>) -> Self {
        let failure = match (code, reason) {
            (Some(code::INTERNAL_ERROR), Some("timeout" | "deadline")) => Failure::Timeout,
            (Some(code::INTERNAL_ERROR), Some("cancelled")) => Failure::Cancelled,
            (Some(code), _) => Failure::of_code(code),
            (None, _) => Failure::OtherCode,
        };
        Self { failure: Some(failure), code }
    }
}

fn mentions_error(result: &str) -> bool {
    static WORD: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new("isError"));
    WORD.find(result.as_bytes()).is_some()
}

/// What stands behind `"result":` in a response as [`crate::rpc::result`] writes it. It is not read for that, however long it is.
fn own_result(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("{\"jsonrpc\":\"2.0\",\"id\":")?;
    // No id has a bare quotation mark inside.
    rest[rest.find(",\"")?..].strip_prefix(",\"result\":")?.strip_suffix('}')
}

/// A URI without what may be secret in it: user, password, query and fragment.
#[must_use]
pub fn bare_uri(uri: &str) -> String {
    let end = uri.find(['?', '#']).unwrap_or(uri.len());
    let uri = &uri[..end];
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(text: &'static str) -> Json {
        Json::trusted(text)
    }

    #[test]
    fn an_answer_says_how_it_went() {
        let of = |method, text| Outcome::of_response(Some(method), &response(text));
        let call = |text| of(Method::ToolsCall, text);
        assert_eq!(call(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#), Outcome::OK);
        assert_eq!(
            call(r#"{"jsonrpc":"2.0","id":1,"result":{"content":["isError"],"isError":false}}"#),
            Outcome::OK
        );
        assert_eq!(
            call(r#"{"jsonrpc":"2.0","id":",\"result\":","error":{"code":-32601}}"#).code,
            Some(-32601)
        );
        let failed = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError": true}}"#;
        assert_eq!(call(failed), Outcome::of(Failure::Tool));
        assert_eq!(of(Method::PromptsGet, failed), Outcome::OK);
        let coded = |code: i32, failure| Outcome { failure: Some(failure), code: Some(code) };
        let error = r#"{"jsonrpc":"2.0","error":{"code":-32602,"message":"m"}}"#;
        assert_eq!(call(error), coded(-32602, Failure::InvalidParams));
        let own = r#"{"jsonrpc":"2.0","id":"error","error":{"code":7,"message":"m"}}"#;
        assert_eq!(call(own), coded(7, Failure::OtherCode));
        let late =
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"m","data":{"reason":"timeout"}}}"#;
        assert_eq!(call(late), coded(-32603, Failure::Timeout));
    }

    #[test]
    fn the_five_codes_of_the_conventions_are_the_callers_fault() {
        let theirs: Vec<_> =
            Failure::ALL.into_iter().filter(|f| f.is_the_callers()).map(Failure::as_str).collect();
        assert_eq!(theirs, ["-32700", "-32600", "-32601", "-32602", "-32002"]);
    }

    #[test]
    fn every_failure_has_a_type_of_its_own() {
        let types: std::collections::BTreeSet<_> = Failure::ALL.into_iter().map(Failure::as_str).collect();
        assert_eq!(types.len(), Failure::ALL.len());
    }

    #[test]
    fn a_uri_loses_what_may_be_secret() {
        for (uri, bare) in [
            ("file:///docs/a.md", "file:///docs/a.md"),
            ("https://me:pass@host:1/a/b?token=x#y", "https://host:1/a/b"),
            ("https://me:p@ss@host", "https://host"),
            ("custom:thing?x", "custom:thing"),
            ("", ""),
        ] {
            assert_eq!(bare_uri(uri), bare, "{uri}");
        }
    }
}
