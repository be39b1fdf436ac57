//! An instance that drains. Done last, because nothing can be asked of it afterwards.

use tonic::Code;

use super::Check;
use super::frames;
use super::report::Rule;

impl Check {
    pub(super) async fn draining(&mut self) {
        let rules = [Rule::DrainSays, Rule::DrainRefuses, Rule::DrainServes];
        let Some(drain) = self.options.drain.take() else {
            return rules.into_iter().for_each(|rule| self.report.skip(rule, "not asked to drain it"));
        };
        // Something that runs keeps the instance alive for the rest of the dialogue.
        let held = self.long.clone().or_else(|| self.asking.first().cloned());
        let context = held.as_ref().map(|one| self.peer.context(&one.registry));
        let running = match (&held, &context) {
            (Some(one), Some(context)) => Some(self.peer.running(context, &one.target).await),
            (_, _) => None,
        };
        if let Err(error) = drain() {
            return self.report.note(Rule::DrainSays, Err(error));
        }
        let patience = self.peer.waits.patience;
        let said = match &mut self.watcher {
            Some(watcher) => watcher.not_serving(patience).await,
            None => false,
        };
        let seen = if said { Ok(()) } else { Err("Watch did not say so".to_owned()) };
        self.report.note(Rule::DrainSays, seen);
        let (Some(running), Some(context)) = (running, context) else {
            let reason = "nothing keeps it alive: no tool outlasts the patience of the check, or asks";
            return rules.into_iter().for_each(|rule| self.report.skip(rule, reason));
        };
        if let Some((registry, target)) = self.probe() {
            let flow = self.peer.answer(&self.peer.context(&registry), &target).await;
            let told = format!("a new call: {}", flow.told());
            let refused = flow.refusal() == Some(Code::Unavailable);
            self.report.note(Rule::DrainRefuses, if refused { Ok(()) } else { Err(told) });
        }
        let mut attached = self.peer.attaching(&context, 0);
        attached.settle().await;
        let served = attached.frames.starts_with(&running.frames) && !running.frames.is_empty();
        let told = format!("Attach: {}", attached.told());
        self.report.note(Rule::DrainServes, if served { Ok(()) } else { Err(told) });
        let cancelled = self.peer.cancel(&context).await;
        attached.finish().await;
        let ended = cancelled.is_ok() && frames::ended(&attached.frames);
        let told = format!("Cancel: {cancelled:?}, {}", attached.told());
        self.report.note(Rule::DrainServes, if ended { Ok(()) } else { Err(told) });
        drop(self.peer.release(&context).await);
    }
}
