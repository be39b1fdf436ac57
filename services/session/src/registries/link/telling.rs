//! What a registry process is told after the fact: that invocations shall stop, or will not be come back to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::registry::{Context, Registry};
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::Notify;

use super::limited;

/// How often finished invocations are let go of.
const RELEASE_EVERY: Duration = Duration::from_secs(1);
/// How many are remembered, to be released or cancelled; beyond it they are left to expire.
const QUEUE: usize = 4096;
/// Invocations that are released without waiting longer: a busy node must not have its registries keep what nobody wants.
const ENOUGH: usize = 128;
/// How many are cancelled at a time.
const CANCELS: usize = 16;

/// See the module.
pub(super) struct Telling {
    address: String,
    port: Arc<dyn Registry>,
    releases: Mutex<Releases>,
    cancels: Mutex<Vec<(Context, String)>>,
    /// Rung when there is something to cancel.
    bell: Notify,
    /// Rung when enough is to be released that it should not wait for its time.
    enough: Notify,
}

/// What waits to be released, by registry: on whose behalf is told once.
#[derive(Default)]
struct Releases {
    by_registry: BTreeMap<String, (Context, Vec<String>)>,
    count: usize,
}

impl Telling {
    pub(super) fn new(address: String, port: Arc<dyn Registry>) -> Self {
        Self {
            address,
            port,
            releases: Mutex::default(),
            cancels: Mutex::default(),
            bell: Notify::new(),
            enough: Notify::new(),
        }
    }

    /// How many invocations wait to be released, and to be cancelled.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner).count;
        (releases, self.cancels.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    pub(super) fn release(&self, context: &Context) {
        let mut releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        if releases.count >= QUEUE {
            return;
        }
        releases.count += 1;
        let invocation = context.invocation.clone();
        match releases.by_registry.get_mut(&context.registry) {
            Some((_, invocations)) => invocations.push(invocation),
            None => {
                let told = (in_own_time(context.clone()), vec![invocation]);
                releases.by_registry.insert(context.registry.clone(), told);
            }
        }
        if releases.count == ENOUGH {
            self.enough.notify_one();
        }
    }

    pub(super) fn cancel(&self, context: Context, reason: String) {
        let mut cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        if cancels.len() < QUEUE {
            cancels.push((in_own_time(context), reason));
        }
        drop(cancels);
        self.bell.notify_one();
    }

    /// Beside everything else, so that a registry that is slow to let go holds nothing up.
    pub(super) async fn release_regularly(&self) -> Infallible {
        let mut tick = tokio::time::interval(RELEASE_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.enough.notified() => {}
            }
            self.flush_releases().await;
        }
    }

    pub(super) async fn cancel_promptly(&self) -> Infallible {
        loop {
            let due = std::mem::take(&mut *self.cancels.lock().unwrap_or_else(PoisonError::into_inner));
            let telling = stream::iter(due).for_each_concurrent(CANCELS, |(context, reason)| async {
                if let Err(error) = limited(self.port.cancel(context, reason)).await {
                    tracing::debug!(address = %self.address, %error, "a cancellation did not reach its registry");
                }
            });
            telling.await;
            self.bell.notified().await;
        }
    }

    async fn flush_releases(&self) {
        let releases = std::mem::take(&mut *self.releases.lock().unwrap_or_else(PoisonError::into_inner));
        for (context, invocations) in releases.by_registry.into_values() {
            if let Err(error) = limited(self.port.release(context, invocations)).await {
                tracing::debug!(address = %self.address, %error, "release failed; the invocations expire by themselves");
            }
        }
    }
}

/// What is said after a call is not bound by the call's deadline, which may be why it is said.
fn in_own_time(context: Context) -> Context {
    Context { deadline: None, ..context }
}
