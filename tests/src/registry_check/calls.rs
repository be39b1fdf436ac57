//! What can be started: names that do not exist, tools and prompts that require nothing, every resource.

use api::pb::registry::v1 as pb;
use api::pb::registry::v1::frame::Kind as Body;
use api::registry::{Kind, Operation};
use serde_json::Value;
use tonic::Code;

use super::frames::{self, Expected, Place};
use super::peer::{End, Flow, Target};
use super::report::Rule;
use super::{Check, Runnable, shapes};

/// How many tools of one registry are called.
const CALLS: usize = 20;
/// How many resources are read and prompts filled in, of one registry.
const READS: usize = 50;

/// The one final frame, if there is one.
pub(super) fn last(frames: &[pb::Frame]) -> Option<&Body> {
    frames.last().and_then(|frame| frame.kind.as_ref())
}

/// The code of a closing error.
pub(super) fn failure(frames: &[pb::Frame]) -> Option<i32> {
    let Some(Body::Error(failure)) = last(frames) else { return None };
    Some(failure.code)
}

/// The closing result.
fn result(frames: &[pb::Frame]) -> Option<Value> {
    let Some(Body::RawResult(bytes)) = last(frames) else { return None };
    serde_json::from_slice(bytes).ok()
}

impl Check {
    /// Judges a stream of frames that should have come to an ending; `first` is the number of its first frame.
    pub(super) fn judge(&mut self, context: &pb::RequestContext, flow: &Flow, first: u64) -> bool {
        let expected = Expected {
            invocation: &context.invocation,
            instance: &self.instance,
            first,
            progress: context.progress,
            log: mcp::log::Level::parse(&context.log_level),
        };
        let verdicts = frames::judge(&flow.frames, &expected);
        let ended = frames::ended(&flow.frames);
        self.report.all(verdicts);
        if matches!(flow.end, End::Closed) {
            return ended;
        }
        self.report.note(Rule::Ending, Err(flow.told()));
        false
    }

    /// Starts what does not exist, in registries that exist and in one that does not.
    pub(super) async fn unknown_names(&mut self) {
        for (kind, operation, rule) in [
            (Kind::Tools, Operation::Call, Rule::UnknownTool),
            (Kind::Resources, Operation::Read, Rule::UnknownResource),
            (Kind::Prompts, Operation::Get, Rule::UnknownPrompt),
        ] {
            self.report.skip(rule, format!("no registry has {kind:?}"));
            let holding = self.registries.iter().filter(|held| held.has(kind));
            let names: Vec<String> = holding.map(|held| held.name.clone()).collect();
            for registry in &names {
                let target = Target::unknown(operation, &self.peer.fresh("no-such"));
                let context = self.peer.context(registry);
                let flow = self.peer.answer(&context, &target).await;
                self.judge(&context, &flow, 1);
                let seen = match failure(&flow.frames) {
                    Some(-32602) => Ok(()),
                    Some(-32002) if operation == Operation::Read => Ok(()),
                    Some(code) => Err(format!("{registry:?}: error {code}")),
                    None => Err(format!("{registry:?}: {}", flow.told())),
                };
                self.report.note(rule, seen);
            }
            if !names.is_empty() {
                self.unknown_registry(kind, operation).await;
            }
        }
    }

    async fn unknown_registry(&mut self, kind: Kind, operation: Operation) {
        let context = self.peer.context("registry-check-no-such-registry");
        let listed = self.peer.list(context.clone(), kind, "").await.map_err(|status| status.code());
        let target = Target::unknown(operation, &self.peer.fresh("no-such"));
        let started = self.peer.answer(&context, &target).await;
        let attached = self.peer.attach(&context, 0).await;
        for (what, code) in
            [("List", listed.err()), ("a start", started.refusal()), ("Attach", attached.refusal())]
        {
            let told = format!("{kind:?}: {what} ended with {code:?}");
            self.report
                .note(Rule::UnknownRegistry, if code == Some(Code::NotFound) { Ok(()) } else { Err(told) });
        }
    }

