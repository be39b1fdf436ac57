//! Good histories of many operations, made up at random, and what becomes of them when something is changed.

use history::line::{Doing, Line, Place, Source, What};
use history::{Demands, History, Invariant, Judgement, judge};
use proptest::prelude::*;

/// Writes lines as their writers would.
#[derive(Default)]
struct Pen {
    lines: Vec<Line>,
    time: u64,
}

impl Pen {
    fn write(&mut self, src: Source, proc: &str, session: Option<&str>, what: What) {
        self.time += 1_000_000;
        let n = self.lines.iter().filter(|line| line.proc == proc).count() as u64;
        let session = session.map(str::to_owned);
        self.lines.push(Line { src, proc: proc.to_owned(), n, t: self.time, session, what });
    }

    fn client(&mut self, session: &str, what: What) {
        self.write(Source::Client, &format!("client-{session}"), Some(session), what);
    }
}

/// One session's worth of a good history: appends, reads, counts, and a stream that is resumed.
fn good(choices: &[u8]) -> Vec<Line> {
    let mut pen = Pen::default();
    let mut lists: [Vec<u64>; 2] = [Vec::new(), Vec::new()];
    let mut seqs = [0_u64; 2];
    for (number, choice) in choices.iter().enumerate() {
        let at = usize::from(*choice & 1);
        let session = ["s1", "s2"][at];
        let op = format!("op-{number}");
        let value = number as u64;
        let f = match choice >> 1 & 3 {
            0 => Doing::Append,
            1 => Doing::Read,
            2 => Doing::Count,
            _ => {
                let place = Place { stream: "g".into(), epoch: 1, seq: seqs[at] };
                seqs[at] += 1;
                let data = format!("event {number}");
                pen.write(
                    Source::Store,
                    "redis",
                    Some(session),
                    What::Log { at: place.clone(), data: data.clone() },
                );
                let (raw, principal) = (format!("{session}-{}", place.seq), format!("of-{session}"));
                pen.client(
                    session,
                    What::Event { conn: "k".into(), at: place, raw, principal, data, op: None },
                );
                continue;
            }
        };
        pen.client(
            session,
            What::Invoke {
                op: op.clone(),
                principal: format!("of-{session}"),
                f,
                id: value.into(),
                value: (f == Doing::Append).then_some(value),
                modern: false,
                deadline_ms: 1000,
            },
        );
        let nonce = format!("nonce-{number}");
        if f.recorded() {
            let what = What::Execute { op: op.clone(), nonce: nonce.clone(), f };
            pen.write(Source::Ledger, "ledger", None, what);
        }
        if f == Doing::Append {
            lists[at].push(value);
        }
        pen.client(session, What::Response { id: value.into(), op: Some(op.clone()) });
        let list = (f == Doing::Read).then(|| lists[at].clone());
        pen.client(session, What::Ok { op, nonce: f.recorded().then_some(nonce), list });
    }
    let mut writers: Vec<(Source, String)> =
        pen.lines.iter().map(|line| (line.src, line.proc.clone())).collect();
    writers.sort();
    writers.dedup();
    for (src, writer) in writers {
        pen.write(src, &writer, None, What::End {});
    }
    pen.lines
}

fn judged(lines: Vec<Line>) -> (History, Judgement) {
    let history = History::new(lines);
    let judgement = judge(&history, Demands::default());
    (history, judgement)
}

/// Numbers and times anew, as if the changed history had been written so.
fn rewritten(lines: &[Line]) -> Vec<Line> {
    let mut pen = Pen::default();
    for line in lines {
        pen.write(line.src, &line.proc, line.session.as_deref(), line.what.clone());
    }
    pen.lines
}

fn places(lines: &[Line], which: impl Fn(&What) -> bool) -> Vec<usize> {
    lines.iter().enumerate().filter(|(_, line)| which(&line.what)).map(|(at, _)| at).collect()
}

