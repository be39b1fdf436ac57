//! Loading sessions from the store: not too many at a time, and each only once.
//!
//! Whoever loads a session is alone with it. A second load could come back with what the session was before it ended here, and
//! bring it back to life.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use api::{Epoch, SessionId};
use machines::{CommitRefusal, Session};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::begin::carried_by;
use crate::host::Shared;
use crate::residents::{Repeated, Resident};

/// Sessions that are loaded at a time: a node that takes over many must not drown in them.
const AT_A_TIME: usize = 256;
/// Sessions share a place with few others.
const PLACES: usize = 4_096;

/// See the module.
pub(crate) struct Loads {
    /// One at a time.
    places: Box<[Semaphore]>,
    room: Semaphore,
}

/// Held while a session is loaded.
pub(crate) struct Loading<'a> {
    _place: Option<SemaphorePermit<'a>>,
    _room: Option<SemaphorePermit<'a>>,
}

impl Default for Loads {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| Semaphore::new(1)).collect(), room: Semaphore::new(AT_A_TIME) }
    }
}

impl Loads {
    /// Waits until nobody else loads this session, and there is room.
    pub(crate) async fn begin(&self, id: &SessionId) -> Loading<'_> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(id.as_str());
        let place = usize::try_from(hash % PLACES as u64).unwrap_or_default();
        // They are never closed.
        let place = self.places[place].acquire().await.ok();
        Loading { _place: place, _room: self.room.acquire().await.ok() }
    }
}

impl Shared {
    /// Loads a session that this node owns and does not have in memory.
    pub(crate) async fn activate(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal> {
        let _alone = self.loads.begin(id).await;
        if self.residents.knows(id) {
            return Ok(());
        }
        let Some(stored) = self.store.load(id).await? else { return Ok(()) };
        if stored.snapshot.ended {
            // Its owner never heard that its end was stored.
            return self.store.remove(id, epoch).await;
        }
        let settings = self.settings();
        let machine = Session::restore(settings, stored.snapshot, chassis::clock::dated_millis());
        self.residents.insert(Box::new(Resident {
            id: id.clone(),
            epoch,
            principal: Arc::new(stored.principal),
            transport: stored.transport,
            machine: carried_by(stored.transport, machine.owned_by(epoch.0)),
            version: stored.version,
            subscriptions: HashMap::new(),
            begun: chassis::clock::dated_millis(),
            is_restored: true,
            repeated: Repeated::default(),
            unsaved: Vec::new(),
        }));
        if self.slots.epoch(id.slot()) != Some(epoch) {
            // The slot went while the session came: nobody else looks after it here.
            drop(self.residents.leave(&|slot| slot == id.slot()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use api::{KeyRing, Slot};
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_session_is_loaded_once_at_a_time() {
        let keys = KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef");
        let id = |random| SessionId::mint(&keys, Slot::new(7).unwrap(), [random; 16]);
        let loads = Loads::default();
        let first = loads.begin(&id(1)).await;
        assert!(loads.begin(&id(2)).now_or_never().is_some(), "another one");
        assert!(loads.begin(&id(1)).now_or_never().is_none(), "the same");
        drop(first);
        assert!(loads.begin(&id(1)).now_or_never().is_some());
    }
}
