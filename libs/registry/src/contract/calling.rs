//! Cases: frames, coming back, cancelling, epochs, and what becomes of bad requests.

use std::time::Duration;

use api::registry::{Context, Frame, FrameBody, Operation, Start};
use api::{Code, Detail, Epoch, Slot};
use futures::future::join_all;
use mcp::Json;
use mcp::log::Level;

use super::{HOSTILE, Subject, call, is, next, numbers, owned, ownerless, refusal, rest, soon, text, until};

/// `Accepted` is frame 1, with the invocation and the instance that `describe` names.
pub async fn the_first_frame_accepts(subject: Subject) {
    let instance = soon(subject.port.describe()).await.unwrap().instance;
    let context = owned();
    let frames = subject.call(&context, "count").await;
    let accepted = FrameBody::Accepted { invocation: context.invocation, instance };
    assert_eq!(frames[0], Frame { number: 1, body: accepted });
    assert_eq!(text(&frames[1].body), "done");
    assert_eq!(frames.len(), 2);
}

/// Every kind of frame, in order, numbered from 1 without gaps, then one ending. Progress never goes backwards.
pub async fn frames_are_numbered_and_complete(subject: Subject) {
    let context = Context { progress: true, log_level: Some(Level::Debug), ..owned() };
    let frames = subject.call(&context, "talk").await;
    assert_eq!(numbers(&frames), (1..=8).collect::<Vec<_>>());
    let json = |text: &'static str| Json::trusted(text);
    let said: Vec<FrameBody> = frames.into_iter().skip(1).map(|frame| frame.body).collect();
    assert_eq!(
        said[..6],
        [
            FrameBody::Progress(json(r#"{"progress":1,"total":2,"message":"one"}"#)),
            FrameBody::Progress(json(r#"{"progress":2}"#)),
            FrameBody::Log(json(r#"{"level":"debug","data":"quiet"}"#)),
            FrameBody::Log(json(r#"{"level":"error","data":"loud"}"#)),
            FrameBody::Notice { method: "notifications/x".into(), params: json(r#"{"a":1.0}"#) },
            FrameBody::Detach { retry_ms: 250 },
        ]
    );
    assert_eq!(text(&said[6]), "said");
}

/// No progress and no log messages unless the client asked for them, and none below its level.
pub async fn only_what_is_wanted_is_said(subject: Subject) {
    let said = async |context: Context| {
        let frames = subject.call(&context, "talk").await;
        let count = |f: fn(&FrameBody) -> bool| frames.iter().filter(|frame| f(&frame.body)).count();
        (count(|b| matches!(b, FrameBody::Progress(_))), count(|b| matches!(b, FrameBody::Log(_))))
    };
    assert_eq!(said(owned()).await, (0, 0));
    assert_eq!(said(Context { log_level: Some(Level::Warning), ..owned() }).await, (0, 1));
    assert_eq!(said(Context { progress: true, ..owned() }).await, (2, 0));
}

/// Starting a known invocation again is attaching to it, running or ended: same frames, one run.
pub async fn a_repeated_invocation_attaches(subject: Subject) {
    let context = owned();
    let mut first = subject.start(&context, "gate").await;
    assert_eq!(next(&mut first).await.number, 1);
    let second = subject.start(&context, "gate").await;
    subject.control.open_gate();
    let (rest_of_first, second) = (rest(first).await, rest(second).await);
    assert_eq!(rest_of_first[..], second[1..]);
    assert_eq!(subject.call(&context, "gate").await, second);
    assert_eq!(subject.control.runs(&context.invocation), 1);
}

/// The same invocation started many times at once runs once, and all hear the same.
pub async fn concurrent_repeats_run_once(subject: Subject) {
    let context = owned();
    let all = join_all((0..32).map(|_| subject.call(&context, "count"))).await;
    assert!(all.iter().all(|frames| *frames == all[0]), "all alike");
    assert_eq!(subject.control.runs(&context.invocation), 1);
}

/// Attach reads on behind any frame of a running invocation.
pub async fn attach_reads_on_while_it_runs(subject: Subject) {
    let context = Context { progress: true, ..owned() };
    let mut first = subject.start(&context, "gate").await;
    assert_eq!((next(&mut first).await.number, next(&mut first).await.number), (1, 2));
    drop(first);
    let behind_two = soon(subject.port.attach(context.clone(), 2)).await.unwrap();
    let behind_one = soon(subject.port.attach(context.clone(), 1)).await.unwrap();
    subject.control.open_gate();
    assert_eq!(numbers(&rest(behind_two).await), [3]);
    assert_eq!(numbers(&rest(behind_one).await), [2, 3]);
}

/// The same when it has ended; behind the ending there is nothing.
pub async fn attach_reads_on_when_it_has_ended(subject: Subject) {
    let context = Context { progress: true, ..owned() };
    let frames = subject.call(&context, "talk").await;
    for after in 0..=frames.len() {
        assert_eq!(subject.attach(&context, after as u64).await[..], frames[after..], "after {after}");
    }
}

/// Neither a made-up invocation nor another mesh's.
pub async fn what_is_not_known_cannot_be_attached_to(subject: Subject) {
    let known = owned();
    subject.call(&known, "count").await;
    let elsewhere = Context { mesh: "other".into(), ..known.clone() };
    for context in [owned(), elsewhere] {
        let error = refusal(subject.port.attach(context.clone(), 0)).await;
        assert!(is(&error, Code::NotFound), "{error:?}");
        let error = refusal(subject.port.resume(context, 1, Vec::new())).await;
        assert!(is(&error, Code::NotFound), "{error:?}");
    }
    let error =
        refusal(subject.port.start(Context { registry: "none".into(), ..owned() }, call("count", "{}")))
            .await;
    assert!(is(&error, Code::NotFound), "{error:?}");
}

/// The end of the caller's stream is not a cancellation where a session owns the invocation.
pub async fn an_owned_invocation_outlives_its_caller(subject: Subject) {
    let context = owned();
    let mut frames = subject.start(&context, "gate").await;
    next(&mut frames).await;
    drop(frames);
    // Something else goes there and back, so that the end of the stream has arrived.
    subject.call(&owned(), "count").await;
    assert!(!subject.control.stopped(&context.invocation), "still running");
    subject.control.open_gate();
    assert_eq!(text(&subject.attach(&context, 1).await[0].body), "opened");
}

/// The end of the last caller's stream cancels what nobody owns.
pub async fn an_ownerless_invocation_ends_with_its_caller(subject: Subject) {
    let context = ownerless();
    let mut frames = subject.start(&context, "gate").await;
    next(&mut frames).await;
    let second = subject.start(&context, "gate").await;
    drop(frames);
    subject.call(&ownerless(), "count").await;
    assert!(!subject.control.stopped(&context.invocation), "there is another caller");
    drop(second);
    until(|| subject.control.stopped(&context.invocation)).await;
}

/// Cancel ends the handler; the invocation ends with an error.
pub async fn cancel_stops_the_handler(subject: Subject) {
    for context in [owned(), ownerless()] {
        let mut frames = subject.start(&context, "gate").await;
        next(&mut frames).await;
        soon(subject.port.cancel(context.clone(), "enough".into())).await.unwrap();
        assert_eq!(text(&rest(frames).await.pop().unwrap().body), "-32603: cancelled");
        until(|| subject.control.stopped(&context.invocation)).await;
    }
}

/// Unknown and ended invocations are left alone.
pub async fn cancel_of_nothing_is_ignored(subject: Subject) {
    soon(subject.port.cancel(owned(), String::new())).await.unwrap();
    let context = owned();
    let frames = subject.call(&context, "count").await;
    soon(subject.port.cancel(context.clone(), String::new())).await.unwrap();
    assert_eq!(subject.attach(&context, 0).await, frames);
}

/// When the caller stops waiting, the call ends.
pub async fn a_deadline_ends_the_call(subject: Subject) {
    let context = Context { deadline: Some(subject.control.now() + Duration::from_secs(300)), ..owned() };
    let mut frames = subject.start(&context, "gate").await;
    next(&mut frames).await;
    subject.control.advance(Duration::from_secs(400));
    let Some(Frame { body: FrameBody::Error(error), .. }) = rest(frames).await.pop() else {
        panic!("no error")
    };
    assert_eq!(error.data, Some(Json::trusted(r#"{"reason":"deadline"}"#)));
    assert!(subject.control.stopped(&context.invocation));
}

/// -32602 each; a resource with its URI.
pub async fn unknown_entries_are_errors(subject: Subject) {
    for operation in [Operation::Call, Operation::Get, Operation::Read] {
        let start =
            Start { operation, target: "no://such".into(), params: Json::empty_object(), continuation: None };
        let frames = rest(soon(subject.port.start(owned(), start)).await.unwrap()).await;
        let FrameBody::Error(error) = &frames[1].body else { panic!("no error") };
        assert_eq!(error.code, -32602, "{operation:?}");
        let data = error.data.as_ref().map(Json::as_str);
        assert_eq!(data, (operation == Operation::Read).then_some(r#"{"uri":"no://such"}"#), "{operation:?}");
    }
}

/// A result marked `isError` that names the place; the handler is not started.
pub async fn invalid_input_is_a_tool_error(subject: Subject) {
    for (arguments, place) in [("{}", "\"a\""), (r#"{"a":"x"}"#, "/a"), ("[]", "object")] {
        let FrameBody::Result(result) = subject.ending("typed", arguments).await else { panic!("no result") };
        assert!(result.as_str().contains(r#""isError":true"#), "{result}");
        assert!(text(&FrameBody::Result(result)).contains(place), "{arguments}");
    }
    let FrameBody::Result(result) = subject.ending("typed", r#"{"a":2}"#).await else { panic!("no result") };
    assert_eq!(result.member("structuredContent").unwrap().as_str(), r#"{"twice":4.0}"#);
}

/// A handler that breaks its promise or panics ends its own call with an internal error.
pub async fn a_broken_handler_harms_nobody_else(subject: Subject) {
    let waiting = subject.start(&owned(), "gate").await;
    for tool in ["broken", "panic"] {
        let FrameBody::Error(error) = subject.ending(tool, "{}").await else { panic!("no error") };
        assert_eq!(error.code, -32603, "{tool}");
    }
    subject.control.open_gate();
    assert_eq!(text(&rest(waiting).await.pop().unwrap().body), "opened");
}

/// Numbers, order, repeated names, white space and escapes of a raw result.
pub async fn raw_results_pass_unchanged(subject: Subject) {
    assert_eq!(subject.ending("hostile", "{}").await, FrameBody::Result(Json::trusted(HOSTILE)));
}

/// A result that no message could carry is an error, not a broken stream.
pub async fn a_result_too_large_is_an_error(subject: Subject) {
    let FrameBody::Error(error) = subject.ending("big", r#"{"bytes":9000000}"#).await else {
        panic!("no error")
    };
    assert_eq!(error.data, Some(Json::trusted(r#"{"reason":"result_too_large"}"#)));
}

/// Reading and filling in go the same way as calling.
pub async fn reads_and_gets_are_answered(subject: Subject) {
    let ending = async |operation, target: &str, params: &'static str| {
        let params = Json::trusted(params);
        let start = Start { operation, target: target.to_owned(), params, continuation: None };
        let frames = rest(soon(subject.port.start(ownerless(), start)).await.unwrap()).await;
        format!("{:?}", frames[1].body)
    };
    let read = ending(Operation::Read, "suite://text", "{}").await;
    assert!(read.contains(r#""text":"hello""#), "{read}");
    let item = ending(Operation::Read, "suite://item/42", "{}").await;
    assert!(item.contains(r#""text":"42""#), "{item}");
    let greeting = ending(Operation::Get, "greet", r#"{"arguments":{"name":"Ada"}}"#).await;
    assert!(greeting.contains("Hello Ada"), "{greeting}");
    for params in ["{}", r#"{"arguments":{"name":1}}"#] {
        assert!(ending(Operation::Get, "greet", params).await.contains("-32602"), "{params}");
    }
}

/// Whoever acts for an older owner is refused, whatever the request; other slots and meshes are not concerned.
pub async fn a_stale_epoch_is_refused(subject: Subject) {
    let by = |context: &Context, epoch| Context {
        owner: Some((context.owner.unwrap().0, Epoch(epoch))),
        ..context.clone()
    };
    let context = owned();
    subject.call(&by(&context, 5), "count").await;
    let stale = by(&context, 4);
    let error = refusal(subject.port.attach(stale.clone(), 0)).await;
    assert_eq!((error.code, &error.detail), (Code::Precondition, &Some(Detail::StaleEpoch { highest: 5 })));
    let another = Context { invocation: owned().invocation, ..stale.clone() };
    let refusals = [
        refusal(subject.port.start(another.clone(), call("count", "{}"))).await,
        refusal(subject.port.resume(stale.clone(), 1, Vec::new())).await,
        soon(subject.port.cancel(stale.clone(), String::new())).await.unwrap_err(),
        soon(subject.port.release(stale.clone(), vec![context.invocation.clone()])).await.unwrap_err(),
    ];
    assert!(refusals.iter().all(|error| is(error, Code::Precondition)), "{refusals:?}");
    assert_eq!(subject.control.runs(&another.invocation), 0);
    // The newer owner raises the bar by attaching alone.
    assert_eq!(subject.attach(&by(&context, 6), 0).await.len(), 2);
    assert!(is(&refusal(subject.port.attach(by(&context, 5), 0)).await, Code::Precondition));
    let neighbour = Context { owner: Some((Slot::new(8).unwrap(), Epoch(1))), ..owned() };
    subject.call(&neighbour, "count").await;
    subject.call(&Context { mesh: "other".into(), ..owned() }, "count").await;
    subject.call(&ownerless(), "count").await;
}

/// Whatever wakes up late: a call that a newer owner has asked after is refused; one of the same owner that is known attaches.
pub async fn a_late_call_of_an_older_owner_never_runs(subject: Subject) {
    let by = |context: &Context, epoch| Context {
        owner: Some((context.owner.unwrap().0, Epoch(epoch))),
        ..context.clone()
    };
    let (unknown, known) = (owned(), owned());
    // Written down by the old owner, and not sent before the new one asks.
    let error = refusal(subject.port.attach(by(&unknown, 6), 0)).await;
    assert!(is(&error, Code::NotFound), "{error:?}");
    let late = refusal(subject.port.start(by(&unknown, 5), call("count", "{}"))).await;
    assert_eq!((late.code, late.detail), (Code::Precondition, Some(Detail::StaleEpoch { highest: 6 })));
    assert_eq!(subject.control.runs(&unknown.invocation), 0);
    // Taken on before: the new owner reads on, the old one is refused, and nothing runs again.
    let mut frames = subject.start(&by(&known, 6), "gate").await;
    next(&mut frames).await;
    let attached = soon(subject.port.attach(by(&known, 7), 1)).await.unwrap();
    let late = refusal(subject.port.start(by(&known, 6), call("gate", "{}"))).await;
    assert_eq!(late.detail, Some(Detail::StaleEpoch { highest: 7 }));
    let repeated = subject.start(&by(&known, 7), "gate").await;
    subject.control.open_gate();
    assert_eq!(text(&rest(attached).await.pop().unwrap().body), "opened");
    assert_eq!(numbers(&rest(repeated).await), [1, 2]);
    assert_eq!(subject.control.runs(&known.invocation), 1);
    // What the new owner begins again under the same name runs once, too.
    subject.call(&by(&unknown, 7), "count").await;
    subject.call(&by(&unknown, 8), "count").await;
    assert_eq!(subject.control.runs(&unknown.invocation), 1);
}
