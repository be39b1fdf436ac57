//! Former owners are refused.

use api::pb::registry::v1 as pb;
use tonic::Code;

use super::Check;
use super::peer::{Flow, Target};
use super::report::Rule;

fn refused(what: &str, flow: &Flow) -> Result<(), String> {
    if flow.refusal() == Some(Code::FailedPrecondition) {
        return Ok(());
    }
    Err(format!("{what}: {}", flow.told()))
}

fn taken(what: &str, flow: &Flow) -> Result<(), String> {
    if flow.frames.is_empty() { Err(format!("{what}: {}", flow.told())) } else { Ok(()) }
}

impl Check {
    pub(super) async fn epochs(&mut self) {
        let Some((registry, target)) = self.probe() else {
            return [Rule::StaleStart, Rule::StaleAttach, Rule::StaleOther, Rule::EpochScope]
                .into_iter()
                .for_each(|rule| self.report.skip(rule, "nothing can be started"));
        };
        let mesh = self.peer.fresh("mesh");
        let first = pb::RequestContext { mesh, epoch: 5, ..self.peer.context(&registry) };
        let at = |epoch| pb::RequestContext { epoch, ..first.clone() };
        let next = |epoch| pb::RequestContext { invocation: self.peer.fresh("epoch"), ..at(epoch) };
        let flow = self.peer.answer(&first, &target).await;
        self.report.note(Rule::EpochScope, taken("epoch 5", &flow));
        let flow = self.peer.answer(&next(4), &target).await;
        self.report.note(Rule::StaleStart, refused("a start at 4 after 5", &flow));
        let flow = self.peer.attach(&at(4), 0).await;
        self.report.note(Rule::StaleAttach, refused("Attach at 4 after 5", &flow));
        let flow = self.peer.attach(&at(5), 0).await;
        self.report.note(Rule::EpochScope, taken("Attach at 5 again", &flow));
        let flow = self.peer.attach(&at(6), 0).await;
        self.report.note(Rule::EpochScope, taken("Attach at 6", &flow));
        let flow = self.peer.answer(&next(5), &target).await;
        self.report.note(Rule::StaleStart, refused("a start at 5 after an Attach at 6", &flow));
        self.stale_others(&at(5)).await;
        let flow = self.peer.attach(&at(6), 0).await;
        self.report.note(Rule::StaleOther, taken("Attach at 6 after a stale Release", &flow));
        self.other_owners(&first, &target).await;
        self.finish(&at(7)).await;
    }

    async fn stale_others(&mut self, stale: &pb::RequestContext) {
        let resumed = self.peer.resume(stale, 1, Vec::new()).await;
        self.report.note(Rule::StaleOther, refused("Resume", &resumed));
        let cancelled = self.peer.cancel(stale).await.map_err(|status| status.code());
        let released = self.peer.release(stale).await.map_err(|status| status.code());
        for (what, seen) in [("Cancel", cancelled), ("Release", released)] {
            let stands = seen == Err(Code::FailedPrecondition);
            self.report
                .note(Rule::StaleOther, if stands { Ok(()) } else { Err(format!("{what}: {seen:?}")) });
        }
    }

    async fn other_owners(&mut self, first: &pb::RequestContext, target: &Target) {
        let one = pb::RequestContext { epoch: 1, ..first.clone() };
        let slot = first.slot % 4095 + 1;
        for (what, context) in [
            ("another slot", pb::RequestContext { slot, ..one.clone() }),
            ("another mesh", pb::RequestContext { mesh: self.peer.fresh("mesh"), ..one.clone() }),
            ("no owner", pb::RequestContext { slot: 0, epoch: 0, ..one.clone() }),
        ] {
            let context = pb::RequestContext { invocation: self.peer.fresh("epoch"), ..context };
            let flow = self.peer.answer(&context, target).await;
            self.report.note(Rule::EpochScope, taken(what, &flow));
        }
    }
}