    /// Calls every tool that requires nothing, and finds one that runs for long.
    pub(super) async fn tools(&mut self) {
        let mut found = Vec::new();
        for held in &self.registries {
            let tools = held.items(Kind::Tools).iter().filter(|item| self.may_call(item));
            found.extend(tools.take(CALLS).filter_map(|item| {
                Some(Runnable {
                    registry: held.name.clone(),
                    target: Target::new(Operation::Call, item.get("name")?.as_str()?),
                    structured: item.get("outputSchema").is_some(),
                })
            }));
        }
        let reason = "no tool may be called without arguments";
        self.report.skip(Rule::ToolResult, reason);
        for one in found {
            self.tool(one).await;
        }
    }

    fn may_call(&self, tool: &Value) -> bool {
        let hint = |name: &str| tool.get("annotations").and_then(|all| all.get(name)?.as_bool());
        let changing = self.options.changing.as_deref();
        let named = changing.is_some_and(|name| tool.get("name").and_then(Value::as_str) == Some(name));
        let allowed = if self.options.read_only {
            hint("readOnlyHint") == Some(true)
        } else {
            hint("destructiveHint") != Some(true)
        };
        !named && allowed && shapes::requires_nothing(Kind::Tools, tool)
    }

    async fn tool(&mut self, one: Runnable) {
        let context = self.peer.context(&one.registry);
        let mut flow = self.peer.answer(&context, &one.target).await;
        if matches!(flow.end, End::Open) && !flow.frames.is_empty() && !frames::ended(&flow.frames) {
            let cancelled = self.peer.cancel(&context).await;
            flow.finish().await;
            let ended = cancelled.is_ok() && frames::ended(&flow.frames);
            let told = format!("tool {:?}: {cancelled:?}, {}", one.target.name, flow.told());
            self.report.note(Rule::CancelRunning, if ended { Ok(()) } else { Err(told) });
            self.long.get_or_insert_with(|| one.clone());
        }
        if self.judge(&context, &flow, 1) {
            self.again(&context, &flow).await;
        }
        if matches!(last(&flow.frames), Some(Body::InputRequired(_))) {
            self.asking.push(one.clone());
        }
        if flow.frames.last().map(frames::place) == Some(Place::Pause) {
            let cancelled = self.peer.cancel(&context).await;
            let rest = self.peer.attach(&context, flow.frames.len() as u64).await;
            let told = format!("parked tool {:?}: {cancelled:?}, {}", one.target.name, rest.told());
            let ended = cancelled.is_ok() && frames::ended(&rest.frames);
            self.report.note(Rule::CancelRunning, if ended { Ok(()) } else { Err(told) });
        }
        if let Some(result) = result(&flow.frames) {
            self.report.note(Rule::ToolResult, shapes::tool_result(&result, one.structured));
            self.runnable.push(one);
        }
        self.finish(&context).await;
    }

    /// Ends and forgets an invocation, whatever has become of it.
    pub(super) async fn finish(&self, context: &pb::RequestContext) {
        // Nothing depends on either: the rules about them have dialogues of their own.
        drop(self.peer.cancel(context).await);
        drop(self.peer.release(context).await);
    }

    pub(super) async fn reads_and_gets(&mut self) {
        let mut wanted = Vec::new();
        for held in &self.registries {
            for (kind, operation) in [(Kind::Resources, Operation::Read), (Kind::Prompts, Operation::Get)] {
                let items = held.items(kind).iter().filter(|item| shapes::requires_nothing(kind, item));
                let names = items.filter_map(|item| item.get(shapes::key(kind))?.as_str());
                wanted
                    .extend(names.take(READS).map(|name| (held.name.clone(), Target::new(operation, name))));
            }
        }
        self.report.skip(Rule::ReadResult, "no resource is listed");
        self.report.skip(Rule::GetResult, "no prompt is listed that requires nothing");
        for (registry, target) in wanted {
            let (rule, judge): (Rule, fn(&Value) -> shapes::Judgement) = match target.operation {
                Operation::Call | Operation::Read => (Rule::ReadResult, shapes::read_result),
                Operation::Get => (Rule::GetResult, shapes::get_result),
            };
            let context = self.peer.context(&registry);
            let flow = self.peer.answer(&context, &target).await;
            self.judge(&context, &flow, 1);
            let asks = matches!(last(&flow.frames), Some(Body::InputRequired(_)));
            let seen = match result(&flow.frames) {
                Some(result) => judge(&result),
                None if asks => Ok(()),
                None => Err(format!("{:?}: {}", target.name, flow.told())),
            };
            self.report.note(rule, seen);
            self.finish(&context).await;
        }
    }
}
