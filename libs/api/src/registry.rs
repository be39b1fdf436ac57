//! The port of a registry process: everything a session node may ask of it.
//!
//! One trait for the five gRPC services of `proto/trunkline/registry/v1`, because every caller needs them together and
//! every process implements Catalog and Invocations anyway. The rules of the contract stand in `proto/README.md`.

mod client;
pub(crate) mod convert;
mod link;
mod server;

use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mcp::rpc::RpcError;
use mcp::{Json, Revision};

pub use self::client::RegistryClient;
pub use self::link::{RegistryLink, link};
pub use self::server::{services, services_with_links};
use crate::error::Error;
pub use crate::link::{Driver, Trace};
use crate::{Epoch, Principal, Slot};

/// Frames of one answer. An `Err` item means that the stream broke before its ending.
pub type Frames = BoxStream<'static, Result<Frame, Error>>;

/// What a link needs from the surroundings of a registry process.
pub type Surroundings = crate::link::server::Surroundings<Frame>;

/// Travels with every request but `describe` and `watch`.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// Identifies the mesh.
    pub mesh: String,
    /// Registry inside the process.
    pub registry: String,
    /// Unique per invocation; a repeated one attaches.
    pub invocation: String,
    /// Slot and epoch of the owning session; `None` for requests that no session owns.
    pub owner: Option<(Slot, Epoch)>,
    /// On whose behalf.
    pub principal: Principal,
    /// Requests with the same key should reach the same replica.
    pub affinity: String,
    /// The client's revision.
    pub revision: Revision,
    /// The client's capabilities object.
    pub client_capabilities: Option<Json>,
    /// Least severe log level wanted; `None` = send no log messages.
    pub log_level: Option<mcp::log::Level>,
    /// Whether progress is wanted.
    pub progress: bool,
    /// Digest of the catalogue the client saw.
    pub catalogue_digest: String,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
}

/// The kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Tools.
    Tools,
    /// Resources.
    Resources,
    /// Resource templates.
    Templates,
    /// Prompts.
    Prompts,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Resources, Self::Templates, Self::Prompts];
}

/// What a process holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// This process run.
    pub instance: String,
    /// Its registries.
    pub registries: Vec<RegistryDescription>,
}

/// One registry.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryDescription {
    /// Unique within the process.
    pub name: String,
    /// Its kinds with the digest of each list.
    pub kinds: Vec<(Kind, String)>,
    /// Version of the content, for people.
    pub version: String,
    /// Prefix of advertised names.
    pub namespace: String,
    /// MCP capabilities beyond those that follow from the kinds.
    pub capabilities: Option<Json>,
    /// For the model; may be empty.
    pub instructions: String,
    /// MCP Implementation object.
    pub server_info: Option<Json>,
    /// Whether `complete` is answered.
    pub completions: bool,
    /// Whether subscriptions are accepted.
    pub subscriptions: bool,
}

/// What `watch` reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogEvent {
    /// A list has this digest now.
    Changed {
        /// Which registry.
        registry: String,
        /// Which list.
        kind: Kind,
        /// Its digest.
        digest: String,
    },
    /// The instance drains.
    NotServing,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// One object per entry.
    pub items: Vec<Json>,
    /// `None` = last page.
    pub next_cursor: Option<String>,
    /// How long it may be cached.
    pub ttl_ms: u64,
    /// Whether principals may share it.
    pub public: bool,
    /// Digest of the whole list.
    pub digest: String,
    /// `_meta` of the list result.
    pub meta: Option<Json>,
}

/// What is started with frames for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `tools/call`; the target is a tool's name.
    Call,
    /// `resources/read`; the target is a URI.
    Read,
    /// `prompts/get`; the target is a prompt's name.
    Get,
}

/// A request to start something.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// What.
    pub operation: Operation,
    /// The registry's own name of the tool or prompt, or the URI.
    pub target: String,
    /// Params as the client sent them, less `progressToken`, `inputResponses` and `requestState`.
    pub params: Json,
    /// Set when a handler without state is called again.
    pub continuation: Option<Round>,
}

/// An answered round of a handler without state.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// What the handler returned.
    pub state: Bytes,
    /// From 1.
    pub round: u32,
    /// The client's answers.
    pub responses: Vec<InputResponse>,
}

