//! Sessions in this process: gone when it ends, and fenced all the same.

mod recent;

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use api::session::Transport;
use api::{Epoch, Principal, SessionId, Slot};
use async_trait::async_trait;
use foldhash::fast::RandomState;
use machines::{CommitRefusal, Snapshot};

use self::recent::Recent;
use super::ended::Ended;
use super::{Answered, Commit, Fenced, SessionStore, Stored, Unfit};
use crate::residents::give_back;

/// See the module.
#[derive(Default)]
pub struct Memory {
    shards: [Mutex<Shard>; 16],
    name: OnceLock<String>,
}

#[derive(Default)]
struct Shard {
    fences: HashMap<Slot, Epoch, RandomState>,
    /// Boxed: an entry is large, and a map keeps room for more than it holds.
    sessions: HashMap<SessionId, Box<Stored>, RandomState>,
    recent: Recent,
    ended: Ended,
}

impl Memory {
    fn locked<T>(&self, slot: Slot, f: impl FnOnce(&mut Shard) -> T) -> T {
        let shard = &self.shards[usize::from(slot.number()) % self.shards.len()];
        f(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shard {
    fn check(&self, slot: Slot, epoch: Epoch) -> Result<(), CommitRefusal> {
        match self.fences.get(&slot) {
            Some(fence) if *fence > epoch => Err(CommitRefusal::Stale),
            Some(fence) if *fence == epoch => Ok(()),
            Some(_) | None => Err(CommitRefusal::Regress),
        }
    }
}

#[async_trait]
impl SessionStore for Memory {
    async fn fence(&self, slots: &[(Slot, Epoch)]) -> Vec<Fenced> {
        let raise = |(slot, epoch): &(Slot, Epoch)| {
            self.locked(*slot, |shard| {
                let fence = shard.fences.entry(*slot).or_insert(*epoch);
                if *fence > *epoch {
                    return Fenced::Higher(*fence);
                }
                *fence = *epoch;
                Fenced::Done
            })
        };
        slots.iter().map(raise).collect()
    }

    async fn create(
        &self,
        id: &SessionId,
        epoch: Epoch,
        principal: &Principal,
        transport: Transport,
    ) -> Result<(), CommitRefusal> {
        self.locked(id.slot(), |shard| {
            shard.check(id.slot(), epoch)?;
            if shard.sessions.contains_key(id) {
                return Err(CommitRefusal::Conflict);
            }
            let (principal, snapshot) = (principal.clone(), Snapshot::default());
            let stored = Stored { principal, transport, snapshot, version: 0 };
            shard.sessions.insert(id.clone(), Box::new(stored));
            Ok(())
        })
    }

    async fn commit(
        &self,
        id: &SessionId,
        epoch: Epoch,
        version: u64,
        commit: Commit<'_>,
    ) -> Result<(), CommitRefusal> {
        self.locked(id.slot(), |shard| {
            shard.check(id.slot(), epoch)?;
            let stored = shard.sessions.get_mut(id).ok_or(CommitRefusal::Conflict)?;
            if stored.version != version {
                return Err(CommitRefusal::Conflict);
            }
            for change in commit.changes {
                stored.snapshot.apply(change);
            }
            stored.version += 1;
            if let Some(answered) = commit.answered {
                shard.recent.keep(id, answered, chassis::clock::now_millis());
            }
            Ok(())
        })
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, CommitRefusal> {
        Ok(self.locked(id.slot(), |shard| shard.sessions.get(id).map(|stored| stored.as_ref().clone())))
    }

    async fn answered(&self, id: &SessionId, key: &str) -> Result<Option<Answered>, CommitRefusal> {
        Ok(self.locked(id.slot(), |shard| shard.recent.find(id, key, chassis::clock::now_millis())))
    }

    async fn repair(&self, id: &SessionId, epoch: Epoch, stored: &Stored) -> Result<(), CommitRefusal> {
        self.locked(id.slot(), |shard| {
            shard.check(id.slot(), epoch)?;
            let is_late = match shard.sessions.get(id) {
                Some(there) => there.version > stored.version,
                None => shard.ended.has(id.as_str()),
            };
            if is_late {
                return Err(CommitRefusal::Conflict);
            }
            shard.sessions.insert(id.clone(), Box::new(stored.clone()));
            Ok(())
        })
    }

    async fn repair_what_is_there(
        &self,
        id: &SessionId,
        epoch: Epoch,
        stored: &Stored,
    ) -> Result<(), CommitRefusal> {
        self.locked(id.slot(), |shard| {
            shard.check(id.slot(), epoch)?;
            let there = shard.sessions.get_mut(id).ok_or(CommitRefusal::Conflict)?;
            if there.version > stored.version {
                return Err(CommitRefusal::Conflict);
            }
            **there = stored.clone();
            Ok(())
        })
    }

    async fn touch(&self, _id: &SessionId) -> Result<(), CommitRefusal> {
        Ok(())
    }

    async fn remove(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal> {
        self.locked(id.slot(), |shard| {
            shard.check(id.slot(), epoch)?;
            shard.sessions.remove(id);
            shard.ended.add(id.as_str());
            shard.recent.forget(id);
            give_back(&mut shard.sessions);
            Ok(())
        })
    }

    async fn is_up(&self) -> bool {
        true
    }

    async fn name(&self, proposed: &str) -> Result<String, Unfit> {
        Ok(self.name.get_or_init(|| proposed.to_owned()).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_keeps_the_contract() {
        let memory = Memory::default();
        assert!(!memory.is_outside());
        crate::store::contract::all(&memory).await;
    }
}
