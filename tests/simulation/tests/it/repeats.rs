//! The same seed is the same world, to the last byte of its history.

use std::collections::BTreeSet;

use simulation::{Plan, run};

#[test]
fn the_same_seed_is_the_same_world() {
    let mut digests = BTreeSet::new();
    for seed in 0..24 {
        let plan = Plan { seed, ..Plan::default() };
        let (once, again) = (run(&plan), run(&plan));
        assert_eq!(once.digest, again.digest, "seed {seed} differs from itself");
        assert_eq!(once.history.lines, again.history.lines, "seed {seed} differs from itself");
        digests.insert(once.digest);
    }
    assert_eq!(digests.len(), 24, "different seeds are different worlds");
}
