//! I15, I16 and I17: what clients felt of faults and of planned changes.

use std::collections::BTreeMap;

use crate::history::{Ending, History};
use crate::line::{Doing, Span, What};
use crate::verdict::Findings;

/// Of calls that need no store, how many in a thousand may fail while there is none.
const PER_MILLE: u64 = 1;

/// From when until when.
pub(crate) struct Window<'a> {
    pub(crate) name: &'a str,
    of: Span,
    pub(crate) limit_ms: Option<u64>,
    from: u64,
    pub(crate) to: u64,
    line: usize,
}

impl Window<'_> {
    /// Whether a fault lasted while something did.
    pub(crate) fn meets(&self, from: u64, to: u64) -> bool {
        self.of == Span::Fault && self.overlaps(from, to)
    }

    /// Whether it was open, whatever it is of.
    pub(crate) const fn spans(&self, t: u64) -> bool {
        self.overlaps(t, t)
    }

    /// Whether it was open while something went on, whatever it is of.
    pub(crate) const fn overlaps(&self, from: u64, to: u64) -> bool {
        self.from <= to && from <= self.to
    }
}

/// All windows; one without an end lasts to the end of the history.
pub(crate) fn windows(history: &History) -> Vec<Window<'_>> {
    let mut windows: Vec<Window<'_>> = Vec::new();
    for (at, line) in history.lines.iter().enumerate() {
        match &line.what {
            What::Begin { window, of, limit_ms } => windows.push(Window {
                name: window,
                of: *of,
                limit_ms: *limit_ms,
                from: line.t,
                to: u64::MAX,
                line: at,
            }),
            What::Over { window } => {
                if let Some(open) = windows.iter_mut().rfind(|open| open.name == window) {
                    open.to = line.t;
                }
            }
            _other => {}
        }
    }
    windows
}

/// A time in which a session got nothing done although its client tried.
pub(crate) struct Outage<'a> {
    pub(crate) session: &'a str,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The first attempt that failed, and what ended the outage.
    lines: Vec<usize>,
}

impl Outage<'_> {
    /// In nanoseconds.
    pub(crate) const fn took(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// An operation: when it was begun, how and when it ended, and its lines.
type Attempt = (u64, usize, Ending, u64, usize);

/// The outages of each session: from the beginning of the first attempt that came to nothing to the next success, or to the last attempt. What
/// waits for others, or is meant to fail, does not count. Calls without a session are those of their client.
pub(crate) fn outages_of(history: &History) -> Vec<Outage<'_>> {
    let mut sessions: BTreeMap<&str, Vec<Attempt>> = BTreeMap::new();
    for operation in history.operations.values() {
        let counts =
            matches!(operation.f, Doing::Append | Doing::Read | Doing::Count | Doing::Echo | Doing::Ping);
        if let (true, Some((ending, line)), [end, ..]) =
            (counts, history.ending(operation), operation.ends.as_slice())
        {
            let whose = match (history.session(operation.invoked), history.lines.get(operation.invoked)) {
                ("", Some(line)) => &line.proc,
                (session, _) => session,
            };
            let attempts = sessions.entry(whose).or_default();
            attempts.push((history.at(operation.invoked), operation.invoked, ending, line.t, *end));
        }
    }
    let mut outages = Vec::new();
    for (session, attempts) in &mut sessions {
        attempts.sort_unstable_by_key(|attempt| attempt.0);
        let mut open: Option<(u64, usize)> = None;
        for (begun, invoked, ending, ended, end) in attempts.iter().copied() {
            match (ending, open) {
                (Ending::Done, Some((from, first))) if begun >= from => {
                    outages.push(Outage { session, from, to: ended, lines: vec![first, end] });
                    open = None;
                }
                // One that was slow was out for as long as it took.
                (Ending::Done, _) => {
                    outages.push(Outage { session, from: begun, to: ended, lines: vec![invoked, end] })
                }
                (Ending::NotDone | Ending::Unknown, None) => open = Some((begun, invoked)),
                (Ending::NotDone | Ending::Unknown, Some(_)) | (Ending::TakenBack, _) => {}
            }
        }
        // A client that gave up says nothing more about the mesh.
        let last = attempts.iter().map(|attempt| attempt.3).max();
        if let (Some((from, first)), Some(to)) = (open, last) {
            outages.push(Outage { session, from, to, lines: vec![first] });
        }
    }
    outages
}

/// I15.
pub(crate) fn outages(history: &History) -> Findings {
    let mut findings = Findings::default();
    let outages = outages_of(history);
    for window in windows(history).iter().filter(|window| window.of == Span::Fault) {
        let Some(limit) = window.limit_ms else { continue };
        let inside = outages.iter().filter(|outage| window.meets(outage.from, outage.to));
        for outage in inside {
            findings.seen += 1;
            // What the client was without before the fault is not the fault's.
            let took = outage.to.saturating_sub(outage.from.max(window.from)) / 1_000_000;
            if took > limit {
                findings.breach(
                    format!("a session was out for {took} ms, at most {limit} ms are allowed"),
                    [window.line].into_iter().chain(outage.lines.iter().copied()),
                );
            }
        }
    }
    findings
}

/// I16.
pub(crate) fn planned(history: &History) -> Findings {
    let mut findings = Findings::default();
    for window in windows(history).iter().filter(|window| window.of == Span::Planned) {
        for operation in history.operations.values() {
            let begun = history.at(operation.invoked);
            let meant = matches!(operation.f, Doing::Late | Doing::Hijack | Doing::Stranger);
            if meant || begun < window.from || begun > window.to {
                continue;
            }
            findings.seen += 1;
            let failed = matches!(history.ending(operation), Some((Ending::NotDone | Ending::Unknown, _)));
            if let (true, [end, ..]) = (failed, operation.ends.as_slice()) {
                findings
                    .breach("a planned change failed an operation", [window.line, operation.invoked, *end]);
            }
        }
    }
    findings
}

/// I17.
pub(crate) fn without_stores(history: &History) -> Findings {
    let mut findings = Findings::default();
    for window in windows(history).iter().filter(|window| window.of == Span::NoStores) {
        let mut calls = 0_u64;
        let mut failed = Vec::new();
        for operation in history.operations.values() {
            let Some(line) = history.lines.get(operation.invoked) else { continue };
            let modern = matches!(line.what, What::Invoke { modern: true, .. });
            if !modern || line.t < window.from || line.t > window.to {
                continue;
            }
            calls += 1;
            if !matches!(history.ending(operation), Some((Ending::Done, _))) {
                failed.push(operation.ends.first().copied().unwrap_or(operation.invoked));
            }
        }
        findings.seen += calls;
        let count = failed.len() as u64;
        if count * 1000 > calls * PER_MILLE {
            let first = failed.first().copied();
            findings.breach(
                format!("{count} of {calls} calls that need no store failed without one"),
                [window.line].into_iter().chain(first),
            );
        } else if calls == 0 {
            findings.breach("nobody called while there was no store", [window.line]);
        }
    }
    findings
}
