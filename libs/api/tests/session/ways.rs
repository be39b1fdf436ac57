//! Ways to reach the node.

use std::sync::Arc;

use api::SessionHost;
use api::session::{LinkClient, SessionClient, Surroundings, Trace, link, service};
use api::wire::{Wire, wire};
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};

use crate::node::{Host, Node};

/// A node, and what a gateway holds of it.
pub(crate) struct Way {
    pub(crate) node: Arc<Node>,
    pub(crate) host: Arc<dyn SessionHost>,
    /// What runs for it.
    pub(crate) tasks: JoinSet<()>,
}

pub(crate) fn handle() -> Way {
    let node = Node::new();
    Way { host: Arc::new(Host(node.clone())), node, tasks: JoinSet::new() }
}

pub(crate) fn plain() -> Way {
    let (node, wire, tasks) = served(Surroundings::none());
    Way { node, host: Arc::new(SessionClient::new(wire)), tasks }
}

pub(crate) fn linked() -> Way {
    let (node, client, tasks) = link_with(Surroundings::none());
    Way { node, host: Arc::new(client), tasks }
}

pub(crate) fn link_with(surroundings: Surroundings) -> (Arc<Node>, LinkClient, JoinSet<()>) {
    let (node, wire, mut tasks) = served(surroundings);
    let (client, driver) = link(wire, || Trace { parent: "00-trace".into(), state: String::new() });
    tasks.spawn(driver.run());
    (node, client, tasks)
}

/// A node behind a gRPC server, over memory.
pub(crate) fn served(surroundings: Surroundings) -> (Arc<Node>, Wire, JoinSet<()>) {
    let node = Node::new();
    let (dial, dialled) = mpsc::channel::<std::io::Result<DuplexStream>>(4);
    let mut tasks = JoinSet::new();
    let server = Server::builder().add_routes(service(Arc::new(Host(node.clone())), surroundings));
    tasks.spawn(async move {
        server.serve_with_incoming(ReceiverStream::new(dialled)).await.unwrap();
    });
    let connector = tower::service_fn(move |_: http::Uri| {
        let dial = dial.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let gone = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            dial.send(Ok(theirs)).await.map_err(gone)?;
            std::io::Result::Ok(TokioIo::new(ours))
        }
    });
    // The windows that processes use.
    let endpoint = Endpoint::from_static("http://node")
        .initial_stream_window_size(128 << 10)
        .initial_connection_window_size((1 << 31) - 1);
    let channel = endpoint.connect_with_connector_lazy(connector);
    (node, wire(channel), tasks)
}
