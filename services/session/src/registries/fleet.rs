//! The links to registry processes: the configured ones, and those that are announced and withdrawn while the node runs.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::catalogue::LinkId;
use super::{Link, Registries};
use crate::deps::RegistryPeer;

pub(super) type Links = BTreeMap<LinkId, Arc<Link>>;

impl Registries {
    /// Keeps every link alive until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut running = FuturesUnordered::new();
        let announcing = self.announce();
        tokio::pin!(announcing);
        loop {
            let joining = std::mem::take(&mut *self.joining.lock().unwrap_or_else(PoisonError::into_inner));
            for link in joining {
                running.push(link.run(self.clone(), shutdown.clone()));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = running.next(), if !running.is_empty() => self.let_go(ended),
                () = self.joined.notified() => {}
                () = &mut announcing => {}
            }
        }
        while running.next().await.is_some() {}
    }

    /// Uses a process from now on, until it is removed. One that is there already is dialled at once if it is out of reach.
    pub(crate) fn add(&self, peer: RegistryPeer) {
        let link = self.find_or_join(peer);
        if link.announce(true) {
            tracing::info!(address = link.address(), "registry announced");
        }
        self.rebuild();
    }

    /// No longer uses a process that was added: it takes no new calls, and finishes what it has. What is configured stays.
    pub(crate) fn remove(&self, address: &str) {
        let links = self.links();
        for link in links.values().filter(|link| link.address() == address) {
            if link.announce(false) {
                tracing::info!(address, "registry withdrawn");
            }
        }
        self.rebuild();
    }

    /// The addresses that were added and not removed.
    pub(crate) fn announced(&self) -> Vec<String> {
        let links = self.links();
        links.values().filter(|link| link.is_announced()).map(|link| link.address().to_owned()).collect()
    }

    /// Uses a process for good.
    pub(super) fn configure(&self, peer: RegistryPeer) {
        self.find_or_join(peer).configure();
    }

    fn find_or_join(&self, peer: RegistryPeer) -> Arc<Link> {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = links.values().find(|link| link.address() == peer.address) {
            return known.clone();
        }
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let up = self.observed.link(&peer.address);
        let link = Arc::new(Link::new(id, peer, self.grace, up));
        Arc::make_mut(&mut *links).insert(id, link.clone());
        drop(links);
        self.joining.lock().unwrap_or_else(PoisonError::into_inner).push(link.clone());
        self.joined.notify_one();
        link
    }

    /// A link has ended. One that was announced again meanwhile goes on.
    fn let_go(&self, id: LinkId) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = links.get(&id).cloned() else { return };
        if link.is_over() {
            Arc::make_mut(&mut *links).remove(&id);
            self.observed.unlink(link.address());
        } else {
            self.joining.lock().unwrap_or_else(PoisonError::into_inner).push(link);
        }
        drop(links);
        self.rebuild();
    }

    /// Every link there is.
    pub(super) fn links(&self) -> Arc<Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The link to the process that holds an invocation: the one that is this run of it, else the one at its address.
    pub(crate) fn holder(&self, instance: &str, address: &str) -> Option<Arc<Link>> {
        let links = self.links();
        let is_it = |link: &&Arc<Link>| link.instance().is_some_and(|known| known == instance);
        links.values().find(is_it).or_else(|| links.values().find(|link| link.address() == address)).cloned()
    }

    /// The processes that may hold invocations of a registry.
    pub(super) fn serving(&self, registry: &str) -> Vec<Arc<Link>> {
        let serves = |link: &&Arc<Link>| {
            link.serves().unwrap_or_default().iter().any(|source| source.registry == registry)
        };
        self.links().values().filter(serves).cloned().collect()
    }

    /// Returns once every registry has been reached or has failed to answer for the first time.
    pub(crate) async fn settled(&self) {
        let mut stirred = self.stirred.subscribe();
        while !self.links().values().all(|link| link.is_settled()) {
            // The sender lives as long as `self`.
            let _closed = stirred.changed().await.is_err();
        }
    }

    /// How many invocations wait to be released, and to be cancelled.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let links = self.links();
        let waiting = links.values().map(|link| link.waiting());
        waiting.fold((0, 0), |sum, link| (sum.0 + link.0, sum.1 + link.1))
    }

    /// A link stands differently than before.
    pub(super) fn stir(&self) {
        self.stirred.send_replace(());
    }
}
