//! The table of owners that follows the lease store.
//!
//! Owns: [`Directory`], which answers from memory, and [`Following`], which keeps it up to date and writes reports of
//! suspicion. Must not know: who asks, and what a report leads to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api::{Slot, SlotCount};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::follow::Follower;
use crate::locate::{Incarnation, Locator, Owner, Peer};
use crate::made::{self, CountError};
use crate::port::{LeaseId, Op, StoreError, Txn};
use crate::probe::Probe;
use crate::record::{Key, RegistryRecord, SuspectRecord, encode};
use crate::table::Table;

/// Reports that wait to be written. A full queue drops the newest: the next failure is reported again.
const REPORTS: usize = 64;
/// How long a report stands.
const REPORT_TTL: Duration = Duration::from_secs(10);
/// How long one and the same report is not made again.
const QUIET_MS: u64 = 2_000;
/// Between two attempts to reach a node that somebody reported.
const CONFIRM_AGAIN: Duration = Duration::from_millis(500);

/// Answers from the last table that was seen. While the lease store is down, that is the last one it gave.
pub struct Directory {
    slots: SlotCount,
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
    probe: Option<Probe>,
}

/// A table, made ready for questions.
#[derive(Default, PartialEq)]
struct View {
    owners: Vec<Option<Owner>>,
    ready: Vec<Peer>,
    registries: Vec<RegistryRecord>,
    /// Who is behind an address, for reports.
    nodes: BTreeMap<Arc<str>, Run>,
    /// Who was reported, and by whom.
    suspects: Vec<(Run, Peer, BTreeSet<String>)>,
}

/// A run of a node.
type Run = (Arc<str>, Incarnation);

impl View {
    fn of(slots: SlotCount, table: &Table) -> Self {
        Self {
            owners: slots.slots().map(|slot| table.owner(slot)).collect(),
            ready: table.ready(),
            registries: table.registries().cloned().collect(),
            nodes: table
                .nodes()
                .map(|(node, record)| (Arc::clone(&record.address), (Arc::clone(node), record.incarnation)))
                .collect(),
            suspects: table
                .nodes()
                .filter_map(|(node, record)| {
                    let reporters = table.reporters(node, record.incarnation)?.clone();
                    let peer = Peer { address: Arc::clone(&record.address) };
                    Some(((Arc::clone(node), record.incarnation), peer, reporters))
                })
                .collect(),
        }
    }
}

