//! What was found, and what follows from it.

use std::fmt;

use crate::figures::Figures;
use crate::history::History;
use crate::line::{Line, What};
use crate::{leftovers, messages, outcomes, ownership, register, streams, windows};

/// What the mesh promises. I19 waits for tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// For a slot and epoch at most one incarnation ever takes over.
    I1,
    /// In a session's commits epochs never fall, and none is below a fence that was raised before it.
    I2,
    /// What a client received was kept before, with the same bytes.
    I3,
    /// Each request has one ending.
    I4,
    /// No response without its request; the id is identical, its type too.
    I5,
    /// Along continued connections each stream comes in order, nothing twice and nothing left out, or a gap is announced.
    I6,
    /// An event belongs to one stream, one session, one principal.
    I7,
    /// A message answered 202 is consumed exactly once, or its session ended explicitly.
    I8,
    /// What must not run twice does not; what may, has run if success was reported.
    I9,
    /// Success means one run whose nonce is in the result; a refusal means none.
    I10,
    /// The state of a session is linearizable.
    I11,
    /// A session that ended stays ended.
    I12,
    /// To others a session looks like one that there never was.
    I13,
    /// Nothing ends in silence.
    I14,
    /// No session is out for longer than the fault allows.
    I15,
    /// Planned changes fail nothing.
    I16,
    /// Without both stores, calls that need none succeed.
    I17,
    /// In the end everything is given back.
    I18,
    /// There is a trace of every failure, without secrets.
    I20,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::I12,
        Self::I13,
        Self::I14,
        Self::I15,
        Self::I16,
        Self::I17,
        Self::I18,
        Self::I20,
    ];

    fn look(self, history: &History) -> Findings {
        match self {
            Self::I1 => ownership::one_owner(history),
            Self::I2 => ownership::epochs_rise(history),
            Self::I3 => streams::kept_before(history),
            Self::I4 => outcomes::one_ending(history),
            Self::I5 => outcomes::own_response(history),
            Self::I6 => streams::in_order(history),
            Self::I7 => streams::one_place(history),
            Self::I8 => messages::consumed_once(history),
            Self::I9 => outcomes::never_twice(history),
            Self::I10 => outcomes::success_is_one_run(history),
            Self::I11 => register::linearizable(history),
            Self::I12 => messages::stays_ended(history),
            Self::I13 => messages::indistinguishable(history),
            Self::I14 => outcomes::no_silence(history),
            Self::I15 => windows::outages(history),
            Self::I16 => windows::planned(history),
            Self::I17 => windows::without_stores(history),
            Self::I18 => leftovers::given_back(history),
            Self::I20 => leftovers::traced(history),
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Lines that cannot all be in the history of a mesh that keeps its promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Why not.
    pub why: String,
    /// The lines, as indexes.
    pub lines: Vec<usize>,
}

/// What one invariant came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many things were looked at.
    pub seen: u64,
    /// Where it does not hold.
    pub breaches: Vec<Breach>,
    /// What could not be decided in time.
    pub undecided: Vec<String>,
}

impl Findings {
    pub(crate) fn breach(&mut self, why: impl Into<String>, lines: impl IntoIterator<Item = usize>) {
        self.breaches.push(Breach { why: why.into(), lines: lines.into_iter().collect() });
    }

    /// The breach that takes the fewest lines to show.
    #[must_use]
    pub fn shortest(&self) -> Option<&Breach> {
        self.breaches.iter().min_by_key(|breach| breach.lines.len())
    }

    /// Whether it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.breaches.is_empty() && self.undecided.is_empty()
    }
}

/// What must have happened for a run to say anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demands {
    /// Operations of clients.
    pub operations: usize,
    /// Faults injected.
    pub faults: usize,
    /// Writes refused because their writer was no owner any more.
    pub refused: u64,
}

/// The whole judgement.
#[derive(Debug)]
pub struct Judgement {
    /// Why the history proves nothing, or too little.
    pub failings: Vec<String>,
    /// Each invariant.
    pub findings: Vec<(Invariant, Findings)>,
    /// What happened, in numbers.
    pub figures: Figures,
}

/// Judges a history.
#[must_use]
pub fn judge(history: &History, demands: Demands) -> Judgement {
    let figures = Figures::of(history);
    let mut failings: Vec<String> = history.damage().iter().map(|damage| damage.why.clone()).collect();
    let mut lacks = |what: &str, is: u64, least: u64| {
        if is < least {
            failings.push(format!("too little happened: {is} {what}, at least {least} are needed"));
        }
    };
    lacks("operations", figures.operations as u64, demands.operations as u64);
    lacks("faults injected", figures.faults as u64, demands.faults as u64);
    lacks("writes of former owners refused", figures.refused, demands.refused);
    let findings = Invariant::ALL.into_iter().map(|invariant| (invariant, invariant.look(history))).collect();
    Judgement { failings, findings, figures }
}

impl Judgement {
    /// Whether everything is well.
    #[must_use]
    pub fn acquits(&self) -> bool {
        self.failings.is_empty() && self.findings.iter().all(|(_, findings)| findings.holds())
    }

    /// The invariants that do not hold.
    pub fn broken(&self) -> impl Iterator<Item = Invariant> {
        self.findings.iter().filter(|(_, findings)| !findings.holds()).map(|(invariant, _)| *invariant)
    }

    /// For people: what is wrong, each with its shortest witness.
    #[must_use]
    pub fn report(&self, history: &History) -> String {
        let mut report = String::new();
        let mut say = |line: String| {
            report.push_str(&line);
            report.push('\n');
        };
        for failing in &self.failings {
            say(format!("the run proves nothing: {failing}"));
        }
        for (invariant, findings) in &self.findings {
            for undecided in &findings.undecided {
                say(format!("{invariant} undecided: {undecided}"));
            }
            let Some(shortest) = findings.shortest() else { continue };
            say(format!("{invariant} broken {} times; shortest: {}", findings.breaches.len(), shortest.why));
            for line in shortest.lines.iter().filter_map(|at| history.lines.get(*at)) {
                say(format!("    {}", show(line)));
            }
        }
        report
    }
}

/// A line as it stands in the file, cut where it is long.
fn show(line: &Line) -> String {
    let text = serde_json::to_string(line).unwrap_or_default();
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}..", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

/// Whether a line is about a change of the mesh itself.
pub(crate) const fn is_injection(what: &What) -> bool {
    matches!(what, What::Injected { .. })
}
