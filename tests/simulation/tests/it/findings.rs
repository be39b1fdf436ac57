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

/// Events of a former owner are sent under ids that nothing stands at (I3, I6).
#[test]
fn regression_replay_epoch() {
    assert!(is_found(Known::ReplayEpoch, 0));
}

/// A cursor is believed that is ahead of a log which has lost its end (I6).
#[test]
fn regression_ahead_cursor() {
    assert!(is_found(Known::AheadCursor, 0));
}

/// "Not the owner" was said to a call that had begun: refused, and run all the same (I10).
#[test]
fn regression_moved_is_new() {
    assert!(is_found(Known::MovedIsNew, 0));
}

/// The end of a session is acknowledged although no replica has it (I12).
#[test]
fn regression_delete_short() {
    assert!(is_found(Known::DeleteShort, 0));
}

/// A call that ended while the store was away runs again when its delivery comes again (I9).
#[test]
fn regression_ended_unsaved() {
    assert!(is_found(Known::EndedUnsaved, 100));
}
