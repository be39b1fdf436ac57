//! The protocol as a model: every order in which two nodes can claim, fence, load, commit, pause, crash and lose their
//! leases over one slot, while the session store may lose what it had not replicated.
//!
//! Owns: the rules of the protocol in a few lines, and what must never be seen ([`Broken`]). Must not know: how it is
//! implemented. A pause needs no step of its own: a node that takes no step is paused. [`Rules`] can be sabotaged, one at a
//! time; each sabotage must be found out, or finding nothing would mean nothing.

mod search;
mod steps;

/// Nodes, by number.
pub(crate) const NODES: usize = 2;
/// Requests, by number; each appends to the session, once.
pub(crate) const REQUESTS: u8 = 2;
/// Commits that a log has room for: one more than there can be.
const LOG: usize = 3;
/// Epochs that are told apart.
const EPOCHS: usize = 8;

/// What is left out of the protocol, or done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Nothing.
    None,
    /// A slot that was claimed is served at once, and the session store checks no epoch.
    NoFence,
    /// The session is loaded before the fence is raised.
    FenceAfterLoad,
    /// A claim deals the epoch that the owner before had.
    SameEpoch,
    /// A claim writes whatever stands there now.
    NoCompare,
    /// The fence is not replicated before the slot is served.
    FenceNotDurable,
}

/// What the model may do, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) sabotage: Sabotage,
    /// A fence that equals the epoch counts as raised, whoever raised it.
    pub(crate) lenient: bool,
    /// Processes that die.
    pub(crate) crashes: u8,
    /// Leases that end, whether their owner lives or not.
    pub(crate) expiries: u8,
    /// Claims of a slot whose owner's lease runs.
    pub(crate) forced: u8,
    /// Fail-overs of the session store that lose what was not replicated.
    pub(crate) losses: u8,
    /// Restores of the lease store from a backup made at the beginning.
    pub(crate) restores: u8,
}

/// A run of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Run {
    node: u8,
    incarnation: u8,
}

/// What stands for the slot in the lease store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Seat {
    run: Run,
    epoch: u8,
}

/// The lease store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Leases {
    seat: Option<Seat>,
    epoch: u8,
}

/// A session's log: what it says, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Log {
    entries: [(u8, u8); LOG],
    length: u8,
}

/// The session store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Store {
    fence: u8,
    fenced_by: Option<Run>,
    log: Log,
    /// What a fail-over leaves.
    durable_fence: u8,
    durable_fenced_by: Option<Run>,
    durable: u8,
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Phase {
    #[default]
    Idle,
    /// It has read the lease store and will claim on the strength of that.
    Read(Leases),
    /// Its claim was written.
    Claimed { epoch: u8 },
    /// The session store stood higher: it will claim above.
    Higher { epoch: u8, above: u8 },
    /// Its fence stands.
    Fenced { epoch: u8 },
    /// Only with [`Sabotage::FenceAfterLoad`].
    Loaded { epoch: u8, view: Log },
    /// It serves.
    Serving { epoch: u8, view: Log, sending: Option<u8> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Node {
    incarnation: u8,
    phase: Phase,
    leased: bool,
}

/// A commit that its process did not live to see through: it may still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Orphan {
    epoch: u8,
    expected: u8,
    request: u8,
}

/// Everything, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State {
    nodes: [Node; NODES],
    leases: Leases,
    store: Store,
    orphan: Option<Orphan>,
    /// Requests whose result a client has seen.
    answered: u8,
    /// Of these, the ones that a fail-over may have taken back.
    excused: u8,
    /// Who acquired which epoch.
    acquired: [Option<Run>; EPOCHS],
    /// The highest fence that was ever raised.
    raised: u8,
    crashes: u8,
    expiries: u8,
    forced: u8,
    losses: u8,
    restores: u8,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    /// A node reads the lease store.
    Read(usize),
    /// It claims what it read, and learns of the outcome.
    Claim(usize),
    /// It claims, and its answer is lost.
    ClaimUnanswered(usize),
    /// It sees in the lease store what stands for the slot.
    Look(usize),
    /// It claims above a fence that was higher.
    Raise(usize),
    /// It raises its fence.
    Fence(usize),
    /// It loads the session.
    Load(usize),
    /// It decides to commit a request.
    Begin(usize, u8),
    /// The commit reaches the session store.
    Commit(usize),
    /// It answers from memory, after a look at the fence.
    Answer(usize),
    /// Its lease ends.
    Expire(usize),
    /// It gets another, and puts its key back where it may.
    Renew(usize),
    /// Its process dies; another run begins.
    Crash(usize),
    /// The commit of a dead process arrives.
    Arrive,
    /// The session store replicates what it has.
    Replicate,
    /// The session store fails over.
    FailOver,
    /// The lease store is restored from its first backup.
    Restore,
}

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// I1: two runs acquired one epoch.
    AcquiredTwice,
    /// I2: a commit under a fence that had been higher before.
    CommitUnderFence,
    /// I2: epochs went down in the log.
    EpochsFell,
    /// A request was executed twice in one log.
    ExecutedTwice,
    /// A client saw a state in which something was missing that it had seen before.
    StaleAnswer,
}

