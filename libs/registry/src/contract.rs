//! The behaviour every registry must show, as a suite that runs against any implementation of the port.
//!
//! An implementation under test serves the registry `suite`, whose entries [`Control`] describes, and gives the suite hold
//! of what happens behind the port. `registry_contract!` turns a function that makes such a [`Subject`] into tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "assertions; compiled for tests only"
)]

mod asking;
mod calling;
mod fixture;
mod keeping;
mod listing;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::registry::{Context, Frame, FrameBody, Frames, InputResponse, Operation, Registry, Start};
use api::{Code, Epoch, Error, Principal, Slot};
use futures::StreamExt as _;
use mcp::{Json, Revision};

pub use self::asking::*;
pub use self::calling::*;
pub use self::fixture::{Fixture, ManualClock};
pub use self::keeping::*;
pub use self::listing::*;

/// What the suite does and sees behind the port. The registry under test has these entries:
///
/// * tool `count`: records a run, answers with the text `done`; tool `gate`: records a run, says progress 1 of 2, then
///   waits for [`Control::open_gate`] and answers `opened`, or ends when cancelled and says so; tool `talk`: progress 1,
///   0.5 and 2, logs `quiet` (debug) and `loud` (error), the notice `notifications/x`, a detach of 250 ms, then `said`;
/// * tool `ask`: asks for `name` and `age` by elicitation for ten minutes and answers with both as text;
///   `give-up`: asks for `name` until the gate opens, then answers `gave up`; `again`: the same as `ask` without state;
/// * tool `typed`: number `a`, doubles it as structured `{"twice"}`; `broken`: breaks its output schema; `panic`: does;
///   `big`: number `bytes`, answers with a text of that length; `hostile`: answers with [`HOSTILE`];
/// * resources `suite://text` (watchable) and template `suite://item/{id}`; prompt `greet` with required argument `name`,
///   completed from Ada and Alan; tools `page-1` to `page-5`; two entries a page.
pub trait Control: Send + Sync {
    /// How often the handler of this invocation was started.
    fn runs(&self, invocation: &str) -> usize;
    /// Whether the handler of this invocation saw its cancellation, or was dropped before its end.
    fn stopped(&self, invocation: &str) -> bool;
    /// Lets every waiting `gate` and `give-up` go on, now and later.
    fn open_gate(&self);
    /// Lets time pass.
    fn advance(&self, time: Duration);
    /// Adds a tool that does nothing.
    fn add_tool(&self, name: &str);
    /// Removes a tool.
    fn remove_tool(&self, name: &str);
    /// Changes a resource.
    fn touch(&self, uri: &str);
    /// Begins to drain.
    fn begin_drain(&self);
    /// How many bytes of finished invocations are kept.
    fn keep_bytes(&self) -> usize;
    /// The time, for deadlines.
    fn now(&self) -> std::time::Instant;
}

/// A result that only an unchanged copy equals.
pub const HOSTILE: &str = "{ \"zeta\" : 1.0, \"content\":[ ], \"n\":[1e400,-0,9223372036854775808,1E+2], \
    \"dup\":{\"a\":1,\"a\":2}, \"\\u0061\":\"\\u00e9\\/\", \"_meta\":{\"x/y\":null} }";

/// An implementation under test.
#[derive(Clone)]
pub struct Subject {
    /// The port.
    pub port: Arc<dyn Registry>,
    /// What is behind it.
    pub control: Arc<dyn Control>,
}

/// Makes a test of every case for a function that makes a [`Subject`].
#[macro_export]
macro_rules! registry_contract {
    ($make:path) => {
        $crate::registry_contract!(@ $make:
            the_first_frame_accepts, frames_are_numbered_and_complete, only_what_is_wanted_is_said,
            a_repeated_invocation_attaches, concurrent_repeats_run_once, attach_reads_on_while_it_runs,
            attach_reads_on_when_it_has_ended, what_is_not_known_cannot_be_attached_to,
            an_owned_invocation_outlives_its_caller, an_ownerless_invocation_ends_with_its_caller,
            cancel_stops_the_handler, cancel_of_nothing_is_ignored, a_deadline_ends_the_call,
            unknown_entries_are_errors, invalid_input_is_a_tool_error, a_broken_handler_harms_nobody_else,
            raw_results_pass_unchanged, a_result_too_large_is_an_error, reads_and_gets_are_answered,
            a_stale_epoch_is_refused, a_late_call_of_an_older_owner_never_runs,
            a_question_parks_the_handler, answers_that_came_along_are_taken,
            incomplete_answers_are_asked_for_again, a_round_is_answered_once,
            a_refusal_reaches_the_handler, a_handler_may_give_up_asking, an_unanswered_question_expires,
            only_declared_capabilities_are_asked, a_handler_without_state_is_called_again,
            rounds_that_were_not_asked_are_refused, a_parked_handler_can_be_cancelled,
            an_ownerless_question_waits_without_a_caller, a_question_nobody_heard_is_cancelled,
            lists_come_in_pages, cursors_are_bound_to_their_list, one_digest_everywhere,
            a_change_is_one_event, arguments_are_completed, watched_resources_report_changes,
            draining_refuses_new_calls_only, release_forgets, finished_invocations_are_kept_five_minutes,
            what_is_kept_is_bounded, ownerless_invocations_are_not_kept
        );
    };
    (@ $make:path: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::contract::$case($make().await).await;
            }
        )*
    };
}

