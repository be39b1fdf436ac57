//! Listening: one gRPC server for each role, with health, trace extraction and a graceful end.

use std::time::Duration;

use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use crate::drain::{self, Shutdown};
use crate::serve::Incoming;
use crate::telemetry::propagate::Extract;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls and watches of one peer process, which is another process of the mesh and multiplexes all its clients.
const MAX_STREAMS: u32 = 16_384;
const MAX_HEADER_LIST: u32 = 32 << 10;
/// Streams reset before they were accepted: what a rapid-reset attack makes and a peer of ours does not.
const MAX_PENDING_RESETS: usize = 128;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Why a server ended early.
#[derive(Debug, thiserror::Error)]
#[error("gRPC server failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Like [`serve`] for a role whose callers may come back for what is running: from the request to drain until `drained`, it
/// still accepts connections.
///
/// # Errors
/// [`ServeError`] when the listener breaks.
pub async fn serve_until_drained(
    routes: Routes,
    incoming: Incoming,
    shutdown: Shutdown,
    drained: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (trigger, closing) = drain::pair();
    let draining = async {
        shutdown.requested().await;
        tokio::select! {
            () = drained => trigger.drain(),
            () = shutdown.expired() => {}
        }
        shutdown.expired().await;
    };
    tokio::select! {
        served = serve(routes, incoming, closing) => served,
        () = draining => Ok(()),
    }
}

/// Serves `routes` and the gRPC health service until shutdown: first the health turns to NOT_SERVING and nothing new is
/// accepted, then open calls may finish until the grace period ends. Without a network it only waits for shutdown.
///
/// Message size limits belong to the adapters inside `routes`.
///
/// # Errors
/// [`ServeError`] when the listener breaks.
pub async fn serve(routes: Routes, incoming: Incoming, shutdown: Shutdown) -> Result<(), ServeError> {
    let listener = match incoming {
        Incoming::Tcp(listener) => listener,
        Incoming::None => {
            shutdown.requested().await;
            return Ok(());
        }
    };
    let (health, health_service) = health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    let draining = async {
        shutdown.requested().await;
        health.set_service_status("", ServingStatus::NotServing).await;
    };
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        // The caller's trace first, so that whatever stands inside belongs to it.
        .layer(Extract)
        .add_routes(routes.add_service(health_service))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), draining);
    tokio::select! {
        served = server => Ok(served?),
        () = shutdown.expired() => Ok(()),
    }
}

#[cfg(test)]
mod tests;
