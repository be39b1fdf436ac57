//! How a request can end without a result.

use mcp::rpc::RpcError;

use crate::sse::SseError;

/// Why there is no result. Each names what the caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// The connection or stream ended before the answer. What was asked for may have been done.
    #[error("the connection was lost before the answer came: {0}")]
    Lost(String),
    /// The server sends elsewhere. Not followed: what is sent may hold secrets.
    #[error("the server redirects to {location:?}, which is not followed")]
    Redirect {
        /// The HTTP status.
        status: u16,
        /// Where to.
        location: String,
    },
    /// The server refuses.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The server does something that the protocol does not allow.
    #[error("the server does not keep the protocol: {0}")]
    Protocol(String),
    /// The answer is larger than this client takes.
    #[error("the answer is too large: {0}")]
    TooLarge(String),
    /// No revision in common.
    #[error("no common protocol revision; the server offers {0}")]
    Revision(String),
    /// No answer within the deadline. What was asked for may have been done.
    #[error("no answer in time")]
    Timeout,
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
    /// The server asked for input again and again.
    #[error("the server asked for input more than {0} times")]
    Rounds(usize),
    /// The server asks for something that this client cannot give and has no way to refuse.
    #[error("the server wants {0}, which this client does not offer")]
    Unanswerable(String),
}

/// See [`Error::Refused`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The JSON-RPC error, where there is one.
    pub error: Option<RpcError>,
    /// The beginning of another body.
    pub text: String,
    /// The challenge of a 401 or 403.
    pub challenge: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.error {
            Some(error) => write!(f, "{} (code {})", error.message, error.code),
            None if self.text.is_empty() => write!(f, "HTTP status {}", self.status),
            None => write!(f, "HTTP status {}: {}", self.status, self.text),
        }
    }
}

impl Error {
    /// The code of the JSON-RPC error, where the server gave one.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.refusal()?.error.as_ref().map(|error| error.code)
    }

    /// What the server refused with.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Unreachable(_)
            | Self::Lost(_)
            | Self::Redirect { .. }
            | Self::Protocol(_)
            | Self::TooLarge(_)
            | Self::Revision(_)
            | Self::Timeout
            | Self::Cancelled
            | Self::Rounds(_)
            | Self::Unanswerable(_) => None,
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.refusal().map(|refusal| refusal.status)
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}

impl From<SseError> for Error {
    fn from(error: SseError) -> Self {
        match error {
            SseError::Line(_) | SseError::Event(_) => Self::TooLarge(error.to_string()),
            SseError::NotText => Self::Protocol(error.to_string()),
        }
    }
}
