//! A process that shows itself for as long as it runs.
//!
//! Owns: one key on one lease. Must not know: who reads it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::keeper::{Keeper, Kept, keep};
use crate::port::{LeaseStore, Op, Txn};
use crate::record::{GatewayRecord, Key, Readiness, RegistryRecord, encode};

/// How often it says that it is alive; see [`crate::Tick`].
const TICK: Duration = Duration::from_millis(250);
/// Before another attempt to write.
const AGAIN: Duration = Duration::from_millis(100);
/// How often the key is written anew although nothing changed: somebody may have deleted it.
const REFRESH: Duration = Duration::from_secs(60);

/// Puts a key and keeps it.
pub struct Announce {
    cluster: Cluster,
    key: String,
    value: Value,
    keeper: Keeper,
    kept: Kept,
    wanted: watch::Receiver<Readiness>,
    shown: watch::Sender<bool>,
}

/// What the key holds, by state.
type Value = Box<dyn Fn(Readiness) -> Vec<u8> + Send + Sync>;

/// The handle of an [`Announce`].
#[derive(Debug, Clone)]
pub struct Announced {
    state: Arc<watch::Sender<Readiness>>,
    kept: Kept,
    shown: watch::Receiver<bool>,
}

impl Announced {
    /// Shows another state.
    pub fn set(&self, state: Readiness) {
        self.state.send_if_modified(|shown| std::mem::replace(shown, state) != state);
    }

    /// Whether the store has what should be shown, as far as is known.
    #[must_use]
    pub fn shown(&self) -> watch::Receiver<bool> {
        self.shown.clone()
    }

    /// Takes the key away, and ends [`Announce::run`].
    pub fn withdraw(&self) {
        self.kept.stop();
    }
}

impl Announce {
    /// Shows a registry to session nodes.
    #[must_use]
    pub fn registry(cluster: Cluster, ttl: Duration, record: RegistryRecord) -> (Self, Announced) {
        let key = Key::Registry(record.instance.to_string());
        Self::new(cluster, ttl, &key, move |state| {
            let mut record = record.clone();
            record.state = state;
            record
        })
    }

    /// Shows a gateway to those who look after the cluster.
    #[must_use]
    pub fn gateway(cluster: Cluster, ttl: Duration, record: GatewayRecord) -> (Self, Announced) {
        let key = Key::Gateway(record.node.to_string());
        Self::new(cluster, ttl, &key, move |state| {
            let mut record = record.clone();
            record.state = state;
            record
        })
    }

    fn new<R: Serialize>(
        cluster: Cluster,
        ttl: Duration,
        key: &Key,
        record: impl Fn(Readiness) -> R + Send + Sync + 'static,
    ) -> (Self, Announced) {
        let (keeper, kept) = keep(Arc::clone(&cluster.store), ttl, Arc::clone(&cluster.now));
        let (state, wanted) = watch::channel(Readiness::Ready);
        let key = cluster.keys.write(key);
        let value = Box::new(move |state| encode(&record(state)));
        let (shown, seen) = watch::channel(false);
        let announced = Announced { state: Arc::new(state), kept: kept.clone(), shown: seen };
        (Self { cluster, key, value, keeper, kept, wanted, shown }, announced)
    }

    /// Keeps the key until it is withdrawn.
    pub async fn run(self) {
        let Self { cluster, key, value, keeper, kept, wanted, shown } = self;
        let (tick, now) = (kept.tick.clone(), Arc::clone(&cluster.now));
        let beating = async {
            loop {
                tick.beat(now());
                sleep(TICK).await;
            }
        };
        let writing = write_for_ever(&*cluster.store, &key, value, kept, wanted, shown);
        tokio::select! {
            () = keeper.run() => {}
            () = beating => {}
            () = writing => {}
        }
    }
}

/// Writes the key on every new lease, in every new state, and every minute.
async fn write_for_ever(
    store: &dyn LeaseStore,
    key: &str,
    value: Value,
    mut kept: Kept,
    mut wanted: watch::Receiver<Readiness>,
    shown: watch::Sender<bool>,
) {
    loop {
        let lease = kept.state.borrow_and_update().lease;
        let state = *wanted.borrow_and_update();
        let put = Op::Put(key.to_owned(), value(state), lease);
        let done = lease.is_some() && matches!(store.txn(Vec::new(), vec![put]).await, Ok(Txn::Done(_)));
        shown.send_replace(done);
        if lease.is_some() && !done {
            sleep(AGAIN).await;
            continue;
        }
        // The handle and the keeper may end before: then there is nothing new to come from them.
        tokio::select! {
            Ok(_) = kept.state.wait_for(|state| state.lease != lease) => {}
            Ok(()) = wanted.changed() => {}
            () = sleep(REFRESH) => {}
        }
    }
}
