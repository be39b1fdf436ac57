//! Requests a client may send, as one table: in which revisions, served by whom, naming what.

use crate::revision::{Era, Revision};

/// A client's request that this mesh serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the variants are the protocol's method names")]
pub enum Method {
    Initialize,
    Ping,
    Discover,
    ToolsList,
    ToolsCall,
    ResourcesList,
    ResourceTemplatesList,
    ResourcesRead,
    ResourcesSubscribe,
    ResourcesUnsubscribe,
    Listen,
    PromptsList,
    PromptsGet,
    Complete,
    SetLevel,
}

/// The param that a method's target is named by; modern clients repeat it in the `Mcp-Name` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `params.name`.
    Name,
    /// `params.uri`.
    Uri,
    /// Names nothing.
    None,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 15] = [
        Self::Initialize,
        Self::Ping,
        Self::Discover,
        Self::ToolsList,
        Self::ToolsCall,
        Self::ResourcesList,
        Self::ResourceTemplatesList,
        Self::ResourcesRead,
        Self::ResourcesSubscribe,
        Self::ResourcesUnsubscribe,
        Self::Listen,
        Self::PromptsList,
        Self::PromptsGet,
        Self::Complete,
        Self::SetLevel,
    ];

    /// The method with this exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Ping => "ping",
            Self::Discover => "server/discover",
            Self::ToolsList => "tools/list",
            Self::ToolsCall => "tools/call",
            Self::ResourcesList => "resources/list",
            Self::ResourceTemplatesList => "resources/templates/list",
            Self::ResourcesRead => "resources/read",
            Self::ResourcesSubscribe => "resources/subscribe",
            Self::ResourcesUnsubscribe => "resources/unsubscribe",
            Self::Listen => "subscriptions/listen",
            Self::PromptsList => "prompts/list",
            Self::PromptsGet => "prompts/get",
            Self::Complete => "completion/complete",
            Self::SetLevel => "logging/setLevel",
        }
    }

    /// Whether a revision has it.
    #[must_use]
    pub const fn exists_in(self, revision: Revision) -> bool {
        let modern = matches!(revision.era(), Era::Modern);
        match self {
            Self::Initialize
            | Self::Ping
            | Self::ResourcesSubscribe
            | Self::ResourcesUnsubscribe
            | Self::SetLevel => !modern,
            Self::Discover | Self::Listen => modern,
            Self::ToolsList
            | Self::ToolsCall
            | Self::ResourcesList
            | Self::ResourceTemplatesList
            | Self::ResourcesRead
            | Self::PromptsList
            | Self::PromptsGet
            | Self::Complete => true,
        }
    }

    /// What names its target.
    #[must_use]
    pub const fn target(self) -> Target {
        match self {
            Self::ToolsCall | Self::PromptsGet => Target::Name,
            Self::ResourcesRead => Target::Uri,
            Self::Initialize
            | Self::Ping
            | Self::Discover
            | Self::ToolsList
            | Self::ResourcesList
            | Self::ResourceTemplatesList
            | Self::ResourcesSubscribe
            | Self::ResourcesUnsubscribe
            | Self::Listen
            | Self::PromptsList
            | Self::Complete
            | Self::SetLevel => Target::None,
        }
    }

    /// Whether it may be answered with `input_required` (2026-07-28, "multi round-trip requests").
    #[must_use]
    pub const fn may_ask(self) -> bool {
        matches!(self, Self::ToolsCall | Self::PromptsGet | Self::ResourcesRead)
    }

    /// Whether a modern complete result carries `ttlMs` and `cacheScope`.
    #[must_use]
    pub const fn is_cacheable(self) -> bool {
        matches!(
            self,
            Self::Discover
                | Self::ToolsList
                | Self::PromptsList
                | Self::ResourcesList
                | Self::ResourceTemplatesList
                | Self::ResourcesRead
        )
    }
}

/// Notifications by name.
pub mod notification {
    /// The client has finished the handshake.
    pub const INITIALIZED: &str = "notifications/initialized";
    /// The sender gives up on a request.
    pub const CANCELLED: &str = "notifications/cancelled";
    /// Progress of a request.
    pub const PROGRESS: &str = "notifications/progress";
    /// A log message.
    pub const MESSAGE: &str = "notifications/message";
    /// The list of tools has changed.
    pub const TOOLS_CHANGED: &str = "notifications/tools/list_changed";
    /// The list of prompts has changed.
    pub const PROMPTS_CHANGED: &str = "notifications/prompts/list_changed";
    /// The list of resources or templates has changed.
    pub const RESOURCES_CHANGED: &str = "notifications/resources/list_changed";
    /// A resource has changed.
    pub const RESOURCE_UPDATED: &str = "notifications/resources/updated";
    /// The client's roots have changed.
    pub const ROOTS_CHANGED: &str = "notifications/roots/list_changed";
    /// First message on a listen stream.
    pub const LISTEN_ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
    /// A URL elicitation is over (2025-11-25).
    pub const ELICITATION_COMPLETE: &str = "notifications/elicitation/complete";
}

/// Requests a server may send to a client of an older revision, or put into `inputRequests`.
pub mod server_request {
    /// Asks the user.
    pub const ELICIT: &str = "elicitation/create";
    /// Asks the client's model.
    pub const SAMPLE: &str = "sampling/createMessage";
    /// Asks for the client's roots.
    pub const ROOTS: &str = "roots/list";
}