/// Answers that must come soon.
pub(super) async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an answer within 20 s")
}

/// Waits for something that must become true soon.
pub(super) async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The context of a new invocation without an owner, by a client that can do everything.
pub(super) fn ownerless() -> Context {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Context {
        mesh: "mesh".into(),
        registry: "suite".into(),
        invocation: format!("invocation-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        owner: None,
        principal: Principal::default(),
        affinity: String::new(),
        revision: Revision::V2025_11_25,
        client_capabilities: Some(Json::trusted(r#"{"elicitation":{},"sampling":{},"roots":{}}"#)),
        log_level: None,
        progress: false,
        catalogue_digest: String::new(),
        deadline: None,
    }
}

/// The context of a new invocation of a session.
pub(super) fn owned() -> Context {
    Context { owner: Some((Slot::new(7).unwrap(), Epoch(1))), ..ownerless() }
}

pub(super) fn call(tool: &str, arguments: &'static str) -> Start {
    let params = Json::trusted(format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#));
    Start { operation: Operation::Call, target: tool.into(), params, continuation: None }
}

impl Subject {
    pub(super) async fn start(&self, context: &Context, tool: &str) -> Frames {
        soon(self.port.start(context.clone(), call(tool, "{}"))).await.unwrap()
    }

    /// Every frame of a call.
    pub(super) async fn call(&self, context: &Context, tool: &str) -> Vec<Frame> {
        rest(self.start(context, tool).await).await
    }

    pub(super) async fn attach(&self, context: &Context, after: u64) -> Vec<Frame> {
        rest(soon(self.port.attach(context.clone(), after)).await.unwrap()).await
    }

    /// The ending of a call with these arguments.
    pub(super) async fn ending(&self, tool: &str, arguments: &'static str) -> FrameBody {
        let frames = soon(self.port.start(ownerless(), call(tool, arguments))).await.unwrap();
        rest(frames).await.pop().unwrap().body
    }

    pub(super) async fn resume(&self, context: &Context, round: u32, answers: &[(&str, &str)]) -> Vec<Frame> {
        rest(self.resuming(context, round, answers).await.unwrap()).await
    }

    pub(super) async fn resuming(
        &self,
        context: &Context,
        round: u32,
        answers: &[(&str, &str)],
    ) -> Result<Frames, Error> {
        let responses = answers
            .iter()
            .map(|(key, answer)| InputResponse {
                key: (*key).to_owned(),
                answer: Ok(Json::trusted((*answer).to_owned())),
            })
            .collect();
        soon(self.port.resume(context.clone(), round, responses)).await
    }
}

/// The frames that are left, up to the ending.
pub(super) async fn rest(frames: Frames) -> Vec<Frame> {
    soon(frames.map(|frame| frame.expect("no broken stream")).collect()).await
}

pub(super) async fn next(frames: &mut Frames) -> Frame {
    soon(frames.next()).await.expect("another frame").expect("no broken stream")
}

pub(super) fn numbers(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.number).collect()
}

/// The text of a tool's result, or of an error.
pub(super) fn text(body: &FrameBody) -> String {
    match body {
        FrameBody::Result(result) => {
            let content = mcp::scan::member(result.as_str(), "content").expect("content");
            let first = mcp::scan::elements(content).next().expect("a first content");
            Json::trusted(first.to_owned()).text("text").expect("a text")
        }
        FrameBody::Error(error) => format!("{}: {}", error.code, error.message),
        FrameBody::Accepted { .. }
        | FrameBody::Progress(_)
        | FrameBody::Log(_)
        | FrameBody::Notice { .. }
        | FrameBody::Detach { .. }
        | FrameBody::InputRequired(_)
        | FrameBody::Task(_) => panic!("not a result: {body:?}"),
    }
}

/// The code a request is refused with, at once or as the first thing in its stream.
pub(super) async fn refusal(answer: impl Future<Output = Result<Frames, Error>>) -> Error {
    match soon(answer).await {
        Err(error) => error,
        Ok(mut frames) => match soon(frames.next()).await {
            Some(Err(error)) => error,
            other => panic!("not refused: {other:?}"),
        },
    }
}

pub(super) fn is(error: &Error, code: Code) -> bool {
    error.code == code
}
