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

use std::time::Duration;

use api::Principal;
use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderValue, Uri};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

pub use self::api_key::{NewKey, new_key};
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
    /// Is cancelled when what was shown is withdrawn.
    withdrawn: CancellationToken,
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

    /// Whether anybody could pass on a listener that other machines can reach.
    fn admits_remote(&self) -> bool;

    /// The protected-resource metadata (RFC 9728), if tokens of an issuer are taken.
    fn metadata(&self) -> Option<Bytes> {
        None
    }
}

impl Caller {
    /// Somebody who showed nothing. On a listener that only this machine can reach, they are a principal like any other.
    #[must_use]
    pub fn anonymous(is_local: bool) -> Self {
        let issuer = if is_local { String::new() } else { REMOTE.to_owned() };
        let principal = Principal { issuer, ..Principal::default() };
        Self { principal, expires: None, is_anonymous: true, withdrawn: CancellationToken::new() }
    }

    /// Somebody who showed something; until `expires`, in seconds since 1970, or until `withdrawn` is cancelled.
    #[must_use]
    pub const fn known(principal: Principal, expires: Option<u64>, withdrawn: CancellationToken) -> Self {
        Self { principal, expires, is_anonymous: false, withdrawn }
    }

    /// Waits until what was shown is no longer good; for ever if it stays so. `now` is in milliseconds since 1970.
    pub(crate) async fn ended(self, now: u64) {
        let expiry = async {
            match self.expires {
                Some(at) => {
                    let left = at.saturating_mul(1000).saturating_sub(now);
                    tokio::time::sleep(Duration::from_millis(left)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = expiry => {}
            () = self.withdrawn.cancelled() => {}
        }
    }
}
