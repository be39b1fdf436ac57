//! What is broken on purpose is noticed: each of twelve, within 200 worlds.

use simulation::{Plan, Sabotage, run};

/// Most worlds that may pass for good.
const SEEDS: u64 = 200;

fn is_convicted(sabotage: Sabotage) {
    for seed in 0..SEEDS {
        let outcome = run(&Plan { seed, sabotage: Some(sabotage), ..Plan::default() });
        // A world that is bad by itself shows nothing.
        if !outcome.is_good() && run(&Plan { seed, ..Plan::default() }).is_good() {
            let broken: Vec<String> =
                outcome.judgement.broken().map(|invariant| invariant.to_string()).collect();
            println!("{}: convicted in world {seed} by {}", sabotage.name(), broken.join(" "));
            assert!(!broken.is_empty(), "{}", outcome.judgement.report(&outcome.history));
            return;
        }
    }
    panic!("{} was not noticed in {SEEDS} worlds", sabotage.name());
}

#[test]
fn skip_fence() {
    is_convicted(Sabotage::SkipFence);
}

#[test]
fn reuse_seq() {
    is_convicted(Sabotage::ReuseSeq);
}

#[test]
fn send_before_commit() {
    is_convicted(Sabotage::SendBeforeCommit);
}

#[test]
fn retry_on_timeout() {
    is_convicted(Sabotage::RetryOnTimeout);
}

#[test]
fn drop_inbox() {
    is_convicted(Sabotage::DropInbox);
}

#[test]
fn forget_principal() {
    is_convicted(Sabotage::ForgetPrincipal);
}

#[test]
fn ack_before_wait() {
    is_convicted(Sabotage::AckBeforeWait);
}

#[test]
fn resurrect_tombstone() {
    is_convicted(Sabotage::ResurrectTombstone);
}

#[test]
fn same_epoch() {
    is_convicted(Sabotage::SameEpoch);
}

#[test]
fn no_certainty() {
    is_convicted(Sabotage::NoCertainty);
}

#[test]
fn lose_gap_notice() {
    is_convicted(Sabotage::LoseGapNotice);
}

#[test]
fn registry_ignores_ids() {
    is_convicted(Sabotage::RegistryIgnoresIds);
}
