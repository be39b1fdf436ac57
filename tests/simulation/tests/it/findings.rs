//! Defects that these worlds have found in the layers around the pure machines, each put back into the simulated ones. What
//! is found at one seed is looked for from there on: a change of the world moves it a little.

use simulation::{Known, Plan, run};

/// Most worlds that are looked at.
const SEEDS: u64 = 250;

/// Whether the defect is noticed in a world that is good without it.
fn is_found(known: Known, from: u64) -> bool {
    (from..from + SEEDS).any(|seed| {
        let with = Plan { seed, known: vec![known], ..Plan::default() };
        !run(&with).is_good() && run(&Plan { seed, ..Plan::default() }).is_good()
    })
}

/// A fence at the same epoch, raised by another process, counts as raised: two owners in one epoch (I1).
#[test]
fn regression_equal_fence() {
    assert!(is_found(Known::EqualFence, 1));
}

/// Events of a former owner are sent under ids that nothing stands at (I3, I6).
#[test]
fn regression_replay_epoch() {
    assert!(is_found(Known::ReplayEpoch, 0));
}

/// Deadlines follow a date that jumps (I14).
#[test]
fn regression_wall_clock() {
    assert!(is_found(Known::WallClock, 11));
}

/// "Not the owner" was said to a call that had begun: refused, and run all the same (I10).
#[test]
fn regression_moved_is_new() {
    assert!(is_found(Known::MovedIsNew, 1));
}

/// The end of a session is acknowledged although no replica has it (I12).
#[test]
fn regression_delete_short() {
    assert!(is_found(Known::DeleteShort, 39));
}

/// A call that ended while the store was away runs again when its delivery comes again (I9).
#[test]
fn regression_ended_unsaved() {
    assert!(is_found(Known::EndedUnsaved, 62));
}

/// A session that is loaded beside the one that is here outlives its end (I12).
#[test]
fn regression_load_beside() {
    assert!(is_found(Known::LoadBeside, 483));
}

/// What an owner may have begun is refused because the next one cannot take it on now (I10).
#[test]
fn regression_refused_after_all() {
    assert!(is_found(Known::RefusedAfterAll, 29));
}
