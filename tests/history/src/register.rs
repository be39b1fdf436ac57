//! I11: each session's list, as its clients appended to it and read it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::history::{Ending, History};
use crate::line::{Doing, What};
use crate::search::{Does, Found, Step, search};
use crate::verdict::Findings;

/// For one session.
const TIME: Duration = Duration::from_secs(30);
/// For making a witness shorter, each try.
const TRY: Duration = Duration::from_millis(200);

/// An operation and the lines it is made of.
#[derive(Clone)]
struct Traced {
    step: Step,
    lines: Vec<usize>,
}

/// I11.
pub(crate) fn linearizable(history: &History) -> Findings {
    let mut findings = Findings::default();
    for (session, traced) in sessions(history) {
        findings.seen += traced.len() as u64;
        let steps: Vec<Step> = traced.iter().map(|traced| traced.step.clone()).collect();
        match search(&steps, TIME) {
            Found::Order => {}
            Found::OutOfTime => findings
                .undecided
                .push(format!("no order of the {} operations of {session} found in time", steps.len())),
            Found::NoOrder => {
                let witness = shrink(traced);
                let lines: BTreeSet<usize> = witness.into_iter().flat_map(|traced| traced.lines).collect();
                findings.breach(format!("no order explains what was read in {session}"), lines);
            }
        }
    }
    findings
}

/// Operations by session, in the order of time. What was certainly not done is left out, and so is what nobody knows of
/// and nobody read.
fn sessions(history: &History) -> BTreeMap<&str, Vec<Traced>> {
    let mut sessions: BTreeMap<&str, Vec<Traced>> = BTreeMap::new();
    for operation in history.operations.values() {
        let Some(line) = history.lines.get(operation.invoked) else { continue };
        let ending = history.ending(operation);
        let lines = [operation.invoked].into_iter().chain(operation.ends.first().copied()).collect();
        let (does, ended) = match (&line.what, &ending) {
            (What::Invoke { f: Doing::Append, value: Some(value), .. }, ending) => match ending {
                Some((Ending::Done, end)) => (Does::Append(*value), Some(end.t)),
                Some((Ending::NotDone, _)) => continue,
                Some((Ending::Unknown | Ending::TakenBack, _)) | None => (Does::Append(*value), None),
            },
            (What::Invoke { f: Doing::Read, .. }, Some((Ending::Done, end))) => match &end.what {
                What::Ok { list: Some(list), .. } => (Does::Read(list.clone()), Some(end.t)),
                _other => continue,
            },
            _other => continue,
        };
        let step = Step { begun: line.t, ended, does };
        sessions.entry(history.session(operation.invoked)).or_default().push(Traced { step, lines });
    }
    for traced in sessions.values_mut() {
        let read: BTreeSet<u64> = traced.iter().flat_map(|traced| values(&traced.step)).collect();
        traced.retain(|traced| match (&traced.step.does, traced.step.ended) {
            (Does::Append(value), None) => read.contains(value),
            (Does::Append(_) | Does::Read(_), _) => true,
        });
        traced.sort_by_key(|traced| traced.step.begun);
    }
    sessions
}

fn values(step: &Step) -> Vec<u64> {
    match &step.does {
        Does::Append(_) => Vec::new(),
        Does::Read(list) => list.clone(),
    }
}

/// Leaves out, one by one, what the contradiction does not need: reads, and values together with their appends, for a
/// history that can be explained can still be when a value is left out everywhere.
fn shrink(mut traced: Vec<Traced>) -> Vec<Traced> {
    let contradicts = |traced: &[Traced]| {
        let steps: Vec<Step> = traced.iter().map(|traced| traced.step.clone()).collect();
        search(&steps, TRY) == Found::NoOrder
    };
    let mut at = traced.len();
    while at > 0 {
        at -= 1;
        let fewer = without(&traced, at);
        if contradicts(&fewer) {
            traced = fewer;
        }
        at = at.min(traced.len());
    }
    traced
}

fn without(traced: &[Traced], at: usize) -> Vec<Traced> {
    let gone = match traced.get(at).map(|traced| &traced.step.does) {
        Some(Does::Append(value)) => Some(*value),
        Some(Does::Read(_)) | None => None,
    };
    let others = traced.iter().enumerate().filter(|(number, _)| *number != at).map(|(_, traced)| traced);
    others
        .cloned()
        .map(|mut traced| {
            if let Does::Read(list) = &mut traced.step.does {
                list.retain(|value| Some(*value) != gone);
            }
            traced
        })
        .collect()
}
