//! Judges the frames of one stream. Pure.

use api::pb::registry::v1 as pb;
use api::pb::registry::v1::frame::Kind as Body;
use api::pb::registry::v1::input_required::Continuation;
use mcp::log::Level;
use mcp::scan::{self, Limits};
use serde_json::Value;

use super::report::{Rule, Verdict};
use super::shapes;

/// What a stream of frames should be like.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// Invocation that was started.
    pub invocation: &'a str,
    /// Instance that Describe named.
    pub instance: &'a str,
    /// Number of the first frame; only number 1 is Accepted.
    pub first: u64,
    /// Whether progress was asked for.
    pub progress: bool,
    /// Least severe log level that was asked for.
    pub log: Option<Level>,
}

/// What a frame is to the order of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Accepted.
    Start,
    /// Progress and the like.
    Step,
    /// Input is needed and the handler waits: ends a round.
    Pause,
    /// Ends everything.
    Final,
    /// No kind this check knows.
    Nothing,
}

/// The place of a frame in the order of frames.
#[must_use]
pub fn place(frame: &pb::Frame) -> Place {
    match &frame.kind {
        None => Place::Nothing,
        Some(Body::Accepted(_)) => Place::Start,
        Some(Body::RawProgress(_) | Body::RawLog(_) | Body::Notice(_) | Body::Detach(_)) => Place::Step,
        Some(Body::InputRequired(input)) => match input.continuation {
            Some(Continuation::Parked(_)) => Place::Pause,
            Some(Continuation::State(_)) | None => Place::Final,
        },
        Some(Body::RawResult(_) | Body::Error(_) | Body::RawTask(_)) => Place::Final,
    }
}

/// Whether the frames stand at an ending, of the round or of everything.
#[must_use]
pub fn ended(frames: &[pb::Frame]) -> bool {
    frames.last().is_some_and(|frame| matches!(place(frame), Place::Pause | Place::Final))
}

/// Judges the frames of a stream that has closed in order.
#[must_use]
pub fn judge(frames: &[pb::Frame], expected: &Expected<'_>) -> Vec<Verdict> {
    let mut verdicts = vec![
        (Rule::Numbers, numbers(frames, expected.first)),
        (Rule::Accepted, accepted(frames, expected)),
        (Rule::Ending, ending(frames)),
    ];
    let mut progress = None;
    for frame in frames {
        verdicts.push((Rule::RawJson, raw_fields(frame)));
        verdicts.push((Rule::Wanted, wanted(frame, expected)));
        verdicts.push((Rule::Members, members(frame, &mut progress)));
    }
    verdicts
}

fn numbers(frames: &[pb::Frame], first: u64) -> Result<(), String> {
    let found: Vec<u64> = frames.iter().map(|frame| frame.number).collect();
    let wanted: Vec<u64> = (first..).take(found.len()).collect();
    if found == wanted { Ok(()) } else { Err(format!("frames are numbered {found:?} instead of {wanted:?}")) }
}

fn accepted(frames: &[pb::Frame], expected: &Expected<'_>) -> Result<(), String> {
    let found: Vec<(usize, &pb::Accepted)> = frames
        .iter()
        .enumerate()
        .filter_map(|(at, frame)| {
            let Some(Body::Accepted(accepted)) = &frame.kind else { return None };
            Some((at, accepted))
        })
        .collect();
    match (expected.first, found.as_slice()) {
        (1, [(0, one)]) if one.invocation != expected.invocation => {
            Err(format!("Accepted names invocation {:?}, not {:?}", one.invocation, expected.invocation))
        }
        (1, [(0, one)]) if one.instance != expected.instance => {
            Err(format!("Accepted names instance {:?}, Describe {:?}", one.instance, expected.instance))
        }
        (1, [(0, _)]) => Ok(()),
        (1, []) => Err("there is no Accepted".to_owned()),
        (1, [(at, _)]) => Err(format!("Accepted is frame {}", at + 1)),
        (_, []) => Ok(()),
        (_, found) => Err(format!("Accepted comes {} times, or again", found.len())),
    }
}

