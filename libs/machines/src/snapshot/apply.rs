//! Applying a change, and taking it back when its commit was refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CallChange, Change, Handshake, Logged, Snapshot, StreamChange, StreamLog};
use crate::input::{CallId, Continuation, StreamId};
use crate::journal::{Entry, JournalState};

/// What takes one change back.
#[derive(Debug, Clone)]
pub(crate) enum Undo {
    Handshake(Option<Box<Handshake>>),
    Level(Option<mcp::log::Level>),
    Subscription { uri: String, present: bool },
    Call { call: CallId, before: Option<Arc<Entry>>, counters: Counters },
    Stream { stream: StreamId, before: Option<Box<StreamLog>>, counters: Counters },
    Appended { stream: StreamId, last: u64, delivered: u64 },
    Delivered { stream: StreamId, delivered: u64 },
    Trimmed { stream: StreamId, trimmed: u64, events: Vec<Logged> },
    Unfinished { stream: StreamId },
    All(Box<Snapshot>),
}

impl Undo {
    /// Whether it takes back a change behind it as well: what a call was before is what it was before its first change.
    pub(crate) fn covers(&self, change: &Change) -> bool {
        matches!((self, change), (Self::Call { call, .. }, Change::Call(changed, _)) if call == changed)
    }
}

/// The numbers that only rise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counters {
    stream: u64,
    call: u64,
    ask: u64,
}

/// An emptied map keeps room for eleven entries: of calls and their streams, that is many times what an idle session needs.
pub(crate) fn give_back<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    if map.is_empty() {
        *map = BTreeMap::new();
    }
}

impl Snapshot {
    const fn counters(&self) -> Counters {
        Counters { stream: self.next_stream, call: self.next_call, ask: self.next_ask }
    }

    const fn set_counters(&mut self, counters: Counters) {
        (self.next_stream, self.next_call, self.next_ask) = (counters.stream, counters.call, counters.ask);
    }