/// What was seen on the way: a search that never saw these proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Sight {
    /// A commit of an older epoch was refused.
    Stale,
    /// The store had lost what the owner knew.
    Regress,
    /// The owner wrote back what the store had lost.
    Repaired,
    /// A commit on another state than the store's.
    Conflict,
    /// A claim lost against another one.
    ClaimRefused,
    /// A lease came back before anybody had claimed.
    PutBack,
    /// A fence stood too high.
    FenceHigher,
    /// A second owner served.
    TakenOver,
    /// Every request was answered.
    AllAnswered,
}

impl Rules {
    const fn honest() -> Self {
        Self {
            sabotage: Sabotage::None,
            lenient: false,
            crashes: 1,
            expiries: 2,
            forced: 1,
            losses: 1,
            restores: 0,
        }
    }

    const fn with(sabotage: Sabotage) -> Self {
        Self { sabotage, ..Self::honest() }
    }
}

#[cfg(test)]
mod tests {
    use super::search::{Outcome, search};
    use super::*;

    const DEPTH: usize = 16;

    fn broken(rules: Rules) -> Broken {
        match search(rules, DEPTH) {
            Outcome::Broken { broken, trace } => {
                assert!(!trace.is_empty() && trace.len() <= DEPTH);
                eprintln!("{:?}: {broken:?} by {trace:?}", rules.sabotage);
                broken
            }
            Outcome::Whole { states, .. } => panic!("not found out in {states} states"),
        }
    }

    fn whole(rules: Rules, sights: &[Sight]) {
        match search(rules, DEPTH) {
            Outcome::Broken { broken, trace } => panic!("{broken:?} by {trace:#?}"),
            Outcome::Whole { states, seen } => {
                eprintln!("{rules:?}: {states} states to depth {DEPTH}, all well; saw {seen:?}");
                for sight in sights {
                    assert!(seen.contains(sight), "it never came to {sight:?}");
                }
            }
        }
    }

    #[test]
    fn the_protocol_keeps_what_it_promises() {
        let sights = [
            Sight::Stale,
            Sight::Repaired,
            Sight::Conflict,
            Sight::ClaimRefused,
            Sight::PutBack,
            Sight::FenceHigher,
            Sight::TakenOver,
            Sight::AllAnswered,
        ];
        whole(Rules::honest(), &sights);
    }

    #[test]
    fn a_restored_lease_store_breaks_nothing() {
        let rules = Rules { crashes: 0, expiries: 1, forced: 0, losses: 0, restores: 1, ..Rules::honest() };
        whole(rules, &[Sight::FenceHigher, Sight::TakenOver, Sight::AllAnswered, Sight::Stale]);
    }

    #[test]
    fn without_a_fence_it_breaks() {
        broken(Rules::with(Sabotage::NoFence));
    }

    #[test]
    fn with_the_fence_after_the_load_it_breaks() {
        assert_eq!(broken(Rules::with(Sabotage::FenceAfterLoad)), Broken::StaleAnswer);
    }

    #[test]
    fn with_an_epoch_used_again_it_breaks() {
        let rules = Rules { lenient: true, ..Rules::with(Sabotage::SameEpoch) };
        assert_eq!(broken(rules), Broken::AcquiredTwice);
    }

    #[test]
    fn with_claims_that_compare_nothing_it_breaks() {
        let rules = Rules { lenient: true, ..Rules::with(Sabotage::NoCompare) };
        assert_eq!(broken(rules), Broken::AcquiredTwice);
    }

    #[test]
    fn a_strict_fence_makes_good_for_claims_that_compare_nothing() {
        let rules = Rules { crashes: 0, losses: 0, ..Rules::with(Sabotage::NoCompare) };
        whole(rules, &[Sight::FenceHigher]);
    }

    #[test]
    fn with_a_fence_that_a_fail_over_can_lose_it_breaks() {
        assert_eq!(broken(Rules::with(Sabotage::FenceNotDurable)), Broken::CommitUnderFence);
    }

    #[test]
    fn with_equal_fences_taken_for_raised_only_a_restore_breaks_it() {
        let rules = Rules { lenient: true, crashes: 0, losses: 0, ..Rules::honest() };
        whole(rules, &[Sight::TakenOver]);
        assert_eq!(broken(Rules { restores: 1, ..rules }), Broken::AcquiredTwice);
    }
}
