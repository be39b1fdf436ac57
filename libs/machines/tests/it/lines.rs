//! Effects as lines of text.

use std::sync::Arc;

use machines::effect::{CallContext, Effect, Event};
use machines::journal::{Entry, Pickup};
use machines::snapshot::{CallChange, StreamChange};
use machines::{CallId, Change, Effects, Replay, Snapshot};
use mcp::Json;
use mcp::rpc::RpcError;

/// One line per effect; wishes to be woken only on demand, they change all the time.
pub(crate) fn effects(effects: &Effects, wakes: bool) -> Vec<String> {
    effects.iter().filter(|e| wakes || !matches!(e, Effect::WakeAt(_))).map(effect).collect()
}

/// The kind of an effect, in a word.
pub(crate) const fn kind(effect: &Effect) -> &'static str {
    match effect {
        Effect::Commit(_) => "commit",
        Effect::Answer { .. } => "answer",
        Effect::Open { .. } => "open",
        Effect::Send { .. } => "send",
        Effect::Pause { .. } => "pause",
        Effect::Finish { .. } => "finish",
        Effect::Call { .. } => "call",
        Effect::Resume { .. } => "resume",
        Effect::CancelCall { .. } => "cancel",
        Effect::Release { .. } => "release",
        Effect::Subscribe { .. } => "subscribe",
        Effect::Unsubscribe { .. } => "unsubscribe",
        Effect::WakeAt(_) => "wake",
        Effect::Stop(_) => "stop",
    }
}

fn effect(effect: &Effect) -> String {
    let word = kind(effect);
    match effect {
        Effect::Commit(changes) => {
            let changes: Vec<String> = changes.iter().map(change).collect();
            format!("{word} {}", changes.join("; "))
        }
        Effect::Answer { stream, status, body } => {
            let body = body.as_ref().map(|b| format!(" {b}")).unwrap_or_default();
            format!("{word} {} status {status}{body}", stream.0)
        }
        Effect::Open { stream } | Effect::Pause { stream } | Effect::Finish { stream } => {
            format!("{word} {}", stream.0)
        }
        Effect::Send { stream, event: e } => format!("{word} {}{}", stream.0, event(e)),
        Effect::Call { call, method, params, context, deadline } => {
            format!("{word} {} {} {params} until {deadline}{}", call.0, method.as_str(), wishes(context))
        }
        Effect::Resume { call, round, responses, state } => {
            let state =
                state.as_ref().map(|s| format!(" state {}", String::from_utf8_lossy(s))).unwrap_or_default();
            let said: Vec<String> =
                responses.iter().map(|(key, answer)| format!(" {key}={}", outcome(answer))).collect();
            format!("{word} {} round {round}{state}{}", call.0, said.concat())
        }
        Effect::CancelCall { call, reason } => format!("{word} {} because {reason}", call.0),
        Effect::Release { call } => format!("{word} {}", call.0),
        Effect::Subscribe { call, uri } => format!("{word} {} {uri}", call.0),
        Effect::Unsubscribe { uri } => format!("{word} {uri}"),
        Effect::WakeAt(at) => format!("{word} at {at}"),
        Effect::Stop(reason) => format!("{word} {reason:?}"),
    }
}

fn wishes(context: &CallContext) -> String {
    let level = context.log_level.map(|l| format!(" log {}", l.as_str())).unwrap_or_default();
    let progress = if context.progress { " progress" } else { "" };
    format!("{level}{progress}")
}

fn outcome(answer: &Result<Json, RpcError>) -> String {
    match answer {
        Ok(result) => result.to_string(),
        Err(error) => format!("({} {})", error.code, error.message),
    }
}

fn event(event: &Event) -> String {
    let seq = event.seq.map(|seq| format!(" #{seq}")).unwrap_or_default();
    let message = event.message.as_ref().map(|m| format!(" {m}")).unwrap_or_default();
    let retry = event.retry_ms.map(|ms| format!(" retry {ms}")).unwrap_or_default();
    format!("{seq}{message}{retry}")
}

fn change(change: &Change) -> String {
    match change {
        Change::Greeted(handshake) => format!("greeted {}", handshake.revision),
        Change::Ready => "ready".to_owned(),
        Change::Listed(_) => "listed".to_owned(),
        Change::LevelSet(level) => format!("level {}", level.as_str()),
        Change::Subscribed(uri) => format!("subscribed {uri}"),
        Change::Unsubscribed(uri) => format!("unsubscribed {uri}"),
        Change::Call(call, change) => format!("call {} {}", call.0, call_change(change)),
        Change::Stream(stream, change) => format!("stream {} {}", stream.0, stream_change(change)),
        Change::Ended => "ended".to_owned(),
    }
}

fn call_change(change: &CallChange) -> String {
    match change {
        CallChange::Accepted(_) => "accepted".to_owned(),
        CallChange::Dispatched => "dispatched".to_owned(),
        CallChange::Placed(instance) => format!("at {instance}"),
        CallChange::Heard(number) => format!("heard {number}"),
        CallChange::Asked(round) => format!("asks round {}", round.number),
        CallChange::Answered { key, answer } => format!("answered {key}={}", outcome(answer)),
        CallChange::RoundClosed { .. } => "goes on".to_owned(),
        CallChange::Ended(state) => format!("{state:?}").to_lowercase(),
    }
}

fn stream_change(change: &StreamChange) -> String {
    match change {
        StreamChange::Opened { .. } => "opened".to_owned(),
        StreamChange::Appended { seq, message: Some(_), .. } => format!("#{seq}"),
        StreamChange::Appended { seq, message: None, .. } => format!("#{seq} (empty)"),
        StreamChange::Delivered { through } => format!("delivered #{through}"),
        StreamChange::Trimmed { through } => format!("trimmed #{through}"),
        StreamChange::Finished { .. } => "finished".to_owned(),
        StreamChange::Dropped => "dropped".to_owned(),
    }
}

/// How the next owner takes up what is in the journal.
pub(crate) fn pickups(saved: &Snapshot) -> Vec<String> {
    let line = |(call, entry): (&CallId, &Arc<Entry>)| {
        let how = match entry.pickup() {
            Pickup::Wait => "wait".to_owned(),
            Pickup::Attach { after } => format!("attach after {after}"),
            Pickup::Resume { round, responses, state } => {
                let answers: Vec<String> =
                    responses.iter().map(|(key, answer)| format!("{key}={}", outcome(answer))).collect();
                let state = state.map_or("parked".to_owned(), |s| String::from_utf8_lossy(&s).into_owned());
                format!("resume round {round} ({state}) {}", answers.join(" "))
            }
        };
        format!("call {} generation {}: {how}", call.0, entry.generation)
    };
    saved.journal.iter().map(line).collect()
}

/// What a late reader would be given.
pub(crate) fn replay(replay: Option<&Replay>) -> Vec<String> {
    let Some(replay) = replay else { return vec!["unknown stream".to_owned()] };
    let mut lines = Vec::new();
    if replay.gap {
        lines.push("gap".to_owned());
    }
    lines.extend(replay.events.iter().map(|e| format!("event{}", event(e))));
    lines.push(if replay.finished { "over".to_owned() } else { "goes on".to_owned() });
    lines
}
