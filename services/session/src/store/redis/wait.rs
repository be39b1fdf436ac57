//! Waits for replicas, once for many commits: a server does nothing else on a connection while it waits, and one wait is for
//! everything that was written on the connection before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use redis::Value;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};

use super::dial::Wire;

type Wait = Shared<BoxFuture<'static, usize>>;

/// What an answer may take above the time that replicas are given.
const MARGIN: Duration = Duration::from_millis(400);

/// The waits of one connection, by what is waited for: in a cluster each key is somewhere else.
#[derive(Default)]
pub(super) struct Waits(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Sent; what is written from now on is not in it.
    running: HashMap<String, Wait>,
    /// Will be sent behind that one.
    next: HashMap<String, Wait>,
}

impl Waits {
    /// How many replicas have everything that was written on `wire` so far, at most `after` from now. `key` is one of those that
    /// were written; 0 where nobody answers.
    pub(super) async fn behind(
        self: &Arc<Self>,
        wire: &Wire,
        key: &str,
        replicas: usize,
        after: Duration,
    ) -> usize {
        let place = match wire {
            Wire::Single(_) => String::new(),
            // The part in braces.
            Wire::Cluster(_) => key.split_inclusive('}').next().unwrap_or(key).to_owned(),
        };
        let wait = {
            let mut table = self.table();
            let before = table.running.get(&place).cloned();
            let make = || self.clone().wait(place.clone(), before, wire.clone(), replicas, after);
            match table.next.get(&place) {
                Some(next) => next.clone(),
                None => {
                    let next = make();
                    table.next.insert(place, next.clone());
                    next
                }
            }
        };
        wait.await
    }

    fn wait(
        self: Arc<Self>,
        place: String,
        before: Option<Wait>,
        mut wire: Wire,
        replicas: usize,
        after: Duration,
    ) -> Wait {
        let waits = Arc::downgrade(&self);
        let run = async move {
            if let Some(before) = before {
                before.await;
            }
            if let Some(waits) = waits.upgrade() {
                let mut table = waits.table();
                if let Some(this) = table.next.remove(&place) {
                    table.running.insert(place.clone(), this);
                }
            }
            let mut cmd = redis::cmd("WAIT");
            cmd.arg(replicas).arg(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            let answer = async {
                match &mut wire {
                    Wire::Single(_) => wire.send(&cmd).await,
                    Wire::Cluster(cluster) => {
                        let route = Route::with_key(&place, SlotAddr::Master);
                        let node = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
                        cluster.route_command(cmd, node).await
                    }
                }
            };
            match tokio::time::timeout(after + MARGIN, answer).await {
                Ok(Ok(Value::Int(got))) => usize::try_from(got).unwrap_or(0),
                Ok(Ok(_) | Err(_)) | Err(_) => 0,
            }
        };
        run.boxed().shared()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
