//! What may be felt of a fault beyond the invariants, and whether it was more.

use std::collections::BTreeMap;

use history::line::{Doing, What};
use history::{History, Judgement};

use crate::faults::Limit;

/// An operation of a client, as a limit sees it.
struct Seen<'a> {
    begun: u64,
    took: u64,
    end: &'a What,
    modern: bool,
    f: Doing,
    ran: bool,
}

/// What is wrong, if a limit was broken. `moved` are the slots that changed hands since all had an owner.
pub(crate) fn broken(limit: Limit, history: &History, judgement: &Judgement, moved: usize) -> Option<String> {
    let seen = seen(history);
    let windows = windows(history);
    let inside = |seen: &&Seen<'_>| {
        windows.iter().any(|(from, to)| (*from..=*to).contains(&seen.begun))
            && !matches!(seen.f, Doing::Late | Doing::Hijack | Doing::Stranger)
    };
    match limit {
        Limit::RecoveryP99(most) => {
            let p99 = judgement.figures.recovery.p99;
            (p99 > most).then(|| format!("recovery p99 was {p99} ms, at most {most} ms are allowed"))
        }
        Limit::Moves(most) => {
            // A node that joins later than the others is given its share: that is no move for the fault.
            let felt = moved_inside(history, &windows);
            (felt > most).then(|| format!("{felt} slots changed hands ({moved} in all), at most {most} may"))
        }
        Limit::NoErrors => share(seen.iter().filter(inside), 0, "operations"),
        Limit::FailPerMille(most) => share(seen.iter().filter(inside), most, "operations"),
        Limit::ModernFailPerMille(most) => {
            share(seen.iter().filter(inside).filter(|seen| seen.modern), most, "calls without a session")
        }
        Limit::SessionsLost(most) => {
            let lost = sessions_lost(history);
            let names = lost.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            (lost.len() > most).then(|| format!("{} sessions were lost, among them {names}", lost.len()))
        }
        Limit::NoUnknownThatRan => {
            // One without a session is in no journal: where its node is killed, nobody can look for it.
            let journaled = seen.iter().filter(|seen| !seen.modern);
            let ran =
                journaled.filter(|seen| matches!(seen.end, What::Info { explicit: true, .. }) && seen.ran);
            let count = ran.count();
            (count > 0)
                .then(|| format!("{count} outcomes were called unknown although the registry knew them"))
        }
        Limit::Slower(most) => {
            let (during, others): (Vec<_>, Vec<_>) = seen
                .iter()
                .filter(|seen| matches!(seen.f, Doing::Append | Doing::Read | Doing::Echo | Doing::Ping))
                .partition(inside);
            let (during, before) = (p99(&during), p99(&others));
            let allowed = before + (before / 5).max(most * 1_000_000);
            (during > allowed).then(|| format!("p99 rose from {} to {} us", before / 1_000, during / 1_000))
        }
    }
}

fn share<'a>(seen: impl Iterator<Item = &'a Seen<'a>>, most: u64, what: &str) -> Option<String> {
    let (mut all, mut failed) = (0_u64, 0_u64);
    for seen in seen {
        all += 1;
        failed += u64::from(matches!(seen.end, What::Fail { .. } | What::Info { .. }));
    }
    let wrong = failed * 1000 > all * most || all == 0;
    wrong
        .then(|| format!("{failed} of {all} {what} failed while it lasted, at most {most} in a thousand may"))
}

fn p99(seen: &[&Seen<'_>]) -> u64 {
    let mut all: Vec<u64> = seen.iter().map(|seen| seen.took).collect();
    all.sort_unstable();
    all.get((all.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
}

fn seen(history: &History) -> Vec<Seen<'_>> {
    let mut ends: BTreeMap<&str, (u64, &What)> = BTreeMap::new();
    let mut ran: BTreeMap<&str, ()> = BTreeMap::new();
    for line in &history.lines {
        match &line.what {
            What::Ok { op, .. } | What::Fail { op, .. } | What::Info { op, .. } | What::Cancelled { op } => {
                ends.entry(op).or_insert((line.t, &line.what));
            }
            What::Execute { op, .. } => {
                ran.insert(op, ());
            }
            _ => {}
        }
    }
    let mut seen = Vec::new();
    for line in &history.lines {
        if let What::Invoke { op, f, modern, .. } = &line.what
            && let Some((ended, end)) = ends.get(op.as_str())
        {
            let (begun, took) = (line.t, ended.saturating_sub(line.t));
            seen.push(Seen { begun, took, end, modern: *modern, f: *f, ran: ran.contains_key(op.as_str()) });
        }
    }
    seen
}

/// Sessions that are gone although their clients did not end them.
fn sessions_lost(history: &History) -> Vec<&str> {
    let mut ending: BTreeMap<&str, &str> = BTreeMap::new();
    let mut lost = Vec::new();
    for line in &history.lines {
        let session = line.session.as_deref().unwrap_or("");
        match &line.what {
            What::Invoke { op, f: Doing::Delete, .. } => {
                ending.insert(session, op);
            }
            What::Gone {} if !ending.contains_key(session) => lost.push(session),
            _ => {}
        }
    }
    lost
}

/// When faults lasted.
fn windows(history: &History) -> Vec<(u64, u64)> {
    let mut windows: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for line in &history.lines {
        match &line.what {
            What::Begin { window, .. } => {
                windows.insert(window, (line.t, u64::MAX));
            }
            What::Over { window } => {
                if let Some(open) = windows.get_mut(window.as_str()) {
                    open.1 = line.t;
                }
            }
            _ => {}
        }
    }
    windows.into_values().collect()
}

/// Fences that were raised while faults lasted: each is a slot that changed hands.
fn moved_inside(history: &History, windows: &[(u64, u64)]) -> usize {
    let inside = |t: u64| windows.iter().any(|(from, to)| (*from..=*to).contains(&t));
    let fences = history.lines.iter().filter(|line| matches!(line.what, What::Fence { .. }));
    fences.filter(|line| inside(line.t)).count()
}
