//! Which slots this node owns, in which epoch, and what follows when that changes.
//!
//! Owns: the table of owned slots, and the [`Tenant`] that placement tells of claims, losses and hand-overs. Must not know how
//! owners are found. A slot that is not owned is not served; one that is owned may be lost at any moment, and then the store
//! refuses what is still written: this table only makes that rare.

use std::collections::HashSet;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use api::{Code, Detail, Epoch, Error, Slot, SlotCount};
use async_trait::async_trait;
use placement::{Owner, Tenant};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::host::Shared;
use crate::letter::Letter;
use crate::store;

/// How long a request waits for a slot that is being taken over.
const TAKING: Duration = Duration::from_millis(500);
/// How long a hand-over waits for what is running in the slots. What is not finished then is refused by the store.
const QUIET: Duration = Duration::from_secs(2);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(1);
/// An answer that is not written down needs a sign that the slot is still owned, no older than this (milliseconds).
const CERTAIN_MS: u64 = 1_000;

/// Marks a slot that is claimed and not fenced yet.
const TAKING_MARK: u64 = u64::MAX;

/// Whether a slot is still this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// It is.
    Owner,
    /// Another one has taken it over.
    Lost,
    /// The store does not say.
    Unknown,
}

/// The slots of this node.
pub(crate) struct Slots {
    /// How many there are.
    all: SlotCount,
    /// Epoch by slot; 0 = not owned.
    epochs: Box<[AtomicU64]>,
    /// When the store last agreed that the slot is owned, in milliseconds since `start`.
    certain: Box<[AtomicU64]>,
    count: AtomicUsize,
    start: std::time::Instant,
    /// Rung with every change.
    changed: watch::Sender<()>,
}

impl Slots {
    /// None of so many.
    pub(crate) fn new(all: SlotCount) -> Self {
        let zeros = || all.slots().map(|_| AtomicU64::new(0)).collect();
        Self {
            all,
            epochs: zeros(),
            certain: zeros(),
            count: AtomicUsize::new(0),
            start: std::time::Instant::now(),
            changed: watch::channel(()).0,
        }
    }

    /// How many the mesh has.
    pub(crate) const fn all(&self) -> SlotCount {
        self.all
    }

    /// `None` for a slot that the mesh does not have.
    fn cell(&self, slot: Slot) -> Option<&AtomicU64> {
        self.epochs.get(usize::from(slot.number()))
    }

    fn value(&self, slot: Slot) -> u64 {
        self.cell(slot).map_or(0, |cell| cell.load(Ordering::Acquire))
    }

    /// The epoch it is owned in.
    pub(crate) fn epoch(&self, slot: Slot) -> Option<Epoch> {
        match self.value(slot) {
            0 | TAKING_MARK => None,
            epoch => Some(Epoch(epoch)),
        }
    }

    /// Number of owned slots.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Some owned slot.
    pub(crate) fn pick(&self, random: u64) -> Option<(Slot, Epoch)> {
        let count = u64::from(self.all.get());
        let at = |step: u64| u16::try_from((random % count + step) % count).ok().and_then(Slot::new);
        (0..count).filter_map(at).find_map(|slot| self.epoch(slot).map(|epoch| (slot, epoch)))
    }

    fn set(&self, slot: Slot, value: u64) {
        let Some(cell) = self.cell(slot) else { return };
        let before = cell.swap(value, Ordering::AcqRel);
        let owned = |value: u64| value != 0 && value != TAKING_MARK;
        match (owned(before), owned(value)) {
            (false, true) => _ = self.count.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.count.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => {}
        }
    }

    /// From now on these are owned.
    pub(crate) fn take(&self, slots: &[(Slot, Epoch)]) {
        for (slot, epoch) in slots {
            self.set(*slot, epoch.0);
        }
        self.changed.send_replace(());
    }

    fn claim(&self, slots: &[(Slot, Epoch)]) {
        for (slot, _) in slots {
            // One that is served goes on being served until it is known to be lost.
            let Some(cell) = self.cell(*slot) else { continue };
            let _served = cell.compare_exchange(0, TAKING_MARK, Ordering::AcqRel, Ordering::Acquire).is_err();
        }
    }

    fn drop_all(&self, slots: &[Slot]) {
        slots.iter().for_each(|slot| self.set(*slot, 0));
        self.changed.send_replace(());
    }

