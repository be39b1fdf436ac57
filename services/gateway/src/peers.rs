//! Session nodes by address.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use api::SessionHost;
use api::session::{Trace, link};
use chassis::grpc::channel::{AddressError, Traced, dial_closely, dial_patiently};
use chassis::task::{self, Handle, Kind};
use chassis::telemetry::propagate;
use chassis::tls::Dialler;
use chassis::workers::PerWorker;

/// Nodes that a redirection named and configuration did not. More than that is no mesh but a mistake.
const MAX_PEERS: usize = 1024;

/// Finds the session node behind an address.
pub trait Peers: Send + Sync + 'static {
    /// The node; `None` for an address that cannot be one.
    fn get(&self, address: &str) -> Option<Arc<dyn SessionHost>>;

    /// The same, for what cannot be asked again when a node that pauses is taken for lost.
    fn patient(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        self.get(address)
    }

    /// Gives up the links to a node that ask with patience: what waits on them is lost.
    fn give_up(&self, _address: &str) {}
}

/// The one session node of this process, whatever it is called.
#[derive(Clone)]
pub struct Local(pub Arc<dyn SessionHost>);

impl Peers for Local {
    fn get(&self, _address: &str) -> Option<Arc<dyn SessionHost>> {
        Some(self.0.clone())
    }
}

/// Links to one session node. With more runtimes than that, some share one.
const MAX_LINKS: usize = 4;

/// Nodes in other processes. A connection is made when it is first used.
pub struct Dialled {
    dialler: Dialler,
    peers: RwLock<BTreeMap<String, Node>>,
}

/// The links to one node.
struct Node {
    /// For requests of sessions: they go on elsewhere when the node is silent.
    close: Links,
    /// For everything else.
    patient: Links,
}

impl Dialled {
    /// Links to these nodes; others are added when a node names them as owners. Needs a runtime.
    ///
    /// # Errors
    /// [`AddressError`] for anything but `host:port`, and without TLS for other machines.
    pub fn new<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        dialler: &Dialler,
    ) -> Result<Self, AddressError> {
        let mut peers = BTreeMap::new();
        for address in addresses {
            peers.insert(address.to_owned(), Node::new(dialler, address)?);
        }
        Ok(Self { dialler: dialler.clone(), peers: RwLock::new(peers) })
    }
}

impl Dialled {
    /// No links yet: each node is dialled when it is first asked for.
    #[must_use]
    pub fn found(dialler: &Dialler) -> Self {
        Self { dialler: dialler.clone(), peers: RwLock::default() }
    }
}

impl Node {
    fn new(dialler: &Dialler, address: &str) -> Result<Self, AddressError> {
        let close = links(dial_closely(dialler, address)?);
        Ok(Self { close, patient: links(dial_patiently(dialler, address)?) })
    }
}

fn links(channel: Traced) -> Links {
    let wire = api::wire::wire(channel);
    PerWorker::at_most(MAX_LINKS, || {
        let (client, driver) = link(wire.clone(), trace);
        let client: Arc<dyn SessionHost> = Arc::new(client);
        (client, task::spawn(Kind::Upkeep, "link", driver.run()))
    })
}

fn trace() -> Trace {
    let (parent, state) = propagate::current();
    Trace { parent, state }
}

/// A node: the link of each runtime, and what keeps it.
type Links = PerWorker<(Arc<dyn SessionHost>, Handle<()>)>;

impl Dialled {
    fn with(&self, address: &str, links: fn(&Node) -> &Links) -> Option<Arc<dyn SessionHost>> {
        if let Some(known) = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(address) {
            return Some(links(known).get().0.clone());
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS {
            return None;
        }
        let new = Node::new(&self.dialler, address).ok()?;
        Some(links(peers.entry(address.to_owned()).or_insert(new)).get().0.clone())
    }
}

impl Peers for Dialled {
    fn get(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        self.with(address, |node| &node.close)
    }

    fn patient(&self, address: &str) -> Option<Arc<dyn SessionHost>> {
        self.with(address, |node| &node.patient)
    }

    fn give_up(&self, address: &str) {
        let Ok(new) = dial_patiently(&self.dialler, address) else { return };
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let given_up = peers.get_mut(address).map(|node| std::mem::replace(&mut node.patient, links(new)));
        drop(peers);
        // Who waits is told when nobody holds the lock.
        drop(given_up);
    }
}

#[cfg(test)]
mod tests {
    use api::session::{Attach, Close, Delivery, Frames, Surroundings, Transport, service};
    use api::{Code, Detail, Error, Principal};
    use async_trait::async_trait;
    use chassis::drain;
    use chassis::grpc::server::serve_closely;
    use chassis::serve::Incoming;
    use tokio::net::TcpListener;
    use tokio::sync::watch;
    use tokio::time::{Duration, Instant, timeout};

    use super::*;

    async fn close(address: &str) -> Error {
        let peers = Dialled::new([], &Dialler::default()).unwrap();
        let node = peers.get(address).unwrap();
        let asked = timeout(Duration::from_secs(20), node.close(nothing())).await.unwrap();
        asked.err().unwrap()
    }

    fn nothing() -> Close {
        Close {
            session: "s".into(),
            revision: None,
            principal: Principal::default(),
            when_idle: false,
            transport: Transport::Streamable,
        }
    }

    #[tokio::test]
    async fn a_node_that_says_nothing_is_lost_within_three_seconds() {
        // What the operating system accepts on behalf of a process that stands still.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let start = Instant::now();
        let error = close(&listener.local_addr().unwrap().to_string()).await;
        assert_eq!(error.code, Code::Unavailable);
        assert!(matches!(error.detail, Some(Detail::OutcomeUnknown { .. })), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    /// A node that takes requests and answers none.
    struct Mute(watch::Sender<usize>);

    #[async_trait]
    impl SessionHost for Mute {
        async fn deliver(&self, _delivery: Delivery) -> Result<Frames, Error> {
            std::future::pending().await
        }

        async fn attach(&self, _attach: Attach) -> Result<Frames, Error> {
            std::future::pending().await
        }

        async fn close(&self, _close: Close) -> Result<Frames, Error> {
            self.0.send_modify(|asked| *asked += 1);
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn what_a_node_has_that_is_given_up_is_of_unknown_outcome_and_later_calls_go_there_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, mut seen) = watch::channel(0);
        let routes = service(Arc::new(Mute(asked)), Surroundings::none());
        let (_trigger, shutdown) = drain::pair();
        let _serving =
            task::spawn(Kind::Role, "mute", serve_closely(routes, Incoming::Tcp(listener), shutdown));
        let peers = Dialled::new([], &Dialler::default()).unwrap();
        for count in 1..=2 {
            let node = peers.patient(&address).unwrap();
            let giving_up = async {
                seen.wait_for(|asked| *asked == count).await.unwrap();
                peers.give_up(&address);
            };
            let both = async { tokio::join!(node.close(nothing()), giving_up).0 };
            let error = timeout(Duration::from_secs(20), both).await.unwrap().err().unwrap();
            assert_eq!(error.code, Code::Unavailable);
            assert!(matches!(error.detail, Some(Detail::OutcomeUnknown { .. })), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_was_never_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = close(&address).await;
        assert_eq!((error.code, error.detail), (Code::Unavailable, Some(Detail::NotReached)));
    }
}
