//! Completion, subscriptions, sizes, and fields of a later version.

use std::time::Duration;

use api::pb::registry::v1 as pb;
use api::registry::{Kind, Operation};
use api::wire::MAX_MESSAGE;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, interval, timeout};

use super::calls::failure;
use super::frames::raw;
use super::peer::{Flow, Target};
use super::report::Rule;
use super::{Check, raw, shapes};

/// How many completions are asked for.
const COMPLETIONS: usize = 20;
/// At least this long is between two attempts to be served again.
const BETWEEN: Duration = Duration::from_millis(50);

impl Check {
    pub(super) async fn completions(&mut self) {
        let mut wanted: Vec<(String, Value)> = Vec::new();
        let mut strange = Vec::new();
        for held in self.registries.iter().filter(|held| held.completions) {
            for prompt in held.items(Kind::Prompts) {
                let arguments = prompt.get("arguments").and_then(Value::as_array).into_iter().flatten();
                wanted.extend(arguments.map(|argument| {
                    let reference = json!({"type": "ref/prompt", "name": prompt["name"]});
                    let argument = json!({"name": argument["name"], "value": ""});
                    (held.name.clone(), json!({"ref": reference, "argument": argument}))
                }));
            }
            for template in held.keys(Kind::Templates) {
                wanted.extend(shapes::variables(template).into_iter().map(|name| {
                    let reference = json!({"type": "ref/resource", "uri": template});
                    (held.name.clone(), json!({"ref": reference, "argument": {"name": name, "value": ""}}))
                }));
            }
            let reference = json!({"type": "ref/prompt", "name": self.peer.fresh("no-such")});
            strange
                .push((held.name.clone(), json!({"ref": reference, "argument": {"name": "a", "value": ""}})));
        }
        let reason = "no registry says that it completes something it lists";
        self.report.skip(Rule::Complete, reason);
        self.report.skip(Rule::CompleteUnknown, "no registry says that it completes");
        for (registry, params) in wanted.into_iter().take(COMPLETIONS) {
            let seen = match self.completed(&registry, &params).await {
                Ok(Ok(result)) => shapes::completion(&result),
                Ok(Err(code)) => Err(format!("{params}: error {code}")),
                Err(text) => Err(format!("{params}: {text}")),
            };
            self.report.note(Rule::Complete, seen);
        }
        for (registry, params) in strange {
            let seen = match self.completed(&registry, &params).await {
                Ok(Err(-32602)) => Ok(()),
                other => Err(format!("{other:?}")),
            };
            self.report.note(Rule::CompleteUnknown, seen);
        }
    }

    async fn completed(&mut self, registry: &str, params: &Value) -> Result<Result<Value, i32>, String> {
        use pb::complete_response::Outcome;
        let context = self.peer.context(registry);
        let response = self.peer.complete(context, params.to_string()).await.map_err(|s| s.to_string())?;
        match response.outcome {
            Some(Outcome::RawResult(bytes)) => {
                self.report.note(Rule::RawJson, raw("raw_result of Complete", &bytes));
                serde_json::from_slice(&bytes).map(Ok).map_err(|error| error.to_string())
            }
            Some(Outcome::Error(failure)) => Ok(Err(failure.code)),
            None => Err("there is no outcome".to_owned()),
        }
    }

