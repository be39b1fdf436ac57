//! The suite of the port, against every implementation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use placement::contract::{self, Subject};
use placement::embedded::Embedded;
use placement::faulty::Faulty;
use placement::port::{LeaseStore, Revision};

use crate::etcd::Servers;

struct InProcess {
    store: Arc<dyn LeaseStore>,
    embedded: Embedded,
    clock: Arc<AtomicU64>,
}

impl InProcess {
    fn new() -> Self {
        let clock = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&clock);
        let embedded = Embedded::new(Arc::new(move || read.load(Ordering::SeqCst)));
        Self { store: Arc::new(embedded.clone()), embedded, clock }
    }
}

#[async_trait]
impl Subject for InProcess {
    fn store(&self) -> Arc<dyn LeaseStore> {
        Arc::clone(&self.store)
    }

    fn pass(&self, by: Duration) {
        self.clock.fetch_add(by.as_millis().try_into().unwrap(), Ordering::SeqCst);
        self.embedded.expire();
    }

    async fn compact(&self, revision: Revision) {
        self.embedded.compact(revision);
    }
}

struct Real {
    store: Arc<dyn LeaseStore>,
    client: etcd_client::Client,
}

#[async_trait]
impl Subject for Real {
    fn store(&self) -> Arc<dyn LeaseStore> {
        Arc::clone(&self.store)
    }

    fn pass(&self, _by: Duration) {}

    async fn compact(&self, revision: Revision) {
        self.client.clone().compact(revision, None).await.unwrap();
    }
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    contract::all(&InProcess::new()).await;
}

#[tokio::test]
async fn a_store_that_can_fail_keeps_it_until_it_does() {
    let mut subject = InProcess::new();
    subject.store = Arc::new(Faulty::new(Arc::clone(&subject.store)).0);
    contract::all(&subject).await;
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let servers = Servers::start(1);
    let store = Arc::new(servers.client().await);
    let client = etcd_client::Client::connect(servers.config().endpoints, None).await.unwrap();
    contract::all(&Real { store, client }).await;
}
