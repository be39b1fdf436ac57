//! Trying whether a node can be reached.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::locate::Peer;

/// Tries to reach a node; says why it could not be. It has a deadline of its own.
pub type Probe = Arc<dyn Fn(Peer) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Connects and hangs up. It finds processes that ended and machines that are gone; a process that is stopped still accepts
/// connections, and takes a question to find out.
#[must_use]
pub fn connects(within: Duration) -> Probe {
    Arc::new(move |peer| {
        async move {
            match timeout(within, TcpStream::connect(&*peer.address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no connection in time".to_owned()),
            }
        }
        .boxed()
    })
}
