//! What is left here of a session whose state only the store has.
//!
//! Owner, transport and place in the wheel stay with its entry, so that it is found, counted, kept and refused to others as
//! before. Must not know how it is loaded.

use machines::{Millis, Remembered};

use super::{Cell, Entry, Resident};

/// See the module. Small, because most sessions are such: an entry has the same room for it as for an active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passive {
    remembered: Remembered,
    version: u32,
    /// How long it had lasted when something last happened, in seconds.
    lived: u32,
}

impl Passive {
    /// What is to be kept of a session; `None` if it has more than that.
    pub(super) fn of(resident: &Resident, now: Millis) -> Option<Self> {
        let Resident { machine, subscriptions, repeated, unsaved, is_in_doubt, .. } = resident;
        // What a commit without an answer left in the store is known here alone, as are deliveries that came twice.
        if *is_in_doubt || !subscriptions.is_empty() || !repeated.is_empty() || !unsaved.is_empty() {
            return None;
        }
        let remembered = machine.remembered(now)?;
        let lived = remembered.active().saturating_sub(resident.begun) / 1000;
        Some(Self {
            remembered,
            version: resident.version.try_into().ok()?,
            // Only said when it ends.
            lived: u32::try_from(lived).unwrap_or(u32::MAX),
        })
    }

    /// What its machine goes on with.
    pub(crate) const fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Number of commits so far.
    pub(crate) fn version(&self) -> u64 {
        self.version.into()
    }

    /// When it began, or was loaded from another owner.
    pub(crate) fn begun(&self) -> Millis {
        self.remembered.active().saturating_sub(Millis::from(self.lived) * 1000)
    }
}

/// What is here of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing.
    Absent,
    /// As much as has to be remembered.
    Passive(Passive),
    /// All of it.
    Here,
}

impl Entry {
    /// Leaves no more of a session than has to be remembered, if it has been idle for so long; the rest of it is to be dropped.
    pub(super) fn passivate(&mut self, after: Millis, now: Millis) -> Option<Cell> {
        let Some(Cell::Idle(resident)) = &self.cell else { return None };
        if resident.machine.active().saturating_add(after) > now {
            return None;
        }
        let passive = Passive::of(resident, now).filter(|passive| passive.remembered().wake() > now)?;
        self.cell.replace(Cell::Passive(passive))
    }
}
