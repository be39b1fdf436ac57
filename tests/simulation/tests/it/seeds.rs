//! Many ordinary worlds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use simulation::{Outcome, Plan, run};

/// Worlds of one test.
const SEEDS: u64 = 1_000;
/// Worlds at a time.
const THREADS: usize = 2;

/// What all worlds together came to.
#[derive(Debug, Default)]
struct Sum {
    worlds: u64,
    simulated_s: u64,
    operations: u64,
    done: u64,
    unknown: u64,
    faults: u64,
    takeovers: u64,
    stale: u64,
    refused_calls: u64,
    regress: u64,
    repairs: u64,
    followed: u64,
    bad: Vec<String>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        let (figures, counts) = (&outcome.figures, outcome.counts);
        self.worlds += 1;
        self.simulated_s += outcome.simulated_ms / 1_000;
        self.operations += figures.operations as u64;
        self.done += figures.done as u64;
        self.unknown += figures.unknown as u64;
        self.faults += figures.faults as u64;
        self.takeovers += counts.takeovers;
        self.stale += counts.stale;
        self.refused_calls += counts.refused_calls;
        self.regress += counts.regress;
        self.repairs += counts.repairs;
        self.followed += counts.followed;
        let again = format!("rerun with: cargo run -p simulation -- --seed {seed}");
        if !outcome.is_good() {
            let report = outcome.judgement.report(&outcome.history);
            self.bad.push(format!("seed {seed} broke a promise; {again}\n{report}"));
        } else if figures.operations < 500 || figures.faults < 6 || outcome.done_in_the_end < 10 {
            let (operations, faults, end) = (figures.operations, figures.faults, outcome.done_in_the_end);
            self.bad.push(format!(
                "seed {seed} shows too little: {operations} operations, {faults} faults, {end} done in the end; {again}"
            ));
        }
    }
}

#[test]
fn no_promise_is_broken_in_a_thousand_worlds() {
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let outcome = run(&Plan { seed, ..Plan::default() });
                    sum.lock().unwrap_or_else(PoisonError::into_inner).add(seed, &outcome);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{sum:#?}");
    for bad in &sum.bad {
        println!("{bad}");
    }
    assert!(sum.bad.is_empty(), "{} of {SEEDS} worlds are bad", sum.bad.len());
    assert!(sum.operations > SEEDS * 800, "too little was done");
    assert!(sum.takeovers > SEEDS * 30 && sum.faults > SEEDS * 8, "too little went wrong");
    assert!(sum.stale > SEEDS && sum.refused_calls > SEEDS / 50, "too few zombies were refused");
    assert!(sum.repairs > SEEDS / 20 && sum.followed > SEEDS, "too little was repaired and followed");
}
