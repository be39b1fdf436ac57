//! I4, I5, I9, I10 and I14: how operations ended, against what tools really did.

use std::collections::HashMap;

use serde_json::Value;

use crate::history::{Ending, History};
use crate::line::What;
use crate::verdict::Findings;

/// How much later than its deadline an operation may end, in nanoseconds.
const GRACE: u64 = 1_000_000_000;

/// I4.
pub(crate) fn one_ending(history: &History) -> Findings {
    let mut findings = Findings::default();
    for operation in history.operations.values() {
        findings.seen += 1;
        if let [first, second, ..] = operation.ends.as_slice() {
            findings.breach("a request ended twice", [operation.invoked, *first, *second]);
        } else if let [first, second, ..] = operation.responses.as_slice() {
            findings.breach("a request was answered twice", [operation.invoked, *first, *second]);
        } else if let (Some((Ending::TakenBack, _)), [response, ..]) =
            (history.ending(operation), operation.responses.as_slice())
        {
            findings.breach("a request that was taken back was answered", [operation.invoked, *response]);
        }
    }
    for (at, line) in history.lines.iter().enumerate() {
        let What::Journal { op, state } = &line.what else { continue };
        let Some(operation) = history.operations.get(op) else { continue };
        let pending = matches!(state.as_str(), "accepted" | "dispatched");
        if let (true, Some((Ending::Done, _)), [end, ..]) =
            (pending, history.ending(operation), operation.ends.as_slice())
        {
            findings.breach("the journal still awaits a request that was answered", [*end, at]);
        }
    }
    findings
}

/// I5.
pub(crate) fn own_response(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut asked: HashMap<&str, Vec<&Value>> = HashMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        match &line.what {
            What::Invoke { id, .. } => asked.entry(history.session(at)).or_default().push(id),
            What::Response { id, op: Some(op) } => {
                findings.seen += 1;
                let Some(operation) = history.operations.get(op) else { continue };
                let same = history
                    .lines
                    .get(operation.invoked)
                    .is_some_and(|line| matches!(&line.what, What::Invoke { id: asked, .. } if asked == id));
                if !same {
                    findings.breach("the response has another id than its request", [operation.invoked, at]);
                }
            }
            What::Response { id, op: None } => {
                findings.seen += 1;
                let known = asked.get(history.session(at)).is_some_and(|ids| ids.contains(&id));
                if !known {
                    findings.breach("a response to a request that nobody made", [at]);
                }
            }
            _other => {}
        }
    }
    findings
}

/// I9.
pub(crate) fn never_twice(history: &History) -> Findings {
    let mut findings = Findings::default();
    for operation in history.operations.values().filter(|operation| operation.f.recorded()) {
        findings.seen += 1;
        if operation.f.once() {
            if let [first, second, ..] = operation.executions.as_slice() {
                findings.breach("a tool ran twice that must not", [*first, *second]);
            }
        } else if let (Some((Ending::Done, _)), [], [end, ..]) =
            (history.ending(operation), operation.executions.as_slice(), operation.ends.as_slice())
        {
            findings.breach("success was reported for a tool that never ran", [operation.invoked, *end]);
        }
    }
    findings
}

/// I10.
pub(crate) fn success_is_one_run(history: &History) -> Findings {
    let mut findings = Findings::default();
    for operation in history.operations.values().filter(|operation| operation.f.recorded()) {
        let (Some((ending, line)), [end, ..]) = (history.ending(operation), operation.ends.as_slice()) else {
            continue;
        };
        findings.seen += 1;
        match ending {
            Ending::Done => {
                let What::Ok { nonce: Some(given), .. } = &line.what else { continue };
                let ran = |at: &usize| {
                    let line = history.lines.get(*at);
                    line.is_some_and(
                        |line| matches!(&line.what, What::Execute { nonce, .. } if nonce == given),
                    )
                };
                if operation.executions.is_empty() && operation.f.once() {
                    findings.breach("success was reported and nothing ran", [operation.invoked, *end]);
                } else if !operation.executions.is_empty() && !operation.executions.iter().any(ran) {
                    let run = operation.executions.iter().copied();
                    findings.breach("the result is not that of the run", run.chain([*end]));
                }
            }
            Ending::NotDone => {
                if let (true, [run, ..]) = (operation.f.once(), operation.executions.as_slice()) {
                    findings.breach("a request was refused and ran all the same", [*run, *end]);
                }
            }
            Ending::Unknown | Ending::TakenBack => {}
        }
    }
    findings
}

/// I14.
pub(crate) fn no_silence(history: &History) -> Findings {
    let mut findings = Findings::default();
    for operation in history.operations.values() {
        let Some(invoked) = history.lines.get(operation.invoked) else { continue };
        let What::Invoke { deadline_ms, .. } = &invoked.what else { continue };
        findings.seen += 1;
        let latest = invoked.t.saturating_add(deadline_ms.saturating_mul(1_000_000)).saturating_add(GRACE);
        match operation.ends.first() {
            None => findings.breach("an operation has no end", [operation.invoked]),
            Some(end) if history.at(*end) > latest => {
                findings.breach("an operation ended long after its deadline", [operation.invoked, *end]);
            }
            Some(_) => {}
        }
    }
    findings
}
