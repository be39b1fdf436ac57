//! Waiting for the moment a machine wants to be woken at.

use std::time::Duration;

use machines::Millis;

/// Ends when that moment has come; never without one. Safe to use in `select!`.
pub(crate) async fn reached(moment: Option<Millis>) {
    match moment {
        Some(at) => {
            let left = at.saturating_sub(chassis::clock::dated_millis());
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}
