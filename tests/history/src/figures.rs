//! What happened in a run, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::history::{Ending, History};
use crate::line::{Doing, What};
use crate::verdict;
use crate::windows::{outages_of, windows};

/// A session that was out for less than this felt nothing, in nanoseconds.
const FELT: u64 = 250_000_000;

/// What goes on so long before or after a slot changed hands may have waited for it, in nanoseconds.
const AROUND: u64 = 250_000_000;

/// Numbers of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Operations that clients began.
    pub operations: usize,
    /// Those that were done.
    pub done: usize,
    /// Those that certainly were not.
    pub failed: usize,
    /// Those the mesh said it does not know the outcome of.
    pub unknown: usize,
    /// Those whose connection broke before anybody said anything.
    pub broken: usize,
    /// Faults injected.
    pub faults: usize,
    /// Done for the client and not by any tool, and events that were left out.
    pub lost: usize,
    /// Run twice that must not be, and events that came twice.
    pub duplicated: usize,
    /// Writes of former owners that were refused.
    pub refused: u64,
    /// How long sessions were out because of the faults.
    pub recovery: Spread,
    /// How long what sessions were asked took while their slot changed hands.
    pub moved: Spread,
    /// How long what sessions were asked took while nothing was done to the mesh.
    pub calm: Spread,
}

/// How durations are spread, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// Half were at most this.
    pub p50: u64,
    /// 99 of 100 were at most this.
    pub p99: u64,
    /// All were at most this.
    pub max: u64,
}

impl Figures {
    /// Counts.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut figures = Self { operations: history.operations(), ..Self::default() };
        for operation in history.operations.values() {
            let ran = operation.executions.len();
            match history.ending(operation) {
                Some((Ending::Done, _)) => {
                    figures.done += 1;
                    figures.lost += usize::from(operation.f.recorded() && ran == 0);
                }
                Some((Ending::NotDone, _)) => figures.failed += 1,
                Some((Ending::Unknown, line)) => match &line.what {
                    What::Info { explicit: true, .. } => figures.unknown += 1,
                    _other => figures.broken += 1,
                },
                Some((Ending::TakenBack, _)) | None => {}
            }
            figures.duplicated += usize::from(operation.f.once() && ran > 1);
        }
        let mut seen: BTreeMap<(&str, &str), BTreeSet<(u64, u64)>> = BTreeMap::new();
        // Several processes count for themselves.
        let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
        for (at, line) in history.lines.iter().enumerate() {
            match &line.what {
                What::Event { at: place, .. } => {
                    let stream = seen.entry((history.session(at), &place.stream)).or_default();
                    figures.duplicated += usize::from(!stream.insert((place.epoch, place.seq)));
                }
                What::Refused { count } => {
                    refused.insert(&line.proc, *count);
                }
                what => figures.faults += usize::from(verdict::is_injection(what)),
            }
        }
        figures.refused = refused.values().sum();
        let left_out = crate::streams::in_order(history).breaches;
        figures.lost += left_out.iter().filter(|breach| breach.lines.len() == 3).count();
        figures.recovery = recovery(history);
        figures.moved = moved(history);
        figures.calm = calm(history);
        figures
    }
}

/// For each injected fault, the longest outage of each session that it can have caused.
fn recovery(history: &History) -> Spread {
    let windows = windows(history);
    let mut worst: BTreeMap<(usize, &str), u64> = BTreeMap::new();
    let outages = outages_of(history);
    let injected = history.lines.iter().enumerate().filter(|(_, line)| verdict::is_injection(&line.what));
    for (at, injected) in injected {
        let end =
            windows.iter().filter(|window| window.meets(injected.t, injected.t)).map(|window| window.to);
        let end = end.min().unwrap_or(u64::MAX);
        let met = outages.iter().filter(|outage| outage.to >= injected.t && outage.from <= end);
        for outage in met.filter(|outage| outage.took() >= FELT) {
            let session = worst.entry((at, outage.session)).or_default();
            *session = (*session).max(outage.to.saturating_sub(outage.from.max(injected.t)));
        }
    }
    Spread::of(worst.into_values().filter(|took| *took >= FELT).map(|took| took / 1_000_000).collect())
}

/// What the machine needs for short operations of sessions: those that were begun and done outside of all windows.
fn calm(history: &History) -> Spread {
    let windows = windows(history);
    let mut took = Vec::new();
    for operation in history.operations.values() {
        let short =
            matches!(operation.f, Doing::Append | Doing::Read | Doing::Count | Doing::Echo | Doing::Ping);
        let Some((Ending::Done, end)) = history.ending(operation).filter(|_| short) else { continue };
        let (begun, ended) = (history.at(operation.invoked), end.t);
        if !windows.iter().any(|window| window.overlaps(begun, ended)) {
            took.push(ended.saturating_sub(begun) / 1_000_000);
        }
    }
    Spread::of(took)
}

/// For each change of hands within a window and each session of the slot, the longest of the short operations that it met.
fn moved(history: &History) -> Spread {
    let windows = windows(history);
    let mut slots: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    let mut epochs: BTreeMap<u16, u64> = BTreeMap::new();
    let mut changes: Vec<(u16, u64)> = Vec::new();
    for (at, line) in history.lines.iter().enumerate() {
        match &line.what {
            What::Commit { slot, .. } => {
                slots.entry(*slot).or_default().insert(history.session(at));
            }
            // Raised by every new owner before it serves.
            What::Fence { slot, epoch } => {
                let before = epochs.insert(*slot, *epoch);
                let inside = windows.iter().any(|window| window.spans(line.t));
                if inside && before.is_some_and(|before| before < *epoch) {
                    changes.push((*slot, line.t));
                }
            }
            _other => {}
        }
    }
    let mut asked: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for operation in history.operations.values() {
        let short = matches!(operation.f, Doing::Append | Doing::Read | Doing::Count | Doing::Ping);
        if let (true, Some((Ending::Done, line))) = (short, history.ending(operation)) {
            let of = asked.entry(history.session(operation.invoked)).or_default();
            of.push((history.at(operation.invoked), line.t));
        }
    }
    let mut took = Vec::new();
    for (slot, t) in changes {
        for session in slots.get(&slot).into_iter().flatten() {
            let of = asked.get(session).into_iter().flatten();
            let met = of.filter(|(begun, ended)| *begun <= t + AROUND && ended + AROUND >= t);
            took.extend(met.map(|(begun, ended)| ended.saturating_sub(*begun) / 1_000_000).max());
        }
    }
    Spread::of(took)
}

impl Spread {
    /// Of durations in milliseconds.
    #[must_use]
    pub fn of(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        let at = |share: usize| all.get((all.len() * share).div_ceil(100).saturating_sub(1)).copied();
        Self {
            count: all.len(),
            p50: at(50).unwrap_or(0),
            p99: at(99).unwrap_or(0),
            max: all.last().copied().unwrap_or(0),
        }
    }
}
