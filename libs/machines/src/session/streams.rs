//! Streams: when an answer becomes one, what is sent on it, what is kept for a reader that comes later.

use std::sync::Arc;

use mcp::{Json, Revision};

use super::phase::Phase;
use super::turn::Turn;
use crate::effect::{Effect, Event};
use crate::input::{CallId, StreamId};
use crate::settings::Settings;
use crate::snapshot::{Logged, Snapshot, StreamChange, StreamLog};

/// All finished streams together keep at most this many times what one stream may keep.
const KEPT_FACTOR: usize = 4;
/// The log of a carried session has room for so many times the events of a stream.
const CARRIED: usize = 16;

/// Up to where a reader knows a stream: the id of the last event it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Of the owner that wrote the event.
    pub epoch: u64,
    /// Its number in the stream.
    pub seq: u64,
}

/// What a late reader is given before it is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Events behind the cursor, oldest first.
    pub events: Vec<Event>,
    /// Events between the cursor and these are no longer kept.
    pub gap: bool,
    /// Nothing follows: the stream is over.
    pub finished: bool,
}

/// See [`super::Session::replay`].
pub(super) fn replay(
    saved: &Snapshot,
    stream: StreamId,
    after: Option<Cursor>,
    carried: bool,
) -> Option<Replay> {
    let numbered = carried || saved.handshake.as_ref()?.revision >= Revision::V2025_03_26;
    let Some(log) = saved.streams.get(&stream) else {
        let nothing = Replay { events: Vec::new(), gap: false, finished: false };
        return (stream == StreamId::OWN).then_some(nothing);
    };
    let from = after.map_or(log.delivered, |cursor| cursor.seq);
    // A later owner's events are new to whoever has only seen those of an earlier one, whatever their numbers: the store may
    // have lost what this one saw last.
    let is_new = |logged: &Logged| match after {
        Some(cursor) => (logged.epoch, logged.seq) > (cursor.epoch, cursor.seq),
        None => logged.seq > from,
    };
    let event = |logged: &Logged| Event {
        seq: numbered.then_some(logged.seq),
        epoch: logged.epoch,
        message: Some(logged.message.clone()),
        retry_ms: None,
    };
    let behind = log.events.iter().filter(|logged| is_new(logged));
    Some(Replay {
        events: behind.map(event).collect(),
        gap: from < log.trimmed,
        finished: log.finished_at.is_some(),
    })
}

/// Events that are kept of a stream. What all calls say is in one log of a carried session, and progress of one must not drive out
/// the answers to others.
pub(super) fn most_events(settings: &Settings, carried: bool) -> usize {
    let times = if carried { CARRIED } else { 1 };
    settings.log_events.saturating_mul(times).max(1)
}

/// The number of the last event to drop so that the log keeps its bounds; the newest event is never dropped.
fn excess(log: &StreamLog, settings: &Settings, carried: bool) -> Option<u64> {
    let most = most_events(settings, carried);
    let (mut count, mut bytes, mut through) = (log.events.len(), log.bytes, None);
    for event in &log.events {
        if count <= 1 || (count <= most && bytes <= settings.log_bytes) {
            break;
        }
        count -= 1;
        bytes -= event.message.as_str().len();
        through = Some(event.seq);
    }
    through
}

