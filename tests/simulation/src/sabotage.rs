//! What can be broken on purpose, chosen when a run begins. Nothing of it exists outside this crate.

use std::str::FromStr;

/// A promise that the simulated nodes, stores or registries break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sabotage {
    /// The store takes writes of any epoch.
    SkipFence,
    /// A new owner begins with numbers of events that were used before.
    ReuseSeq,
    /// What a step wants is done before it is stored.
    SendBeforeCommit,
    /// A call whose outcome is not known is made once more.
    RetryOnTimeout,
    /// Answers of clients that were accepted are dropped.
    DropInbox,
    /// Whoever comes first to a session that changed its owner has it.
    ForgetPrincipal,
    /// A write counts as done before any replica has it.
    AckBeforeWait,
    /// A session that was ended stays in the store.
    ResurrectTombstone,
    /// A slot is taken over without a new epoch.
    SameEpoch,
    /// Answers from memory are given without asking whether the session is still ours.
    NoCertainty,
    /// Events that are no longer kept are passed over in silence.
    LoseGapNotice,
    /// A registry tells neither owners nor invocations apart.
    RegistryIgnoresIds,
}

impl Sabotage {
    /// Every one, with its name.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::SkipFence, "skip-fence"),
        (Self::ReuseSeq, "reuse-seq"),
        (Self::SendBeforeCommit, "send-before-commit"),
        (Self::RetryOnTimeout, "retry-on-timeout"),
        (Self::DropInbox, "drop-inbox"),
        (Self::ForgetPrincipal, "forget-principal"),
        (Self::AckBeforeWait, "ack-before-wait"),
        (Self::ResurrectTombstone, "resurrect-tombstone"),
        (Self::SameEpoch, "same-epoch"),
        (Self::NoCertainty, "no-certainty"),
        (Self::LoseGapNotice, "lose-gap-notice"),
        (Self::RegistryIgnoresIds, "registry-ignores-ids"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(sabotage, _)| *sabotage == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        let names = || Self::ALL.map(|(_, name)| name).join(", ");
        found.map(|(sabotage, _)| *sabotage).ok_or_else(|| format!("{text:?} is none of {}", names()))
    }
}

/// What the layers around the pure machines have done and should not, each found by these worlds. Some are found again within
/// a few worlds, see `tests/it/findings.rs`; others take hundreds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Known {
    /// A fence that stands at the epoch asked for counts as raised, whoever raised it.
    EqualFence,
    /// A replayed event is given the epoch of whoever replays it.
    ReplayEpoch,
    /// A cursor that is ahead of the log is believed, although the log has lost its end.
    AheadCursor,
    /// The deadlines of sessions follow the date, which may jump.
    WallClock,
    /// A delivery that an owner gave up with the words of one that never had it is sent to the next owner as a new one.
    MovedIsNew,
    /// A fence counts as raised before the replica has it.
    FenceUnwaited,
    /// The end of a session is acknowledged although no replica has it.
    DeleteShort,
    /// A session that is here is loaded once more for somebody who may not see it, and outlives its end.
    LoadBeside,
    /// A call that ended while the store was away is a new one when its delivery comes again.
    EndedUnsaved,
    /// A call that an owner may have begun is refused because the next one cannot take it on now.
    RefusedAfterAll,
    /// A node goes on to serve a slot of which the store has told it that somebody else owns it.
    OvertakenServes,
    /// A call that its client took back is a new one when its delivery comes again.
    CancelledAgain,
    /// That the store knows of no other owner counts from when its answer was read.
    AgreedWhenRead,
}

impl Known {
    /// Every one, with its name.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::EqualFence, "equal-fence"),
        (Self::ReplayEpoch, "replay-epoch"),
        (Self::AheadCursor, "ahead-cursor"),
        (Self::WallClock, "wall-clock"),
        (Self::MovedIsNew, "moved-is-new"),
        (Self::FenceUnwaited, "fence-unwaited"),
        (Self::DeleteShort, "delete-short"),
        (Self::EndedUnsaved, "ended-unsaved"),
        (Self::LoadBeside, "load-beside"),
        (Self::RefusedAfterAll, "refused-after-all"),
        (Self::OvertakenServes, "overtaken-serves"),
        (Self::CancelledAgain, "cancelled-again"),
        (Self::AgreedWhenRead, "agreed-when-read"),
    ];
}

impl FromStr for Known {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        let names = || Self::ALL.map(|(_, name)| name).join(", ");
        found.map(|(known, _)| *known).ok_or_else(|| format!("{text:?} is none of {}", names()))
    }
}
