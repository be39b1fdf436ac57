//! How long a plan takes, which every session node makes when another set of nodes takes part:
//! `cargo run --release -p placement --example plan_speed`. The quickest of 31 plans,
//! which is what it takes where nothing else runs, and the median of them.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement, not a service")]

use std::time::{Duration, Instant};

use api::SlotCount;
use placement::plan::{Member, Plan};

const PLANS: usize = 31;

fn main() {
    println!("slots  nodes  ms (quickest)  ms (median)");
    for slots in SlotCount::ALL {
        for nodes in [3, 10, 50, 100] {
            let mut times: Vec<Duration> = (0..PLANS).map(|turn| planned(slots, turn, nodes)).collect();
            times.sort();
            let ms = |index: usize| times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3);
            println!("{slots:>5}  {nodes:5}  {:13.2}  {:11.2}", ms(0), ms(PLANS / 2));
        }
    }
}

/// Each turn has nodes of other names.
fn planned(slots: SlotCount, turn: usize, nodes: usize) -> Duration {
    let member =
        |n: usize| Member { node: format!("session-{turn}-{n}").into(), capacity: 100, zone: "".into() };
    let members: Vec<Member> = (0..nodes).map(member).collect();
    let begun = Instant::now();
    let plan = Plan::of(slots, members);
    let took = begun.elapsed();
    assert_eq!(plan.members().len(), nodes);
    took
}
