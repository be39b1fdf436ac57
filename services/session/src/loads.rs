//! Loading sessions from the store: not too many at a time, and each only once.
//!
//! Whoever loads a session is alone with it. A second load could come back with what the session was before it ended here, and
//! bring it back to life.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use api::{Epoch, SessionId};
use machines::{CommitRefusal, Session, StopReason};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::begin::carried_by;
use crate::host::Shared;
use crate::letter::Letter;
use crate::residents::{Passive, Presence, Repeated, Resident};
use crate::store::Stored;

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
    /// Loads a session that this node owns and does not have in memory, or has let go of.
    pub(crate) async fn activate(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal> {
        let _alone = self.loads.begin(id).await;
        let passive = match self.residents.presence(id) {
            Presence::Here => return Ok(()),
            Presence::Passive(passive) => Some(passive),
            Presence::Absent => None,
        };
        let stored = match self.store.load(id).await? {
            Some(stored) if stored.snapshot.ended => {
                self.forget_lost(id, passive);
                // Its owner never heard that its end was stored.
                return self.store.remove(id, epoch).await;
            }
            Some(stored) => stored,
            None => {
                self.forget_lost(id, passive);
                return Ok(());
            }
        };
        if passive.is_some_and(|passive| stored.version < passive.version()) {
            // As a next owner would: of what the store has lost, this one remembers only which numbers were given.
            tracing::warn!(slot = %id.slot(), "the store has lost the end of a session that only it had");
        }
        let resident = Box::new(self.resident_of(id, epoch, stored, passive.as_ref()));
        match passive {
            Some(_) => self.residents.wake(resident),
            None => self.residents.insert(resident),
        }
        if self.slots.epoch(id.slot()) != Some(epoch) {
            // The slot went while the session came: nobody else looks after it here.
            drop(self.residents.leave(&|slot| slot == id.slot()));
        }
        Ok(())
    }

    fn resident_of(
        &self,
        id: &SessionId,
        epoch: Epoch,
        stored: Stored,
        passive: Option<&Passive>,
    ) -> Resident {
        let now = chassis::clock::dated_millis();
        let restored = Session::restore(self.settings(), stored.snapshot, now).owned_by(epoch.0);
        let machine = match passive {
            Some(passive) => restored.remembering(passive.remembered()),
            None => restored,
        };
        Resident {
            id: id.clone(),
            epoch,
            principal: Arc::new(stored.principal),
            transport: stored.transport,
            machine: carried_by(stored.transport, machine),
            version: stored.version,
            subscriptions: HashMap::new(),
            begun: passive.map_or(now, Passive::begun),
            is_restored: true,
            repeated: Repeated::default(),
            unsaved: Vec::new(),
            is_in_doubt: false,
        }
    }

    /// A passive session that the store does not have any more is no session.
    fn forget_lost(&self, id: &SessionId, passive: Option<Passive>) {
        let Some(passive) = passive else { return };
        // It may have gone with its slot meanwhile; whoever has that looks for it in the store.
        if self.residents.remove(id).is_some() {
            tracing::warn!(slot = %id.slot(), "the store has lost a session that only it had");
            let now = chassis::clock::dated_millis();
            self.observed.ended(None, passive.begun(), now, StopReason::Lost);
        }
    }

    /// Loads a passive session whose moment has come, and tells it so.
    pub(crate) async fn rouse(&self, id: &SessionId) -> Result<(), CommitRefusal> {
        // One whose slot has gone is forgotten with that.
        let Some(epoch) = self.slots.epoch(id.slot()) else { return Ok(()) };
        self.activate(id, epoch).await?;
        // One that is gone needs no waking, and for one that fell asleep again it was not the moment.
        let _gone = self.post(id, None, Letter::Wake).is_err();
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
