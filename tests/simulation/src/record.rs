//! The history of a run, as the checker reads it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use history::line::{Doing, Line, Place, Source, What};

use crate::world::Sim;

/// An event that the store kept: its session and place.
type Kept = (String, Place);

/// Writes lines.
#[derive(Clone)]
pub(crate) struct Pen {
    sim: Sim,
    inner: Rc<RefCell<Inner>>,
}

#[derive(Default)]
struct Inner {
    lines: Vec<Line>,
    /// What the store has: when and what it says.
    logs: BTreeMap<Kept, (u64, String)>,
    /// Events of a tail that the store lost.
    lost: BTreeSet<Kept>,
    /// The clients' names of sessions.
    names: BTreeMap<String, String>,
    pub(crate) counts: Counts,
}

/// What happened, beside the history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Slots that were taken over from another run of a node, after the first time.
    pub takeovers: u64,
    /// Writes of former owners that were refused.
    pub stale: u64,
    /// Writes that showed that the store had lost something.
    pub regress: u64,
    /// Writes that found another version.
    pub conflicts: u64,
    /// Sessions that were written back by their owner.
    pub repairs: u64,
    /// Requests that a gateway followed to another owner.
    pub followed: u64,
    /// Calls that a registry refused because of an older owner.
    pub refused_calls: u64,
}

impl Pen {
    pub(crate) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), inner: Rc::default() }
    }

    pub(crate) fn count(&self, f: impl FnOnce(&mut Counts)) {
        f(&mut self.inner.borrow_mut().counts);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.inner.borrow().counts
    }

    fn nanos(&self) -> u64 {
        self.sim.now() * 1000
    }

    pub(crate) fn write(&self, src: Source, proc: &str, session: Option<&str>, what: What) {
        let (proc, session) = (proc.to_owned(), session.map(str::to_owned));
        let line = Line { src, proc, n: 0, t: self.nanos(), session, what };
        self.inner.borrow_mut().lines.push(line);
    }

    pub(crate) fn named(&self, id: &str, name: &str) {
        self.inner.borrow_mut().names.insert(id.to_owned(), name.to_owned());
    }

    /// The store keeps an event.
    pub(crate) fn kept(&self, session: &str, at: Place, data: String) {
        let (key, t) = ((session.to_owned(), at), self.nanos());
        let mut inner = self.inner.borrow_mut();
        inner.lost.remove(&key);
        // What is written over an event that was given up is what is there from now on.
        inner.logs.insert(key, (t, data));
    }

    /// An event that nobody was shown is replaced: it never was.
    pub(crate) fn replaced(&self, session: &str, at: Place) {
        self.inner.borrow_mut().logs.remove(&(session.to_owned(), at));
    }

    /// The store has lost an event. One that a client has seen was kept before, all the same.
    pub(crate) fn lost(&self, session: &str, at: Place) {
        self.inner.borrow_mut().lost.insert((session.to_owned(), at));
    }

    /// The ids of sessions that were ended by their clients, who know it.
    pub(crate) fn ended(&self) -> BTreeSet<String> {
        let inner = self.inner.borrow();
        let deletes: BTreeSet<&str> = (inner.lines.iter())
            .filter_map(|line| match &line.what {
                What::Invoke { op, f: Doing::Delete, .. } => Some(op.as_str()),
                _ => None,
            })
            .collect();
        let done = |line: &&Line| matches!(&line.what, What::Ok { op, .. } if deletes.contains(op.as_str()));
        let names: BTreeSet<&str> =
            inner.lines.iter().filter(done).filter_map(|line| line.session.as_deref()).collect();
        let ids = inner.names.iter().filter(|(_, name)| names.contains(name.as_str()));
        ids.map(|(id, _)| id.clone()).collect()
    }

    /// All lines, numbered, with an end for each writer.
    pub(crate) fn finish(&self) -> Vec<Line> {
        let mut inner = std::mem::take(&mut *self.inner.borrow_mut());
        let name = |id: &str| inner.names.get(id).cloned().unwrap_or_else(|| id.to_owned());
        let mut seen: BTreeSet<Kept> = BTreeSet::new();
        for line in &inner.lines {
            if let (What::Event { at, .. }, Some(session)) = (&line.what, &line.session) {
                seen.insert((session.clone(), at.clone()));
            }
        }
        let mut logs: Vec<Line> = Vec::new();
        for ((id, at), (t, data)) in &inner.logs {
            let session = name(id);
            let never_seen = !seen.contains(&(session.clone(), at.clone()));
            // A place without an event only primes one connection, and is not kept for others.
            if never_seen && (data.is_empty() || inner.lost.contains(&(id.clone(), at.clone()))) {
                continue;
            }
            let what = What::Log { at: at.clone(), data: data.clone() };
            let (src, proc) = (Source::Store, "redis-logs".to_owned());
            logs.push(Line { src, proc, n: 0, t: *t, session: Some(session), what });
        }
        logs.sort_by_key(|line| line.t);
        for line in &mut inner.lines {
            if let Some(named) = line.session.as_ref().and_then(|id| inner.names.get(id)) {
                line.session = Some(named.clone());
            }
        }
        inner.lines.append(&mut logs);
        let mut writers: BTreeMap<String, (Source, u64)> = BTreeMap::new();
        for line in &mut inner.lines {
            let (_, next) = writers.entry(line.proc.clone()).or_insert((line.src, 0));
            line.n = *next;
            *next += 1;
        }
        let t = self.nanos();
        for (proc, (src, n)) in writers {
            inner.lines.push(Line { src, proc, n, t, session: None, what: What::End {} });
        }
        inner.lines
    }
}
