//! A process that shows itself for as long as it runs.
//!
//! Owns: one key on one lease. Must not know: who reads it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::keeper::{Keeper, Kept, keep};
use crate::record::{GatewayRecord, Key, Readiness, RegistryRecord, encode};

/// Puts a key and keeps it.
pub struct Announce {
    cluster: Cluster,
    key: String,
    value: Box<dyn Fn(Readiness) -> Vec<u8> + Send + Sync>,
    keeper: Keeper,
    kept: Kept,
    state: watch::Receiver<Readiness>,
}

/// The handle of an [`Announce`].
#[derive(Debug, Clone)]
pub struct Announced {
    state: Arc<watch::Sender<Readiness>>,
    kept: Kept,
}

impl Announced {
    /// Shows another state.
    pub fn set(&self, state: Readiness) {
        self.state.send_if_modified(|shown| std::mem::replace(shown, state) != state);
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
        let (state, shown) = watch::channel(Readiness::Ready);
        let key = cluster.keys.write(key);
        let value = Box::new(move |state| encode(&record(state)));
        let announced = Announced { state: Arc::new(state), kept: kept.clone() };
        (Self { cluster, key, value, keeper, kept, state: shown }, announced)
    }

    /// Keeps the key until it is withdrawn, or nobody holds the handle.
    pub async fn run(self) {
        let Self { cluster, key, value, keeper, kept, state } = self;
        drop((cluster, key, value, kept, state));
        keeper.run().await;
    }
}