fn ending(frames: &[pb::Frame]) -> Result<(), String> {
    let places: Vec<Place> = frames.iter().map(place).collect();
    let Some((last, before)) = places.split_last() else {
        return Err("the stream closed without a frame".to_owned());
    };
    if let Some(at) = before.iter().position(|place| *place == Place::Final) {
        let behind = places.len() - at - 1;
        return Err(format!("{behind} frames come behind the ending, frame {}", at + 1));
    }
    match last {
        Place::Pause | Place::Final => Ok(()),
        Place::Start | Place::Step | Place::Nothing => Err("the stream closed without an ending".to_owned()),
    }
}

/// Checks that a raw field is one JSON value the mesh takes.
pub(super) fn raw(what: &str, bytes: &[u8]) -> Result<(), String> {
    scan::check(bytes, &Limits::RESULT).map(|_| ()).map_err(|error| format!("{what}: {error}"))
}

/// The same for a field that may be empty.
pub(super) fn raw_or_empty(what: &str, bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() { Ok(()) } else { raw(what, bytes) }
}

fn raw_fields(frame: &pb::Frame) -> Result<(), String> {
    match &frame.kind {
        Some(Body::RawProgress(bytes)) => raw("raw_progress", bytes),
        Some(Body::RawLog(bytes)) => raw("raw_log", bytes),
        Some(Body::Notice(notice)) => raw("raw_params of a notice", &notice.raw_params),
        Some(Body::RawResult(bytes)) => raw("raw_result", bytes),
        Some(Body::Error(failure)) => raw_or_empty("raw_data", &failure.raw_data),
        Some(Body::InputRequired(input)) => raw_or_empty("raw_input_requests", &input.raw_input_requests),
        Some(Body::RawTask(bytes)) => raw("raw_task", bytes),
        Some(Body::Accepted(_) | Body::Detach(_)) | None => Ok(()),
    }
}

fn wanted(frame: &pb::Frame, expected: &Expected<'_>) -> Result<(), String> {
    if matches!(frame.kind, Some(Body::RawProgress(_))) && !expected.progress {
        return Err("progress that nobody wanted".to_owned());
    }
    let Some(Body::RawLog(bytes)) = &frame.kind else { return Ok(()) };
    let level = value(bytes).and_then(|log| Level::parse(log.get("level")?.as_str()?));
    match (expected.log, level) {
        (None, _) => Err("a log message that nobody wanted".to_owned()),
        (Some(least), Some(level)) if level < least => Err(format!("a log message of {level:?}")),
        (Some(_), _) => Ok(()),
    }
}

