//! What is broken on purpose is noticed: each of twelve, within 200 worlds.

use simulation::{Plan, Sabotage, run};

/// Most worlds that may pass for good.
const SEEDS: u64 = 200;

/// Whether it is noticed in a world that is good without it.
fn is_convicted(sabotage: Sabotage) -> bool {
    (0..SEEDS).any(|seed| {
        let with = Plan { seed, sabotage: Some(sabotage), ..Plan::default() };
        // A world that is bad by itself shows nothing.
        !run(&with).is_good() && run(&Plan { seed, ..Plan::default() }).is_good()
    })
}

#[test]
fn skip_fence() {
    assert!(is_convicted(Sabotage::SkipFence));
}

#[test]
fn reuse_seq() {
    assert!(is_convicted(Sabotage::ReuseSeq));
}

#[test]
fn send_before_commit() {
    assert!(is_convicted(Sabotage::SendBeforeCommit));
}

#[test]
fn retry_on_timeout() {
    assert!(is_convicted(Sabotage::RetryOnTimeout));
}

#[test]
fn drop_inbox() {
    assert!(is_convicted(Sabotage::DropInbox));
}

#[test]
fn forget_principal() {
    assert!(is_convicted(Sabotage::ForgetPrincipal));
}

#[test]
fn ack_before_wait() {
    assert!(is_convicted(Sabotage::AckBeforeWait));
}

#[test]
fn resurrect_tombstone() {
    assert!(is_convicted(Sabotage::ResurrectTombstone));
}

#[test]
fn same_epoch() {
    assert!(is_convicted(Sabotage::SameEpoch));
}

#[test]
fn no_certainty() {
    assert!(is_convicted(Sabotage::NoCertainty));
}

#[test]
fn lose_gap_notice() {
    assert!(is_convicted(Sabotage::LoseGapNotice));
}

#[test]
fn registry_ignores_ids() {
    assert!(is_convicted(Sabotage::RegistryIgnoresIds));
}