/// The client's answer to one input request.
#[derive(Debug, Clone, PartialEq)]
pub struct InputResponse {
    /// Key of the input request.
    pub key: String,
    /// The result, or the refusal.
    pub answer: Result<Json, RpcError>,
}

/// One numbered step of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// From 1, without gaps, across rounds.
    pub number: u64,
    /// What it says.
    pub body: FrameBody,
}

/// See `Frame` in `types.proto`.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameBody {
    /// Taken on.
    Accepted {
        /// The invocation.
        invocation: String,
        /// Who holds it.
        instance: String,
    },
    /// Params of a progress notification, without token.
    Progress(Json),
    /// Params of a log notification.
    Log(Json),
    /// Another notification of this request.
    Notice {
        /// Its method.
        method: String,
        /// Its params.
        params: Json,
    },
    /// Ask the client to come back.
    Detach {
        /// After this long.
        retry_ms: u32,
    },
    /// Ending: a result.
    Result(Json),
    /// Ending: an error.
    Error(RpcError),
    /// Ending of the round: input is needed.
    InputRequired(InputRequired),
    /// Ending: goes on as a task.
    Task(Json),
}

/// Input is needed from the client.
#[derive(Debug, Clone, PartialEq)]
pub struct InputRequired {
    /// Object: key -> {method, params}.
    pub requests: Json,
    /// From 1.
    pub round: u32,
    /// Until when answers are awaited.
    pub expires_unix_ms: u64,
    /// How it goes on.
    pub continuation: Continuation,
}

/// How a request for input goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Continuation {
    /// The handler waits: `resume`.
    Parked,
    /// The handler has returned: `start` again with this state.
    State(Bytes),
}

impl FrameBody {
    /// Whether no frame of this round follows.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        match self {
            Self::Accepted { .. }
            | Self::Progress(_)
            | Self::Log(_)
            | Self::Notice { .. }
            | Self::Detach { .. } => false,
            Self::Result(_) | Self::Error(_) | Self::InputRequired(_) | Self::Task(_) => true,
        }
    }
}

/// A change to a set of watched resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionChange {
    /// Watch this URI.
    Add(String),
    /// No longer watch it.
    Remove(String),
}

/// What a subscription stream reports.
#[derive(Debug, Clone, PartialEq)]
pub enum SubscriptionEvent {
    /// The URI is watched from now on.
    Accepted(String),
    /// The URI cannot be watched.
    Refused(String, RpcError),
    /// Params of `notifications/resources/updated`.
    Updated(Json),
}

/// Everything a session node may ask of a registry process.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// What the process holds.
    async fn describe(&self) -> Result<Description, Error>;

    /// Current state first, then one event per real change.
    async fn watch(&self) -> Result<BoxStream<'static, Result<CatalogEvent, Error>>, Error>;

    /// One page of a list. [`crate::Code::InvalidRequest`] for an unknown or outdated cursor.
    async fn list(&self, context: Context, kind: Kind, cursor: Option<String>) -> Result<Page, Error>;

    /// Starts a call, read or get. Dropping the frames cancels invocations without an owner only.
    async fn start(&self, context: Context, start: Start) -> Result<Frames, Error>;

    /// Completes an argument.
    async fn complete(&self, context: Context, params: Json) -> Result<Result<Json, RpcError>, Error>;

    /// Watches resources for as long as `changes` and the answer live.
    async fn subscribe(
        &self,
        context: Context,
        changes: BoxStream<'static, SubscriptionChange>,
    ) -> Result<BoxStream<'static, Result<SubscriptionEvent, Error>>, Error>;

    /// The frames of `context.invocation` again, from the one behind `after`.
    async fn attach(&self, context: Context, after: u64) -> Result<Frames, Error>;

    /// Continues a parked handler.
    async fn resume(
        &self,
        context: Context,
        round: u32,
        responses: Vec<InputResponse>,
    ) -> Result<Frames, Error>;

    /// Asks `context.invocation` to stop.
    async fn cancel(&self, context: Context, reason: String) -> Result<(), Error>;

    /// These will not be attached to any more.
    async fn release(&self, context: Context, invocations: Vec<String>) -> Result<(), Error>;
}
