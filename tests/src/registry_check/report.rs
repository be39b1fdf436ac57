//! The rules that can be seen from outside, and what was seen of each.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

macro_rules! rules {
    ($($name:ident = $text:literal,)+) => {
        /// One rule of the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $text] $name,)+
        }

        impl Rule {
            /// Every rule, in the order of the report.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The rule in words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

rules! {
    Instance = "Describe names the instance, and the same one every time",
    RegistryNames = "registries have legal names, each once",
    Namespaces = "namespaces are legal",
    Kinds = "every kind stands once, with a digest",
    WatchFirst = "Watch sends every current digest first",
    WatchQuiet = "Watch repeats nothing and stays open",
    WatchChange = "Watch reports a real change",
    ListDigest = "a list carries the digest that Watch sends",
    Paging = "pages share one digest and one cache scope, and come to an end",
    Stable = "the same digest lists the same items",
    Unique = "no item is listed twice",
    Items = "items are objects with the members of their kind",
    Names = "names and URIs are legal",
    Cursor = "an unknown cursor is refused with INVALID_ARGUMENT",
    CursorBound = "a cursor made for another digest is refused with INVALID_ARGUMENT",
    UnknownRegistry = "an unknown registry is refused with NOT_FOUND",
    Accepted = "the first frame and no other is Accepted, with the invocation and the instance",
    Numbers = "frames are numbered from 1 without gaps",
    Ending = "there is exactly one ending, nothing behind it, and the stream closes",
    RawJson = "every raw field is one JSON value",
    Members = "frames have the members of their kind",
    Wanted = "progress and log messages come only where wanted",
    UnknownTool = "an unknown tool ends with error -32602",
    UnknownResource = "an unknown resource ends with error -32602 (or -32002)",
    UnknownPrompt = "an unknown prompt ends with error -32602",
    ToolResult = "a tool's result has an array `content`",
    ReadResult = "a resource's result has an array `contents`",
    GetResult = "a prompt's result has an array `messages`",
    Repeat = "a repeated invocation attaches and does not run again",
    AttachAgain = "Attach sends the same frames again, behind any of them",
    AttachBeyond = "Attach behind the last frame sends no frame",
    AttachUnknown = "Attach to an unknown invocation is refused with NOT_FOUND",
    Outlives = "an owned invocation outlives its caller's stream",
    Release = "a released invocation is not known any more",
    ReleaseUnknown = "Release of unknown invocations is ignored",
    Ownerless = "an invocation without owner is not kept after its end",
    OwnerlessLeft = "the end of the last caller's stream cancels an invocation without owner",
    CancelUnknown = "Cancel of unknown and finished invocations is ignored",
    CancelRunning = "a cancelled invocation comes to an ending",
    Deadline = "an invocation ends by its deadline",
    StaleStart = "a stale epoch may not start anything",
    StaleAttach = "a stale epoch may not attach",
    StaleOther = "a stale epoch may not resume, cancel or release",
    EpochScope = "epochs are counted for each mesh and slot, and the newest goes on",
    Parked = "a parked handler goes on with Resume, and so do the numbers",
    ParkedAttach = "Attach behind a question waits for what follows",
    Incomplete = "incomplete answers are asked for again in the same round",
    RoundOver = "a round that is over is not answered again",
    RoundUnknown = "a round that was never asked is refused with INVALID_ARGUMENT",
    Undeclared = "a client is not asked for what it has not declared: error -32021",
    Stateless = "a handler without state is called again with its state",
    ResumeUnknown = "Resume of an unknown invocation is refused with NOT_FOUND",
    Complete = "Complete answers for listed prompts and templates with values",
    CompleteUnknown = "Complete for an unknown prompt fails with -32602",
    Subscribe = "a listed resource can be subscribed to",
    SubscribeUnknown = "a subscription to an unknown resource is refused",
    Sizes = "messages up to 8 MiB are taken, larger ones do no harm",
    UnknownFields = "unknown fields are ignored",
    DrainSays = "a draining instance says NOT_SERVING",
    DrainRefuses = "a draining instance refuses new calls with UNAVAILABLE",
    DrainServes = "a draining instance still serves Attach and Cancel",
}

/// What was seen of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was kept wherever it was looked at.
    Passed,
    /// It was broken: how, at most a few times.
    Failed(Vec<String>),
    /// It could not be looked at: why.
    Skipped(String),
}

/// A rule, and what is wrong if something is.
pub type Verdict = (Rule, Result<(), String>);

/// What was seen of every rule.
#[derive(Debug, Default)]
pub struct Report {
    seen: BTreeMap<Rule, Outcome>,
    unfinished: Option<Duration>,
}

/// How many offences against one rule are told.
const TOLD: usize = 5;

impl Report {
    pub(super) fn note(&mut self, rule: Rule, seen: Result<(), String>) {
        let outcome = self.seen.entry(rule).or_insert(Outcome::Passed);
        match (seen, outcome) {
            (Ok(()), Outcome::Passed | Outcome::Failed(_)) => {}
            (Ok(()), outcome @ Outcome::Skipped(_)) => *outcome = Outcome::Passed,
            (Err(text), Outcome::Failed(told)) => {
                if told.len() < TOLD && !told.contains(&text) {
                    told.push(text);
                }
            }
            (Err(text), outcome @ (Outcome::Passed | Outcome::Skipped(_))) => {
                *outcome = Outcome::Failed(vec![text]);
            }
        }
    }

    pub(super) fn all(&mut self, verdicts: impl IntoIterator<Item = Verdict>) {
        for (rule, seen) in verdicts {
            self.note(rule, seen);
        }
    }

    /// Says why a rule was not looked at. What was seen of it before or later weighs more.
    pub(super) fn skip(&mut self, rule: Rule, reason: impl Into<String>) {
        self.seen.entry(rule).or_insert_with(|| Outcome::Skipped(reason.into()));
    }

    pub(super) const fn unfinished(&mut self, limit: Duration) {
        self.unfinished = Some(limit);
    }

    /// What was seen of a rule.
    #[must_use]
    pub fn outcome(&self, rule: Rule) -> Outcome {
        self.seen.get(&rule).cloned().unwrap_or_else(|| Outcome::Skipped("not reached".to_owned()))
    }

    /// The rules that were broken.
    #[must_use]
    pub fn failed(&self) -> Vec<Rule> {
        let failed = |rule: &Rule| matches!(self.outcome(*rule), Outcome::Failed(_));
        Rule::ALL.iter().copied().filter(failed).collect()
    }

    /// The rules that could not be looked at.
    #[must_use]
    pub fn skipped(&self) -> Vec<Rule> {
        let skipped = |rule: &Rule| matches!(self.outcome(*rule), Outcome::Skipped(_));
        Rule::ALL.iter().copied().filter(skipped).collect()
    }

    /// Whether nothing was broken.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.unfinished.is_none() && self.failed().is_empty()
    }
}

