//! How a handler says that it cannot answer, and what the client is told then.

use api::registry::Operation;
use mcp::edit;
use mcp::rpc::RpcError;
use mcp::{Json, code};

use crate::output;

/// Why a handler gives no result. The text is shown to the client: no secrets, no internals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The arguments cannot be used. A tool answers with a result marked `isError`, so that the model can correct itself;
    /// a prompt or resource with -32602.
    #[error("invalid params: {0}")]
    InvalidParams(String),
    /// The work failed. A tool answers with a result marked `isError`; a prompt or resource with -32603.
    #[error("{0}")]
    Failed(String),
    /// There is no such prompt or resource: -32602, for a resource with `data.uri`.
    #[error("not found: {0}")]
    NotFound(String),
    /// The client did not declare what the work needs: -32021 with `data.requiredCapabilities`, a capabilities object.
    #[error("the client lacks a capability that is required: {0}")]
    MissingCapability(Json),
    /// The client's answers did not come in time.
    #[error("the client did not answer in time")]
    Expired,
    /// The call was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A JSON-RPC error of the handler's own choice, sent as it is.
    #[error("{}", .0.message)]
    Rpc(RpcError),
}

impl Error {
    /// The arguments cannot be used.
    #[must_use]
    pub fn invalid_params(why: impl std::fmt::Display) -> Self {
        Self::InvalidParams(why.to_string())
    }

    /// The work failed.
    #[must_use]
    pub fn failed(why: impl std::fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }

    /// What ends the invocation: a tool's result marked `isError`, or a JSON-RPC error.
    pub(crate) fn into_outcome(self, operation: Operation) -> Result<Json, RpcError> {
        let is_tool = matches!(operation, Operation::Call);
        match self {
            Self::InvalidParams(_) if is_tool => Ok(output::error_result(&self.to_string())),
            Self::Failed(text) if is_tool => Ok(output::error_result(&text)),
            Self::InvalidParams(text) => Err(RpcError::new(code::INVALID_PARAMS, text)),
            Self::Failed(text) => Err(RpcError::new(code::INTERNAL_ERROR, text)),
            Self::NotFound(what) => Err(not_found(operation, &what)),
            Self::MissingCapability(required) => Err(missing_capability(&required)),
            Self::Expired => Err(RpcError::reason("the client did not answer in time", "input_expired")),
            Self::Cancelled => Err(RpcError::reason("cancelled", "cancelled")),
            Self::Rpc(error) => Err(error),
        }
    }
}

fn not_found(operation: Operation, what: &str) -> RpcError {
    match operation {
        Operation::Call => RpcError::new(code::INVALID_PARAMS, format!("unknown tool: {what}")),
        Operation::Get => RpcError::new(code::INVALID_PARAMS, format!("unknown prompt: {what}")),
        Operation::Read => unknown_resource(what),
    }
}

/// Unknown resource, as the newest revision has it. A session of an older one turns it into that revision's code.
pub(crate) fn unknown_resource(uri: &str) -> RpcError {
    RpcError::new(code::INVALID_PARAMS, "resource not found")
        .with_data(edit::object([("uri", edit::quote(uri).into())]))
}

fn missing_capability(required: &Json) -> RpcError {
    RpcError::new(code::MISSING_CAPABILITY, "the client lacks a capability that is required")
        .with_data(edit::object([("requiredCapabilities", required.as_str().into())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(error: Error, operation: Operation) -> String {
        match error.into_outcome(operation) {
            Ok(result) => result.to_string(),
            Err(error) => Json::of(&error).to_string(),
        }
    }

    #[test]
    fn each_class_has_one_answer_per_operation() {
        use Operation::{Call, Get, Read};
        let bad = || Error::invalid_params("a must be a number");
        assert_eq!(
            outcome(bad(), Call),
            r#"{"content":[{"type":"text","text":"invalid params: a must be a number"}],"isError":true}"#
        );
        assert_eq!(outcome(bad(), Get), r#"{"code":-32602,"message":"a must be a number"}"#);
        assert_eq!(
            outcome(Error::failed("division by zero"), Call),
            r#"{"content":[{"type":"text","text":"division by zero"}],"isError":true}"#
        );
        assert_eq!(outcome(Error::failed("disk"), Read), r#"{"code":-32603,"message":"disk"}"#);
        assert_eq!(
            outcome(Error::NotFound("x".into()), Call),
            r#"{"code":-32602,"message":"unknown tool: x"}"#
        );
        assert_eq!(
            outcome(Error::NotFound("a://b".into()), Read),
            r#"{"code":-32602,"message":"resource not found","data":{"uri":"a://b"}}"#
        );
        let needs = Error::MissingCapability(Json::trusted(r#"{"elicitation":{}}"#));
        assert!(outcome(needs, Call).ends_with(r#""data":{"requiredCapabilities":{"elicitation":{}}}}"#));
    }
}
