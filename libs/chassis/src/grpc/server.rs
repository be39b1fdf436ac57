//! Listening: one gRPC server for each role, with TLS, health, the check of who may call what, and a graceful end.

use std::time::Duration;
use std::{future, io, net};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use super::cork::Cork;
use super::guard::Guard;
use super::measure::Measure;
use super::sparse::Sparse;
use super::stream::{Accepted, Peer, Stream};
use crate::drain::{self, Shutdown};
use crate::serve::Incoming;
use crate::task::{self, Handle, Kind};
use crate::telemetry::Side;
use crate::telemetry::propagate::Extract;
use crate::tls::{Member, Mesh, PlainTextError};
use crate::workers::Workers;

/// How soon it is noticed that a caller is gone.
#[derive(Debug, Clone, Copy)]
struct Pings {
    every: Duration,
    answered: Duration,
}

const ORDINARY: Pings = Pings { every: Duration::from_secs(20), answered: Duration::from_secs(10) };
/// Soon after [`dial_closely`](super::channel::dial_closely) notices it at the other end. Not sooner: a process that has paused
/// finds that its own pings are late before it reads the answers.
const CLOSE: Pings = Pings { every: Duration::from_secs(1), answered: Duration::from_secs(4) };
/// Calls and watches of one peer process, which is another process of the mesh and multiplexes all its clients.
const MAX_STREAMS: u32 = 16_384;
/// Metadata of one request or answer.
pub(super) const MAX_HEADER_LIST: u32 = 16 << 10;
/// Streams reset before they were accepted: what a rapid-reset attack makes and a peer of ours does not.
const MAX_PENDING_RESETS: usize = 128;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Connections that one runtime has not taken over yet. With more, the listener waits, and the operating system's queue fills.
const DEALT: usize = 64;
/// Handshakes under way at a time in one runtime. With more, the next ones wait, each at most until those before it are given up.
const HANDSHAKES: usize = 256;
/// How long a server that was cut short goes on sending. Less than its role has for ending itself.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Before trying again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a server ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport broke.
    #[error("gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The listener has no address.
    #[error("gRPC server: the listener has no address: {0}")]
    Listener(#[from] io::Error),
    /// Other machines could dial it, and there is no TLS.
    #[error("gRPC server: {0}")]
    PlainText(#[from] PlainTextError),
    /// A runtime's server ended in another way.
    #[error("gRPC server {0}")]
    Task(#[from] task::Ended),
}

/// Like [`serve`] for a role whose callers may come back for what is running: from the request to drain until `drained`, it
/// still accepts connections. At the end of the grace period there is a moment left for last words.
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
    let last_words = async {
        shutdown.expired().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    let draining = async {
        shutdown.requested().await;
        drained.await;
        trigger.drain();
        future::pending().await
    };
    tokio::select! {
        served = serve(routes, incoming, closing) => served,
        () = draining => Ok(()),
        () = last_words => Ok(()),
    }
}

/// Serves `routes` and the gRPC health service until shutdown: first the health turns to NOT_SERVING and nothing new is
/// accepted, then open calls may finish until the grace period ends. Without a network it only waits for shutdown.
///
/// Connections are dealt out among the [`Workers`]. Message size limits belong to the adapters inside `routes`.
///
/// # Errors
/// [`ServeError`] when the listener breaks, or must not be used.
pub async fn serve(routes: Routes, incoming: Incoming, shutdown: Shutdown) -> Result<(), ServeError> {
    serve_pinging(routes, incoming, shutdown, ORDINARY).await
}

/// Like [`serve`] for a role that is dialled closely. A connection that is lost at one end is lost at the other one too within
/// five seconds, so that what was on its way is not heard later, when its caller has said it again elsewhere.
///
/// # Errors
/// As [`serve`].
pub async fn serve_closely(routes: Routes, incoming: Incoming, shutdown: Shutdown) -> Result<(), ServeError> {
    serve_pinging(routes, incoming, shutdown, CLOSE).await
}

async fn serve_pinging(
    routes: Routes,
    incoming: Incoming,
    shutdown: Shutdown,
    pings: Pings,
) -> Result<(), ServeError> {
    let (listener, mesh) = match incoming {
        Incoming::Tcp(listener) => (listener, Mesh::default()),
        Incoming::Mesh(listener, mesh) => (listener, mesh),
        Incoming::None => {
            shutdown.requested().await;
            return Ok(());
        }
    };
    mesh.check_listen(listener.local_addr()?)?;
    let (health, health_service) = health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    let routes = routes.add_service(health_service);
    let workers = Workers::current();
    let (doors, servers): (Vec<_>, FuturesUnordered<_>) = workers
        .handles()
        .iter()
        .map(|runtime| {
            let (door, dealt) = mpsc::channel(DEALT);
            let serving = serve_dealt(routes.clone(), dealt, mesh.member(), shutdown.clone(), pings);
            (door, task::spawn_on(runtime, Kind::Role, "gRPC server", serving))
        })
        .unzip();
    tokio::select! {
        served = all(servers) => served,
        () = async {
            tokio::select! {
                () = accept(listener, &workers, &doors) => {}
                () = shutdown.requested() => {}
            }
            health.set_service_status("", ServingStatus::NotServing).await;
            shutdown.expired().await;
        } => Ok(()),
    }
}

/// Waits for every runtime's server. The first that fails ends all of them.
async fn all(mut servers: FuturesUnordered<Handle<Result<(), ServeError>>>) -> Result<(), ServeError> {
    while let Some(ended) = servers.next().await {
        ended??;
    }
    Ok(())
}

/// Accepts connections and deals them out, for ever.
async fn accept(listener: TcpListener, workers: &Workers, doors: &[mpsc::Sender<net::TcpStream>]) {
    loop {
        let accepted = match listener.accept().await {
            Ok((stream, _peer)) => stream.set_nodelay(true).and_then(|()| stream.into_std()),
            Err(error) => Err(error),
        };
        match accepted {
            // A runtime whose server has ended takes none; `all` sees to that.
            Ok(stream) => drop(doors[workers.deal()].send(stream).await),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The server of one runtime.
async fn serve_dealt(
    routes: Routes,
    dealt: mpsc::Receiver<net::TcpStream>,
    tls: Option<Member>,
    shutdown: Shutdown,
    pings: Pings,
) -> Result<(), ServeError> {
    // From here on the connection belongs to this runtime.
    let (tls, said) = (&tls, &Sparse::default());
    let connections = ReceiverStream::new(dealt)
        .map(|stream| open(stream, tls.as_ref(), said))
        .buffer_unordered(HANDSHAKES)
        .filter_map(future::ready)
        .map(|accepted| io::Result::Ok(Cork::new(accepted)));
    let draining = {
        let shutdown = shutdown.clone();
        async move { shutdown.requested().await }
    };
    let server = Server::builder()
        .http2_keepalive_interval(Some(pings.every))
        .http2_keepalive_timeout(Some(pings.answered))
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        // Around everything, so that refusals of what stands inside are counted.
        .layer(Measure::here(Side::Server))
        // The caller's trace first, so that whatever stands inside belongs to it.
        .layer(Extract::here())
        // Before anything of the call is read.
        .layer(Guard::default())
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, draining);
    tokio::select! {
        served = server => Ok(served?),
        () = shutdown.expired() => Ok(()),
    }
}

/// Makes a connection of what was accepted: with TLS, when both ends know each other. `None` if nothing comes of it.
async fn open(stream: net::TcpStream, tls: Option<&Member>, said: &Sparse) -> Option<Accepted> {
    let from = stream.peer_addr();
    let opened = async {
        let stream = TcpStream::from_std(stream)?;
        match tls {
            None => Ok(Accepted { stream: Stream::Plain(stream), peer: Peer(None) }),
            Some(tls) => {
                let (stream, peer) = tls.accept(stream).await?;
                Ok(Accepted { stream: Stream::Tls(Box::new(stream.into())), peer: Peer(Some(peer)) })
            }
        }
    };
    let error: io::Error = match opened.await {
        Ok(accepted) => return Some(accepted),
        Err(error) => error,
    };
    let from = from.map_or_else(|_gone| "somebody".to_owned(), |address| address.to_string());
    // A refusal is worth a look. Those who only see whether the port is open, and go, are not.
    if error.kind() == io::ErrorKind::InvalidData && said.is_time() {
        tracing::warn!(%error, from, "connection refused");
    } else {
        tracing::debug!(%error, from, "connection lost in the handshake");
    }
    None
}

#[cfg(test)]
mod mutual;
#[cfg(test)]
mod tests;
