//! Which slots a node owns, and how sure it is. Mirrors `services/session/src/ownership.rs`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use api::{Epoch, Slot};

/// An answer that is not written down needs a sign that the slot is still owned, no older than this (milliseconds).
const CERTAIN_MS: u64 = 1_000;

/// Whether a slot is still this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    Owner,
    Lost,
    Unknown,
}

/// The slots of a node.
#[derive(Default)]
pub(crate) struct Slots {
    /// `None` = claimed and not fenced yet.
    epochs: RefCell<BTreeMap<Slot, Option<Epoch>>>,
    certain: RefCell<BTreeMap<Slot, u64>>,
}

impl Slots {
    pub(crate) fn epoch(&self, slot: Slot) -> Option<Epoch> {
        self.epochs.borrow().get(&slot).copied().flatten()
    }

    pub(crate) fn is_being_taken(&self, slot: Slot) -> bool {
        self.epochs.borrow().get(&slot) == Some(&None)
    }

    pub(crate) fn is_any_being_taken(&self) -> bool {
        self.epochs.borrow().values().any(Option::is_none)
    }

    /// Some owned slot.
    pub(crate) fn pick(&self, random: u64) -> Option<(Slot, Epoch)> {
        let epochs = self.epochs.borrow();
        let owned: Vec<(Slot, Epoch)> =
            epochs.iter().filter_map(|(slot, epoch)| Some((*slot, (*epoch)?))).collect();
        owned.get(usize::try_from(random).ok()?.checked_rem(owned.len())?).copied()
    }

    pub(crate) fn take(&self, slots: &[(Slot, Epoch)]) {
        for (slot, epoch) in slots {
            self.epochs.borrow_mut().insert(*slot, Some(*epoch));
        }
    }

    pub(crate) fn claim(&self, slots: &[(Slot, Epoch)]) {
        for (slot, _) in slots {
            self.epochs.borrow_mut().entry(*slot).or_insert(None);
        }
    }

    pub(crate) fn drop_all(&self, slots: &[Slot]) {
        for slot in slots {
            self.epochs.borrow_mut().remove(slot);
        }
    }

    /// The store has shown, to what it was asked at that time, that it knows of no other owner.
    pub(crate) fn agreed(&self, slot: Slot, asked_ms: u64) {
        let mut certain = self.certain.borrow_mut();
        let at = certain.entry(slot).or_default();
        *at = asked_ms.max(*at);
    }

    pub(crate) fn is_certain(&self, slot: Slot, now_ms: u64) -> bool {
        let at = self.certain.borrow().get(&slot).copied().unwrap_or(0);
        now_ms.saturating_sub(at) < CERTAIN_MS
    }
}
