//! What is kept of an invocation, for whom and until when.

use std::time::Duration;

use api::pb::registry::v1 as pb;
use tokio::time::{Instant, interval};
use tonic::Code;

use super::Check;
use super::frames;
use super::peer::{End, Flow, Target};
use super::report::Rule;

const NOTHING: &str = "no registry has tools, resources or prompts";
/// At least this long is between two looks whether something is forgotten.
const BETWEEN: Duration = Duration::from_millis(20);
const NO_LONG: &str = "no tool outlasts the patience of the check";

fn same(what: &str, found: &Flow, wanted: &[pb::Frame]) -> Result<(), String> {
    if found.frames == wanted {
        return Ok(());
    }
    let numbers: Vec<u64> = found.frames.iter().map(|frame| frame.number).collect();
    Err(format!("{what}: {}, numbered {numbers:?}, instead of the same {}", found.told(), wanted.len()))
}

impl Check {
    /// Attaches to an invocation that has ended, behind each of its frames and behind the last.
    pub(super) async fn again(&mut self, context: &pb::RequestContext, whole: &Flow) {
        for after in 0..whole.frames.len() {
            let flow = self.peer.attach(context, after as u64).await;
            let what = format!("behind frame {after}");
            self.report.note(Rule::AttachAgain, same(&what, &flow, &whole.frames[after..]));
            if !matches!(flow.end, End::Closed) {
                self.report.note(Rule::AttachAgain, Err(format!("{what}: {}", flow.told())));
            }
        }
    }

    pub(super) async fn repeats(&mut self) {
        let Some((registry, target)) = self.probe() else {
            return self.report.skip(Rule::Repeat, NOTHING);
        };
        let mut targets = vec![(registry.clone(), target.clone())];
        targets.extend(self.runnable.iter().take(3).map(|one| (one.registry.clone(), one.target.clone())));
        for (registry, target) in &targets {
            let context = self.peer.context(registry);
            let (one, two) =
                tokio::join!(self.peer.answer(&context, target), self.peer.answer(&context, target));
            self.report.note(Rule::Repeat, same("at the same time", &two, &one.frames));
            let three = self.peer.answer(&context, target).await;
            self.judge(&context, &three, 1);
            self.report.note(Rule::Repeat, same("afterwards", &three, &one.frames));
            self.finish(&context).await;
        }
        // Were it to run again, another target would answer otherwise. A refusal is as good as the frames of the first.
        let other = self.runnable.iter().find(|one| one.registry == registry).map(|one| one.target.clone());
        let context = self.peer.context(&registry);
        let one = self.peer.answer(&context, &target).await;
        let other = other.unwrap_or_else(|| Target::unknown(target.operation, &self.peer.fresh("other")));
        let two = self.peer.answer(&context, &other).await;
        if two.refusal().is_none() {
            self.report.note(Rule::Repeat, same("with another target", &two, &one.frames));
        }
        self.finish(&context).await;
    }

    pub(super) async fn attaches(&mut self) {
        let Some((registry, target)) = self.probe() else {
            return [Rule::AttachAgain, Rule::AttachBeyond, Rule::AttachUnknown, Rule::Outlives]
                .into_iter()
                .for_each(|rule| self.report.skip(rule, NOTHING));
        };
        let context = self.peer.context(&registry);
        let whole = self.peer.answer(&context, &target).await;
        self.again(&context, &whole).await;
        for beyond in [0, 1, 1_000] {
            let flow = self.peer.attach(&context, whole.frames.len() as u64 + beyond).await;
            let refused =
                matches!(flow.refusal(), Some(Code::InvalidArgument | Code::OutOfRange)) && beyond > 0;
            let empty = flow.frames.is_empty() && matches!(flow.end, End::Closed);
            let told = format!("{beyond} behind the last: {}", flow.told());
            self.report.note(Rule::AttachBeyond, if empty || refused { Ok(()) } else { Err(told) });
        }
        self.finish(&context).await;
        let flow = self.peer.attach(&self.peer.context(&registry), 0).await;
        let known = flow.refusal() != Some(Code::NotFound);
        self.report.note(Rule::AttachUnknown, if known { Err(flow.told()) } else { Ok(()) });
        self.outlives(&registry, &target).await;
    }

    /// Leaves an owned invocation behind, and comes back.
    async fn outlives(&mut self, registry: &str, target: &Target) {
        let context = self.peer.context(registry);
        let mut left = self.peer.start(&context, target);
        left.first().await;
        drop(left);
        let flow = self.peer.attach(&context, 1).await;
        let told = format!("after the first frame: {}", flow.told());
        let good = frames::ended(&flow.frames) && self.judge(&context, &flow, 2);
        self.report.note(Rule::Outlives, if good { Ok(()) } else { Err(told) });
        self.finish(&context).await;
        let Some(long) = self.long.clone() else { return };
        let context = self.peer.context(&long.registry);
        let left = self.peer.running(&context, &long.target).await;
        let seen = left.frames.len() as u64;
        drop(left);
        let mut flow = self.peer.attaching(&context, seen);
        flow.listen().await;
        let runs = matches!(flow.end, End::Open) && !frames::ended(&flow.frames);
        let told = format!("tool {:?}: {}", long.target.name, flow.told());
        self.report.note(Rule::Outlives, if runs { Ok(()) } else { Err(told) });
        self.finish(&context).await;
        flow.finish().await;
    }

