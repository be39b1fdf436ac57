//! A session out of its fields and logs.

use api::Principal;
use api::session::Transport;
use bytes::Bytes;
use machines::snapshot::Logged;
use machines::{CallId, Snapshot, StreamId};
use mcp::Json;
use mcp::scan::Limits;
use serde::de::DeserializeOwned;

use super::fields::Head;
use super::{Stored, names};

/// Why what is stored cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// It was written by a build that knows another form.
    #[error("the session is stored in form {0}, this build knows {known}", known = Snapshot::VERSION)]
    Form(String),
    /// A field is not what was written.
    #[error("field {0:?} of the session is damaged")]
    Damaged(String),
    /// An event is not what was written.
    #[error("an event of stream {} is damaged", .0.0)]
    Event(StreamId),
}

/// A session whose events are still missing.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) stored: Stored,
    /// Who committed last.
    pub(super) by: String,
    /// Streams with events, and how many.
    pub(super) logs: Vec<(StreamId, usize)>,
}

/// Reads the fields of a session; `None` if there are none.
pub(super) fn outline(fields: Vec<(String, Vec<u8>)>) -> Result<Option<Outline>, Unreadable> {
    if fields.is_empty() {
        return Ok(None);
    }
    let form = fields.iter().find(|(name, _)| name == names::SCHEMA).map(|(_, value)| value.as_slice());
    if form != Some(Snapshot::VERSION.to_string().as_bytes()) {
        let form = form.map_or_else(|| "unknown".into(), |form| form.escape_ascii().to_string());
        return Err(Unreadable::Form(form));
    }
    let stored = Stored {
        principal: Principal::default(),
        transport: Transport::default(),
        snapshot: Snapshot::default(),
        version: 0,
    };
    let mut outline = Outline { stored, by: String::new(), logs: Vec::new() };
    let mut owner = None;
    for (name, value) in fields {
        let damaged = || Unreadable::Damaged(name.clone());
        if name == names::WHO {
            owner = Some(principal(&value).ok_or_else(damaged)?);
        } else {
            outline.read(&name, &value).ok_or_else(damaged)?;
        }
    }
    outline.stored.principal = owner.ok_or_else(|| Unreadable::Damaged(names::WHO.into()))?;
    outline.logs.sort_unstable();
    Ok(Some(outline))
}

impl Outline {
    /// Takes one field in; `None` if it is damaged.
    fn read(&mut self, name: &str, value: &[u8]) -> Option<()> {
        let text = std::str::from_utf8(value).ok()?;
        let snapshot = &mut self.stored.snapshot;
        match name {
            names::SCHEMA => {}
            names::BY => text.clone_into(&mut self.by),
            names::VERSION => self.stored.version = text.parse().ok()?,
            names::TRANSPORT => {
                self.stored.transport = match text {
                    "streamable" => Transport::Streamable,
                    "http_sse" => Transport::HttpSse,
                    _ => return None,
                }
            }
            names::HEAD => {
                let Head { handshake, level, ended } = read(value)?;
                (snapshot.handshake, snapshot.level, snapshot.ended) = (handshake, level, ended);
            }
            names::NUMBERS => {
                let mut numbers = text.split(' ').map(|number| number.parse().ok());
                let mut next = || numbers.next().flatten();
                (snapshot.next_stream, snapshot.next_call, snapshot.next_ask) = (next()?, next()?, next()?);
            }
            other => return self.read_entry(other, text),
        }
        Some(())
    }

    fn read_entry(&mut self, name: &str, text: &str) -> Option<()> {
        let snapshot = &mut self.stored.snapshot;
        if let Some(uri) = name.strip_prefix(names::WATCHED) {
            snapshot.subscriptions.insert(uri.to_owned());
        } else if let Some(call) = name.strip_prefix(names::CALL) {
            snapshot.journal.insert(CallId(call.parse().ok()?), read(text.as_bytes())?);
        } else if let Some(stream) = name.strip_prefix(names::STREAM) {
            let stream = StreamId(stream.parse().ok()?);
            let (count, log) = text.split_once(' ')?;
            let count: usize = count.parse().ok()?;
            if count > 0 {
                self.logs.push((stream, count));
            }
            snapshot.streams.insert(stream, read(log.as_bytes())?);
        } else {
            return None;
        }
        Some(())
    }

    /// Takes the events of a stream in. Where some are missing, the log begins behind the gap.
    pub(super) fn fill(
        &mut self,
        stream: StreamId,
        count: usize,
        events: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Unreadable> {
        let Some(log) = self.stored.snapshot.streams.get_mut(&stream) else { return Ok(()) };
        for (id, message) in events {
            let event = event(&id, message).ok_or(Unreadable::Event(stream))?;
            if event.seq <= log.last {
                log.events.push_back(event);
            }
        }
        // A commit that was refused half-way may have left more.
        let surplus = log.events.len().saturating_sub(count);
        log.events.drain(..surplus);
        if log.events.len() < count {
            tracing::warn!(missing = count - log.events.len(), "events of a stored session are gone");
            let before = log.events.front().map_or(log.last, |event| event.seq.saturating_sub(1));
            log.trimmed = log.trimmed.max(before);
        }
        log.bytes = log.events.iter().map(|event| event.message.as_str().len()).sum();
        Ok(())
    }
}

/// An entry of a log: `<epoch>-<number>`, and the message.
fn event(id: &str, message: Vec<u8>) -> Option<Logged> {
    let (epoch, seq) = id.split_once('-')?;
    Some(Logged { seq: seq.parse().ok()?, epoch: epoch.parse().ok()?, message: json(message)? })
}

fn principal(value: &[u8]) -> Option<Principal> {
    let (subject, issuer, tenant, client) = read(value)?;
    Some(Principal { subject, issuer, tenant, client })
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    json(value.to_vec())?.read().ok()
}

/// Whatever was written passed tighter limits.
pub(super) fn json(value: Vec<u8>) -> Option<Json> {
    let limits =
        Limits { depth: 128, values: usize::MAX, key: usize::MAX, string: usize::MAX, number: usize::MAX };
    Json::parse(Bytes::from(value), &limits).ok()
}
