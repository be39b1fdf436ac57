//! Responses that are read from an owner which has another one after it and does not know.
//!
//! An owner that is cut off from etcd alone goes on in good faith until the store refuses it a write. On a stream on which nothing happens
//! that may be never, while what the client says elsewhere is answered by the next owner, on a stream that nobody reads.
//!
//! Owns: who reads from which owner, and telling those whose slot the table gives to a later one. Must not know: what they do then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use api::{Epoch, Slot};
use futures::task::AtomicWaker;
use placement::{Locator, Owner, Peer};
use tokio::time::{Instant, sleep};

/// An owner that gives a slot away says so itself, and first. One that has said nothing for so long will not.
const GRACE: Duration = Duration::from_millis(250);
/// Between two looks, while some slot is not where it was.
const LOOK: Duration = Duration::from_millis(50);

/// All that are being read. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Readings(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    last: u64,
    /// One look goes over all of them: waking each for each change of the table would cost more.
    of: BTreeMap<u64, Reading>,
}

struct Reading {
    slot: Slot,
    owner: Peer,
    /// What the table said when it began, which may have been behind.
    epoch: Epoch,
    /// Since when the table names another owner, or none.
    away_since: Option<Instant>,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    is_so: AtomicBool,
    waker: AtomicWaker,
}

/// One response that is being read, for as long as it is.
pub(super) struct Place {
    readings: Readings,
    number: u64,
    told: Arc<Told>,
}

impl Readings {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on somebody reads from this owner of a slot.
    pub(super) fn begin(&self, locator: &dyn Locator, slot: Slot, owner: &Peer) -> Place {
        let epoch = locator.holder(slot).map_or(Epoch(0), |holder| holder.epoch);
        let told = Arc::<Told>::default();
        let reading = Reading { slot, owner: owner.clone(), epoch, away_since: None, told: told.clone() };
        let mut all = self.lock();
        all.last += 1;
        let number = all.last;
        all.of.insert(number, reading);
        drop(all);
        Place { readings: self.clone(), number, told }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().of.is_empty()
    }

    /// Follows the table for as long as it is polled.
    pub(super) async fn watch(&self, locator: &dyn Locator) {
        let mut changed = locator.changed();
        while changed.changed().await.is_ok() {
            while self.look(locator) {
                sleep(LOOK).await;
            }
        }
        // Nothing ever changes.
        std::future::pending().await
    }

    /// Tells whom it concerns; whether some may have to be told later.
    fn look(&self, locator: &dyn Locator) -> bool {
        let now = Instant::now();
        let mut any_later = false;
        for reading in self.lock().of.values_mut() {
            let holder = locator.holder(reading.slot);
            let Some(is_taken) = reading.is_away(holder.as_ref()) else {
                reading.away_since = None;
                continue;
            };
            let since = *reading.away_since.get_or_insert(now);
            if is_taken && now.saturating_duration_since(since) >= GRACE {
                reading.told.is_so.store(true, Ordering::Release);
                reading.told.waker.wake();
            } else {
                any_later = true;
            }
        }
        any_later
    }
}

impl Reading {
    /// `None` while the slot is where it was; else whether it is another one's. A table that is behind shows an earlier owner.
    fn is_away(&self, holder: Option<&Owner>) -> Option<bool> {
        match holder {
            Some(holder) if holder.peer == self.owner || holder.epoch <= self.epoch => None,
            Some(_) => Some(true),
            // Where there never was one, the table does not say.
            None => (self.epoch > Epoch(0)).then_some(false),
        }
    }
}

impl Place {
    /// Ready once the slot has another owner, who was not told of by the one that is read from.
    pub(super) fn poll_overtaken(&self, cx: &Context<'_>) -> Poll<()> {
        self.told.waker.register(cx.waker());
        if self.told.is_so.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.readings.lock().of.remove(&self.number);
    }
}
