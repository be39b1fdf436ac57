//! The table of owners that follows the lease store.
//!
//! Owns: [`Directory`], which answers from memory, and [`Following`], which keeps it up to date. Must not know: who asks.

use std::sync::{Arc, PoisonError, RwLock};

use api::Slot;
use tokio::sync::{mpsc, watch};

use crate::cluster::Cluster;
use crate::locate::{Locator, Owner, Peer};
use crate::record::RegistryRecord;

/// Reports that wait to be written. A full queue drops the newest: the next failure is reported again.
const REPORTS: usize = 64;

/// Answers from the last table that was seen. While the lease store is down, that is the last one it gave.
pub struct Directory {
    view: RwLock<Arc<View>>,
    changes: watch::Sender<u64>,
    reports: mpsc::Sender<(Peer, String)>,
}

/// Keeps a [`Directory`] up to date and writes its reports.
pub struct Following {
    cluster: Cluster,
    directory: Arc<Directory>,
    reporter: String,
    reports: mpsc::Receiver<(Peer, String)>,
}

#[derive(Debug, Default)]
struct View {
    slots: Vec<Option<Owner>>,
    ready: Vec<Peer>,
    registries: Vec<RegistryRecord>,
}

impl Directory {
    /// An empty directory; `reporter` is this process in reports of suspicion, and differs from every other one.
    #[must_use]
    pub fn new(cluster: Cluster, reporter: &str) -> (Arc<Self>, Following) {
        let (reports, queued) = mpsc::channel(REPORTS);
        let directory = Arc::new(Self { view: RwLock::default(), changes: watch::channel(0).0, reports });
        let following = Following {
            cluster,
            directory: Arc::clone(&directory),
            reporter: reporter.to_owned(),
            reports: queued,
        };
        (directory, following)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Locator for Directory {
    fn owner(&self, slot: Slot) -> Option<Peer> {
        self.holder(slot).map(|owner| owner.peer)
    }

    fn ready(&self) -> Vec<Peer> {
        self.view().ready.clone()
    }

    fn holder(&self, slot: Slot) -> Option<Owner> {
        self.view().slots.get(usize::from(slot.number())).cloned().flatten()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn suspect(&self, peer: &Peer, why: &str) {
        // Full: see REPORTS. Closed: nobody follows, so nothing can be written.
        drop(self.reports.try_send((peer.clone(), why.to_owned())));
    }

    fn registries(&self) -> Vec<RegistryRecord> {
        self.view().registries.clone()
    }
}

impl Following {
    /// Follows the lease store for as long as it is polled.
    pub async fn run(self) {
        let Self { cluster, directory, reporter, mut reports } = self;
        drop((cluster, directory, reporter));
        while reports.recv().await.is_some() {}
    }
}
