//! I1 and I2: who owned what, as the stores say.

use std::collections::BTreeMap;

use crate::history::History;
use crate::line::What;
use crate::verdict::Findings;

/// I1.
pub(crate) fn one_owner(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut first: BTreeMap<(u16, u64), (usize, &str)> = BTreeMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        let What::Acquire { slot, epoch, incarnation } = &line.what else { continue };
        findings.seen += 1;
        let (before, who) = *first.entry((*slot, *epoch)).or_insert((at, incarnation));
        if who != incarnation {
            findings.breach(
                format!("slot {slot} was taken over twice in epoch {epoch}, by {who} and by {incarnation}"),
                [before, at],
            );
        }
    }
    findings
}

/// I2. The order is that of the store's own record.
pub(crate) fn epochs_rise(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut fences: BTreeMap<u16, (u64, usize)> = BTreeMap::new();
    let mut commits: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (at, line) in history.lines.iter().enumerate() {
        match &line.what {
            What::Fence { slot, epoch } => {
                let fence = fences.entry(*slot).or_insert((*epoch, at));
                if *epoch > fence.0 {
                    *fence = (*epoch, at);
                }
            }
            What::Commit { slot, epoch } => {
                findings.seen += 1;
                if let Some((fence, raised)) = fences.get(slot).filter(|(fence, _)| fence > epoch) {
                    findings.breach(
                        format!("a commit of epoch {epoch} in slot {slot} behind a fence of {fence}"),
                        [*raised, at],
                    );
                    continue;
                }
                let last = commits.entry(history.session(at)).or_insert((*epoch, at));
                if last.0 > *epoch {
                    findings.breach(
                        format!("a session's commits went back from epoch {} to {epoch}", last.0),
                        [last.1, at],
                    );
                }
                *last = (*epoch, at);
            }
            _other => {}
        }
    }
    findings
}