    /// Applies one committed change. A change that does not fit (a call or stream that is not there) does nothing.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Greeted(handshake) => self.handshake = Some(Handshake::clone(handshake)),
            Change::Ready => {
                if let Some(handshake) = &mut self.handshake {
                    handshake.ready = true;
                }
            }
            Change::Listed(lists) => {
                if let Some(handshake) = &mut self.handshake {
                    handshake.lists = Some(*lists);
                }
            }
            Change::LevelSet(level) => self.level = Some(*level),
            Change::Subscribed(uri) => {
                self.subscriptions.insert(uri.clone());
            }
            Change::Unsubscribed(uri) => {
                self.subscriptions.remove(uri);
            }
            Change::Call(call, change) => self.apply_to_call(*call, change),
            Change::Stream(stream, change) => self.apply_to_stream(*stream, change),
            Change::Ended => *self = Self { ended: true, ..Self::default() },
        }
    }

    fn apply_to_call(&mut self, call: CallId, change: &CallChange) {
        if let CallChange::Accepted(entry) = change {
            self.next_call = self.next_call.max(call.0.saturating_add(1));
            self.next_stream = self.next_stream.max(entry.stream.0.saturating_add(1));
            self.journal.insert(call, entry.clone());
            return;
        }
        if let CallChange::Ended(_) = change {
            self.journal.remove(&call);
            give_back(&mut self.journal);
            return;
        }
        let Some(entry) = self.journal.get_mut(&call) else { return };
        let entry = Arc::make_mut(entry);
        match change {
            CallChange::Accepted(_) | CallChange::Ended(_) => {}
            CallChange::Dispatched => entry.state = JournalState::Dispatched,
            CallChange::Placed(instance) => entry.instance = Some(instance.clone()),
            CallChange::Heard(number) => {
                entry.heard = *number;
                entry.answered = None;
            }
            CallChange::Asked(round) => {
                let highest = round.asks.iter().filter_map(|ask| ask.number).max().unwrap_or(0);
                self.next_ask = self.next_ask.max(highest.saturating_add(1));
                entry.round = Some((**round).clone());
            }
            CallChange::Answered { key, answer } => {
                let asks = entry.round.iter_mut().flat_map(|round| &mut round.asks);
                for ask in asks.filter(|ask| ask.key == *key) {
                    ask.answer = Some(answer.clone());
                }
            }
            CallChange::RoundClosed { deadline } => {
                entry.answered = entry.round.take();
                entry.deadline = *deadline;
                let begun =
                    entry.answered.as_ref().filter(|r| matches!(r.continuation, Continuation::State(_)));
                if let Some(round) = begun {
                    // Another invocation, with numbers of its own.
                    (entry.generation, entry.heard) = (round.number, 0);
                }
            }
        }
    }

    fn apply_to_stream(&mut self, stream: StreamId, change: &StreamChange) {
        if let StreamChange::Opened { request, key } = change {
            self.next_stream = self.next_stream.max(stream.0.saturating_add(1));
            let (request, key) = (request.clone(), key.clone());
            self.streams.insert(stream, StreamLog { request, key, ..StreamLog::default() });
            return;
        }
        if let StreamChange::Dropped = change {
            self.streams.remove(&stream);
            give_back(&mut self.streams);
            return;
        }
        let Some(log) = self.streams.get_mut(&stream) else { return };
        match change {
            StreamChange::Opened { .. } | StreamChange::Dropped => {}
            StreamChange::Appended { seq, epoch, message, delivered } => {
                log.last = *seq;
                if *delivered {
                    log.delivered = *seq;
                }
                if let Some(message) = message {
                    log.bytes += message.as_str().len();
                    log.events.push_back(Logged { seq: *seq, epoch: *epoch, message: message.clone() });
                }
            }
            StreamChange::Delivered { through } => log.delivered = *through,
            StreamChange::Trimmed { through } => {
                while log.events.front().is_some_and(|event| event.seq <= *through) {
                    let gone = log.events.pop_front();
                    log.bytes -= gone.map_or(0, |event| event.message.as_str().len());
                }
                log.trimmed = *through;
            }
            StreamChange::Finished { at } => log.finished_at = Some(*at),
        }
    }

    /// Applies one change that may have to be taken back, and says by what.
    pub(crate) fn alter(&mut self, change: &Change) -> Undo {
        if let Change::Call(call, CallChange::Ended(_)) = change {
            let (before, counters) = (self.journal.remove(call), self.counters());
            give_back(&mut self.journal);
            return Undo::Call { call: *call, before, counters };
        }
        let undo = self.undo_of(change);
        self.apply(change);
        undo
    }

    /// What would take `change` back, if it were applied now.
    fn undo_of(&self, change: &Change) -> Undo {
        match change {
            Change::Greeted(_) | Change::Ready | Change::Listed(_) => {
                Undo::Handshake(self.handshake.clone().map(Box::new))
            }
            Change::LevelSet(_) => Undo::Level(self.level),
            Change::Subscribed(uri) | Change::Unsubscribed(uri) => {
                Undo::Subscription { uri: uri.clone(), present: self.subscriptions.contains(uri) }
            }
            Change::Call(call, _) => {
                Undo::Call { call: *call, before: self.journal.get(call).cloned(), counters: self.counters() }
            }
            Change::Stream(stream, change) => self.undo_of_stream(*stream, change),
            Change::Ended => Undo::All(Box::new(self.clone())),
        }
    }

    fn undo_of_stream(&self, stream: StreamId, change: &StreamChange) -> Undo {
        let log = self.streams.get(&stream);
        let number = |of: fn(&StreamLog) -> u64| log.map_or(0, of);
        match change {
            StreamChange::Opened { .. } | StreamChange::Dropped => {
                Undo::Stream { stream, before: log.cloned().map(Box::new), counters: self.counters() }
            }
            StreamChange::Appended { .. } => {
                Undo::Appended { stream, last: number(|l| l.last), delivered: number(|l| l.delivered) }
            }
            StreamChange::Delivered { .. } => Undo::Delivered { stream, delivered: number(|l| l.delivered) },
            StreamChange::Trimmed { through } => {
                let events = log.iter().flat_map(|l| &l.events).take_while(|e| e.seq <= *through).cloned();
                Undo::Trimmed { stream, trimmed: number(|l| l.trimmed), events: events.collect() }
            }
            StreamChange::Finished { .. } => Undo::Unfinished { stream },
        }
    }

    /// Takes a change back. Changes are taken back in the opposite order.
    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Handshake(before) => self.handshake = before.map(|b| *b),
            Undo::Level(before) => self.level = before,
            Undo::Subscription { uri, present: true } => {
                self.subscriptions.insert(uri);
            }
            Undo::Subscription { uri, present: false } => {
                self.subscriptions.remove(&uri);
            }
            Undo::Call { call, before, counters } => {
                self.set_counters(counters);
                match before {
                    Some(entry) => self.journal.insert(call, entry),
                    None => self.journal.remove(&call),
                };
            }
            Undo::Stream { stream, before, counters } => {
                self.set_counters(counters);
                match before {
                    Some(log) => self.streams.insert(stream, *log),
                    None => self.streams.remove(&stream),
                };
            }
            Undo::Appended { stream, last, delivered } => {
                let Some(log) = self.streams.get_mut(&stream) else { return };
                if log.events.back().is_some_and(|event| event.seq > last) {
                    let gone = log.events.pop_back();
                    log.bytes -= gone.map_or(0, |event| event.message.as_str().len());
                }
                (log.last, log.delivered) = (last, delivered);
            }
            Undo::Delivered { stream, delivered } => {
                if let Some(log) = self.streams.get_mut(&stream) {
                    log.delivered = delivered;
                }
            }
            Undo::Trimmed { stream, trimmed, events } => {
                let Some(log) = self.streams.get_mut(&stream) else { return };
                log.trimmed = trimmed;
                for event in events.into_iter().rev() {
                    log.bytes += event.message.as_str().len();
                    log.events.push_front(event);
                }
            }
            Undo::Unfinished { stream } => {
                if let Some(log) = self.streams.get_mut(&stream) {
                    log.finished_at = None;
                }
            }
            Undo::All(before) => *self = *before,
        }
    }
}