    /// Drops a slot that is owned in this epoch; one of a later epoch stays. True if it was.
    fn drop_of(&self, slot: Slot, epoch: Epoch) -> bool {
        let Some(cell) = self.cell(slot) else { return false };
        let dropped = cell.compare_exchange(epoch.0, 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if dropped {
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.changed.send_replace(());
        }
        dropped
    }

    fn is_being_taken(&self, slot: Slot) -> bool {
        self.value(slot) == TAKING_MARK
    }

    /// The same as [`Slots::epoch`], once it is settled whether a slot that is being taken over is owned.
    async fn settled(&self, slot: Slot) -> Option<Epoch> {
        if !self.is_being_taken(slot) {
            return self.epoch(slot);
        }
        let mut changed = self.changed.subscribe();
        let until = Instant::now() + TAKING;
        while self.is_being_taken(slot) && timeout_at(until, changed.changed()).await.is_ok() {}
        self.epoch(slot)
    }

    /// The clock that signs of ownership are dated by.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The store has shown, to what it was asked at that time, that it knows of no other owner. When the answer was read says
    /// nothing: this process may have stood still since.
    pub(crate) fn agreed(&self, slot: Slot, asked: u64) {
        if let Some(certain) = self.certain.get(usize::from(slot.number())) {
            certain.fetch_max(asked, Ordering::Relaxed);
        }
    }

    /// Whether it has done so a moment ago.
    pub(crate) fn is_certain(&self, slot: Slot) -> bool {
        let at = self.certain.get(usize::from(slot.number())).map(|at| at.load(Ordering::Relaxed));
        at.is_some_and(|at| self.now().saturating_sub(at) < CERTAIN_MS)
    }
}

impl Shared {
    /// The epoch in which this node owns a slot.
    ///
    /// # Errors
    /// Not the owner, with the owner if it is known.
    pub(crate) async fn owned(&self, slot: Slot) -> Result<Epoch, Error> {
        match self.slots.settled(slot).await {
            Some(epoch) => Ok(epoch),
            None => Err(self.not_owner(slot)),
        }
    }

    /// What whoever asks for a slot that is not owned is told.
    pub(crate) fn not_owner(&self, slot: Slot) -> Error {
        let holder = || self.locator.as_ref().and_then(|locator| locator.holder(slot));
        // Who takes a slot over knows better than a table that still names the owner before.
        let owner = if self.slots.is_being_taken(slot) { None } else { holder() };
        // This node's own name means that it is about to take the slot, or has lost it and does not see yet to whom.
        let owner = owner.filter(|owner| *owner.node != *self.config.node);
        let (address, epoch) =
            owner.map_or((String::new(), 0), |owner| (owner.peer.address.to_string(), owner.epoch.0));
        let detail = Detail::NotOwner { owner: address, epoch };
        Error::new(Code::Precondition, format!("slot {slot} is not owned by this node")).with(detail)
    }

    /// Whether an answer may be given that nothing is written down for: the store must have agreed a moment ago that the slot is
    /// owned, or it is asked.
    pub(crate) async fn certainty(&self, slot: Slot, epoch: Epoch) -> Certainty {
        if self.slots.is_certain(slot) {
            return Certainty::Owner;
        }
        let asked = self.slots.now();
        match self.store.is_fenced(slot, epoch).await {
            store::Fenced::Done => {
                self.slots.agreed(slot, asked);
                Certainty::Owner
            }
            store::Fenced::Higher(_) => {
                self.overtaken(slot, epoch);
                Certainty::Lost
            }
            store::Fenced::Down => Certainty::Unknown,
        }
    }

    /// The store knows a later owner than this node was in that epoch: the slot is dropped at once, and nothing is taken on for it
    /// any more, whatever the lease store says. Fixed slots stay, as nobody would bring them back.
    pub(crate) fn overtaken(&self, slot: Slot, epoch: Epoch) {
        self.observed.stale_write();
        let Some(claims) = self.claims.get() else { return };
        if self.slots.drop_of(slot, epoch) {
            self.let_go(&[slot]);
            self.observed.lost(1);
            tracing::warn!(%slot, epoch = epoch.0, "the store knows a later owner of a slot");
        }
        claims.overtaken(slot, epoch);
    }

    /// Lets go of whatever lives in these slots: nothing of it is ended, it goes on with the next owner.
    fn let_go(&self, slots: &[Slot]) {
        let slots: HashSet<Slot> = slots.iter().copied().collect();
        for id in self.residents.leave(&|slot| slots.contains(&slot)) {
            // One that has ended meanwhile needs no telling.
            let _gone = self.post(&id, None, Letter::Moved).is_err();
        }
    }
}

/// What placement talks to.
pub(crate) struct Occupant(pub(crate) Weak<Shared>);

#[async_trait]
impl Tenant for Occupant {
    async fn fence(&self, claimed: &[(Slot, Epoch)]) -> Vec<placement::Fenced> {
        let Some(shared) = self.0.upgrade() else { return vec![placement::Fenced::Down; claimed.len()] };
        shared.slots.claim(claimed);
        let asked = shared.slots.now();
        let fenced = shared.store.fence(claimed).await;
        for ((slot, _), _) in
            claimed.iter().zip(&fenced).filter(|(_, fenced)| **fenced == store::Fenced::Done)
        {
            shared.slots.agreed(*slot, asked);
        }
        let told = |fenced: store::Fenced| match fenced {
            store::Fenced::Done => placement::Fenced::Done,
            store::Fenced::Higher(epoch) => placement::Fenced::Higher(epoch),
            store::Fenced::Down => placement::Fenced::Down,
        };
        fenced.into_iter().map(told).collect()
    }

