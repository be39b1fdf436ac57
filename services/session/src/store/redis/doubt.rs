//! Commits of this process that were given up although they may have been done. Whoever commits the same version again finds
//! one of them in its place, and replaces it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::SessionId;

/// Sessions that are remembered; those of an earlier time go first. One that is not has to be written back by its owner.
const MOST: usize = 65_536;

/// See the module.
#[derive(Default)]
pub(super) struct Doubts {
    sessions: Mutex<HashMap<SessionId, Doubt>>,
    /// So that the usual case takes no lock.
    count: AtomicUsize,
}

/// The commits of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    /// The version that they were made for.
    version: u64,
    /// The first one's number; all from there on.
    from: u64,
}

impl Doubts {
    /// A commit was given up.
    pub(super) fn add(&self, id: &SessionId, version: u64, number: u64) {
        let mut sessions = self.sessions();
        let there = sessions.get(id).filter(|doubt| doubt.version == version).copied();
        if there.is_none() {
            if sessions.len() >= MOST {
                sessions.clear();
            }
            sessions.insert(id.clone(), Doubt { version, from: number });
        }
        self.count.store(sessions.len(), Ordering::Relaxed);
    }

    /// Whether the commit with this number, made for this version, is one of those.
    pub(super) fn covers(&self, id: &SessionId, version: u64, number: u64) -> bool {
        let is = |doubt: &Doubt| doubt.version == version && doubt.from <= number;
        self.count.load(Ordering::Relaxed) > 0 && self.sessions().get(id).is_some_and(is)
    }

    /// The session is in a state that is known.
    pub(super) fn settle(&self, id: &SessionId) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut sessions = self.sessions();
            sessions.remove(id);
            self.count.store(sessions.len(), Ordering::Relaxed);
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Doubt>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use api::{KeyRing, Slot};

    use super::*;

    #[test]
    fn all_commits_for_a_version_from_the_first_one_on_are_in_doubt() {
        let id =
            |random| SessionId::mint(&KeyRing::single("k1", [7; 32]), Slot::new(1).unwrap(), [random; 16]);
        let doubts = Doubts::default();
        assert!(!doubts.covers(&id(1), 3, 10));
        doubts.add(&id(1), 3, 10);
        doubts.add(&id(1), 3, 12);
        let covered = |version, number| doubts.covers(&id(1), version, number);
        assert_eq!(
            [covered(3, 9), covered(3, 10), covered(3, 11), covered(4, 10)],
            [false, true, true, false]
        );
        assert!(!doubts.covers(&id(2), 3, 10));
        doubts.add(&id(1), 4, 20);
        assert_eq!([covered(3, 10), covered(4, 20)], [false, true]);
        doubts.settle(&id(1));
        assert!(!covered(4, 20));
    }
}
