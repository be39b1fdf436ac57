//! A store that refuses, loses answers and makes others wait when it is told to. For tests; not part of release builds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::session::Transport;
use api::{Epoch, Principal, SessionId, Slot, SlotCount};
use async_trait::async_trait;
use machines::CommitRefusal;
use tokio::sync::watch;

use super::{Answered, Commit, Fenced, SessionStore, Stored, Unfit};

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// [`SessionStore::fence`].
    Fence,
    /// [`SessionStore::create`].
    Create,
    /// [`SessionStore::commit`].
    Commit,
    /// [`SessionStore::load`].
    Load,
    /// [`SessionStore::answered`].
    Answered,
    /// [`SessionStore::repair`].
    Repair,
    /// [`SessionStore::touch`].
    Touch,
    /// [`SessionStore::remove`].
    Remove,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused, and not done.
    Refuse(CommitRefusal),
    /// It is done, and the caller hears that the store is down.
    Lose,
    /// It is done once [`Faulty::release`] is called.
    Hold,
}

/// See the module.
pub struct Faulty {
    inner: Arc<dyn SessionStore>,
    is_outside: bool,
    plan: Mutex<Plan>,
    told: watch::Sender<Told>,
}

#[derive(Default)]
struct Plan {
    next: BTreeMap<Op, VecDeque<Fault>>,
    always: BTreeMap<Op, Fault>,
    is_down: bool,
}

/// What can be waited for.
#[derive(Debug, Clone, Default)]
struct Told {
    seen: BTreeMap<Op, usize>,
    held: usize,
    released: u64,
}

impl Faulty {
    /// Everything goes well until something else is said.
    #[must_use]
    pub fn new(inner: Arc<dyn SessionStore>) -> Arc<Self> {
        let is_outside = inner.is_outside();
        Arc::new(Self { inner, is_outside, plan: Mutex::default(), told: watch::channel(Told::default()).0 })
    }

    /// The same, and it says that it keeps sessions outside of this process.
    #[must_use]
    pub fn outside(inner: Arc<dyn SessionStore>) -> Arc<Self> {
        let told = watch::channel(Told::default()).0;
        Arc::new(Self { inner, is_outside: true, plan: Mutex::default(), told })
    }

    /// What happens to the next call of this kind for which nothing was said yet.
    pub fn next(&self, op: Op, fault: Fault) {
        self.plan().next.entry(op).or_default().push_back(fault);
    }

    /// What happens to all calls of this kind from now on; `None`: they go well again.
    pub fn always(&self, op: Op, fault: Option<Fault>) {
        let mut plan = self.plan();
        match fault {
            Some(fault) => _ = plan.always.insert(op, fault),
            None => _ = plan.always.remove(&op),
        }
    }

    /// Nobody is there, or is again.
    pub fn set_down(&self, is_down: bool) {
        self.plan().is_down = is_down;
    }

    /// Lets everything go on that is held.
    pub fn release(&self) {
        self.told.send_modify(|told| told.released += 1);
    }

    /// Calls of this kind so far, whatever became of them.
    #[must_use]
    pub fn seen(&self, op: Op) -> usize {
        self.told.borrow().seen.get(&op).copied().unwrap_or(0)
    }

    /// Waits until there were so many calls of this kind.
    pub async fn until_seen(&self, op: Op, count: usize) {
        let is = |told: &Told| told.seen.get(&op).copied().unwrap_or(0) >= count;
        // The sender is this one's own.
        let _there = self.told.subscribe().wait_for(is).await.is_ok();
    }

    /// Waits until so many calls are held.
    pub async fn until_held(&self, count: usize) {
        let _there = self.told.subscribe().wait_for(|told| told.held >= count).await.is_ok();
    }

