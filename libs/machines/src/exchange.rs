//! The exchange machine: one request of a 2026-07-28 client.

use bytes::Bytes;
use mcp::log::Level;
use mcp::rpc::{Id, RpcError};
use mcp::{Json, Method};

use crate::effect::Effects;
use crate::input::{CallId, Input, Millis, StreamId};

/// What an exchange is told once.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeSettings {
    /// The server's Implementation object.
    pub server_info: Json,
    /// What is asked for.
    pub method: Method,
    /// The client's request id.
    pub id: Id,
    /// The client's progress token.
    pub progress_token: Option<Json>,
    /// Least severe log level wanted.
    pub log_level: Option<Level>,
    /// The client's capabilities object.
    pub client_capabilities: Option<Json>,
    /// Without any frame for this long the answer becomes an event stream.
    pub open_after_ms: Millis,
    /// The call has to end within this.
    pub call_timeout_ms: Millis,
}

/// One exchange. Its stream is [`Exchange::STREAM`], its call [`Exchange::CALL`].
#[derive(Debug, Clone)]
pub struct Exchange {
    settings: ExchangeSettings,
    began: Millis,
}

#[allow(unused_variables, clippy::unused_self, reason = "signatures first")]
impl Exchange {
    /// The stream of the answer.
    pub const STREAM: StreamId = StreamId(1);
    /// The call it makes.
    pub const CALL: CallId = CallId(1);

    /// An exchange that has not started.
    #[must_use]
    pub const fn new(settings: ExchangeSettings, now: Millis) -> Self {
        Self { settings, began: now }
    }

    /// Makes the call. `params` as the client sent them.
    pub fn start(&mut self, params: &Json) -> Effects {
        Effects::new()
    }

    /// Continues a call with the answers of a retried request, instead of [`Exchange::start`].
    pub fn resume(
        &mut self,
        round: u32,
        responses: Vec<(String, Result<Json, RpcError>)>,
        state: Option<Bytes>,
    ) -> Effects {
        Effects::new()
    }

    /// Takes one input and says what is to be done.
    pub fn step(&mut self, now: Millis, input: Input) -> Effects {
        Effects::new()
    }
}
