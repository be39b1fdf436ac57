//! How a node comes by its slots and leaves them: fixed ones at once and for good, others through placement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::SlotCount;
use chassis::drain::{Shutdown, Trigger};
use chassis::task::{self, Handle, Kind};
use chassis::tls::Dialler;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use placement::{Claims, Directory, Locator, Now, RegistryRecord, Tick};

use crate::deps::{Deps, Seat};
use crate::host::Shared;
use crate::ownership::Occupant;
use crate::store::Fenced;

/// How long a starting node waits for registries that do not answer, and for etcd without a word.
const SETTLE: Duration = Duration::from_secs(2);
/// How long it waits for etcd to say which registries there are, at most. Then it claims slots knowing of none.
const LISTING: Duration = Duration::from_secs(30);
/// How often the workers show that they work.
const BEAT: Duration = Duration::from_millis(200);

/// Why a node cannot serve, or no longer.
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Seat {
    /// How many slots the mesh has.
    pub(crate) fn slots(&self) -> SlotCount {
        match self {
            Self::Fixed { slots, .. } => *slots,
            Self::Claimed(claimed) => claimed.directory.slots(),
        }
    }

    /// Where the owners of other slots are found.
    pub(crate) fn locator(&self) -> Option<Arc<dyn Locator>> {
        match self {
            Self::Fixed { .. } => None,
            Self::Claimed(claimed) => Some(claimed.directory.clone()),
        }
    }
}

/// Takes the fixed slots, or begins to claim. What comes back runs until the node takes no part any more, and ends the claims.
pub(crate) async fn take(
    shared: &Arc<Shared>,
    seat: Seat,
) -> Result<(BoxFuture<'static, Result<(), Failure>>, Option<Claims>), Failure> {
    let claimed = match seat {
        Seat::Fixed { slots, epoch } => {
            let slots: Vec<_> = shared.config.slots.of(slots)?.map(|slot| (slot, epoch)).collect();
            let asked = shared.slots.now();
            let fenced = shared.store.fence(&slots).await;
            if let Some(((slot, _), why)) =
                slots.iter().zip(fenced).find(|(_, fenced)| *fenced != Fenced::Done)
            {
                return Err(format!("slot {slot} cannot be taken over: {why:?}").into());
            }
            shared.slots.take(&slots);
            slots.iter().for_each(|(slot, _)| shared.slots.agreed(*slot, asked));
            settle(shared).await;
            return Ok((std::future::ready(Ok(())).boxed(), None));
        }
        Seat::Claimed(claimed) => claimed,
    };
    let mut following = task::spawn(Kind::Upkeep, "directory", claimed.following.run());
    let beating = task::spawn(Kind::Upkeep, "signs of life", beat(claimed.tick, claimed.now));
    tokio::select! {
        () = listed(&claimed.directory) => {}
        // It must not take part; the claims find out likewise, and say so.
        _ended = &mut following => {}
    }
    // Those that show themselves already are waited for, so they have to be known before.
    use_shown(shared, &claimed.directory, &claimed.dialler);
    let finding = find_registries(shared.clone(), claimed.directory.clone(), claimed.dialler);
    let finding = task::spawn(Kind::Upkeep, "registries found", finding);
    settle(shared).await;
    let looking =
        task::spawn(Kind::Upkeep, "store watch", watch_store(shared.clone(), claimed.claims.clone()));
    // A node takes one seat in its life.
    let _first = shared.claims.set(claimed.claims.clone()).is_ok();
    let tenant = Arc::new(Occupant(Arc::downgrade(shared)));
    let claimer = claimed.claimer;
    let running: Handle<Result<(), Failure>> = task::spawn(Kind::Upkeep, "claims", async move {
        let drained = claimer.run(tenant).await?;
        tracing::info!(handed = drained.handed, dropped = drained.dropped, "slots given away");
        Ok(())
    });
    let tenancy = async move {
        let _kept = (following, finding, beating, looking);
        running.await.unwrap_or_else(|lost| Err(lost.into()))
    };
    Ok((tenancy.boxed(), Some(claimed.claims)))
}

/// Gives the slots away once the node is to stop, and then lets the rest of it drain. Never ends by itself.
pub(crate) async fn leave(claims: Option<Claims>, rest: Trigger, shutdown: Shutdown) {
    shutdown.requested().await;
    if let Some(claims) = claims {
        tokio::select! {
            drained = claims.drain() => {
                tracing::info!(handed = drained.handed, dropped = drained.dropped, "drained");
            }
            () = shutdown.expired() => {}
        }
    }
    rest.drain();
    shutdown.expired().await;
    rest.expire();
    std::future::pending().await
}

/// Waits until etcd has said once which registries there are; that there are none is an answer, too. Whoever takes calls over
/// before it knows of any looks for them nowhere, and gives them up as lost.
async fn listed(directory: &Directory) {
    let mut seen = directory.changed();
    // The sender lives as long as the directory.
    let mut any = async || drop(seen.wait_for(|changes| *changes > 0).await);
    if tokio::time::timeout(SETTLE, any()).await.is_ok() {
        return;
    }
    tracing::warn!("no slots are claimed yet: etcd has not said which registries there are");
    match tokio::time::timeout(LISTING - SETTLE, any()).await {
        Ok(()) => tracing::info!("etcd has said which registries there are; slots are claimed"),
        Err(_) => tracing::warn!("slots are claimed, although etcd has not said which registries there are"),
    }
}

/// Waits until the registries are there: calls that are taken over are looked for in them. One that is down keeps nobody waiting
/// for ever.
async fn settle(shared: &Shared) {
    let _slow = tokio::time::timeout(SETTLE, shared.registries.settled()).await.is_err();
    shared.registries.begin();
}

/// Uses the registries that show themselves, for as long as they do.
async fn find_registries(shared: Arc<Shared>, directory: Arc<Directory>, dialler: Dialler) {
    let mut changed = directory.changed();
    loop {
        changed.mark_unchanged();
        use_shown(&shared, &directory, &dialler);
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Begins with those that show themselves now, and ends with those that do no more.
fn use_shown(shared: &Shared, directory: &Directory, dialler: &Dialler) {
    let shown = directory.registries();
    let shown: BTreeMap<&str, &RegistryRecord> =
        shown.iter().map(|record| (&*record.address, record)).collect();
    let used = shared.registries.announced();
    for gone in used.iter().filter(|address| !shown.contains_key(address.as_str())) {
        shared.registries.remove(gone);
    }
    for (address, record) in shown.iter().filter(|(address, _)| !used.iter().any(|used| used == **address)) {
        let namespace = record.namespace.as_deref().map(str::to_owned);
        match Deps::registry(address, namespace, dialler) {
            Ok(peer) => shared.registries.add(peer),
            Err(error) => tracing::warn!(%error, "a registry shows itself with an address of no use"),
        }
    }
}

/// A process in which one of the workers stands still does not hold on to what it cannot serve.
async fn beat(tick: Tick, now: Now) {
    let mut interval = tokio::time::interval(BEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        chassis::workers::all_work().await;
        tick.beat(now());
    }
}

/// A node that cannot reach the store gives way to one that can.
async fn watch_store(shared: Arc<Shared>, claims: Claims) {
    let mut interval = tokio::time::interval(BEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let is_up = shared.store.is_up().await;
        shared.reaches_store.store(is_up, Ordering::Relaxed);
        claims.store_is(is_up);
    }
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests;
