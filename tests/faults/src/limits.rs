//! What may be felt of a fault beyond the invariants, and whether it was more.

use std::collections::BTreeMap;
use std::fmt;

use history::line::{Doing, What};
use history::{History, Judgement};

use crate::faults::links::HURTS;
use crate::faults::{Beside, Limit};

/// Threads of one process that may be about to turn a span away.
const AT_ONCE: u64 = 8;

/// An operation of a client, as a limit sees it.
struct Seen<'a> {
    begun: u64,
    took: u64,
    end: &'a What,
    modern: bool,
    f: Doing,
    ran: bool,
}

/// What is wrong, if a limit was broken.
pub(crate) fn broken(
    limit: Limit,
    history: &History,
    judgement: &Judgement,
    beside: &Beside,
) -> Option<String> {
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
            let (felt, moved) = (moved_inside(history, &windows), beside.moves);
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
            let compared = compared(history);
            // Where the machine is so busy that many wait, what is waited for differs by more from slice to slice.
            let allowed = most.max(compared.well / 10);
            let is_slower = compared.slower > i64::try_from(allowed).unwrap_or(i64::MAX);
            (is_slower || compared.rounds == 0).then(|| format!("too slow: {compared}"))
        }
        Limit::SpansWaiting(most) => {
            let spans = beside.spans;
            if spans.failed + spans.dropped == 0 {
                return Some("no span was kept from the collector".to_owned());
            }
            // One that finds no room is counted among those that wait while it is turned away.
            (spans.waiting > most + AT_ONCE)
                .then(|| format!("{} spans waited for the collector, at most {most} may", spans.waiting))
        }
    }
}

/// The slowest hundredth of the operations, while something is hurt and while nothing is, turn by turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// How often all that is hurt was, with as much time without.
    rounds: usize,
    /// In microseconds, over all rounds.
    hurt: u64,
    well: u64,
    /// By how much a round was slower where something was hurt; half of the rounds were slower by less.
    slower: i64,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, hurt, well, slower } = self;
        write!(f, "p99 was {hurt} us while something was hurt and {well} us while nothing was, ")?;
        write!(f, "in the middle of {rounds} rounds {slower} us more")
    }
}

/// Compares operations that were begun in windows with those begun in the same time after each. A last window that is longer than all
/// others belongs to no round: nothing of the same length comes after it.
pub(crate) fn compared(history: &History) -> Compared {
    let mut windows = windows(history);
    windows.sort_unstable();
    windows.truncate(windows.len() / HURTS * HURTS);
    let seen = seen(history);
    let quick = |seen: &&Seen<'_>| matches!(seen.f, Doing::Append | Doing::Read | Doing::Echo | Doing::Ping);
    let begun = |from: u64, to: u64| {
        let inside = seen.iter().filter(quick).filter(move |seen| (from..to).contains(&seen.begun));
        inside.map(|seen| seen.took)
    };
    let (mut all_hurt, mut all_well, mut more) = (Vec::new(), Vec::new(), Vec::new());
    for round in windows.chunks(HURTS) {
        let hurt: Vec<u64> = round.iter().flat_map(|(from, to)| begun(*from, *to)).collect();
        let well: Vec<u64> = round.iter().flat_map(|(from, to)| begun(*to, to + (to - from))).collect();
        let micros = |all: &[u64]| i64::try_from(p99(all) / 1_000).unwrap_or(i64::MAX);
        more.push(micros(&hurt) - micros(&well));
        all_hurt.extend(hurt);
        all_well.extend(well);
    }
    more.sort_unstable();
    let slower = more.get(more.len() / 2).copied().unwrap_or_default();
    let (hurt, well) = (p99(&all_hurt) / 1_000, p99(&all_well) / 1_000);
    Compared { rounds: more.len(), hurt, well, slower }
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

fn p99(took: &[u64]) -> u64 {
    let mut all = took.to_vec();
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

#[cfg(test)]
mod tests {
    use history::line::{Line, Source, Span};
    use history::{Demands, judge};

    use super::*;
    use crate::observers::Spans;

    const MS: u64 = 1_000_000;

    /// Rounds of windows of a second, each with a second after it; in the one operations take so many ms, in the other so many.
    fn alternating(rounds: usize, hurt: u64, well: u64) -> History {
        let mut lines: Vec<(u64, &str, What)> = Vec::new();
        for second in 0..(rounds * HURTS * 2) as u64 {
            let (begun, is_hurt) = (second * 1_000 * MS, second.is_multiple_of(2));
            let window = format!("w{}", second / 2);
            let what = if is_hurt {
                What::Begin { window, of: Span::Fault, limit_ms: None }
            } else {
                What::Over { window }
            };
            lines.push((begun, "runner", what));
            for number in 0..5 {
                let (op, at) = (format!("{second}/{number}"), begun + number * 100 * MS + MS);
                let (principal, id, value) = ("alice".to_owned(), serde_json::json!(op), None);
                let f = Doing::Ping;
                let invoke =
                    What::Invoke { op: op.clone(), principal, f, id, value, modern: false, deadline_ms: 9 };
                lines.push((at, "client", invoke));
                let took = if is_hurt { hurt } else { well };
                lines.push((at + took * MS, "client", What::Ok { op, nonce: None, list: None }));
            }
        }
        let line = |(t, proc, what): (u64, &str, What)| {
            let src = if proc == "client" { Source::Client } else { Source::Runner };
            Line { src, proc: proc.to_owned(), n: 0, t, session: None, what }
        };
        History::new(lines.into_iter().map(line).collect())
    }

    fn complaint(limit: Limit, history: &History, spans: Spans) -> Option<String> {
        let beside = Beside { spans, ..Beside::default() };
        broken(limit, history, &judge(history, Demands::default()), &beside)
    }

    #[test]
    fn the_slowest_are_compared_round_by_round() {
        let limit = |history: &History| complaint(Limit::Slower(1_000), history, Spans::default());
        let (same, slower, nothing) = (alternating(3, 11, 10), alternating(3, 12, 10), alternating(0, 0, 0));
        assert_eq!(compared(&same), Compared { rounds: 3, hurt: 11_000, well: 10_000, slower: 1_000 });
        assert_eq!(limit(&same), None);
        assert_eq!(limit(&alternating(3, 109, 100)), None, "less than a tenth");
        assert!(limit(&alternating(3, 111, 100)).is_some());
        assert!(limit(&slower).is_some_and(|why| why.contains("2000 us more")));
        assert!(limit(&nothing).is_some(), "nothing was compared");
    }

    #[test]
    fn spans_must_be_kept_from_the_collector_and_few_may_wait() {
        let history = History::new(Vec::new());
        let limit = |waiting, failed| {
            let spans = Spans { waiting, failed, ..Spans::default() };
            complaint(Limit::SpansWaiting(100), &history, spans)
        };
        assert_eq!(limit(100, 1), None);
        assert!(limit(100, 0).is_some() && limit(200, 1).is_some());
    }
}
