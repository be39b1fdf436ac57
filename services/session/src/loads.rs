//! Loading sessions from the store: not too many at a time, and each only once.
//!
//! Whoever loads a session is alone with it. A second load could come back with what the session was before it ended here, and
//! bring it back to life.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use api::SessionId;
use tokio::sync::{Semaphore, SemaphorePermit};

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
