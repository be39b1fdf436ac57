use std::time::Duration;

use api::{Epoch, Slot};
use mcp::Json;

use super::super::catalogue::{Entry, Holders, SourceKey};
use super::super::fake::{Fake, Manner, Opened};
use super::super::link::own_context;
use super::super::route::Named;
use chassis::metrics::Metrics;

use super::*;

fn accepted(instance: &str) -> FrameBody {
    FrameBody::Accepted { invocation: "i".into(), instance: instance.into() }
}

fn progress(value: u32) -> FrameBody {
    FrameBody::Progress(Json::trusted(format!("{{\"progress\":{value}}}")))
}

fn result() -> FrameBody {
    FrameBody::Result(Json::trusted("{}"))
}

/// Frames from a number on, and then the end of the connection.
fn frames(from: u64, bodies: impl IntoIterator<Item = FrameBody>) -> Opened {
    let numbered = (from..).zip(bodies).map(|(number, body)| Ok(Frame { number, body }));
    Ok(numbered.chain([Err(gone())]).collect())
}

fn gone() -> Error {
    Error::new(Code::Unavailable, "connection lost")
}

struct Told {
    heard: Vec<Heard>,
    asked: Vec<(&'static str, u64)>,
    invocations: Vec<String>,
}

/// What is heard of a call that a registry answers like this.
async fn told(
    operation: Operation,
    owned: bool,
    scripts: impl IntoIterator<Item = Opened>,
    go: impl FnOnce(Arc<Call>) -> BoxStream<'static, Heard>,
) -> Told {
    heard_of(operation, owned, false, scripts, go).await
}

/// The same of one that is at the registry already.
async fn told_later(
    scripts: impl IntoIterator<Item = Opened>,
    go: impl FnOnce(Arc<Call>) -> BoxStream<'static, Heard>,
) -> Told {
    heard_of(Operation::Call, true, true, scripts, go).await
}

async fn heard_of(
    operation: Operation,
    owned: bool,
    placed: bool,
    scripts: impl IntoIterator<Item = Opened>,
    go: impl FnOnce(Arc<Call>) -> BoxStream<'static, Heard>,
) -> Told {
    let (all, link, fake) = Fake::new(Manner::Accepts, &[]).alone();
    link.know(&["r"]);
    fake.scripts.lock().unwrap().extend(scripts);
    let source = Arc::new(SourceKey { registry: "r".into(), ..SourceKey::default() });
    let holders = Arc::new(Holders { alike: vec![link.id], others: Vec::new() });
    let entry = Entry { source, holders, own: "t".into(), headers: Vec::new() };
    let route = Route { all, entry, named: Named::of(operation, "t") };
    let mut context = own_context("r");
    context.invocation = "first".into();
    context.owner = owned.then_some((Slot::new(1).unwrap(), Epoch(1)));
    context.deadline = Some(std::time::Instant::now() + Duration::from_secs(3600));
    let begin = Start { operation, target: "t".into(), params: Json::empty_object(), continuation: None };
    let call = Call::new(&Observed::new(&Metrics::default()), route, begin, context);
    if placed {
        call.put(&link);
    }
    let heard = go(call).collect().await;
    let asked = fake.asked.lock().unwrap().clone();
    let invocations = asked.iter().map(|(_, invocation, _)| invocation.clone()).collect();
    Told { heard, asked: asked.into_iter().map(|(verb, _, after)| (verb, after)).collect(), invocations }
}

fn heard(frame: CallFrame) -> Heard {
    Heard::Frame(frame)
}

fn ended() -> Heard {
    heard(CallFrame::Result(Json::trusted("{}")))
}

fn given_up(reason: &'static str, not_executed: bool) -> Heard {
    heard(CallFrame::Lost { reason, not_executed })
}

#[tokio::test(start_paused = true)]
async fn a_call_is_attached_to_and_each_frame_counts_once() {
    let scripts = [
        frames(1, [accepted("a"), progress(1)]),
        Err(gone()),
        frames(2, [progress(1), progress(2), result()]),
    ];
    let told = told(Operation::Call, true, scripts, Call::begin).await;
    assert_eq!(told.asked, [("start", 0), ("attach", 2), ("attach", 2)]);
    let instance = "a".to_owned();
    let rest = [1, 2].map(|n| heard(CallFrame::Progress(Json::trusted(format!("{{\"progress\":{n}}}")))));
    assert_eq!(told.heard[0], heard(CallFrame::Accepted { instance }));
    assert_eq!(told.heard[1..3], rest);
    assert_eq!(told.heard[3..], [ended()]);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_sent_again_and_a_shorter_second_answer_still_ends_it() {
    for owned in [true, false] {
        let scripts =
            [frames(1, [accepted("a"), progress(1), progress(2)]), frames(1, [accepted("b"), result()])];
        let told = told(Operation::Read, owned, scripts, Call::begin).await;
        assert_eq!(told.asked, [("start", 0), ("start", 0)]);
        assert_eq!(told.heard.last(), Some(&ended()), "owned: {owned}");
        assert_ne!(told.invocations[0], told.invocations[1], "the first one may be ending");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_refuses_was_not_executed_wherever_its_status_stands() {
    let draining = Error::draining;
    for scripts in [Err(draining()), Ok(vec![Err(draining())])] {
        let told = told(Operation::Call, true, [scripts], Call::begin).await;
        assert_eq!(told.heard, [given_up("registry_lost", true)]);
        assert_eq!(told.asked, [("start", 0)]);
    }
    let unknown = told(Operation::Call, false, [Err(gone())], Call::begin).await;
    assert_eq!(unknown.heard, [given_up("registry_lost", false)], "it may have been executed");
    assert_eq!(unknown.asked.len(), 1, "a call without an owner is not repeated");
}

#[tokio::test(start_paused = true)]
async fn answers_are_sent_again_until_the_registry_is_back() {
    let go = |call: Arc<Call>| call.resume(1, Vec::new());
    let scripts = [frames(3, [progress(1)]), Err(gone()), frames(3, [progress(1), result()])];
    let resumed = told_later(scripts, go).await;
    assert_eq!(resumed.asked, [("resume", 0); 3]);
    assert_eq!((resumed.heard.len(), resumed.heard.last()), (2, Some(&ended())));
    let lost = told_later([Err(Error::not_found("restarted"))], go).await;
    assert_eq!(lost.heard, [given_up("registry_lost", false)], "it had begun");
}

#[tokio::test(start_paused = true)]
async fn patience_has_an_end() {
    for operation in [Operation::Call, Operation::Read] {
        let told = told(operation, true, [frames(1, [accepted("a")])], Call::begin).await;
        assert_eq!(told.heard.last(), Some(&given_up("registry_lost", false)));
        assert_eq!(told.asked.len(), 51, "every 100 ms for five seconds");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ending_whose_number_was_heard_before_ends_the_call_all_the_same() {
    let broken = given_up("registry_failed", false);
    let zero = told(Operation::Call, true, [frames(0, [result()])], Call::begin).await;
    assert_eq!(zero.heard, std::slice::from_ref(&broken));
    let twice = [(1, accepted("a")), (2, progress(1)), (2, result())];
    let script = Ok(twice.map(|(number, body)| Ok(Frame { number, body })).into());
    let twice = told(Operation::Call, true, [script], Call::begin).await;
    assert_eq!((twice.heard.len(), twice.heard.last()), (3, Some(&broken)));
    let resumed = told_later([frames(0, [result()])], |call| call.resume(1, Vec::new())).await;
    assert_eq!(resumed.heard, [broken]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_parked_handler_gave_beside_counts_once() {
    let both = |call: Arc<Call>| {
        let resumed = call.clone().resume(1, Vec::new());
        call.attach().chain(resumed).boxed()
    };
    let scripts = [frames(3, [result()]), frames(3, [result()])];
    assert_eq!(told_later(scripts, both).await.heard, [ended()]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_result_is_a_failure_of_the_registry() {
    for text in ["3", "null", "[1]", "\"x\""] {
        for body in [FrameBody::Result(Json::trusted(text)), FrameBody::Task(Json::trusted(text))] {
            let told = told(Operation::Call, true, [frames(1, [accepted("a"), body])], Call::begin).await;
            assert_eq!(told.heard.last(), Some(&given_up("registry_failed", false)), "{text}");
        }
    }
}