    pub(super) async fn releases(&mut self) {
        let Some((registry, target)) = self.probe() else {
            return [Rule::Release, Rule::ReleaseUnknown]
                .into_iter()
                .for_each(|rule| self.report.skip(rule, NOTHING));
        };
        let context = self.peer.context(&registry);
        self.peer.answer(&context, &target).await;
        let released = self.peer.release(&context).await;
        let flow = self.peer.attach(&context, 0).await;
        let gone = released.is_ok() && flow.refusal() == Some(Code::NotFound);
        let told = format!("{released:?}, then Attach: {}", flow.told());
        self.report.note(Rule::Release, if gone { Ok(()) } else { Err(told) });
        if let Some(long) = self.long.clone() {
            let context = self.peer.context(&long.registry);
            drop(self.peer.running(&context, &long.target).await);
            let released = self.peer.release(&context).await;
            let cancelled = self.peer.cancel(&context).await;
            let last = self.forgotten(&context).await;
            let told = format!("while it ran: {released:?}, {cancelled:?}, then Attach: {}", last.told());
            let gone = last.refusal() == Some(Code::NotFound);
            self.report.note(Rule::Release, if gone { Ok(()) } else { Err(told) });
        }
        let unknown = self.peer.release(&self.peer.context(&registry)).await;
        self.report.note(Rule::ReleaseUnknown, unknown.map_err(|status| status.to_string()));
    }

    pub(super) async fn ownerless(&mut self) {
        let Some((registry, target)) = self.probe() else {
            return self.report.skip(Rule::Ownerless, NOTHING);
        };
        let mut targets = vec![(registry, target)];
        targets.extend(self.runnable.iter().map(|one| (one.registry.clone(), one.target.clone())));
        for (registry, target) in targets {
            let context = self.peer.ownerless(&registry);
            let flow = self.peer.answer(&context, &target).await;
            self.judge(&context, &flow, 1);
            let last = self.forgotten(&context).await;
            let told = format!("{:?}: Attach: {}", target.name, last.told());
            let gone = last.refusal() == Some(Code::NotFound);
            self.report.note(Rule::Ownerless, if gone { Ok(()) } else { Err(told) });
        }
        self.ownerless_left().await;
    }

    /// Attaches until the invocation is not known, or as long as that may take.
    async fn forgotten(&self, context: &pb::RequestContext) -> Flow {
        let last = Instant::now() + self.peer.waits.patience;
        let mut attempts = interval(BETWEEN);
        loop {
            attempts.tick().await;
            let flow = self.peer.attach(context, 0).await;
            let known = flow.refusal() != Some(Code::NotFound);
            if !known || matches!(flow.end, End::Open) || Instant::now() > last {
                return flow;
            }
        }
    }

    async fn ownerless_left(&mut self) {
        let Some(long) = self.long.clone() else {
            return self.report.skip(Rule::OwnerlessLeft, NO_LONG);
        };
        let context = self.peer.ownerless(&long.registry);
        let left = self.peer.running(&context, &long.target).await;
        let mut other = self.peer.running(&context, &long.target).await;
        drop(left);
        other.listen().await;
        let told = format!("tool {:?} is not left yet: {}", long.target.name, other.told());
        let goes_on = matches!(other.end, End::Open) && !frames::ended(&other.frames);
        self.report.note(Rule::OwnerlessLeft, if goes_on { Ok(()) } else { Err(told) });
        drop(other);
        // Attaching keeps an invocation from being left alone, so what is still there is left again.
        let last = Instant::now() + self.peer.waits.patience;
        let (gone, told) = loop {
            // This is what is measured: nobody has it for so long.
            tokio::time::sleep(self.peer.waits.silence).await;
            let mut flow = self.peer.attaching(&context, 0);
            flow.settle().await;
            let gone = flow.refusal() == Some(Code::NotFound) || frames::ended(&flow.frames);
            if gone || Instant::now() > last {
                break (gone, format!("tool {:?} goes on: {}", long.target.name, flow.told()));
            }
        };
        self.report.note(Rule::OwnerlessLeft, if gone { Ok(()) } else { Err(told) });
        self.finish(&context).await;
    }

    pub(super) async fn cancels(&mut self) {
        self.report.skip(Rule::CancelRunning, NO_LONG);
        let Some((registry, target)) = self.probe() else {
            return self.report.skip(Rule::CancelUnknown, NOTHING);
        };
        let unknown = self.peer.cancel(&self.peer.context(&registry)).await;
        self.report.note(Rule::CancelUnknown, unknown.map_err(|status| format!("unknown: {status}")));
        let context = self.peer.context(&registry);
        let whole = self.peer.answer(&context, &target).await;
        let finished = self.peer.cancel(&context).await;
        self.report.note(Rule::CancelUnknown, finished.map_err(|status| format!("finished: {status}")));
        let flow = self.peer.attach(&context, 0).await;
        self.report.note(Rule::CancelUnknown, same("after Cancel", &flow, &whole.frames));
        self.finish(&context).await;
    }

    pub(super) async fn deadlines(&mut self) {
        let Some(long) = self.long.clone() else {
            return self.report.skip(Rule::Deadline, NO_LONG);
        };
        let context = self.peer.context(&long.registry);
        let mut flow = self.peer.begin(&context, &long.target, None, self.peer.waits.silence * 2);
        flow.finish().await;
        let flow = self.peer.attach(&context, 0).await;
        let told = format!("tool {:?}: {}", long.target.name, flow.told());
        let ended = matches!(flow.end, End::Closed) && frames::ended(&flow.frames);
        self.report.note(Rule::Deadline, if ended { Ok(()) } else { Err(told) });
        if ended {
            self.judge(&context, &flow, 1);
        }
        self.finish(&context).await;
    }
}
