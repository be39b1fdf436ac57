//! What is true of every session, whatever happened to it.

use std::collections::BTreeSet;

use super::phase::Phase;
use super::streams::most_events;
use super::{Live, Owed, Session};
use crate::input::StreamId;
use crate::journal::JournalState;
use crate::settings::Settings;
use crate::snapshot::{Snapshot, StreamLog};

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// The invariants of a session, for `debug_assert!` and tests.
///
/// # Errors
/// The first one that does not hold.
pub fn check(session: &Session) -> Result<(), String> {
    let Session { settings, saved, live, mark: _ } = session;
    phases(saved, live)?;
    if !live.phase.is_alive() {
        return ensure(live.calls.is_empty() && live.readers.is_empty() && live.owed.is_empty(), || {
            "a session that is over still has something under way".to_owned()
        });
    }
    calls(settings, saved, live)?;
    rounds(settings, saved)?;
    for (stream, log) in &saved.streams {
        stream_log(most_events(settings, live.carried), settings.log_bytes, *stream, log)?;
        stream_has_purpose(saved, live, *stream, log)?;
    }
    let finished = saved.streams.values().filter(|log| log.finished_at.is_some()).count();
    ensure(finished <= settings.kept_streams.max(1), || format!("{finished} finished streams are kept"))?;
    let watched = saved.subscriptions.len();
    ensure(watched <= settings.max_subscriptions.saturating_add(settings.max_inflight), || {
        format!("{watched} resources are watched")
    })
}

fn phases(saved: &Snapshot, live: &Live) -> Result<(), String> {
    let greeted = saved.handshake.is_some();
    let ready = saved.handshake.as_ref().is_some_and(|h| h.ready);
    let busy = !live.calls.is_empty();
    let fits = match live.phase {
        Phase::Uninitialised => !greeted && !busy,
        Phase::Initialising => greeted && !ready && !busy,
        Phase::Initialised => ready && !busy,
        Phase::Processing => ready && busy,
        Phase::Failed => !saved.ended,
        Phase::Terminated => true,
    };
    ensure(fits, || format!("{:?} with greeted {greeted}, ready {ready}, busy {busy}", live.phase))
}

fn calls(settings: &Settings, saved: &Snapshot, live: &Live) -> Result<(), String> {
    ensure(live.calls.len() <= settings.max_inflight, || {
        format!("{} calls are under way", live.calls.len())
    })?;
    let ids: BTreeSet<_> = live.calls.values().map(|call| &call.id).collect();
    let streams: BTreeSet<_> = live.calls.values().map(|call| call.stream).collect();
    ensure(ids.len() == live.calls.len(), || "two calls have the same request id".to_owned())?;
    ensure(streams.len() == live.calls.len(), || "two calls answer on the same stream".to_owned())?;
    for (call, under_way) in &live.calls {
        ensure(call.0 < live.next_call, || format!("call {} has a number of the future", call.0))?;
        let entry = saved.journal.get(call);
        if under_way.method == mcp::Method::ToolsCall {
            ensure(entry.is_some(), || format!("call {} is not in the journal", call.0))?;
        }
        if let Some(entry) = entry {
            let same = entry.id == under_way.id && entry.stream == under_way.stream;
            ensure(same && entry.deadline == under_way.deadline, || {
                format!("call {} differs from its entry", call.0)
            })?;
        }
    }
    for (call, entry) in &saved.journal {
        let owed =
            live.owed.iter().any(|owed| matches!(owed, Owed::Ending { call: Some(c), .. } if c == call));
        ensure(live.calls.contains_key(call) != owed, || {
            format!("entry {} has not exactly one future", call.0)
        })?;
        ensure(entry.state == JournalState::Dispatched, || format!("entry {} is {:?}", call.0, entry.state))?;
        let past = call.0 < saved.next_call && entry.stream.0 < saved.next_stream;
        ensure(past, || format!("entry {} has a number of the future", call.0))?;
    }
    Ok(())
}

fn rounds(settings: &Settings, saved: &Snapshot) -> Result<(), String> {
    let mut numbers = BTreeSet::new();
    let mut open = 0;
    for (call, entry) in &saved.journal {
        let Some(round) = &entry.round else { continue };
        ensure(round.open().next().is_some(), || format!("call {} waits for nobody", call.0))?;
        open += round.open().count();
        for ask in &round.asks {
            ensure(ask.number.is_some() || ask.answer.is_some(), || {
                format!("{} is neither asked nor answered", ask.key)
            })?;
            if let Some(number) = ask.number {
                ensure(numbers.insert(number), || format!("two questions have number {number}"))?;
                ensure(number < saved.next_ask, || format!("question {number} has a number of the future"))?;
            }
        }
    }
    ensure(open <= settings.max_outgoing, || format!("{open} questions are open"))
}

fn stream_log(most: usize, most_bytes: usize, stream: StreamId, log: &StreamLog) -> Result<(), String> {
    let name = stream.0;
    let bytes: usize = log.events.iter().map(|event| event.message.as_str().len()).sum();
    ensure(bytes == log.bytes, || format!("stream {name} counts {} bytes and has {bytes}", log.bytes))?;
    let within = log.events.len() <= most;
    ensure(within && (bytes <= most_bytes || log.events.len() == 1), || {
        format!("stream {name} is too long")
    })?;
    let mut last = log.trimmed;
    for event in &log.events {
        ensure(event.seq > last, || format!("stream {name} has {} behind {last}", event.seq))?;
        last = event.seq;
    }
    let ordered = last <= log.last && log.trimmed <= log.last && log.delivered <= log.last;
    ensure(ordered, || format!("stream {name} has numbers beyond its last"))
}

/// An unfinished stream is the session's own, or will be finished by somebody.
fn stream_has_purpose(
    saved: &Snapshot,
    live: &Live,
    stream: StreamId,
    log: &StreamLog,
) -> Result<(), String> {
    let name = stream.0;
    ensure(name < saved.next_stream && name < live.next_stream, || {
        format!("stream {name} is of the future")
    })?;
    if stream == StreamId::OWN {
        return ensure(log.request.is_none() && log.finished_at.is_none(), || {
            "the own stream is not its own".to_owned()
        });
    }
    let served = live
        .calls
        .values()
        .any(|call| call.stream == stream && call.opened() && Some(&call.id) == log.request.as_ref());
    let owed = live.owed.iter().any(|owed| matches!(owed, Owed::Ending { stream: s, .. } if *s == stream));
    let futures = usize::from(served) + usize::from(owed) + usize::from(log.finished_at.is_some());
    ensure(futures == 1, || format!("stream {name} has {futures} futures"))
}
