//! I3, I6 and I7: events as clients received them, against what the stores kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::History;
use crate::line::{Place, What};
use crate::verdict::Findings;

/// A stream of a session.
type Stream<'a> = (&'a str, &'a str);

/// What the stores took back, by stream and place.
fn withdrawn(history: &History) -> HashMap<(Stream<'_>, (u64, u64)), usize> {
    let lines = history.lines.iter().enumerate();
    lines
        .filter_map(|(at, line)| match &line.what {
            What::Withdrawn { at: place } => {
                Some((((history.session(at), place.stream.as_str()), (place.epoch, place.seq)), at))
            }
            _other => None,
        })
        .collect()
}

/// What the stores kept, by stream and place.
fn kept(history: &History) -> HashMap<Stream<'_>, BTreeMap<(u64, u64), usize>> {
    let mut kept: HashMap<Stream<'_>, BTreeMap<(u64, u64), usize>> = HashMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        if let What::Log { at: place, .. } = &line.what {
            let stream = kept.entry((history.session(at), &place.stream)).or_default();
            stream.entry((place.epoch, place.seq)).or_insert(at);
        }
    }
    kept
}

/// I3.
pub(crate) fn kept_before(history: &History) -> Findings {
    let mut findings = Findings::default();
    let (kept, withdrawn) = (kept(history), withdrawn(history));
    for (at, line) in history.lines.iter().enumerate() {
        let What::Event { at: place, data, .. } = &line.what else { continue };
        findings.seen += 1;
        let of = (history.session(at), place.stream.as_str());
        if let Some(taken) = withdrawn.get(&(of, (place.epoch, place.seq))) {
            findings.breach("an event that a client received was taken back", [at, *taken]);
        }
        let stream = kept.get(&of);
        match stream.and_then(|stream| stream.get(&(place.epoch, place.seq))) {
            None => findings.breach("a client received an event that was never kept", [at]),
            Some(log) => {
                let same = history
                    .lines
                    .get(*log)
                    .is_some_and(|line| matches!(&line.what, What::Log { data: kept, .. } if kept == data));
                if !same {
                    findings.breach("an event was kept with other bytes than it was sent with", [*log, at]);
                }
            }
        }
    }
    findings
}

/// What a client saw of one stream.
#[derive(Default)]
struct Seen {
    /// Places and their lines, as they came.
    events: Vec<((u64, u64), usize)>,
    /// Indexes into `events` before which a gap was announced.
    gaps: BTreeSet<usize>,
    complete: Option<usize>,
}

/// I6.
pub(crate) fn in_order(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut kept = kept(history);
    // Nobody waits for what was taken back before anybody had it, which is looked at by I3, or for what no server has any more.
    for (at, line) in history.lines.iter().enumerate() {
        if let What::Withdrawn { at: place } | What::Lost { at: place } = &line.what
            && let Some(stream) = kept.get_mut(&(history.session(at), place.stream.as_str()))
        {
            stream.remove(&(place.epoch, place.seq));
        }
    }
    for (stream, seen) in seen(history) {
        findings.seen += 1;
        let log = kept.get(&stream);
        let mut before: Option<((u64, u64), usize)> = None;
        for (number, (place, at)) in seen.events.iter().enumerate() {
            let announced = seen.gaps.contains(&number);
            match before {
                Some((last, line)) if *place == last => {
                    findings.breach("an event came twice", [line, *at]);
                }
                Some((last, line)) if *place < last => {
                    findings.breach("an event came after a later one", [line, *at]);
                }
                Some((last, line)) if !announced => {
                    let left = log.and_then(|log| {
                        let after = (std::ops::Bound::Excluded(last), std::ops::Bound::Excluded(*place));
                        log.range(after).next()
                    });
                    if let Some((_, left)) = left {
                        findings.breach("an event was left out and nobody said so", [line, *left, *at]);
                    }
                }
                Some(_) | None => {}
            }
            before = Some((*place, *at));
        }
        if let (Some(end), Some((last, line))) = (seen.complete, before) {
            // What is kept behind a finished stream was not for this client.
            let before = |left: &usize| history.at(*left) <= history.at(end);
            let rest = log.and_then(|log| log.range((last.0, last.1 + 1)..).find(|(_, left)| before(left)));
            let announced = seen.gaps.contains(&seen.events.len());
            if let Some((_, left)) = rest.filter(|_| !announced) {
                findings.breach("the last events of a finished stream never came", [line, *left, end]);
            }
        }
    }
    findings
}

fn seen(history: &History) -> BTreeMap<Stream<'_>, Seen> {
    let mut streams: BTreeMap<Stream<'_>, Seen> = BTreeMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        let (What::Event { at: Place { stream, .. }, .. }
        | What::Gap { stream, .. }
        | What::Complete { stream, .. }) = &line.what
        else {
            continue;
        };
        let seen = streams.entry((line.session.as_deref().unwrap_or(""), stream)).or_default();
        match &line.what {
            What::Event { at: place, .. } => seen.events.push(((place.epoch, place.seq), at)),
            What::Gap { .. } => {
                seen.gaps.insert(seen.events.len());
            }
            _complete => seen.complete = Some(at),
        }
    }
    streams
}

/// I7.
pub(crate) fn one_place(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut owners: HashMap<&str, (&str, usize)> = HashMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        if let What::Invoke { principal, f: crate::line::Doing::Create, .. } = &line.what {
            owners.entry(history.session(at)).or_insert((principal, at));
        }
    }
    let mut first: HashMap<&str, (Stream<'_>, usize)> = HashMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        let What::Event { at: place, raw, principal, op, .. } = &line.what else { continue };
        findings.seen += 1;
        let session = history.session(at);
        let stream = (session, place.stream.as_str());
        let (known, before) = *first.entry(raw).or_insert((stream, at));
        if known != stream {
            findings.breach("one event appeared on two streams", [before, at]);
        }
        if let Some((owner, began)) = owners.get(session).filter(|(owner, _)| owner != principal) {
            findings.breach(format!("{principal} received an event of a session of {owner}"), [*began, at]);
        }
        if let Some(operation) = op.as_ref().and_then(|op| history.operations.get(op))
            && history.session(operation.invoked) != session
        {
            findings.breach("an event is about an operation of another session", [operation.invoked, at]);
        }
    }
    findings
}
