//! A session as fields and logs: what a commit touches of them, and all of them.
//!
//! What is written is taken from the state behind the commit; the changes only say where to look.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use api::Principal;
use api::session::Transport;
use machines::snapshot::{CallChange, Handshake, Logged, StreamChange, StreamLog};
use machines::{CallId, Change, Snapshot, StreamId};
use mcp::Json;
use mcp::log::Level;
use serde::{Deserialize, Serialize};

use super::names;

/// What is to be done to the keys of a session.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) set: Vec<(String, String)>,
    pub(super) delete: Vec<String>,
    pub(super) logs: Vec<(StreamId, Step)>,
}

/// What is to be done to the log of a stream.
#[derive(Debug)]
pub(super) enum Step {
    /// An event is added.
    Add(Logged),
    /// So many of the newest stay.
    Keep(usize),
    /// None stays.
    Drop,
}

/// The field of the handshake.
#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) handshake: Option<Handshake>,
    pub(super) level: Option<Level>,
    pub(super) ended: bool,
}

#[derive(Default)]
struct Touched<'a> {
    head: bool,
    numbers: bool,
    watched: BTreeSet<&'a str>,
    calls: BTreeSet<CallId>,
    streams: BTreeMap<StreamId, Trace>,
}

/// What happened to one stream.
#[derive(Default, Clone, Copy)]
struct Trace {
    is_new: bool,
    is_trimmed: bool,
    /// The first event that was added.
    from: Option<u64>,
}

/// What `changes`, which lead to `after`, touch. `None`: everything.
pub(super) fn touched(changes: &[Change], after: &Snapshot) -> Option<Parts> {
    let mut touched = Touched::default();
    for change in changes {
        match change {
            Change::Greeted(_) | Change::Ready | Change::Listed(_) | Change::LevelSet(_) => {
                touched.head = true
            }
            Change::Subscribed(uri) | Change::Unsubscribed(uri) => {
                touched.watched.insert(uri);
            }
            Change::Call(call, change) => touched.call(*call, change),
            Change::Stream(stream, change) => touched.stream(*stream, change),
            Change::Ended => return None,
        }
    }
    Some(touched.parts(after))
}

/// Everything of a session but whose it is.
pub(super) fn whole(snapshot: &Snapshot) -> Parts {
    let untouched = Trace { is_new: false, is_trimmed: false, from: Some(0) };
    let mut all = Touched { head: true, numbers: true, ..Touched::default() };
    all.watched.extend(snapshot.subscriptions.iter().map(String::as_str));
    all.calls.extend(snapshot.journal.keys());
    for stream in snapshot.streams.keys() {
        all.streams.insert(*stream, untouched);
    }
    all.parts(snapshot)
}

/// Whose a session is, and of which form.
pub(super) fn identity(principal: &Principal, transport: Transport) -> [(String, String); 3] {
    let Principal { subject, issuer, tenant, client } = principal;
    let transport = match transport {
        Transport::Streamable => "streamable",
        Transport::HttpSse => "http_sse",
    };
    [
        (names::SCHEMA.to_owned(), Snapshot::VERSION.to_string()),
        (names::WHO.to_owned(), text(&(subject, issuer, tenant, client))),
        (names::TRANSPORT.to_owned(), transport.to_owned()),
    ]
}

