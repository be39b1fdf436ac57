//! Owners that are stopped around a commit and around the sending of a call, at 500 different moments each, until others have taken
//! over: when they go on, nothing of what they still do is seen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use simulation::{Around, Pauses, Plan, run};

/// Different moments.
const OFFSETS: u64 = 500;
/// Between two of them, in microseconds: together they are longer than a commit takes.
const STEP: u64 = 10;
/// Pauses of one world.
const EACH: u64 = 6;
/// Worlds at a time.
const THREADS: usize = 2;

#[derive(Debug, Default)]
struct Sum {
    operations: u64,
    pauses: u64,
    stale: u64,
    refused_calls: u64,
    takeovers: u64,
    bad: Vec<String>,
}

/// The pauses of one world.
fn plan(seed: u64, around: Around) -> Plan {
    let offset = |n: u64| match around {
        // Each tenth exactly between the commit and the sending.
        Around::Dispatch if n.is_multiple_of(10) => 0,
        Around::Commit | Around::Dispatch => n * STEP,
    };
    let offsets = (seed * EACH..OFFSETS.min((seed + 1) * EACH)).map(offset).collect();
    Plan { seed, pauses: Some(Pauses { around, offsets }), ..Plan::default() }
}

fn pause_everywhere(around: Around) -> Sum {
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let world = |seed: u64| {
        let plan = plan(seed, around);
        let wanted = plan.pauses.as_ref().map_or(0, |pauses| pauses.offsets.len());
        let outcome = run(&plan);
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.operations += outcome.figures.operations as u64;
        sum.pauses += outcome.figures.faults as u64;
        sum.stale += outcome.counts.stale;
        sum.refused_calls += outcome.counts.refused_calls;
        sum.takeovers += outcome.counts.takeovers;
        if !outcome.is_good() || outcome.figures.faults != wanted {
            let report = outcome.judgement.report(&outcome.history);
            sum.bad.push(format!("world {seed}: {} of {wanted} pauses\n{report}", outcome.figures.faults));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed * EACH >= OFFSETS {
                        return;
                    }
                    world(seed);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(sum.bad.is_empty(), "{} worlds are bad:\n{}", sum.bad.len(), sum.bad.join("\n"));
    assert!(sum.pauses >= OFFSETS && sum.takeovers > OFFSETS, "too little went wrong");
    assert!(sum.operations > OFFSETS * 100, "too little was done");
    assert!(sum.stale + sum.refused_calls >= OFFSETS / 10, "too few zombies were refused");
    sum
}

#[test]
fn an_owner_that_stops_around_a_commit_does_no_harm_later() {
    println!("{:?}", pause_everywhere(Around::Commit));
}

#[test]
fn an_owner_that_stops_around_a_dispatch_does_no_harm_later() {
    println!("{:?}", pause_everywhere(Around::Dispatch));
}
