//! Doing what was decided, and telling what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Epoch, Slot};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::{Drained, Run, writes};
use crate::decide::{Claim, Effect, HandOver, Move};
use crate::locate::{Incarnation, Owner};
use crate::made::{self, CountError};
use crate::port::{Op, StoreError, Txn};
use crate::tenant::Fenced;

/// Longest that a slot's last commit is waited for. What comes later is refused by the fence.
const HANDING: Duration = Duration::from_secs(2);
/// Longest that the session store is waited for. A fence that is raised after all is found higher next time.
const FENCING: Duration = Duration::from_secs(5);

/// What was begun and has ended.
pub(super) enum Done {
    Counted(Written),
    Announced(Written),
    Claimed(Vec<Claim>, Written),
    Fenced(Vec<(Slot, Epoch)>, Vec<Fenced>),
    Handed(HandOver, Written),
}

/// A transaction and how it ended.
pub(super) struct Written {
    ops: Vec<Op>,
    outcome: Result<Txn, StoreError>,
}

/// Why the node no longer takes part.
pub(super) enum End {
    Drained(Drained),
    Replaced(Incarnation),
    Slots(CountError),
}

impl Run {
    /// Writes how many slots the mesh has: nobody has done so yet.
    pub(super) fn write_count(&mut self) {
        if !std::mem::replace(&mut self.counting, true) {
            let write = self.write(made::writes(&self.cluster));
            self.jobs.push(write.map(Done::Counted).boxed());
        }
    }

    /// Begins an effect, or performs one that takes no time.
    pub(super) fn begin(&mut self, effect: Effect) -> Option<End> {
        let keys = &self.cluster.keys;
        let lease = self.kept.state.borrow().lease;
        match effect {
            Effect::Announce { value, instead_of } => match lease {
                Some(lease) => {
                    let writes = writes::announce(keys, &self.me.node, lease, value, instead_of);
                    let write = self.write(writes);
                    self.jobs.push(write.map(Done::Announced).boxed());
                }
                None => self.desk.announced((self.cluster.now)(), false),
            },
            Effect::Claim(claims) => match lease {
                Some(lease) => {
                    let write = self.write(writes::claim(keys, lease, &claims));
                    self.jobs.push(write.map(move |written| Done::Claimed(claims, written)).boxed());
                }
                None => self.desk.claimed((self.cluster.now)(), &claims, false),
            },
            Effect::Fence(slots) => {
                let tenant = Arc::clone(&self.tenant);
                let fencing = async move {
                    // Whatever is missing counts as not answered.
                    let answers = timeout(FENCING, tenant.fence(&slots)).await.unwrap_or_default();
                    Done::Fenced(slots, answers)
                };
                self.jobs.push(fencing.boxed());
            }
            Effect::HandOver(hand_over) => {
                let tenant = Arc::clone(&self.tenant);
                let write = self.write(writes::hand_over(keys, &hand_over));
                let handing = async move {
                    let slots: Vec<Slot> = served(&hand_over).map(|moved| moved.slot).collect();
                    if timeout(HANDING, tenant.hand_over(&slots, &hand_over.to)).await.is_err() {
                        tracing::warn!(
                            slots = slots.len(),
                            "slots did not come to rest, they are handed over as they are"
                        );
                    }
                    let written = write.await;
                    Done::Handed(hand_over, written)
                };
                self.jobs.push(handing.boxed());
            }
            Effect::Lost(slots, to) => {
                tracing::info!(slots = slots.len(), to = to.as_ref().map(|owner| &*owner.node), "slots lost");
                self.tenant.lost(&slots, to.as_ref());
            }
            Effect::Replaced(by) => return Some(End::Replaced(by)),
            Effect::Drained(dropped) => {
                let handed = self.handed;
                tracing::info!(handed, dropped, "slots given up");
                return Some(End::Drained(Drained { handed, dropped }));
            }
        }
        None
    }

    /// Tells what came of something.
    pub(super) fn finish(&mut self, done: Done) {
        let now_ms = (self.cluster.now)();
        match done {
            Done::Counted(written) => {
                self.counting = false;
                if self.wrote(written) {
                    tracing::info!(slots = %self.cluster.slots, "the mesh has its number of slots");
                }
            }
            Done::Announced(written) => {
                let done = self.wrote(written);
                self.desk.announced(now_ms, done);
            }
            Done::Claimed(claims, written) => {
                let done = self.wrote(written);
                self.desk.claimed(now_ms, &claims, done);
            }
            Done::Fenced(slots, answers) => {
                let acquired = self.desk.fenced(now_ms, &slots, &answers);
                if !acquired.is_empty() {
                    tracing::info!(slots = acquired.len(), "slots acquired");
                    self.tenant.acquired(&acquired);
                }
            }
            Done::Handed(hand_over, written) => {
                let done = self.wrote(written);
                let kept = self.desk.handed(now_ms, &hand_over.moves, done);
                if done {
                    self.handed += hand_over.moves.len();
                    tracing::info!(
                        slots = hand_over.moves.len(),
                        to = &*hand_over.to.node,
                        "slots handed over"
                    );
                    for (to, slots) in by_owner(&hand_over) {
                        self.tenant.lost(&slots, Some(&to));
                    }
                } else if !kept.is_empty() {
                    self.tenant.acquired(&kept);
                }
            }
        }
    }

    fn write(&self, (compares, ops): writes::Writes) -> BoxFuture<'static, Written> {
        let store = Arc::clone(&self.cluster.store);
        async move {
            let outcome = store.txn(compares, ops.clone()).await;
            Written { ops, outcome }
        }
        .boxed()
    }

    /// Takes over what was written. Otherwise something is not as it was thought, or nobody knows: list.
    fn wrote(&mut self, written: Written) -> bool {
        match written.outcome {
            Ok(Txn::Done(revision)) => {
                self.follower.wrote(writes::events(&written.ops, revision));
                return true;
            }
            Ok(Txn::Refused) | Err(StoreError::Gone) => {}
            Err(error) => tracing::debug!(%error, "a write has no known outcome"),
        }
        self.follower.list_soon();
        false
    }
}

/// The slots of a hand-over, by what their owner will be: epochs differ.
fn by_owner(hand_over: &HandOver) -> BTreeMap<Owner, Vec<Slot>> {
    let mut owners: BTreeMap<Owner, Vec<Slot>> = BTreeMap::new();
    for moved in served(hand_over) {
        let owner = Owner { epoch: moved.epoch, ..hand_over.to.clone() };
        owners.entry(owner).or_default().push(moved.slot);
    }
    owners
}

fn served(hand_over: &HandOver) -> impl Iterator<Item = &Move> {
    hand_over.moves.iter().filter(|moved| moved.served)
}
