//! An authentication that believes whatever is claimed: `Bearer SUBJECT|ISSUER|TENANT|CLIENT`. Whoever claims nothing is
//! anonymous on this machine, and `Bearer remote` is so elsewhere.

use api::Principal;
use async_trait::async_trait;
use gateway::auth::{Authenticate, Caller, Denied, Head};
use tokio_util::sync::CancellationToken;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Claimed;

#[async_trait]
impl Authenticate for Claimed {
    async fn authenticate(&self, head: Head<'_>) -> Result<Caller, Denied> {
        let claim =
            head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut parts = claim.trim_start_matches("Bearer ").split('|').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let principal = Principal { subject: next(), issuer: next(), tenant: next(), client: next() };
        if principal.subject == "remote" {
            return Ok(Caller::anonymous(false));
        }
        if principal == Principal::default() {
            return Ok(Caller::anonymous(head.is_local));
        }
        Ok(Caller::known(principal, None, CancellationToken::new()))
    }

    fn admits_remote(&self) -> bool {
        true
    }
}
