//! The listen machine: one `subscriptions/listen` of a 2026-07-28 client.

use std::collections::BTreeSet;

use mcp::Json;
use mcp::rpc::{Id, RpcError};

use crate::effect::Effects;
use crate::input::{Input, Millis, StreamId};

/// What a client wants to hear about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// `toolsListChanged`
    pub tools: bool,
    /// `promptsListChanged`
    pub prompts: bool,
    /// `resourcesListChanged`
    pub resources: bool,
    /// `resourceSubscriptions`
    pub uris: BTreeSet<String>,
}

impl Filter {
    /// Reads `params.notifications`.
    ///
    /// # Errors
    /// -32602 if it is missing or has another shape.
    pub fn read(_params: Option<&Json>) -> Result<Self, RpcError> {
        Ok(Self::default())
    }
}

/// What a listen is told once.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenSettings {
    /// The server's Implementation object.
    pub server_info: Json,
    /// The server's capabilities: only what they offer is accepted.
    pub capabilities: Json,
    /// The client's request id.
    pub id: Id,
    /// What the client wants.
    pub filter: Filter,
    /// Most resources of one listen; more are not accepted.
    pub max_subscriptions: usize,
    /// A resource that no registry has accepted within this is not accepted.
    pub accept_within_ms: Millis,
}

/// One listen. Its stream is [`Listen::STREAM`]; each resource is subscribed to under a call of its own.
#[derive(Debug, Clone)]
pub struct Listen {
    settings: ListenSettings,
    began: Millis,
}

#[allow(unused_variables, clippy::unused_self, reason = "signatures first")]
impl Listen {
    /// The stream of the answer.
    pub const STREAM: StreamId = StreamId(1);

    /// A listen that has not started.
    #[must_use]
    pub const fn new(settings: ListenSettings, now: Millis) -> Self {
        Self { settings, began: now }
    }

    /// Opens the stream; subscribes to the resources; acknowledges as soon as it is known which are accepted.
    pub fn start(&mut self) -> Effects {
        Effects::new()
    }

    /// Takes one input and says what is to be done.
    pub fn step(&mut self, now: Millis, input: Input) -> Effects {
        Effects::new()
    }
}
