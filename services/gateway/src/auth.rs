//! Who asks: from the head of a request to a [`Caller`], or a refusal.
//!
//! [`Authenticate`] is the hook: the edge asks it once for each request, before the body is read, and whoever wants another way
//! of telling callers implements it. [`Gate`] is what the section `[auth]` configures. Credentials end here: what goes on is the
//! principal. Must not know: sessions, messages, what a caller may do with them.

mod api_key;
mod challenge;
mod config;
mod gate;
mod jwks;
mod jwt;

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::Principal;
use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderValue, Uri};
use bytes::Bytes;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub use self::api_key::{NewKey, new_key};
pub(crate) use self::challenge::metadata_path;
pub use self::config::{Algorithm, ApiKey, AuthError, Config, Issuer};
pub use self::gate::Gate;
pub use self::jwks::{Pace, Source, SourceError};

/// Issuer of the principal that all callers without credentials share where other machines can call.
pub const REMOTE: &str = "remote";

/// What is known of a request before its body is read.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Path and query.
    pub uri: &'a Uri,
    /// Every header.
    pub headers: &'a HeaderMap,
    /// Whether only this machine can reach the listener.
    pub is_local: bool,
    /// Whether the operator lets other machines call without saying who they are (`gateway.insecure_no_auth`).
    pub is_open: bool,
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// What the rest of the mesh knows of them.
    pub principal: Principal,
    /// When that is no longer true, in seconds since 1970; `None` = it stays.
    pub expires: Option<u64>,
    /// Whether nothing was shown.
    pub is_anonymous: bool,
    /// Is cancelled when what was shown is withdrawn. Shared as a whole: a clone of a token locks it.
    withdrawn: Arc<CancellationToken>,
}

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// 401: nothing was shown, or nothing that is good here.
    Unauthenticated {
        /// `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// 403: the caller is known and lacks a scope.
    Forbidden {
        /// `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// 503: it cannot be told now.
    Unavailable,
}

/// Tells who sends a request.
#[async_trait]
pub trait Authenticate: Send + Sync + 'static {
    /// Who sends the request with this head.
    async fn authenticate(&self, head: Head<'_>) -> Result<Caller, Denied>;

    /// The same where it can be told without waiting; `None` where it cannot.
    fn at_once(&self, _head: Head<'_>) -> Option<Result<Caller, Denied>> {
        None
    }

    /// Whether anybody could pass on a listener that other machines can reach.
    fn admits_remote(&self) -> bool;

    /// Path of the MCP endpoint as clients know it, if tokens of an issuer are taken.
    fn resource_path(&self) -> Option<String> {
        None
    }

    /// The protected-resource metadata (RFC 9728), if tokens of an issuer are taken.
    fn metadata(&self) -> Option<Bytes> {
        None
    }
}

impl Caller {
    /// Somebody who showed nothing. On a listener that only this machine can reach, they are a principal like any other.
    #[must_use]
    pub fn anonymous(is_local: bool) -> Self {
        Self::stranger(is_local, Arc::default())
    }

    fn stranger(is_local: bool, withdrawn: Arc<CancellationToken>) -> Self {
        let issuer = if is_local { String::new() } else { REMOTE.to_owned() };
        let principal = Principal { issuer, ..Principal::default() };
        Self { principal, expires: None, is_anonymous: true, withdrawn }
    }

    /// Somebody who showed something; until `expires`, in seconds since 1970, or until `withdrawn` is cancelled.
    #[must_use]
    pub fn known(
        principal: Principal,
        expires: Option<u64>,
        withdrawn: impl Into<Arc<CancellationToken>>,
    ) -> Self {
        Self { principal, expires, is_anonymous: false, withdrawn: withdrawn.into() }
    }

    /// How long what was shown stays good from `now` on, in milliseconds since 1970; `None` = for ever.
    pub(crate) fn expires_in(&self, now: u64) -> Option<Duration> {
        self.expires.map(|at| Duration::from_millis(at.saturating_mul(1000).saturating_sub(now)))
    }

    /// What tells when it is withdrawn.
    pub(crate) fn lent(&self) -> Lent {
        Lent(Box::pin(CancellationToken::clone(&self.withdrawn).cancelled_owned()))
    }
}

/// Credentials on which something that lasts depends.
pub(crate) struct Lent(Pin<Box<WaitForCancellationFutureOwned>>);

impl Lent {
    /// Ready once they are withdrawn.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// Takes nobody's credentials: whoever can reach a local listener, or one that is open, may call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Authenticate for Anonymous {
    async fn authenticate(&self, head: Head<'_>) -> Result<Caller, Denied> {
        if head.is_local || head.is_open {
            return Ok(Caller::anonymous(head.is_local));
        }
        Err(Denied::Unauthenticated { challenge: HeaderValue::from_static("Bearer") })
    }

    fn admits_remote(&self) -> bool {
        false
    }
}
