//! I18 and I20: what is left in the end, and what was told about failures.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::History;
use crate::line::{Phase, What};
use crate::verdict::Findings;

/// Growth of memory that is allowed, in KiB an hour.
const SLOPE: i64 = 1024;
/// The probe that is a slope by itself.
const SLOPE_PROBE: &str = "memory-slope-kib-per-h";
/// For so long a gateway may keep what it has to tell of its calls, in nanoseconds; one that is killed takes it along. It tells of every
/// call, so that nothing is missing where another process is killed.
const UNSENT: u64 = 1_500_000_000;

/// I18.
pub(crate) fn given_back(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut before: BTreeMap<&str, (i64, usize)> = BTreeMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        let What::Probe { what, phase, value, slack } = &line.what else { continue };
        if what.starts_with(SLOPE_PROBE) {
            findings.seen += 1;
            if *value >= SLOPE {
                findings.breach(format!("memory grows by {value} KiB an hour"), [at]);
            }
            continue;
        }
        match phase {
            Phase::Before => {
                before.insert(what, (*value, at));
            }
            Phase::After => {
                findings.seen += 1;
                let (base, known) = before.get(what.as_str()).copied().unwrap_or((0, at));
                if *value > base + slack {
                    let lines: BTreeSet<usize> = BTreeSet::from([known, at]);
                    findings.breach(format!("{what}: {base} before, {value} after"), lines);
                }
            }
        }
    }
    findings
}

fn kills_a_gateway(what: &What) -> bool {
    let What::Injected { what } = what else { return false };
    what.starts_with("kill -9 gateway-")
}

/// I20.
pub(crate) fn traced(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut traces: BTreeSet<&str> = BTreeSet::new();
    let mut secrets: Vec<(&str, &str, usize)> = Vec::new();
    for (at, line) in history.lines.iter().enumerate() {
        match &line.what {
            What::Span { trace, .. } => {
                traces.insert(trace);
            }
            What::Secret { name, text } => secrets.push((name, text, at)),
            _other => {}
        }
    }
    let kills: Vec<u64> =
        history.lines.iter().filter(|line| kills_a_gateway(&line.what)).map(|line| line.t).collect();
    let is_taken_along = |t: u64| kills.iter().any(|kill| (t..=t + UNSENT).contains(kill));
    for (at, line) in history.lines.iter().enumerate() {
        match &line.what {
            What::Fail { trace: Some(trace), .. } | What::Info { trace: Some(trace), .. } => {
                if is_taken_along(line.t) {
                    continue;
                }
                findings.seen += 1;
                if !traces.contains(trace.as_str()) {
                    findings.breach("there is no trace of a failure", [at]);
                }
            }
            What::Span { text, .. } => {
                for (name, secret, told) in &secrets {
                    findings.seen += 1;
                    if text.contains(secret) {
                        findings.breach(format!("a trace shows {name}"), [*told, at]);
                    }
                }
            }
            _other => {}
        }
    }
    findings
}