    pub(super) async fn subscriptions(&mut self) {
        self.report.skip(Rule::Subscribe, "no registry says that it takes subscriptions to what it lists");
        self.report.skip(Rule::SubscribeUnknown, "no registry says that it takes subscriptions");
        let taking = self.registries.iter().filter(|held| held.subscriptions);
        let all: Vec<(String, Option<String>)> = taking
            .map(|held| (held.name.clone(), held.keys(Kind::Resources).next().map(str::to_owned)))
            .collect();
        for (registry, listed) in all {
            let unknown = Target::unknown(Operation::Read, &self.peer.fresh("no-such")).name;
            if let Some(listed) = listed {
                let seen = match self.subscribed(&registry, &listed).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(format!("{listed:?} was refused")),
                    Err(text) => Err(text),
                };
                self.report.note(Rule::Subscribe, seen);
            }
            let seen = match self.subscribed(&registry, &unknown).await {
                Ok(false) => Ok(()),
                Ok(true) => Err(format!("{unknown:?} was accepted")),
                Err(text) => Err(text),
            };
            self.report.note(Rule::SubscribeUnknown, seen);
        }
    }

    /// Whether a URI is accepted. The stream of requests stays open meanwhile, as that of the mesh does.
    async fn subscribed(&mut self, registry: &str, uri: &str) -> Result<bool, String> {
        use pb::subscribe_request::Change;
        use pb::subscribe_response::Event;
        let context = Some(self.peer.context(registry));
        let change = Some(Change::Add(uri.to_owned()));
        let requests = stream::iter([pb::SubscribeRequest { context, change }]).chain(stream::pending());
        let mut events = self.peer.subscribe(requests).await.map_err(|status| status.to_string())?;
        loop {
            let event = match timeout(self.peer.waits.patience, events.message()).await {
                Ok(Ok(Some(event))) => event.event,
                Ok(Ok(None)) => return Err(format!("the stream closed without a word about {uri:?}")),
                Ok(Err(status)) => return Err(status.to_string()),
                Err(_) => return Err(format!("nothing was said about {uri:?}")),
            };
            match event {
                Some(Event::Accepted(about)) if about == uri => return Ok(true),
                Some(Event::Refused(refused)) if refused.uri == uri => return Ok(false),
                Some(Event::RawUpdated(bytes)) => {
                    self.report.note(Rule::RawJson, raw("raw_updated", &bytes));
                }
                Some(Event::Accepted(_) | Event::Refused(_)) | None => {
                    return Err(format!("something was said about another URI than {uri:?}"));
                }
            }
        }
    }

    /// Messages just below and just above the limit.
    pub(super) async fn sizes(&mut self) {
        let Some((registry, target)) = self.probe() else {
            return self.report.skip(Rule::Sizes, "nothing can be started");
        };
        let context = self.peer.context(&registry);
        let flow = self.peer.answer(&context, &padded(&target, MAX_MESSAGE - (64 << 10))).await;
        let told = format!("a message of almost 8 MiB: {}", flow.told());
        let taken = !flow.frames.is_empty() && failure(&flow.frames).is_some();
        self.report.note(Rule::Sizes, if taken { Ok(()) } else { Err(told) });
        self.finish(&context).await;
        // Whatever becomes of a larger one, the next request is served.
        let context = self.peer.context(&registry);
        self.peer.answer(&context, &padded(&target, MAX_MESSAGE + (64 << 10))).await;
        self.finish(&context).await;
        let last = Instant::now() + self.peer.waits.patience;
        let mut attempts = interval(BETWEEN);
        let alive = loop {
            attempts.tick().await;
            let flow: Flow = self.peer.answer(&self.peer.context(&registry), &target).await;
            if !flow.frames.is_empty() {
                break Ok(());
            }
            if Instant::now() > last {
                break Err(format!("after a message beyond 8 MiB: {}", flow.told()));
            }
        };
        self.report.note(Rule::Sizes, alive);
    }

    /// A request with fields of a later version.
    pub(super) async fn unknown_fields(&mut self) {
        let Some((registry, target)) = self.probe() else {
            return self.report.skip(Rule::UnknownFields, "nothing can be started");
        };
        let context = self.peer.context(&registry);
        let (name, raw_params) = (target.name.clone(), target.raw_params.clone().into());
        let (path, message) = match target.operation {
            Operation::Call => {
                let rest = pb::CallRequest { context: None, name, raw_params, continuation: None };
                ("/trunkline.registry.v1.ToolRegistry/Call", raw::extended(&context, &rest))
            }
            Operation::Read => {
                let rest = pb::ReadRequest { context: None, uri: name, raw_params, continuation: None };
                ("/trunkline.registry.v1.ResourceRegistry/Read", raw::extended(&context, &rest))
            }
            Operation::Get => {
                let rest = pb::GetRequest { context: None, name, raw_params, continuation: None };
                ("/trunkline.registry.v1.PromptRegistry/Get", raw::extended(&context, &rest))
            }
        };
        let seen = match self.peer.raw(path, message).await {
            Ok(frames) if failure(&frames).is_some() => Ok(()),
            Ok(frames) => Err(format!("{} frames without the usual error", frames.len())),
            Err(status) => Err(status.to_string()),
        };
        self.report.note(Rule::UnknownFields, seen);
        self.finish(&context).await;
    }
}

/// The target with params of about `size` bytes, in strings that are each within the limits of the mesh.
fn padded(target: &Target, size: usize) -> Target {
    const STRING: usize = 512 << 10;
    let whole = format!("\"{}\",", "x".repeat(STRING - 3)).repeat(size / STRING);
    let rest = "x".repeat(size % STRING);
    let name = json!(target.name);
    // Put together by hand: a JSON library would look at every character.
    let raw_params = format!("{{\"name\":{name},\"uri\":{name},\"filler\":[{whole}\"{rest}\"]}}");
    Target { raw_params, ..target.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_params_are_json_of_the_wanted_size() {
        for operation in [Operation::Call, Operation::Read] {
            let padded = padded(&Target::new(operation, "a:b"), MAX_MESSAGE - (64 << 10));
            assert_eq!(raw("raw_params", padded.raw_params.as_bytes()), Ok(()));
            assert!((MAX_MESSAGE - (65 << 10)..MAX_MESSAGE - (63 << 10)).contains(&padded.raw_params.len()));
        }
    }
}
