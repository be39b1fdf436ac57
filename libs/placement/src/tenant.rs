//! Who takes slots over and gives them up.
//!
//! Owns: the port that the session role implements and the [`crate::Claimer`] calls. Must not know: sessions, stores.

use api::{Epoch, Slot};
use async_trait::async_trait;

use crate::locate::Owner;

/// What the session store said to a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fenced {
    /// It is raised: every later write of a lower epoch is refused.
    Done,
    /// It stands at this epoch already: the claimer deals a higher one and tries again.
    ///
    /// A fence that *equals* the epoch asked for is `Higher` too, unless the store knows that this same process raised it
    /// (an attempt whose answer was lost): after a restore of the lease store from a backup an epoch can be dealt twice.
    Higher(Epoch),
    /// The store does not answer; it may be raised or not.
    Down,
}

/// What lives in the slots of a node.
///
/// The order of calls for a slot is `fence`, `acquired`, then `lost`, with `hand_over` before a `lost` that was planned.
/// None but `fence` and `hand_over` may wait.
#[async_trait]
pub trait Tenant: Send + Sync + 'static {
    /// Raises the fences of the session store, one answer per slot, in the same order. Durable before it is `Done`: a
    /// fail-over of the session store must not bring the older fence back.
    async fn fence(&self, claimed: &[(Slot, Epoch)]) -> Vec<Fenced>;

    /// From now on this node serves the slots, in these epochs. Called a second time, with the epoch it has, for a slot whose
    /// `hand_over` came to nothing: it serves again. Never with another epoch without a `lost` before.
    fn acquired(&self, slots: &[(Slot, Epoch)]);

    /// From now on it does not: what lives there is let go at once. `to` is the new owner with its epoch, where known.
    fn lost(&self, slots: &[Slot], to: Option<&Owner>);

    /// Stops accepting in these slots and lets the commit that is running finish; returns when no write of the epoch it
    /// has can follow. The owner to be is given without an epoch (0): each slot will have its own.
    async fn hand_over(&self, slots: &[Slot], to: &Owner);
}
