//! What scripts are given and what they answer.

use api::SessionId;
use machines::{CommitRefusal, StreamId};
use redis::{Cmd, FromRedisValue as _, Value};

use super::keys::Keys;
use crate::store::fields::{Parts, Step};
use crate::store::{Answered, restore};

/// What a script answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Done.
    Done,
    /// Done, and the life of the session was renewed.
    Renewed,
    /// A higher epoch is known.
    Stale,
    /// The writer's epoch is not known.
    Regress,
    /// Another version is there, by somebody.
    Other { version: String, by: String },
    /// There are streams whose keys have to be named.
    Streams(Vec<StreamId>),
}

impl Reply {
    /// Reads an answer; `None` for one that no script gives.
    pub(super) fn read(value: Value) -> Option<Self> {
        if let Value::Int(number) = value {
            return match number {
                1 => Some(Self::Done),
                2 => Some(Self::Renewed),
                -1 => Some(Self::Stale),
                -2 => Some(Self::Regress),
                _ => None,
            };
        }
        let words = Vec::<String>::from_redis_value(value).ok()?;
        match words.as_slice() {
            [mark, streams @ ..] if mark == "+" => {
                let streams = streams.iter().map(|stream| stream.parse().ok().map(StreamId));
                streams.collect::<Option<_>>().map(Self::Streams)
            }
            [version, by] => Some(Self::Other { version: version.clone(), by: by.clone() }),
            _ => None,
        }
    }

    /// What it means for whoever wrote.
    pub(super) fn done(&self) -> Result<(), CommitRefusal> {
        match self {
            Self::Done | Self::Renewed => Ok(()),
            Self::Stale => Err(CommitRefusal::Stale),
            Self::Regress => Err(CommitRefusal::Regress),
            Self::Other { .. } | Self::Streams(_) => Err(CommitRefusal::Conflict),
        }
    }
}

/// The keys of a call: fence, session, done, and the logs of some streams.
pub(super) struct Places {
    all: Vec<String>,
    streams: Vec<StreamId>,
}

impl Places {
    const FIRST_LOG: usize = 4;

    pub(super) fn new(keys: &Keys, id: &SessionId, streams: impl Iterator<Item = StreamId>) -> Self {
        let all = vec![keys.fence(id.slot()), keys.session(id), keys.done(id)];
        let mut places = Self { all, streams: Vec::new() };
        for stream in streams {
            if !places.streams.contains(&stream) {
                places.streams.push(stream);
                places.all.push(keys.log(id, stream));
            }
        }
        places
    }

    /// The same for a commit that remembers no answer. What Redis is given it reads byte by byte, and the fence has a short name.
    pub(super) fn without_done(mut self) -> Self {
        let [fence, _, done, ..] = self.all.as_mut_slice() else { return self };
        done.clone_from(fence);
        self
    }

    pub(super) fn all(&self) -> &[String] {
        debug_assert_eq!(self.all.len(), self.streams.len() + Self::FIRST_LOG - 1);
        &self.all
    }

    /// Where a script finds the log of a stream.
    fn of(&self, stream: StreamId) -> Option<usize> {
        self.streams.iter().position(|known| *known == stream).map(|place| place + Self::FIRST_LOG)
    }

    /// Says what is to be done to logs. Events keep the epoch that they were first written in, so that their ids stay.
    fn steps(&self, cmd: &mut Cmd, steps: &[(StreamId, Step)]) {
        let known = || steps.iter().filter_map(|(stream, step)| Some((self.of(*stream)?, step)));
        cmd.arg(known().count());
        for (place, step) in known() {
            cmd.arg(place);
            match step {
                Step::Add(event) => {
                    let id = format!("{}-{}", event.epoch, event.seq);
                    cmd.arg("add").arg(id).arg(event.message.as_str());
                }
                Step::Keep(count) => {
                    cmd.arg("keep").arg(count);
                }
                Step::Drop => {
                    cmd.arg("drop");
                }
            }
        }
    }
}

/// What is written: fields that are set, fields that are deleted, steps of logs, an answer. What is not there at the end is left out.
pub(super) fn written(cmd: &mut Cmd, places: &Places, parts: &Parts, answered: Option<&Answered>) {
    cmd.arg(parts.set.len() * 2);
    for (name, value) in &parts.set {
        cmd.arg(name).arg(value);
    }
    let answered = answered.filter(|answered| answered.size() <= Answered::BYTES);
    let has_steps = answered.is_some() || !parts.logs.is_empty();
    if has_steps || !parts.delete.is_empty() {
        cmd.arg(parts.delete.len()).arg(&parts.delete);
    }
    if has_steps {
        places.steps(cmd, &parts.logs);
    }
    if let Some(answered) = answered {
        let body = answered.body.as_ref().map_or("", |body| body.as_str());
        let now = chassis::clock::dated_millis().to_string();
        cmd.arg(1).arg(&answered.key).arg([&now, " ", &answered.status.to_string(), " ", body].concat());
        cmd.arg([&answered.size().to_string(), " ", &answered.key].concat()).arg(&now).arg(answered.most());
    }
}

/// What was remembered under `key`.
pub(super) fn remembered(key: &str, mut kept: Vec<u8>) -> Option<Answered> {
    let space = kept.iter().position(|byte| *byte == b' ')?;
    let body = kept.split_off(space + 1);
    kept.truncate(space);
    let status = std::str::from_utf8(&kept).ok()?.parse().ok()?;
    let body = if body.is_empty() { None } else { Some(restore::json(body)?) };
    Some(Answered { key: key.to_owned(), status, body })
}

/// The entries of a log: ids and messages.
pub(super) fn entries(value: Value) -> Option<Vec<(String, Vec<u8>)>> {
    let entries = Vec::<(String, Vec<(String, Vec<u8>)>)>::from_redis_value(value).ok()?;
    entries.into_iter().map(|(id, fields)| Some((id, fields.into_iter().next()?.1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Value {
        Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect())
    }

    #[test]
    fn answers_of_scripts_are_read_and_nothing_else() {
        let other = Reply::Other { version: "7".into(), by: "1.a.2".into() };
        let table = [
            (Value::Int(1), Some(Reply::Done)),
            (Value::Int(2), Some(Reply::Renewed)),
            (Value::Int(-1), Some(Reply::Stale)),
            (Value::Int(-2), Some(Reply::Regress)),
            (words(&["7", "1.a.2"]), Some(other)),
            (words(&["+", "0", "12"]), Some(Reply::Streams(vec![StreamId(0), StreamId(12)]))),
            (words(&["+", "x"]), None),
            (words(&["1"]), None),
            (Value::Int(3), None),
            (Value::Nil, None),
        ];
        for (value, expected) in table {
            assert_eq!(Reply::read(value.clone()), expected, "{value:?}");
        }
    }

    #[test]
    fn what_was_remembered_is_read_and_nothing_else() {
        let of = |kept: &str| {
            remembered("k", kept.as_bytes().to_vec()).map(|a| (a.status, a.body.map(|b| b.to_string())))
        };
        assert_eq!(of("202 "), Some((202, None)));
        assert_eq!(of(r#"200 {"a": 1}"#), Some((200, Some(r#"{"a": 1}"#.into()))));
        for damaged in ["", "200", "x {}", "200 {"] {
            assert_eq!(of(damaged), None, "{damaged}");
        }
    }
}
