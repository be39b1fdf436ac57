//! Every state that can be reached, breadth first: what is found is reached in the fewest steps.

use std::collections::{BTreeSet, HashMap};

use super::{Broken, Rules, Sight, State, Step};

/// What a search found.
pub(super) enum Outcome {
    /// A way to what must never be.
    Broken { broken: Broken, trace: Vec<Step> },
    /// Nothing in all states to the depth.
    Whole { states: usize, seen: BTreeSet<Sight> },
}

/// Looks at everything that can happen in so many steps.
pub(super) fn search(rules: Rules, depth: usize) -> Outcome {
    let first = State::first();
    let mut known: HashMap<State, u32> = HashMap::from([(first, 0)]);
    // Where each state came from.
    let mut origins: Vec<(u32, Option<Step>)> = vec![(0, None)];
    let mut edge = vec![(first, 0_u32)];
    let mut seen = BTreeSet::new();
    for _ in 0..depth {
        let mut next = Vec::new();
        for (state, at) in edge {
            for step in state.steps(&rules) {
                let after = match state.take(step, &rules, &mut seen) {
                    Ok(after) => after.turned(),
                    Err(broken) => {
                        let mut trace = trace(&origins, at);
                        trace.push(step);
                        return Outcome::Broken { broken, trace };
                    }
                };
                let number = u32::try_from(origins.len()).unwrap_or(u32::MAX);
                if let std::collections::hash_map::Entry::Vacant(vacant) = known.entry(after) {
                    vacant.insert(number);
                    origins.push((at, Some(step)));
                    next.push((after, number));
                }
            }
        }
        edge = next;
    }
    Outcome::Whole { states: known.len(), seen }
}

fn trace(origins: &[(u32, Option<Step>)], mut at: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some((before, Some(step))) = usize::try_from(at).ok().and_then(|at| origins.get(at)) {
        steps.push(*step);
        at = *before;
    }
    steps.reverse();
    steps
}
