//! Handlers that ask the client.

use std::collections::BTreeMap;

use api::pb::registry::v1 as pb;
use api::pb::registry::v1::frame::Kind as Body;
use api::pb::registry::v1::input_required::Continuation;
use serde_json::{Value, json};
use tonic::Code;

use super::calls::{failure, last};
use super::frames::{self, Place};
use super::peer::{End, Flow};
use super::report::Rule;
use super::{Check, Runnable};

/// No honest tool asks as often.
const ROUNDS: usize = 8;

/// The question a stream ended with.
fn question(frames: &[pb::Frame]) -> Option<&pb::InputRequired> {
    let Some(Body::InputRequired(input)) = &frames.last()?.kind else { return None };
    Some(input)
}

/// Answers of a client that has nothing to say.
fn answers(input: &pb::InputRequired) -> Vec<pb::InputResponse> {
    use pb::input_response::Answer;
    let requests: BTreeMap<String, Value> =
        serde_json::from_slice(&input.raw_input_requests).unwrap_or_default();
    let one = |(key, request): (String, Value)| {
        let result = match request.get("method").and_then(Value::as_str) {
            Some("elicitation/create") => Some(json!({"action": "decline"})),
            Some("sampling/createMessage") => {
                let content = json!({"type": "text", "text": "checked"});
                Some(json!({"role": "assistant", "content": content, "model": "registry-check"}))
            }
            Some("roots/list") => Some(json!({"roots": []})),
            Some(_) | None => None,
        };
        let refusal =
            || pb::Failure { code: -32601, message: "not supported".to_owned(), ..Default::default() };
        let answer =
            result.map_or_else(|| Answer::Error(refusal()), |r| Answer::RawResult(r.to_string().into()));
        pb::InputResponse { key, answer: Some(answer) }
    };
    requests.into_iter().map(one).collect()
}

impl Check {
    /// Follows every tool that asks to its end.
    pub(super) async fn rounds(&mut self) {
        for rule in [Rule::Parked, Rule::ParkedAttach, Rule::Incomplete, Rule::RoundOver, Rule::RoundUnknown]
        {
            self.report.skip(rule, "no tool that requires nothing parks");
        }
        self.report.skip(Rule::Stateless, "no tool that requires nothing asks with a state");
        self.report.skip(Rule::Undeclared, "no tool that requires nothing asks");
        let Some(registry) = self.registries.first().map(|held| held.name.clone()) else { return };
        let flow = self.peer.resume(&self.peer.context(&registry), 1, Vec::new()).await;
        let known = flow.refusal() != Some(Code::NotFound);
        self.report.note(Rule::ResumeUnknown, if known { Err(flow.told()) } else { Ok(()) });
        for one in self.asking.clone() {
            self.undeclared(&one).await;
            self.round(&one).await;
        }
    }

    /// A client that can do nothing.
    async fn undeclared(&mut self, one: &Runnable) {
        let context = self.peer.context(&one.registry);
        let context = pb::RequestContext { raw_client_capabilities: "{}".into(), ..context };
        let flow = self.peer.answer(&context, &one.target).await;
        let told = format!("tool {:?}: {}, {:?}", one.target.name, flow.told(), failure(&flow.frames));
        let asked_nothing = question(&flow.frames).is_some_and(|input| answers(input).is_empty());
        let managed = matches!(last(&flow.frames), Some(Body::RawResult(_))) || asked_nothing;
        let good = managed || failure(&flow.frames) == Some(-32021);
        self.report.note(Rule::Undeclared, if good { Ok(()) } else { Err(told) });
        self.finish(&context).await;
    }

    async fn round(&mut self, one: &Runnable) {
        let context = self.peer.context(&one.registry);
        let flow = self.peer.answer(&context, &one.target).await;
        match flow.frames.last().map(frames::place) {
            Some(Place::Pause) => self.parked(&context, flow).await,
            Some(Place::Final) => self.stateless(one, &flow).await,
            Some(Place::Start | Place::Step | Place::Nothing) | None => {}
        }
        self.finish(&context).await;
    }

