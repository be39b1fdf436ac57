//! A whole history, read and indexed, and whether it is whole.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::line::{Doing, Line, What};

/// A history.
#[derive(Debug, Default)]
pub struct History {
    /// All lines, in the order of their time; those of one writer in their own order.
    pub lines: Vec<Line>,
    pub(crate) operations: BTreeMap<String, Operation>,
    damage: Vec<Damage>,
}

/// Something is wrong with the record itself, so that nothing can be judged by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What.
    pub why: String,
}

/// Everything about one operation, as indexes of lines.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) invoked: usize,
    pub(crate) f: Doing,
    pub(crate) ends: Vec<usize>,
    pub(crate) executions: Vec<usize>,
    pub(crate) responses: Vec<usize>,
}

/// How an operation ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    NotDone,
    Unknown,
    TakenBack,
}

impl History {
    /// Reads lines of JSON. Empty lines do not count.
    ///
    /// # Errors
    /// When a line is not one of a history.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            lines.push(serde_json::from_str(line).with_context(|| format!("line {}", number + 1))?);
        }
        Ok(Self::new(lines))
    }

    /// Takes lines in the order in which they were written.
    #[must_use]
    pub fn new(mut lines: Vec<Line>) -> Self {
        let damage = damage(&lines);
        lines.sort_by_key(|line| line.t);
        let mut history = Self { lines, operations: BTreeMap::new(), damage };
        history.index();
        history
    }

    /// What is wrong with the record.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// How many operations clients began.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    pub(crate) fn session(&self, line: usize) -> &str {
        self.lines.get(line).and_then(|line| line.session.as_deref()).unwrap_or("")
    }

    /// How an operation ended, if it did; the first ending counts.
    pub(crate) fn ending(&self, operation: &Operation) -> Option<(Ending, &Line)> {
        let line = self.lines.get(*operation.ends.first()?)?;
        Some((ending(&line.what)?, line))
    }

    pub(crate) fn at(&self, line: usize) -> u64 {
        self.lines.get(line).map_or(0, |line| line.t)
    }

    fn index(&mut self) {
        let mut orphans = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            if let What::Invoke { op, f, .. } = &line.what {
                let fresh = Operation {
                    invoked: at,
                    f: *f,
                    ends: Vec::new(),
                    executions: Vec::new(),
                    responses: Vec::new(),
                };
                if self.operations.insert(op.clone(), fresh).is_some() {
                    self.damage.push(Damage { why: format!("the operation {op} was begun twice") });
                }
            }
        }
        for (at, line) in self.lines.iter().enumerate() {
            let (name, place): (&str, fn(&mut Operation) -> &mut Vec<usize>) = match &line.what {
                What::Ok { op, .. }
                | What::Fail { op, .. }
                | What::Info { op, .. }
                | What::Cancelled { op } => (op, |o| &mut o.ends),
                What::Execute { op, .. } => (op, |o| &mut o.executions),
                What::Response { op: Some(op), .. } => (op, |o| &mut o.responses),
                _other => continue,
            };
            match self.operations.get_mut(name) {
                Some(operation) => place(operation).push(at),
                None => orphans.push(Damage { why: format!("nobody began the operation {name}") }),
            }
        }
        self.damage.append(&mut orphans);
    }
}

pub(crate) fn ending(what: &What) -> Option<Ending> {
    match what {
        What::Ok { .. } => Some(Ending::Done),
        What::Fail { .. } => Some(Ending::NotDone),
        What::Info { .. } => Some(Ending::Unknown),
        What::Cancelled { .. } => Some(Ending::TakenBack),
        _other => None,
    }
}

/// Each writer's lines must be there once, in order, up to its `end`.
fn damage(lines: &[Line]) -> Vec<Damage> {
    let mut writers: BTreeMap<&str, (u64, u64, bool)> = BTreeMap::new();
    let mut damage = Vec::new();
    for line in lines {
        let (next, time, ended) = writers.entry(&line.proc).or_default();
        let why = if *ended {
            Some("goes on after its end")
        } else if line.n != *next {
            Some("has lost, doubled or moved lines")
        } else if line.t < *time {
            Some("goes back in time")
        } else {
            None
        };
        if let Some(why) = why {
            damage.push(Damage { why: format!("{} {why} at n = {}", line.proc, line.n) });
        }
        *next = line.n + 1;
        *time = line.t;
        *ended = line.what == What::End {};
    }
    for (writer, (_, _, ended)) in writers {
        if !ended {
            damage.push(Damage { why: format!("{writer} has no end") });
        }
    }
    damage
}