fn value(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

/// Text that is no JSON is the business of [`raw_fields`].
fn members(frame: &pb::Frame, progress: &mut Option<f64>) -> Result<(), String> {
    let with =
        |bytes: &[u8], check: fn(&Value) -> Result<(), String>| value(bytes).map_or(Ok(()), |v| check(&v));
    match &frame.kind {
        None => Err(format!("frame {} is of no known kind", frame.number)),
        Some(Body::RawProgress(bytes)) => {
            with(bytes, shapes::progress)?;
            let now = value(bytes).and_then(|v| v.get("progress")?.as_f64());
            let before = std::mem::replace(progress, now);
            match (before, now) {
                (Some(before), Some(now)) if now <= before => Err(format!("progress {now} behind {before}")),
                (_, _) => Ok(()),
            }
        }
        Some(Body::RawLog(bytes)) => with(bytes, shapes::log),
        Some(Body::Notice(notice)) if notice.method.is_empty() => Err("a notice without method".to_owned()),
        Some(Body::Notice(notice)) => with(&notice.raw_params, |v| shapes::object("params of a notice", v)),
        Some(Body::RawResult(bytes)) => with(bytes, |v| shapes::object("a result", v)),
        Some(Body::RawTask(bytes)) => with(bytes, |v| shapes::object("a task", v)),
        Some(Body::InputRequired(input)) => question(input),
        Some(Body::Accepted(_) | Body::Detach(_) | Body::Error(_)) => Ok(()),
    }
}

fn question(input: &pb::InputRequired) -> Result<(), String> {
    if input.continuation.is_none() {
        return Err("a question that is neither parked nor has a state".to_owned());
    }
    if input.round == 0 {
        return Err("a question of round 0".to_owned());
    }
    value(&input.raw_input_requests).map_or(Ok(()), |requests| shapes::input_requests(&requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected<'static> =
        Expected { invocation: "i", instance: "x", first: 1, progress: true, log: Some(Level::Info) };

    fn frames(kinds: Vec<Body>) -> Vec<pb::Frame> {
        (1..).zip(kinds).map(|(number, kind)| pb::Frame { number, kind: Some(kind) }).collect()
    }

    fn accept() -> Body {
        Body::Accepted(pb::Accepted { invocation: "i".into(), instance: "x".into() })
    }

    fn done() -> Body {
        Body::RawResult("{}".into())
    }

    fn pause() -> Body {
        Body::InputRequired(pb::InputRequired {
            raw_input_requests: r#"{"k": {"method": "roots/list"}}"#.into(),
            round: 1,
            expires_unix_ms: 1,
            continuation: Some(Continuation::Parked(true)),
        })
    }

    fn broken(frames: &[pb::Frame], expected: &Expected<'_>) -> Vec<Rule> {
        let mut rules: Vec<Rule> = judge(frames, expected)
            .into_iter()
            .filter(|(_, seen)| seen.is_err())
            .map(|(rule, _)| rule)
            .collect();
        rules.dedup();
        rules
    }

    #[test]
    fn an_orderly_answer_breaks_nothing() {
        let progress = |n: u8| Body::RawProgress(format!("{{\"progress\": {n}}}").into());
        let log = Body::RawLog(r#"{"level": "error", "data": 1}"#.into());
        let all = vec![accept(), progress(1), progress(2), log, pause(), progress(3), done()];
        assert_eq!(broken(&frames(all), &EXPECTED), []);
    }

    #[test]
    fn each_disorder_breaks_its_rule() {
        let numbered = |numbers: [u64; 2]| {
            let mut frames = frames(vec![accept(), done()]);
            frames.iter_mut().zip(numbers).for_each(|(frame, number)| frame.number = number);
            frames
        };
        let other = Body::Accepted(pb::Accepted { invocation: "i".into(), instance: "y".into() });
        for (frames, rule) in [
            (numbered([1, 3]), Rule::Numbers),
            (numbered([0, 1]), Rule::Numbers),
            (frames(vec![done()]), Rule::Accepted),
            (frames(vec![other, done()]), Rule::Accepted),
            (frames(vec![accept(), accept(), done()]), Rule::Accepted),
            (frames(vec![accept()]), Rule::Ending),
            (frames(vec![]), Rule::Accepted),
            (frames(vec![accept(), done(), done()]), Rule::Ending),
            (frames(vec![accept(), Body::RawResult("{} {}".into())]), Rule::RawJson),
            (frames(vec![accept(), Body::RawResult(vec![0xff].into())]), Rule::RawJson),
            (frames(vec![accept(), Body::RawResult("[]".into())]), Rule::Members),
            (
                frames(vec![accept(), Body::RawLog(r#"{"level": "debug", "data": 1}"#.into()), done()]),
                Rule::Wanted,
            ),
            (frames(vec![accept(), Body::RawProgress("{}".into()), done()]), Rule::Members),
        ] {
            assert_eq!(broken(&frames, &EXPECTED).first(), Some(&rule), "{frames:?}");
        }
    }

    #[test]
    fn what_is_attached_to_later_has_no_accepted() {
        let mut later = frames(vec![pause(), done()]);
        later.iter_mut().for_each(|frame| frame.number += 4);
        assert_eq!(broken(&later, &Expected { first: 5, ..EXPECTED }), []);
        assert_eq!(
            broken(&frames(vec![accept(), done()]), &Expected { first: 2, ..EXPECTED })[1],
            Rule::Accepted
        );
    }
}