    fn acquired(&self, slots: &[(Slot, Epoch)]) {
        let Some(shared) = self.0.upgrade() else { return };
        // What was loaded in another epoch is not of this one.
        let anew =
            |(slot, epoch): &&(Slot, Epoch)| shared.slots.epoch(*slot).is_some_and(|was| was != *epoch);
        let renewed: Vec<Slot> = slots.iter().filter(anew).map(|(slot, _)| *slot).collect();
        shared.let_go(&renewed);
        shared.slots.take(slots);
        shared.observed.acquired(slots.len());
    }

    fn lost(&self, slots: &[Slot], _to: Option<&Owner>) {
        let Some(shared) = self.0.upgrade() else { return };
        shared.slots.drop_all(slots);
        shared.let_go(slots);
        shared.observed.lost(slots.len());
    }

    async fn hand_over(&self, slots: &[Slot], _to: &Owner) {
        let Some(shared) = self.0.upgrade() else { return };
        shared.slots.drop_all(slots);
        shared.let_go(slots);
        let slots: HashSet<Slot> = slots.iter().copied().collect();
        let until = Instant::now() + QUIET;
        let busy = || shared.residents.any_active_in(&|slot| slots.contains(&slot));
        // Where the store does not answer, what is running finishes nothing: the next owner, who may reach it, is not kept waiting.
        let waits = || shared.reaches_store.load(Ordering::Relaxed) && Instant::now() < until;
        while waits() && busy() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    #[tokio::test]
    async fn what_is_owned_is_found_and_what_is_claimed_is_waited_for() {
        let slots = Slots::new(SlotCount::Usual);
        assert_eq!((slots.pick(7), slots.count()), (None, 0));
        slots.take(&[(slot(5), Epoch(3)), (slot(4095), Epoch(1))]);
        assert_eq!(slots.count(), 2);
        assert_eq!(slots.pick(0), Some((slot(5), Epoch(3))));
        assert_eq!(slots.pick(6), Some((slot(4095), Epoch(1))));
        assert_eq!(slots.pick(u64::MAX), Some((slot(4095), Epoch(1))));
        slots.claim(&[(slot(5), Epoch(4)), (slot(6), Epoch(1))]);
        assert_eq!(slots.epoch(slot(5)), Some(Epoch(3)), "served until it is lost");
        assert_eq!((slots.epoch(slot(6)), slots.count()), (None, 2));
        let (epoch, ()) = tokio::join!(slots.settled(slot(6)), async { slots.take(&[(slot(6), Epoch(1))]) });
        assert_eq!(epoch, Some(Epoch(1)));
        slots.drop_all(&[slot(5), slot(6), slot(6)]);
        assert_eq!((slots.epoch(slot(5)), slots.count()), (None, 1));
        assert!(!slots.drop_of(slot(4095), Epoch(2)), "a later epoch is not dropped with an earlier one");
        assert!(slots.drop_of(slot(4095), Epoch(1)) && !slots.drop_of(slot(4095), Epoch(1)));
        assert_eq!((slots.epoch(slot(4095)), slots.count()), (None, 0));
    }

    #[test]
    fn new_sessions_may_live_in_every_slot_of_the_mesh_and_in_no_other() {
        for all in SlotCount::ALL {
            let slots = Slots::new(all);
            let owned: Vec<_> = all.slots().map(|slot| (slot, Epoch(1))).collect();
            slots.take(&owned);
            assert_eq!(slots.count(), usize::from(all.get()));
            let last = u64::from(all.last());
            assert_eq!(slots.pick(last).map(|(slot, _)| slot.number()), Some(all.last()));
            assert_eq!(slots.pick(last + 1).map(|(slot, _)| slot.number()), Some(0));
        }
        let (usual, beyond) = (Slots::new(SlotCount::Usual), slot(4096));
        usual.take(&[(beyond, Epoch(1))]);
        usual.claim(&[(beyond, Epoch(1))]);
        usual.agreed(beyond, usual.now());
        assert_eq!((usual.epoch(beyond), usual.count()), (None, 0));
        assert!(!usual.is_certain(beyond) && !usual.drop_of(beyond, Epoch(1)));
    }

    #[test]
    fn an_agreement_is_as_old_as_the_question() {
        let slots = Slots::new(SlotCount::Usual);
        slots.take(&[(slot(5), Epoch(3))]);
        assert!(slots.now() < CERTAIN_MS, "a node that has just started");
        let long_ago = Slots { start: slots.start.checked_sub(Duration::from_secs(60)).unwrap(), ..slots };
        assert!(!long_ago.is_certain(slot(5)), "to be given a slot is no sign of the store");
        let asked = long_ago.now() - CERTAIN_MS - 1;
        long_ago.agreed(slot(5), asked);
        assert!(!long_ago.is_certain(slot(5)), "whoever read the answer stood still");
        long_ago.agreed(slot(5), long_ago.now());
        assert!(long_ago.is_certain(slot(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_comes_to_nothing_is_not_waited_for_without_end() {
        let slots = Slots::new(SlotCount::Usual);
        slots.claim(&[(slot(1), Epoch(1))]);
        assert_eq!(slots.settled(slot(1)).await, None);
    }
}