/// What a mesh could do wrong, and the invariants that may tell.
const WRONGS: &[(&str, &[Invariant])] = &[
    ("a run is lost", &[Invariant::I9, Invariant::I10]),
    ("a run is doubled", &[Invariant::I9]),
    ("an answer is lost", &[Invariant::I14]),
    ("an answer is doubled", &[Invariant::I4]),
    ("a response is doubled", &[Invariant::I4]),
    ("a response has another id", &[Invariant::I5]),
    ("an event is doubled", &[Invariant::I6]),
    ("an event was never kept", &[Invariant::I3]),
    ("an event has other bytes", &[Invariant::I3]),
    ("two events change places", &[Invariant::I6]),
    ("a read lacks its first value", &[Invariant::I11]),
    ("a read shows a value twice", &[Invariant::I11]),
    ("a result is another's", &[Invariant::I10]),
];

/// Does it at a place chosen by `pick`; `None` where the history offers none.
fn wrong(lines: &[Line], wrong: usize, pick: usize) -> Option<Vec<Line>> {
    let mut lines = lines.to_vec();
    let is_read = |what: &What| matches!(what, What::Ok { list: Some(list), .. } if !list.is_empty());
    let candidates = match wrong {
        0 | 1 => places(&lines, |what| matches!(what, What::Execute { f, .. } if f.once())),
        2 | 3 => places(&lines, |what| matches!(what, What::Ok { .. })),
        4 | 5 => places(&lines, |what| matches!(what, What::Response { .. })),
        6 | 8 | 9 => places(&lines, |what| matches!(what, What::Event { .. })),
        7 => places(&lines, |what| matches!(what, What::Log { .. })),
        10 | 11 => places(&lines, is_read),
        _ => places(&lines, |what| matches!(what, What::Ok { nonce: Some(_), .. })),
    };
    let at = *candidates.get(pick % candidates.len().max(1))?;
    match wrong {
        0 | 2 | 7 => drop(lines.remove(at)),
        1 | 3 | 4 | 6 => lines.insert(at, lines[at].clone()),
        9 => {
            let session = lines[at].session.clone();
            let other =
                candidates.iter().copied().find(|other| *other > at && lines[*other].session == session)?;
            let (first, second) = (lines[at].what.clone(), lines[other].what.clone());
            lines[at].what = second;
            lines[other].what = first;
        }
        _ => match &mut lines[at].what {
            What::Response { id, .. } => *id = id.to_string().into(),
            What::Event { data, .. } => data.push('!'),
            What::Ok { list: Some(list), .. } if wrong == 10 => drop(list.remove(0)),
            What::Ok { list: Some(list), .. } => list.push(list[0]),
            What::Ok { nonce: Some(nonce), .. } => nonce.push('!'),
            other => unreachable!("{other:?}"),
        },
    }
    Some(rewritten(&lines))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_went_well_is_acquitted(choices in prop::collection::vec(any::<u8>(), 1..80)) {
        let (history, judgement) = judged(good(&choices));
        prop_assert!(judgement.acquits(), "{}", judgement.report(&history));
    }

    #[test]
    fn a_record_that_was_tampered_with_is_noticed(
        choices in prop::collection::vec(any::<u8>(), 1..40), pick: prop::sample::Index, way in 0..3_u8,
    ) {
        let mut lines = good(&choices);
        let at = pick.index(lines.len());
        match way {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            _ => {
                // The next line of the same writer, if there is one; else the line is lost.
                let writer = lines[at].proc.clone();
                match (at + 1..lines.len()).find(|other| lines[*other].proc == writer) {
                    Some(other) => lines.swap(at, other),
                    None => drop(lines.remove(at)),
                }
            }
        }
        // A writer whose only line is gone was never there.
        let writers = |lines: &[Line]| lines.iter().map(|line| line.proc.clone()).collect::<std::collections::BTreeSet<_>>();
        prop_assume!(writers(&lines) == writers(&good(&choices)));
        let (_, judgement) = judged(lines);
        prop_assert!(!judgement.acquits());
    }

    #[test]
    fn what_went_wrong_is_convicted(
        choices in prop::collection::vec(any::<u8>(), 1..60), pick in any::<usize>(), which in 0..WRONGS.len(),
    ) {
        let changed = wrong(&good(&choices), which, pick);
        prop_assume!(changed.is_some());
        let (history, judgement) = judged(changed.unwrap());
        let (what, tell) = WRONGS[which];
        let told = judgement.broken().any(|broken| tell.contains(&broken));
        prop_assert!(told, "{what} was not noticed: {}", judgement.report(&history));
    }
}
