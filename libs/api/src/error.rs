//! The one error that crosses a port, with one row per code: its gRPC status and what the caller may do.

use std::time::Duration;

use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::{Code as Grpc, Status};

use crate::pb::mesh::{self, error_detail};

/// Trailer that carries the typed detail.
pub const TRAILER: &str = "trunkline-error-bin";

/// What went wrong, as a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The request is malformed: fix it.
    InvalidRequest,
    /// The callee does not serve this.
    Unimplemented,
    /// No such session, invocation or registry: start again.
    NotFound,
    /// Not now: the epoch is stale, or the owner is another node.
    Precondition,
    /// No or bad credentials.
    Unauthenticated,
    /// Not allowed.
    Denied,
    /// A bounded queue is full: back off.
    Overloaded,
    /// The deadline passed; the outcome is not known.
    Deadline,
    /// The peer cannot be reached, or is draining.
    Unavailable,
    /// The caller gave up.
    Cancelled,
    /// Whether it was executed is not known.
    OutcomeUnknown,
    /// A defect. The text never leaves the mesh.
    Internal,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::InvalidRequest,
        Self::Unimplemented,
        Self::NotFound,
        Self::Precondition,
        Self::Unauthenticated,
        Self::Denied,
        Self::Overloaded,
        Self::Deadline,
        Self::Unavailable,
        Self::Cancelled,
        Self::OutcomeUnknown,
        Self::Internal,
    ];

    /// Its gRPC status code.
    #[must_use]
    pub const fn grpc(self) -> Grpc {
        match self {
            Self::InvalidRequest => Grpc::InvalidArgument,
            Self::Unimplemented => Grpc::Unimplemented,
            Self::NotFound => Grpc::NotFound,
            Self::Precondition => Grpc::FailedPrecondition,
            Self::Unauthenticated => Grpc::Unauthenticated,
            Self::Denied => Grpc::PermissionDenied,
            Self::Overloaded => Grpc::ResourceExhausted,
            Self::Deadline => Grpc::DeadlineExceeded,
            Self::Unavailable => Grpc::Unavailable,
            Self::Cancelled => Grpc::Cancelled,
            Self::OutcomeUnknown => Grpc::Aborted,
            Self::Internal => Grpc::Internal,
        }
    }

    /// The code a gRPC status stands for.
    #[must_use]
    pub fn from_grpc(code: Grpc) -> Self {
        Self::ALL.into_iter().find(|c| c.grpc() == code).unwrap_or(Self::Internal)
    }
}

/// What a program needs to know beyond the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// The slot is owned elsewhere.
    NotOwner {
        /// Address of the owner; empty if unknown.
        owner: String,
        /// Its epoch.
        epoch: u64,
    },
    /// A newer epoch has been seen.
    StaleEpoch {
        /// The newest.
        highest: u64,
    },
    /// Provably not executed: the callee is draining.
    Draining,
    /// Provably not executed: no connection to the callee could be made. Made by the caller's side only.
    NotReached,
    /// Whether it was executed is not known. With [`Code::Unavailable`]: the connection was lost under way.
    OutcomeUnknown {
        /// The invocation; empty if the request was none.
        invocation: String,
    },
    /// A returned state cannot be used.
    BadState,
    /// Come back later.
    Overloaded {
        /// After this long.
        retry_after: Duration,
    },
}

/// See [`Code`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What went wrong.
    pub code: Code,
    /// For operators. Never shown to clients.
    pub message: String,
    /// What a program needs to know.
    pub detail: Option<Detail>,
}

impl Error {
    /// An error without detail.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None }
    }

    /// The same error with a detail.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Nothing is known under this name.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// The callee drains: provably not executed.
    #[must_use]
    pub fn draining() -> Self {
        Self::new(Code::Unavailable, "draining").with(Detail::Draining)
    }

    /// A bounded queue is full.
    #[must_use]
    pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(Code::Overloaded, message).with(Detail::Overloaded { retry_after })
    }

    /// A newer epoch has been seen.
    #[must_use]
    pub fn stale_epoch(highest: u64) -> Self {
        Self::new(Code::Precondition, "stale epoch").with(Detail::StaleEpoch { highest })
    }
}

impl Error {
    /// As it crosses a wire: the gRPC code, the text, and the encoded detail, which may be empty.
    pub(crate) fn into_parts(self) -> (Grpc, String, Vec<u8>) {
        let detail = self.detail.map(|detail| encode(detail).encode_to_vec()).unwrap_or_default();
        (self.code.grpc(), self.message, detail)
    }

