//! What a server says, and asks, while a request is under way.

use async_trait::async_trait;
use mcp::Json;
use mcp::rpc::RpcError;

/// Hears what comes before the answer.
#[async_trait]
pub trait Listener: Send + Sync {
    /// Progress: the params of `notifications/progress`.
    fn progress(&self, params: &Json) {
        let _unused = params;
    }

    /// A log message: the params of `notifications/message`.
    fn log(&self, params: &Json) {
        let _unused = params;
    }

    /// Another notification.
    fn notice(&self, method: &str, params: Option<&Json>) {
        let _unused = (method, params);
    }

    /// Answers a question. `Err` says that it is refused: an older server gets the error; a modern one cannot be told, so
    /// a refused elicitation is answered with `cancel` and anything else ends the request.
    async fn answer(&self, question: &Question) -> Result<Json, RpcError> {
        Err(RpcError::new(
            mcp::code::METHOD_NOT_FOUND,
            format!("this client does not answer {}", question.method),
        ))
    }
}

/// A question to the client: `elicitation/create`, `sampling/createMessage` or `roots/list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Which one.
    pub method: String,
    /// What it says.
    pub params: Option<Json>,
}

/// Hears nothing and answers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Listener for Silent {}
