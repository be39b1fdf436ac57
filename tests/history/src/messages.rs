//! I8, I12 and I13: messages of clients, sessions that are over, and strangers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{Ending, History};
use crate::line::{Doing, What};
use crate::verdict::Findings;

/// I8.
pub(crate) fn consumed_once(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut consumed: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut over: BTreeSet<&str> = BTreeSet::new();
    for (at, line) in history.lines.iter().enumerate() {
        match &line.what {
            What::Consume { message } => consumed.entry(message).or_default().push(at),
            What::Gone {} => {
                over.insert(history.session(at));
            }
            _other => {}
        }
    }
    for runs in consumed.values() {
        if let [first, second, ..] = runs.as_slice() {
            findings.breach("a message was consumed twice", [*first, *second]);
        }
    }
    for (at, line) in history.lines.iter().enumerate() {
        let What::Accepted { message, op } = &line.what else { continue };
        findings.seen += 1;
        let waiting = op.as_ref().and_then(|op| history.operations.get(op));
        // Whoever waited for it was told that it is over.
        let ended = waiting.and_then(|waiting| history.ending(waiting));
        let told = ended.is_some_and(|(ending, _)| ending != Ending::Done);
        if !consumed.contains_key(message.as_str()) && !over.contains(history.session(at)) && !told {
            findings.breach("a message was accepted and never consumed", [at]);
        }
    }
    findings
}

/// I12.
pub(crate) fn stays_ended(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut over: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        let ends = match &line.what {
            What::Gone {} => true,
            What::Ok { op, .. } => {
                history.operations.get(op).is_some_and(|operation| operation.f == Doing::Delete)
            }
            _other => false,
        };
        if ends {
            findings.seen += 1;
            over.entry(history.session(at)).or_insert(at);
        }
    }
    for operation in history.operations.values() {
        let Some(end) = over.get(history.session(operation.invoked)) else { continue };
        let later = history.at(operation.invoked) > history.at(*end);
        if let (true, Some((Ending::Done, _)), [done, ..]) =
            (later, history.ending(operation), operation.ends.as_slice())
        {
            findings.breach("a session that had ended answered", [*end, operation.invoked, *done]);
        }
    }
    findings
}

/// I13. That the mesh is busy or partly down is no secret.
pub(crate) fn indistinguishable(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut usual: BTreeSet<(u16, &str)> = BTreeSet::new();
    let mut example = None;
    for operation in history.operations.values().filter(|operation| operation.f == Doing::Stranger) {
        if let Some((_, line)) = history.ending(operation)
            && let What::Fail { status, body, .. } = &line.what
        {
            usual.insert((*status, body));
            example = operation.ends.first().copied();
        }
    }
    for operation in history.operations.values().filter(|operation| operation.f == Doing::Hijack) {
        let Some((ending, line)) = history.ending(operation) else { continue };
        findings.seen += 1;
        let end = operation.ends.first().copied();
        if let What::Fail { status, body, .. } = &line.what {
            let busy = matches!(status, 429 | 503);
            if !busy && !usual.contains(&(*status, body.as_str())) {
                let lines = example.into_iter().chain(end);
                findings.breach("another's session looks different from one that there never was", lines);
            }
        } else if ending == Ending::Done {
            findings.breach("another's session answered", [operation.invoked].into_iter().chain(end));
        }
    }
    findings
}