impl Directory {
    /// An empty directory; `reporter` is this process in reports of suspicion, and differs from every other one.
    #[must_use]
    pub fn new(cluster: Cluster, reporter: &str) -> (Arc<Self>, Following) {
        let (reports, queued) = mpsc::channel(REPORTS);
        let (slots, changes) = (cluster.slots, watch::channel(0).0);
        let directory = Arc::new(Self { slots, view: RwLock::default(), changes, reports });
        // A reporter is one part of a key.
        let reporter = reporter.replace('/', "_");
        let following =
            Following { cluster, directory: Arc::clone(&directory), reporter, reports: queued, probe: None };
        (directory, following)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn show(&self, table: &Table) {
        let view = View::of(self.slots, table);
        if view == *self.view() {
            return;
        }
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Locator for Directory {
    fn slots(&self) -> SlotCount {
        self.slots
    }

    fn owner(&self, slot: Slot) -> Option<Peer> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.owners.get(usize::from(slot.number()))?.as_ref().map(|owner| owner.peer.clone())
    }

    fn ready(&self) -> Vec<Peer> {
        self.view().ready.clone()
    }

    fn holder(&self, slot: Slot) -> Option<Owner> {
        self.view().owners.get(usize::from(slot.number()))?.clone()
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
    /// Tries nodes that somebody else reported, and adds a report of its own for one that it cannot reach either. Where there
    /// is only one gateway, this is the second voice.
    #[must_use]
    pub fn confirming(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Follows the lease store for as long as it is polled. Ends only if this process must not take part: the mesh has
    /// another number of slots than it was told.
    pub async fn run(self) -> CountError {
        let Self { cluster, directory, reporter, mut reports, probe } = self;
        let following = async {
            let mut follower = Follower::new(&cluster);
            let mut shown = None;
            loop {
                follower.next().await;
                let version = Some(follower.table().version());
                if follower.lists() > 0 && shown != version {
                    shown = version;
                    if let Err(why) = made::agrees(follower.table(), &cluster) {
                        break why;
                    }
                    directory.show(follower.table());
                }
            }
        };
        let reporting = async {
            let mut made = Made::default();
            while let Some((peer, why)) = reports.recv().await {
                let Some(suspect) = directory.view().nodes.get(&peer.address).cloned() else { continue };
                report(&cluster, &reporter, suspect, &why, &mut made).await;
            }
        };
        let confirming = async {
            if let Some(probe) = probe {
                confirm(&cluster, &directory, &reporter, &probe).await;
            }
        };
        let rest = async {
            tokio::join!(reporting, confirming);
            std::future::pending().await
        };
        tokio::select! {
            why = following => why,
            never = rest => never,
        }
    }
}

/// Tries those whom others reported, for as long as they are.
async fn confirm(cluster: &Cluster, directory: &Directory, reporter: &str, probe: &Probe) {
    let mut changed = directory.changed();
    let mut made = Made::default();
    loop {
        changed.mark_unchanged();
        let mut any = false;
        for (suspect, peer, reporters) in &directory.view().suspects {
            if reporters.contains(reporter) {
                continue;
            }
            any = true;
            if let Err(why) = probe(peer.clone()).await {
                report(cluster, reporter, suspect.clone(), &why, &mut made).await;
            }
        }
        let again = async { if any { sleep(CONFIRM_AGAIN).await } else { std::future::pending().await } };
        tokio::select! {
            // The sender lives as long as the directory, which is held here.
            _ = changed.changed() => {}
            () = again => {}
        }
    }
}

/// What was reported lately.
#[derive(Default)]
struct Made {
    lease: Option<(LeaseId, u64)>,
    at: HashMap<(Arc<str>, Incarnation), u64>,
}

/// Writes a report, unless it stands already. One that cannot be written is dropped: its cause will come again.
async fn report(cluster: &Cluster, reporter: &str, suspect: Run, why: &str, made: &mut Made) {
    let now_ms = (cluster.now)();
    if made.at.get(&suspect).is_some_and(|at| now_ms.saturating_sub(*at) < QUIET_MS) {
        return;
    }
    made.at.retain(|_, at| now_ms.saturating_sub(*at) < QUIET_MS);
    // A lease is used for half its life, so that a report stands for a while, and is not renewed.
    let half = u64::try_from(REPORT_TTL.as_millis()).unwrap_or(u64::MAX) / 2;
    let lease = match made.lease.filter(|(_, since)| now_ms.saturating_sub(*since) < half) {
        Some((lease, _)) => lease,
        None => match cluster.store.grant(REPORT_TTL).await {
            Ok(granted) => granted.lease,
            Err(error) => return tracing::debug!(%error, "a suspicion could not be reported"),
        },
    };
    made.lease = made.lease.filter(|(known, _)| *known == lease).or(Some((lease, now_ms)));
    let (node, incarnation) = &suspect;
    let key =
        Key::Suspect { node: node.to_string(), incarnation: *incarnation, reporter: reporter.to_owned() };
    let put = Op::Put(cluster.keys.write(&key), encode(&SuspectRecord::new(why)), Some(lease));
    match cluster.store.txn(Vec::new(), vec![put]).await {
        Ok(Txn::Done(_)) => {
            tracing::warn!(%node, why, "a node could not be reached, reported");
            made.at.insert(suspect, now_ms);
        }
        Ok(Txn::Refused) => {}
        Err(StoreError::Gone) => made.lease = None,
        Err(error) => tracing::debug!(%error, "a suspicion could not be reported"),
    }
}