    async fn parked(&mut self, context: &pb::RequestContext, start: Flow) {
        let mut whole = start.frames;
        for round in 0..ROUNDS {
            let Some(input) = question(&whole).cloned() else { break };
            let seen = whole.len() as u64;
            let mut waiting = self.peer.attaching(context, seen);
            waiting.listen().await;
            let waits = matches!(waiting.end, End::Open) && waiting.frames.is_empty();
            let told = format!("before the answer: {}", waiting.told());
            self.report.note(Rule::ParkedAttach, if waits { Ok(()) } else { Err(told) });
            let given = answers(&input);
            if round == 0 {
                let flow = self.peer.resume(context, input.round + 90, Vec::new()).await;
                let refused = flow.refusal() == Some(Code::InvalidArgument);
                self.report.note(Rule::RoundUnknown, if refused { Ok(()) } else { Err(flow.told()) });
            }
            if round == 0 && !given.is_empty() {
                let flow = self.peer.resume(context, input.round, Vec::new()).await;
                let again = question(&flow.frames).map(|again| again.round);
                let told = format!("round {} was asked again as {again:?}: {}", input.round, flow.told());
                self.report
                    .note(Rule::Incomplete, if again == Some(input.round) { Ok(()) } else { Err(told) });
                whole.extend(flow.frames);
                if again.is_none() {
                    break;
                }
            }
            let flow = self.peer.resume(context, input.round, given).await;
            let told = format!("Resume of round {}: {}", input.round, flow.told());
            let goes_on = self.judge(context, &flow, whole.len() as u64 + 1);
            let numbered = flow.frames.first().is_some_and(|frame| frame.number == whole.len() as u64 + 1);
            self.report.note(Rule::Parked, if goes_on && numbered { Ok(()) } else { Err(told) });
            whole.extend(flow.frames);
            waiting.finish().await;
            let follows = whole.get(usize::try_from(seen).unwrap_or(0)..).unwrap_or_default();
            let heard = frames::ended(&waiting.frames) && follows.starts_with(&waiting.frames);
            let told = format!("after the answer: {}", waiting.told());
            self.report.note(Rule::ParkedAttach, if heard { Ok(()) } else { Err(told) });
        }
        let asked = whole
            .iter()
            .rposition(|frame| matches!(&frame.kind, Some(Body::InputRequired(input)) if input.round == 1));
        let behind = asked.and_then(|at| whole.get(at + 1..)).unwrap_or_default();
        let flow = self.peer.resume(context, 1, Vec::new()).await;
        let same = flow.frames == behind && matches!(flow.end, End::Closed);
        let told = format!("Resume of round 1 at the end: {}", flow.told());
        self.report.note(Rule::RoundOver, if same { Ok(()) } else { Err(told) });
        let whole = Flow::closed(whole, self.peer.waits.clone());
        self.judge(context, &whole, 1);
        self.again(context, &whole).await;
    }

    async fn stateless(&mut self, one: &Runnable, start: &Flow) {
        let mut input = question(&start.frames).cloned();
        for _ in 0..ROUNDS {
            let Some(asked) = input.take() else { break };
            let Some(Continuation::State(state)) = asked.continuation.clone() else { break };
            let continuation = pb::Continuation { state, round: asked.round, responses: answers(&asked) };
            let context = self.peer.context(&one.registry);
            let mut flow =
                self.peer.begin(&context, &one.target, Some(continuation), self.peer.waits.patience * 20);
            flow.finish().await;
            let ended = self.judge(&context, &flow, 1);
            input = question(&flow.frames).cloned();
            let follows = input.as_ref().is_none_or(|next| next.round == asked.round + 1);
            let told =
                format!("round {}, then {:?}: {}", asked.round, input.as_ref().map(|i| i.round), flow.told());
            self.report.note(Rule::Stateless, if ended && follows { Ok(()) } else { Err(told) });
            self.finish(&context).await;
        }
    }
}