impl Touched<'_> {
    fn call(&mut self, call: CallId, change: &CallChange) {
        self.calls.insert(call);
        self.numbers |= match change {
            CallChange::Accepted(_) | CallChange::Asked(_) => true,
            CallChange::Dispatched
            | CallChange::Placed(_)
            | CallChange::Heard(_)
            | CallChange::Answered { .. }
            | CallChange::RoundClosed { .. }
            | CallChange::Ended(_) => false,
        };
    }

    fn stream(&mut self, stream: StreamId, change: &StreamChange) {
        let trace = self.streams.entry(stream).or_default();
        match change {
            StreamChange::Opened { .. } => {
                *trace = Trace { is_new: true, ..Trace::default() };
                self.numbers = true;
            }
            StreamChange::Appended { seq, .. } => trace.from = trace.from.or(Some(*seq)),
            StreamChange::Trimmed { .. } => trace.is_trimmed = true,
            StreamChange::Delivered { .. } | StreamChange::Finished { .. } => {}
            StreamChange::Dropped => *trace = Trace::default(),
        }
    }

    fn parts(self, after: &Snapshot) -> Parts {
        let mut parts = Parts::default();
        if self.head {
            let (handshake, level, ended) = (after.handshake.clone(), after.level, after.ended);
            parts.set.push((names::HEAD.to_owned(), text(&Head { handshake, level, ended })));
        }
        if self.numbers {
            let numbers = [after.next_stream, after.next_call, after.next_ask]
                .map(|number| number.to_string())
                .join(" ");
            parts.set.push((names::NUMBERS.to_owned(), numbers));
        }
        for uri in self.watched {
            let field = names::watched(uri);
            match after.subscriptions.contains(uri) {
                true => parts.set.push((field, String::new())),
                false => parts.delete.push(field),
            }
        }
        for call in self.calls {
            match after.journal.get(&call) {
                Some(entry) => parts.set.push((names::call(call), text(entry))),
                None => parts.delete.push(names::call(call)),
            }
        }
        for (stream, trace) in self.streams {
            match after.streams.get(&stream) {
                Some(log) => parts.stream(stream, &trace, log),
                None => {
                    parts.delete.push(names::stream(stream));
                    parts.logs.push((stream, Step::Drop));
                }
            }
        }
        parts
    }
}

impl Parts {
    fn stream(&mut self, stream: StreamId, trace: &Trace, log: &StreamLog) {
        let bare = StreamLog { events: VecDeque::new(), bytes: 0, ..log.clone() };
        self.set.push((names::stream(stream), format!("{} {}", log.events.len(), text(&bare))));
        if trace.is_new || (trace.is_trimmed && log.events.is_empty()) {
            self.logs.push((stream, Step::Drop));
        }
        if let Some(from) = trace.from {
            let added = log.events.iter().filter(|event| event.seq >= from);
            self.logs.extend(added.map(|event| (stream, Step::Add(event.clone()))));
        }
        if trace.is_trimmed && !trace.is_new && !log.events.is_empty() {
            self.logs.push((stream, Step::Keep(log.events.len())));
        }
    }
}

/// Whether a call begins in a commit: the one in which it ends is another.
pub(super) fn begins(changes: &[Change]) -> bool {
    changes.iter().any(|change| matches!(change, Change::Call(_, CallChange::Accepted(_))))
}

/// Whether a commit is worth waiting for replicas: all but what only moves a stream along.
pub(super) fn matters(changes: &[Change]) -> bool {
    changes.iter().any(|change| match change {
        Change::Greeted(_)
        | Change::Ready
        | Change::LevelSet(_)
        | Change::Subscribed(_)
        | Change::Unsubscribed(_)
        | Change::Call(..)
        | Change::Ended => true,
        // If it is lost, the client is told once more.
        Change::Listed(_) => false,
        Change::Stream(_, change) => match change {
            StreamChange::Opened { .. } | StreamChange::Finished { .. } | StreamChange::Dropped => true,
            StreamChange::Appended { .. } | StreamChange::Delivered { .. } | StreamChange::Trimmed { .. } => {
                false
            }
        },
    })
}

/// Whether a client waits for this commit with something that was not done yet, and can be told to come again. The ending of a
/// call cannot be taken back.
pub(super) fn can_be_refused(changes: &[Change]) -> bool {
    let (mut waits, mut ends) = (false, false);
    for change in changes {
        match change {
            Change::Greeted(_)
            | Change::Ready
            | Change::LevelSet(_)
            | Change::Subscribed(_)
            | Change::Unsubscribed(_) => waits = true,
            Change::Call(_, change) => match change {
                CallChange::Accepted(_)
                | CallChange::Dispatched
                | CallChange::Answered { .. }
                | CallChange::RoundClosed { .. } => waits = true,
                CallChange::Ended(_) => ends = true,
                CallChange::Placed(_) | CallChange::Heard(_) | CallChange::Asked(_) => {}
            },
            Change::Stream(..) | Change::Listed(_) => {}
            // Whoever ends a session asks again; and one that everybody may forget was not ended.
            Change::Ended => waits = true,
        }
    }
    waits && !ends
}

fn text<T: Serialize>(value: &T) -> String {
    Json::of(value).as_str().to_owned()
}

#[cfg(test)]
mod tests;