/// One line for each rule, what is wrong indented below it, and the counts.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in Rule::ALL {
            match self.outcome(*rule) {
                Outcome::Passed => writeln!(f, "ok {}", rule.text())?,
                Outcome::Skipped(reason) => writeln!(f, "skipped({reason}) {}", rule.text())?,
                Outcome::Failed(told) => {
                    writeln!(f, "not ok {}", rule.text())?;
                    told.iter().try_for_each(|text| writeln!(f, "  {text}"))?;
                }
            }
        }
        if let Some(limit) = self.unfinished {
            writeln!(f, "not ok the check ends within {} s", limit.as_secs())?;
        }
        let failed = self.failed().len() + usize::from(self.unfinished.is_some());
        let skipped = self.skipped().len();
        let passed = Rule::ALL.len() - self.failed().len() - skipped;
        writeln!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_offence_outweighs_everything_else() {
        let mut report = Report::default();
        report.skip(Rule::Ending, "no tools");
        report.note(Rule::Ending, Ok(()));
        assert_eq!(report.outcome(Rule::Ending), Outcome::Passed);
        report.note(Rule::Ending, Err("two".to_owned()));
        report.note(Rule::Ending, Ok(()));
        report.skip(Rule::Ending, "later");
        assert_eq!(report.outcome(Rule::Ending), Outcome::Failed(vec!["two".to_owned()]));
        assert_eq!(report.failed(), [Rule::Ending]);
        assert!(!report.passed());
    }

    #[test]
    fn the_last_line_counts_every_rule() {
        let mut report = Report::default();
        report.note(Rule::Ending, Err("two".to_owned()));
        report.note(Rule::Numbers, Ok(()));
        let text = report.to_string();
        assert!(text.contains("not ok there is exactly one ending"), "{text}");
        assert!(text.ends_with(&format!("1 passed, 1 failed, {} skipped\n", Rule::ALL.len() - 2)), "{text}");
        report.unfinished(Duration::from_secs(9));
        assert!(report.to_string().contains("not ok the check ends within 9 s\n1 passed, 2 failed, "));
    }
}