    /// What is in the store is there, whatever was said.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn SessionStore> {
        &self.inner
    }

    /// Whether the answer is lost; an error if it is not done at all.
    async fn fate(&self, op: Op) -> Result<bool, CommitRefusal> {
        self.told.send_modify(|told| *told.seen.entry(op).or_default() += 1);
        let fault = {
            let mut plan = self.plan();
            if plan.is_down {
                return Err(CommitRefusal::Down);
            }
            let next = plan.next.get_mut(&op).and_then(VecDeque::pop_front);
            next.or_else(|| plan.always.get(&op).copied())
        };
        match fault {
            None => Ok(false),
            Some(Fault::Refuse(refusal)) => Err(refusal),
            Some(Fault::Lose) => Ok(true),
            Some(Fault::Hold) => {
                let mut heard = self.told.subscribe();
                let before = heard.borrow().released;
                self.told.send_modify(|told| told.held += 1);
                let _there = heard.wait_for(|told| told.released > before).await.is_ok();
                self.told.send_modify(|told| told.held -= 1);
                Ok(false)
            }
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the caller hears.
fn heard<T>(outcome: Result<T, CommitRefusal>, is_lost: bool) -> Result<T, CommitRefusal> {
    if is_lost { Err(CommitRefusal::Down) } else { outcome }
}

#[async_trait]
impl SessionStore for Faulty {
    async fn fence(&self, slots: &[(Slot, Epoch)]) -> Vec<Fenced> {
        match self.fate(Op::Fence).await {
            Ok(false) => self.inner.fence(slots).await,
            Ok(true) => {
                let _unheard = self.inner.fence(slots).await;
                vec![Fenced::Down; slots.len()]
            }
            Err(_) => vec![Fenced::Down; slots.len()],
        }
    }

    async fn create(
        &self,
        id: &SessionId,
        epoch: Epoch,
        principal: &Principal,
        transport: Transport,
    ) -> Result<(), CommitRefusal> {
        let is_lost = self.fate(Op::Create).await?;
        heard(self.inner.create(id, epoch, principal, transport).await, is_lost)
    }

    async fn commit(
        &self,
        id: &SessionId,
        epoch: Epoch,
        version: u64,
        commit: Commit<'_>,
    ) -> Result<(), CommitRefusal> {
        let is_lost = self.fate(Op::Commit).await?;
        heard(self.inner.commit(id, epoch, version, commit).await, is_lost)
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, CommitRefusal> {
        let is_lost = self.fate(Op::Load).await?;
        heard(self.inner.load(id).await, is_lost)
    }

    async fn answered(&self, id: &SessionId, key: &str) -> Result<Option<Answered>, CommitRefusal> {
        let is_lost = self.fate(Op::Answered).await?;
        heard(self.inner.answered(id, key).await, is_lost)
    }

    async fn repair(&self, id: &SessionId, epoch: Epoch, stored: &Stored) -> Result<(), CommitRefusal> {
        let is_lost = self.fate(Op::Repair).await?;
        heard(self.inner.repair(id, epoch, stored).await, is_lost)
    }

    async fn repair_what_is_there(
        &self,
        id: &SessionId,
        epoch: Epoch,
        stored: &Stored,
    ) -> Result<(), CommitRefusal> {
        let is_lost = self.fate(Op::Repair).await?;
        heard(self.inner.repair_what_is_there(id, epoch, stored).await, is_lost)
    }

    async fn touch(&self, id: &SessionId) -> Result<(), CommitRefusal> {
        let is_lost = self.fate(Op::Touch).await?;
        heard(self.inner.touch(id).await, is_lost)
    }

    async fn remove(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal> {
        let is_lost = self.fate(Op::Remove).await?;
        heard(self.inner.remove(id, epoch).await, is_lost)
    }

    fn is_outside(&self) -> bool {
        self.is_outside
    }

    async fn live_in(&self, slots: SlotCount) -> Result<(), Unfit> {
        if self.plan().is_down {
            return Err(Unfit::Down { place: "store" });
        }
        self.inner.live_in(slots).await
    }

    async fn name(&self, proposed: &str) -> Result<String, Unfit> {
        self.inner.name(proposed).await
    }

    async fn is_up(&self) -> bool {
        !self.plan().is_down && self.inner.is_up().await
    }
}

#[cfg(test)]
mod tests {
    use machines::{Change, Snapshot};
    use mcp::log::Level;

    use super::*;
    use crate::store::{Memory, contract};

    #[tokio::test]
    async fn left_alone_it_keeps_the_contract() {
        contract::all(&*Faulty::new(Arc::new(Memory::default()))).await;
    }

    #[tokio::test]
    async fn what_it_is_told_goes_wrong_and_nothing_else() {
        let faulty = Faulty::new(Arc::new(Memory::default()));
        let keys = api::KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef");
        let id = SessionId::mint(&keys, Slot::new(1).unwrap(), [1; 16]);
        faulty.fence(&[(id.slot(), Epoch(1))]).await;
        faulty.create(&id, Epoch(1), &Principal::default(), Transport::Streamable).await.unwrap();
        let changes = [Change::LevelSet(Level::Info)];
        let mut after = Snapshot::default();
        after.apply(&changes[0]);
        let commit = |version| faulty.commit(&id, Epoch(1), version, Commit::new(&changes, &after));
        faulty.next(Op::Commit, Fault::Refuse(CommitRefusal::Stale));
        faulty.next(Op::Commit, Fault::Lose);
        faulty.next(Op::Commit, Fault::Hold);
        assert_eq!(commit(0).await, Err(CommitRefusal::Stale));
        assert_eq!(commit(0).await, Err(CommitRefusal::Down));
        let release = async {
            faulty.until_held(1).await;
            assert_eq!(faulty.seen(Op::Commit), 3);
            faulty.release();
        };
        let (held, ()) = tokio::join!(commit(1), release);
        assert_eq!(held, Ok(()), "the one whose answer was lost was done");
        faulty.set_down(true);
        assert_eq!((commit(2).await, faulty.is_up().await), (Err(CommitRefusal::Down), false));
        faulty.set_down(false);
        assert_eq!((commit(2).await, faulty.is_up().await), (Ok(()), true));
    }
}
