//! Cases: questions to the client in the middle of a call.

use std::time::Duration;

use api::Code;
use api::registry::{Context, Continuation, Frame, FrameBody, InputRequired, InputResponse, Round};
use mcp::Json;
use mcp::rpc::RpcError;

use super::{Subject, call, is, next, numbers, owned, ownerless, refusal, rest, soon, text, until};

const NAME: (&str, &str) = ("name", r#"{"action":"accept","content":{"value":"Ada"}}"#);
const AGE: (&str, &str) = ("age", r#"{"action":"accept","content":{"value":36}}"#);
const BOTH: &str =
    r#"{"action":"accept","content":{"value":"Ada"}} and {"action":"accept","content":{"value":36}}"#;

/// The question a round ended with.
fn question(frames: &[Frame]) -> &InputRequired {
    let last = &frames.last().expect("a frame").body;
    let FrameBody::InputRequired(input) = last else { panic!("not a question: {last:?}") };
    input
}

fn keys(input: &InputRequired) -> Vec<String> {
    mcp::scan::members(input.requests.as_str()).map(|member| member.key.into_owned()).collect()
}

/// The round's frames end with the question; the same handler goes on with the answers; the numbers go on too.
pub async fn a_question_parks_the_handler(subject: Subject) {
    let context = Context { progress: true, ..owned() };
    let frames = subject.call(&context, "ask").await;
    assert_eq!(numbers(&frames), [1, 2]);
    let input = question(&frames);
    assert_eq!((keys(input), input.round), (vec!["name".to_owned(), "age".to_owned()], 1));
    assert_eq!(input.continuation, Continuation::Parked);
    assert_eq!(input.expires_unix_ms, 1_600_000);
    let name = input.requests.member("name").unwrap();
    assert_eq!(name.text("method").as_deref(), Some("elicitation/create"));
    let rest = subject.resume(&context, 1, &[NAME, AGE]).await;
    assert_eq!(numbers(&rest), [3, 4]);
    assert_eq!(text(&rest[1].body), BOTH);
    assert_eq!(subject.control.runs(&context.invocation), 1);
    assert_eq!(
        numbers(&subject.attach(&context, 0).await),
        [1, 2, 3, 4],
        "an answered question does not end a reading"
    );
}

/// A client that sent all the answers along is not asked; one that sent some, or something else, is.
pub async fn answers_that_came_along_are_taken(subject: Subject) {
    let along = |answers: &[(&str, &str)]| {
        let one = |(key, answer): &(&str, &str)| InputResponse {
            key: (*key).to_owned(),
            answer: Ok(Json::trusted((*answer).to_owned())),
        };
        let round =
            Round { state: Vec::new().into(), round: 0, responses: answers.iter().map(one).collect() };
        api::registry::Start { continuation: Some(round), ..call("ask", "{}") }
    };
    let complete = along(&[NAME, AGE, ("other", "{}")]);
    let frames = rest(soon(subject.port.start(owned(), complete)).await.unwrap()).await;
    assert_eq!(text(&frames.last().expect("a frame").body), BOTH);
    for incomplete in [&[NAME][..], &[NAME, ("age", "7")], &[]] {
        let frames = rest(soon(subject.port.start(owned(), along(incomplete))).await.unwrap()).await;
        assert_eq!((question(&frames).round, keys(question(&frames)).len()), (1, 2));
    }
}

/// What is missing is asked for again in the same round; what was not asked is ignored.
pub async fn incomplete_answers_are_asked_for_again(subject: Subject) {
    let context = owned();
    subject.call(&context, "ask").await;
    let again = subject.resume(&context, 1, &[AGE, ("other", "{}")]).await;
    assert_eq!(
        (numbers(&again), keys(question(&again)), question(&again).round),
        (vec![3], vec!["name".into()], 1)
    );
    for no_answer in ["7", "null", "[]", "\"Ada\""] {
        let again = subject.resume(&context, 1, &[("name", no_answer)]).await;
        assert_eq!(keys(question(&again)), ["name"], "{no_answer} is no answer");
    }
    let again = subject.resume(&context, 1, &[]).await;
    assert_eq!(
        (numbers(&again), keys(question(&again)), question(&again).round),
        (vec![8], vec!["name".into()], 1)
    );
    let done = subject.resume(&context, 1, &[NAME]).await;
    assert_eq!((numbers(&done), text(&done[0].body)), (vec![9], BOTH.to_owned()));
}

/// A repeated answer hears what came of the first one.
pub async fn a_round_is_answered_once(subject: Subject) {
    let context = owned();
    subject.call(&context, "ask").await;
    let first = subject.resume(&context, 1, &[NAME, AGE]).await;
    let other = ("name", r#"{"action":"decline"}"#);
    assert_eq!(subject.resume(&context, 1, &[other, AGE]).await, first);
    assert_eq!(subject.resume(&context, 1, &[]).await, first);
}

/// A client's refusal is an answer.
pub async fn a_refusal_reaches_the_handler(subject: Subject) {
    let context = owned();
    subject.call(&context, "ask").await;
    let refused = InputResponse { key: "name".into(), answer: Err(RpcError::new(-1, "user said no")) };
    let age = InputResponse { key: "age".into(), answer: Ok(Json::trusted("{}")) };
    let frames = soon(subject.port.resume(context, 1, vec![refused, age])).await.unwrap();
    assert_eq!(text(&rest(frames).await[0].body), "refused: user said no and {}");
}

/// Whoever attaches behind the question hears the handler answer without it.
pub async fn a_handler_may_give_up_asking(subject: Subject) {
    let context = owned();
    let frames = subject.call(&context, "give-up").await;
    let listening = soon(subject.port.attach(context.clone(), question_number(&frames))).await.unwrap();
    subject.control.open_gate();
    let heard = rest(listening).await;
    assert_eq!((numbers(&heard), text(&heard[0].body)), (vec![3], "gave up".to_owned()));
    assert_eq!(subject.resume(&context, 1, &[NAME]).await, heard, "too late, but told what came of it");
}

fn question_number(frames: &[Frame]) -> u64 {
    frames.last().expect("a frame").number
}

/// When its time is over the handler is told, and the call ends; the deadline of a request does not count meanwhile.
pub async fn an_unanswered_question_expires(subject: Subject) {
    let context = Context { deadline: Some(subject.control.now() + Duration::from_secs(60)), ..owned() };
    let frames = subject.call(&context, "ask").await;
    let listening = soon(subject.port.attach(context.clone(), question_number(&frames))).await.unwrap();
    subject.control.advance(Duration::from_secs(599));
    subject.call(&owned(), "count").await;
    assert!(!subject.control.stopped(&context.invocation), "it still waits");
    subject.control.advance(Duration::from_secs(2));
    let heard = rest(listening).await;
    let FrameBody::Error(error) = &heard[0].body else { panic!("no error: {heard:?}") };
    assert_eq!(error.data, Some(Json::trusted(r#"{"reason":"input_expired"}"#)));
    assert_eq!(subject.resume(&context, 1, &[NAME, AGE]).await, heard);
}

/// -32021 with what would be needed, and no question.
pub async fn only_declared_capabilities_are_asked(subject: Subject) {
    for tool in ["ask", "again"] {
        let context = Context { client_capabilities: Some(Json::trusted(r#"{"roots":{}}"#)), ..owned() };
        let frames = subject.call(&context, tool).await;
        let FrameBody::Error(error) = &frames[1].body else { panic!("no error: {frames:?}") };
        assert_eq!(error.code, -32021);
        let required = r#"{"requiredCapabilities":{"elicitation":{"form":{}}}}"#;
        assert_eq!(error.data, Some(Json::trusted(required)), "{tool}");
    }
}

/// Its state comes back with the answers, under a new invocation.
pub async fn a_handler_without_state_is_called_again(subject: Subject) {
    let frames = subject.call(&owned(), "again").await;
    let input = question(&frames);
    assert_eq!((keys(input).len(), input.round), (2, 1));
    let Continuation::State(state) = input.continuation.clone() else { panic!("parked") };
    let answer = |(key, json): (&str, &'static str)| InputResponse {
        key: key.into(),
        answer: Ok(Json::trusted(json)),
    };
    let continued = async |state: &[u8], round| {
        let mut start = call("again", "{}");
        let responses = vec![answer(NAME), answer(AGE)];
        start.continuation = Some(Round { state: state.to_vec().into(), round, responses });
        rest(soon(subject.port.start(owned(), start)).await.unwrap()).await
    };
    assert_eq!(text(&continued(&state, 1).await[1].body), BOTH);
    assert_eq!(question(&continued(b"lost", 1).await).round, 2, "the next question is the next round");
}

/// A round from nowhere is a bad request.
pub async fn rounds_that_were_not_asked_are_refused(subject: Subject) {
    let context = owned();
    subject.call(&context, "ask").await;
    for round in [0, 2, u32::MAX] {
        let error = refusal(subject.port.resume(context.clone(), round, Vec::new())).await;
        assert!(is(&error, Code::InvalidRequest), "{round}: {error:?}");
    }
    let plain = owned();
    subject.call(&plain, "count").await;
    assert!(is(&refusal(subject.port.resume(plain, 1, Vec::new())).await, Code::InvalidRequest));
}

/// Cancel reaches a handler that waits.
pub async fn a_parked_handler_can_be_cancelled(subject: Subject) {
    let context = owned();
    let frames = subject.call(&context, "ask").await;
    soon(subject.port.cancel(context.clone(), String::new())).await.unwrap();
    let heard = subject.attach(&context, question_number(&frames)).await;
    assert_eq!(text(&heard[0].body), "-32603: cancelled");
    until(|| subject.control.stopped(&context.invocation)).await;
    assert_eq!(subject.resume(&context, 1, &[NAME, AGE]).await, heard);
}

/// A modern client is gone while its user thinks.
pub async fn an_ownerless_question_waits_without_a_caller(subject: Subject) {
    let context = ownerless();
    subject.call(&context, "ask").await;
    subject.call(&ownerless(), "count").await;
    assert!(!subject.control.stopped(&context.invocation), "it waits");
    let done = subject.resume(&context, 1, &[NAME, AGE]).await;
    assert_eq!(text(&done.last().unwrap().body), BOTH);
}

/// A caller without an owner that left before it heard the question will not answer it.
pub async fn a_question_nobody_heard_is_cancelled(subject: Subject) {
    let context = ownerless();
    let mut frames = subject.start(&context, "give-up").await;
    next(&mut frames).await;
    drop(frames);
    // Over a connection the question may have been heard: it was sent before the caller left.
    soon(subject.port.cancel(context.clone(), String::new())).await.unwrap();
    let gone = async || matches!(soon(subject.port.attach(context.clone(), 0)).await, Err(e) if is(&e, Code::NotFound));
    soon(async {
        while !gone().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