    /// What crossed a wire. A detail that cannot be read is none.
    pub(crate) fn from_parts(code: Grpc, message: String, detail: &[u8]) -> Self {
        let detail = mesh::ErrorDetail::decode(detail).ok().and_then(decode);
        Self { code: Code::from_grpc(code), message, detail }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, message, detail) = error.into_parts();
        let mut status = Self::new(code, message);
        if !detail.is_empty() {
            status.metadata_mut().insert_bin(TRAILER, MetadataValue::from_bytes(&detail));
        }
        status
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // What a peer says has no source. What has one went wrong on the way.
        if let Some(cause) = std::error::Error::source(&status) {
            return on_the_way(cause, status.message());
        }
        let detail = status.metadata().get_bin(TRAILER).and_then(|value| value.to_bytes().ok());
        Self::from_parts(status.code(), status.message().to_owned(), &detail.unwrap_or_default())
    }
}

/// A request that was not answered: too late, never sent, or lost together with its connection.
fn on_the_way(cause: &(dyn std::error::Error + 'static), message: &str) -> Error {
    let mut source = Some(cause);
    while let Some(error) = source {
        if error.is::<tonic::TimeoutExpired>() {
            return Error::new(Code::Deadline, message);
        }
        // Cancelled by hyper: the connection was closed before it took the request.
        let never_sent = error.is::<tonic::ConnectError>()
            || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        if never_sent {
            return Error::new(Code::Unavailable, message).with(Detail::NotReached);
        }
        source = error.source();
    }
    Error::new(Code::Unavailable, message).with(Detail::OutcomeUnknown { invocation: String::new() })
}

fn encode(detail: Detail) -> mesh::ErrorDetail {
    use error_detail::Detail as Wire;
    let detail = match detail {
        Detail::NotOwner { owner, epoch } => Wire::NotOwner(mesh::NotOwner { owner, epoch }),
        Detail::StaleEpoch { highest } => Wire::StaleEpoch(mesh::StaleEpoch { highest }),
        Detail::Draining | Detail::NotReached => Wire::Draining(mesh::Draining {}),
        Detail::OutcomeUnknown { invocation } => Wire::OutcomeUnknown(mesh::OutcomeUnknown { invocation }),
        Detail::BadState => Wire::BadState(mesh::BadState {}),
        Detail::Overloaded { retry_after } => Wire::Overloaded(mesh::Overloaded {
            retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
        }),
    };
    mesh::ErrorDetail { detail: Some(detail) }
}

fn decode(detail: mesh::ErrorDetail) -> Option<Detail> {
    use error_detail::Detail as Wire;
    Some(match detail.detail? {
        Wire::NotOwner(d) => Detail::NotOwner { owner: d.owner, epoch: d.epoch },
        Wire::StaleEpoch(d) => Detail::StaleEpoch { highest: d.highest },
        Wire::Draining(mesh::Draining {}) => Detail::Draining,
        Wire::OutcomeUnknown(d) => Detail::OutcomeUnknown { invocation: d.invocation },
        Wire::BadState(mesh::BadState {}) => Detail::BadState,
        Wire::Overloaded(d) => {
            Detail::Overloaded { retry_after: Duration::from_millis(u64::from(d.retry_after_ms)) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_detail_survives_the_wire() {
        for code in Code::ALL {
            let error = Error::new(code, "text");
            assert_eq!(Error::from(Status::from(error.clone())), error);
        }
        for detail in [
            Detail::NotOwner { owner: "a:1".into(), epoch: 7 },
            Detail::StaleEpoch { highest: 9 },
            Detail::Draining,
            Detail::OutcomeUnknown { invocation: "i".into() },
            Detail::BadState,
            Detail::Overloaded { retry_after: Duration::from_millis(250) },
        ] {
            let error = Error::new(Code::Precondition, "text").with(detail);
            assert_eq!(Error::from(Status::from(error.clone())), error);
        }
    }

    #[test]
    fn a_status_without_trailer_still_has_a_meaning() {
        assert_eq!(Error::from(Status::new(Grpc::DataLoss, "x")).code, Code::Internal);
        assert_eq!(Error::from(Status::unavailable("x")).detail, None);
    }
}
