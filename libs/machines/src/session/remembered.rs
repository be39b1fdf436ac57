//! A session that its owner lets go of although it stays its owner: what the snapshot does not say of it, and what therefore has
//! to be remembered until it is loaded again.
//!
//! The next owner of a session begins a new epoch, so that no number it gives can be one of the owner before. Here the epoch is the same:
//! a call's number that is given twice would be one invocation for two calls, and a registry would answer the second from the first.

use super::phase::Phase;
use super::{Session, deadlines};
use crate::input::{Millis, StreamId};

/// What has to be remembered of a session while only the store has it. Small, because there are many; of a session whose numbers
/// are beyond these nothing is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    active: Millis,
    /// When it has to be woken, in milliseconds after `active`.
    wake: u32,
    next_stream: u32,
    next_call: u32,
    /// The highest number of an event of the session's own stream. All other streams are finished.
    own: u32,
}

impl Remembered {
    /// When something last happened that keeps the session from being idle.
    #[must_use]
    pub const fn active(&self) -> Millis {
        self.active
    }

    /// When it wants [`crate::Input::DeadlineReached`] at the latest, or earlier.
    #[must_use]
    pub fn wake(&self) -> Millis {
        self.active.saturating_add(Millis::from(self.wake))
    }
}

impl Session {
    /// When something last happened that keeps it from being idle.
    #[must_use]
    pub const fn active(&self) -> Millis {
        self.live.active
    }

    /// What has to be remembered of it if it is let go of, to be loaded from the store when something happens. `None` if more of it
    /// would be lost than that: something is under way, or known here alone.
    #[must_use]
    pub fn remembered(&self, now: Millis) -> Option<Remembered> {
        let Self { saved, live, mark, settings } = self;
        let is_settled = live.phase == Phase::Initialised && mark.is_none() && !live.draining;
        // What a carried session is said is read by one reader, and without that it ends soon.
        let is_quiet = live.calls.is_empty() && live.readers.is_empty() && !live.carried;
        let is_stored = saved.journal.is_empty()
            && live.owed.is_empty()
            && live.used.keys().all(|stream| *stream == StreamId::OWN)
            && live.blocked_until.is_none_or(|until| until <= now);
        // Its resources are watched here, and what changes in the lists meanwhile has to show when it is loaded.
        let misses_nothing =
            saved.subscriptions.is_empty() && saved.handshake.as_ref().is_some_and(|h| h.lists.is_some());
        if !(is_settled && is_quiet && is_stored && misses_nothing) {
            return None;
        }
        let log = saved.streams.get(&StreamId::OWN).map_or(0, |log| log.last);
        let own = live.used.get(&StreamId::OWN).copied().unwrap_or_default().max(log);
        let wake = deadlines::next_wake(settings, saved, live).unwrap_or(Millis::MAX);
        Some(Remembered {
            active: live.active,
            // One that comes too early does no harm.
            wake: u32::try_from(wake.saturating_sub(live.active)).unwrap_or(u32::MAX),
            next_stream: live.next_stream.try_into().ok()?,
            next_call: live.next_call.try_into().ok()?,
            own: own.try_into().ok()?,
        })
    }

    /// The same session, loaded by the owner that has let go of it: it has been idle for as long as it has, and no number is given
    /// twice, whatever the store may have lost.
    #[must_use]
    pub fn remembering(mut self, remembered: &Remembered) -> Self {
        let Remembered { active, wake: _, next_stream, next_call, own } = *remembered;
        self.live.active = active;
        self.live.next_stream = self.live.next_stream.max(next_stream.into());
        self.live.next_call = self.live.next_call.max(next_call.into());
        let log = self.saved.streams.get(&StreamId::OWN).map_or(0, |log| log.last);
        if log < own.into() {
            self.live.used.insert(StreamId::OWN, own.into());
        }
        self
    }
}