impl Turn<'_> {
    /// Turns the answer of a call into an event stream, unless it is one.
    pub(super) fn open(&mut self, call: CallId) {
        let Some(under_way) = self.live.calls.get_mut(&call) else { return };
        if under_way.opened() || Arc::make_mut(under_way).open_at.take().is_none() || self.live.carried {
            return;
        }
        let (stream, id) = (under_way.stream, under_way.id.clone());
        let key = under_way.key.clone().filter(|_| self.saved.journal.contains_key(&call));
        if self.resumable() {
            self.change_stream(stream, StreamChange::Opened { request: Some(id), key });
        }
        self.want(Effect::Open { stream });
        if self.revision() >= Revision::V2025_11_25 {
            self.prime(stream, self.settings.retry_ms);
        }
    }

    /// Sends an event without data, so that the reader has a cursor to come back with.
    pub(super) fn prime(&mut self, stream: StreamId, retry_ms: u32) {
        let seq = self.append(stream, None);
        if self.live.readers.contains(&stream) {
            self.want(Effect::Send {
                stream,
                event: Event { seq, epoch: self.live.epoch, message: None, retry_ms: Some(retry_ms) },
            });
        }
    }

    /// Adds a message to a stream: kept if it can be asked for again, sent if there is a reader.
    pub(super) fn emit(&mut self, stream: StreamId, message: Json) {
        let stream = if self.live.carried { self.own_stream() } else { stream };
        let kept = stream == StreamId::OWN || self.resumable();
        let seq = if kept { self.append(stream, Some(message.clone())) } else { None };
        if self.live.readers.contains(&stream) {
            let seq = seq.filter(|_| self.resumable() || self.live.carried);
            self.want(Effect::Send {
                stream,
                event: Event { seq, epoch: self.live.epoch, message: Some(message), retry_ms: None },
            });
        }
    }

    /// The session's own stream, where something may be kept from now on.
    fn own_stream(&mut self) -> StreamId {
        if !self.saved.streams.contains_key(&StreamId::OWN) {
            self.change_stream(StreamId::OWN, StreamChange::Opened { request: None, key: None });
        }
        StreamId::OWN
    }

    /// Adds an event to a stream's log and keeps the log within its bounds.
    fn append(&mut self, stream: StreamId, message: Option<Json>) -> Option<u64> {
        self.drop_what_was_told();
        let used = self.live.used.get(&stream).copied().unwrap_or_default();
        let seq = self.saved.streams.get(&stream)?.last.max(used).saturating_add(1);
        let delivered = stream == StreamId::OWN && self.live.readers.contains(&stream);
        self.change_stream(
            stream,
            StreamChange::Appended { seq, epoch: self.live.epoch, message, delivered },
        );
        let through =
            self.saved.streams.get(&stream).and_then(|log| excess(log, self.settings, self.live.carried));
        if let Some(through) = through {
            self.change_stream(stream, StreamChange::Trimmed { through });
        }
        Some(seq)
    }

    /// Puts a notification on the session's own stream, unless the same one waits there for a reader.
    pub(super) fn notify(&mut self, message: Json) {
        let own = self.own_stream();
        if let Some(log) = self.saved.streams.get(&own) {
            let mut pending = log.events.iter().rev().take_while(|event| event.seq > log.delivered);
            if pending.any(|event| event.message == message) {
                return;
            }
        }
        self.emit(own, message);
    }

    /// Closes the connection of a stream's reader, if it has one; the stream goes on.
    pub(super) fn pause(&mut self, stream: StreamId) {
        if self.live.readers.remove(&stream) {
            self.want(Effect::Pause { stream });
        }
    }

    /// Ends a stream. What it had is kept for a while.
    pub(super) fn finish(&mut self, stream: StreamId) {
        if self.saved.streams.get(&stream).is_some_and(StreamLog::is_open) {
            self.change_stream(stream, StreamChange::Finished { at: self.now });
            self.drop_surplus_streams(stream);
        }
        self.live.used.remove(&stream);
        if self.live.readers.remove(&stream) {
            self.want(Effect::Finish { stream });
        }
    }

    /// A reader attached. It has been given the replay.
    pub(super) fn attached(&mut self, stream: StreamId) {
        self.live.active = self.now;
        let known = match self.live.phase {
            Phase::Failed | Phase::Terminated => false,
            // The reader of a carried session is there before the handshake.
            Phase::Uninitialised => self.live.carried && stream == StreamId::OWN,
            Phase::Initialising | Phase::Initialised | Phase::Processing => {
                // The reader of a call that waits comes back after a change of owner.
                let waits = self.live.calls.values().any(|call| call.stream == stream);
                stream == StreamId::OWN
                    || waits
                    || self.saved.streams.get(&stream).is_some_and(StreamLog::is_open)
            }
        };
        // A node that drains keeps no reader for what may never come.
        let closes = self.live.draining && stream == StreamId::OWN && !self.live.carried;
        if !known || closes {
            return self.want(Effect::Finish { stream });
        }
        self.live.readers.insert(stream);
        if stream == StreamId::OWN {
            self.listening();
        }
    }

    /// A reader of the session's own stream has what waited there, and gets a cursor where the revision wants one.
    fn listening(&mut self) {
        let stream = StreamId::OWN;
        if self.revision() >= Revision::V2025_11_25 && !self.live.carried {
            self.own_stream();
            return self.prime(stream, self.settings.retry_ms);
        }
        let behind =
            self.saved.streams.get(&stream).filter(|log| log.delivered < log.last).map(|log| log.last);
        if let Some(through) = behind {
            self.change_stream(stream, StreamChange::Delivered { through });
        }
    }

    /// A reader is gone. Towards these revisions that cancels nothing.
    pub(super) fn gone(&mut self, stream: StreamId) {
        if self.live.readers.remove(&stream) {
            self.live.active = self.now;
            if stream == StreamId::OWN {
                self.live.alone = self.now;
            }
        }
    }

    /// Finished streams that nobody will ask for any more.
    pub(super) fn drop_expired_streams(&mut self) {
        let kept_ms = self.settings.kept_ms;
        let due = |log: &StreamLog| log.finished_at.is_some_and(|at| at.saturating_add(kept_ms) <= self.now);
        let gone: Vec<StreamId> =
            self.saved.streams.iter().filter(|(_, log)| due(log)).map(|(s, _)| *s).collect();
        for stream in gone {
            self.change_stream(stream, StreamChange::Dropped);
        }
    }

    /// Nobody acknowledges what is said in a carried session. What its reader was given long ago has come, or the reader would
    /// have come anew: it is dropped. Looked at now and then, so that it costs few commits.
    pub(super) fn drop_what_was_told(&mut self) {
        let (at, through) = self.live.told;
        let is_read = self.live.carried && self.live.readers.contains(&StreamId::OWN);
        let Some(log) = self.saved.streams.get(&StreamId::OWN).filter(|_| is_read) else { return };
        if at.saturating_add(self.settings.told_ms) > self.now {
            return;
        }
        self.live.told = (self.now, log.last);
        if log.events.front().is_some_and(|event| event.seq <= through) {
            self.change_stream(StreamId::OWN, StreamChange::Trimmed { through });
        }
    }

    /// Keeps the number and the bytes of finished streams within bounds; the oldest go first, never the one just finished.
    fn drop_surplus_streams(&mut self, newest: StreamId) {
        let (mut count, mut bytes) = (0_usize, 0_usize);
        let mut others: Vec<(u64, StreamId, usize)> = Vec::new();
        for (stream, log) in &self.saved.streams {
            let Some(at) = log.finished_at else { continue };
            (count, bytes) = (count + 1, bytes + log.bytes);
            if *stream != newest {
                others.push((at, *stream, log.bytes));
            }
        }
        others.sort_unstable();
        let most = self.settings.log_bytes.saturating_mul(KEPT_FACTOR);
        for (_, stream, size) in others {
            if count <= self.settings.kept_streams && bytes <= most {
                break;
            }
            (count, bytes) = (count - 1, bytes - size);
            self.change_stream(stream, StreamChange::Dropped);
        }
    }
}
