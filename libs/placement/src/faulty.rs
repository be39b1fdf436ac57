//! Any lease store, made to fail on request.
//!
//! Owns: the failures that callers must survive, the cruel one included: it happened, and the caller saw a timeout. Must not
//! know: which store is behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use tokio::sync::watch;

use crate::port::{Compare, Events, Granted, LeaseId, LeaseStore, Listing, Op, Revision, StoreError, Txn};

/// Passes everything on, but for the failures asked for.
#[derive(Clone)]
pub struct Faulty {
    store: Arc<dyn LeaseStore>,
    faults: Arc<Faults>,
}

/// The failures, to be asked for while the store is in use.
pub struct Faults {
    down: watch::Sender<bool>,
    silent: AtomicBool,
    lost_answers: AtomicU32,
}

impl Faults {
    /// Nothing gets through, and watches break; or everything is as it was.
    pub fn cut(&self, down: bool) {
        self.down.send_replace(down);
    }

    /// Watches see nothing any more, and do not end.
    pub fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    /// The next transactions happen, and their answers are lost.
    pub fn lose_answers(&self, count: u32) {
        self.lost_answers.store(count, Ordering::SeqCst);
    }

    fn reached(&self) -> Result<(), StoreError> {
        if *self.down.borrow() { Err(unavailable()) } else { Ok(()) }
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("cut off".to_owned())
}

impl Faulty {
    /// A store that fails when it is told to.
    #[must_use]
    pub fn new(store: Arc<dyn LeaseStore>) -> (Self, Arc<Faults>) {
        let faults = Arc::new(Faults {
            down: watch::channel(false).0,
            silent: AtomicBool::new(false),
            lost_answers: AtomicU32::new(0),
        });
        (Self { store, faults: Arc::clone(&faults) }, faults)
    }
}

#[async_trait]
impl LeaseStore for Faulty {
    async fn grant(&self, ttl: Duration) -> Result<Granted, StoreError> {
        self.faults.reached()?;
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Granted, StoreError> {
        self.faults.reached()?;
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.faults.reached()?;
        self.store.revoke(lease).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.faults.reached()?;
        self.store.list(prefix).await
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError> {
        self.faults.reached()?;
        let answer = self.store.txn(compares, ops).await;
        let lost = self
            .faults
            .lost_answers
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if lost.is_ok() { Err(unavailable()) } else { answer }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, StoreError> {
        self.faults.reached()?;
        let faults = Arc::clone(&self.faults);
        let passed = self.store.watch(prefix, from).await?.filter(move |_| {
            let heard = !faults.silent.load(Ordering::SeqCst);
            async move { heard }
        });
        let mut down = self.faults.down.subscribe();
        let broken = stream::once(async move {
            // Closed: nobody can cut it any more.
            if down.wait_for(|down| *down).await.is_err() {
                std::future::pending::<()>().await;
            }
            Err(unavailable())
        });
        let until_broken = stream::select(passed, broken).scan(false, |ended, next| {
            let item = (!*ended).then_some(next);
            *ended = matches!(item, Some(Err(_)));
            async move { item }
        });
        Ok(until_broken.boxed())
    }
}
