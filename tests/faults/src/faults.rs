//! The faults: what is done, how often, and what may be felt of it.

pub(crate) mod links;
mod processes;
mod stores;

use anyhow::Result;
use history::{Demands, History, Judgement};

use crate::clients::Load;
use crate::cluster::Role;
use crate::limits;
use crate::observers::Spans;
use crate::run::{OPERATIONS, Run, usual};
use crate::shape::Shape;

/// A kind of fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub about: &'static str,
    /// Faults injected in a whole run, and in a quick one.
    planned: (usize, usize),
    /// Whether a former owner must have tried to write, and been refused.
    pub needs_refused: bool,
    /// What may be felt of it beyond the invariants.
    pub limits: &'static [Limit],
}

/// What may be felt of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The worst 99th part of the outages, in milliseconds.
    RecoveryP99(u64),
    /// Slots that change hands for it.
    Moves(usize),
    /// Nothing fails while it lasts.
    NoErrors,
    /// Of all that is begun while it lasts, so many in a thousand may fail.
    FailPerMille(u64),
    /// Of the calls that need no session, so many in a thousand may fail.
    ModernFailPerMille(u64),
    /// Sessions that clients were told are gone although nobody ended them.
    SessionsLost(usize),
    /// Calls that end with an unknown outcome although their registry ran them and is still there.
    NoUnknownThatRan,
    /// The slowest hundredth of the operations becomes slower by at most so many microseconds, or by a tenth.
    Slower(u64),
    /// So many spans may wait for the collector in a process; and some must have found that it was not there.
    SpansWaiting(u64),
}

/// What is known of a run beside its history.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside {
    /// Slots that changed hands since all had an owner.
    pub moves: usize,
    /// What became of spans.
    pub spans: Spans,
    /// Calls that ended with their registry: those at work, and those that waited for their clients.
    pub cut_short: (u64, u64),
}

/// All faults, in the order in which they are run.
pub const ALL: &[Fault] = &[
    fault(
        "F1",
        "kill -9 the owner, 200 calls in flight",
        (3, 1),
        &[Limit::RecoveryP99(2_000), Limit::NoUnknownThatRan],
    ),
    fault("F2", "pause the owner for 3 s", (3, 1), &[Limit::Moves(0), Limit::NoErrors]),
    zombie("F3", "pause the owner for 30 s, then let it go on", (2, 3), &[Limit::RecoveryP99(6_500)]),
    zombie("F4", "pause the owner at random moments around commits", (10, 3), &[Limit::RecoveryP99(6_500)]),
    zombie(
        "F5",
        "pause the owner at random moments around dispatches",
        (10, 3),
        &[Limit::RecoveryP99(6_500)],
    ),
    fault(
        "F6",
        "kill a gateway with 1,000 resumable streams (quick: 200)",
        (1, 1),
        &[Limit::NoUnknownThatRan],
    ),
    fault(
        "F7",
        "kill a gateway and the owner together",
        (2, 1),
        &[Limit::RecoveryP99(2_000), Limit::NoUnknownThatRan],
    ),
    fault("F8", "restart all session nodes, gateways and registries in turn", (13, 13), &[]),
    fault(
        "F9",
        "upgrade everything from an earlier version, both at work meanwhile",
        (13, 13),
        &[Limit::NoErrors],
    ),
    fault("F10", "kill the leader of etcd again and again", (18, 2), &[Limit::Moves(0), Limit::NoErrors]),
    fault("F11", "etcd is down", (1, 1), &[Limit::FailPerMille(1)]),
    fault("F12", "etcd is slow: 2 s", (1, 1), &[Limit::Moves(1)]),
    fault(
        "F15",
        "kill the primary of Redis, promote the replica, nothing lost",
        (1, 1),
        &[Limit::ModernFailPerMille(1)],
    ),
    fault("F16", "the same, the last second is lost", (1, 1), &[Limit::ModernFailPerMille(1)]),
    fault("F17", "the same, and the owner is killed", (2, 2), &[Limit::ModernFailPerMille(1)]),
    fault("F18", "Redis is down", (1, 1), &[Limit::ModernFailPerMille(1)]),
    fault("F19", "Redis is slow: 500 ms", (1, 1), &[]),
    fault("F20", "Redis forgets all scripts", (5, 3), &[Limit::NoErrors]),
    fault("F21", "cut one gateway off from the owner", (2, 1), &[Limit::RecoveryP99(3_000)]),
    fault(
        "F22",
        "cut the owner off from etcd, from Redis, in both and in one direction",
        (4, 4),
        &[Limit::RecoveryP99(6_500)],
    ),
    fault("F23", "kill a registry during calls", (2, 1), &[]),
    fault(
        "F30",
        "the collector of spans is down, slow, broken, or refuses, with as much time without between",
        (9 * links::HURTS + 1, 3 * links::HURTS),
        &[Limit::NoErrors, Limit::Slower(1_000), Limit::SpansWaiting(8_192)],
    ),
    fault("I17", "etcd and Redis are down", (2, 2), &[]),
    fault("drain", "restart the session nodes in turn: how long a session waits", (6, 3), &[Limit::NoErrors]),
];

/// Those of a quick run.
pub const QUICK: &[&str] = &["F1", "F3", "F8", "F11", "F15", "F18", "I17"];

const fn fault(
    name: &'static str,
    about: &'static str,
    planned: (usize, usize),
    limits: &'static [Limit],
) -> Fault {
    Fault { name, about, planned, needs_refused: false, limits }
}

const fn zombie(
    name: &'static str,
    about: &'static str,
    planned: (usize, usize),
    limits: &'static [Limit],
) -> Fault {
    Fault { name, about, planned, needs_refused: true, limits }
}

impl Fault {
    /// The fault of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|fault| fault.name.eq_ignore_ascii_case(name))
    }

    /// How many faults are injected.
    #[must_use]
    pub const fn planned(&self, quick: bool) -> usize {
        if quick { self.planned.1 } else { self.planned.0 }
    }

    /// What must have happened for a run of it to prove anything.
    #[must_use]
    pub fn demands(&self, quick: bool) -> Demands {
        let refused = u64::from(self.needs_refused);
        Demands { operations: OPERATIONS, faults: self.planned(quick), refused }
    }

    /// Keys that may stay in Redis until their time is up, where a tail is lost and with it the end of sessions that ended in it;
    /// and what a later version writes down once of a mesh that an earlier one did not, in Redis or in etcd.
    #[must_use]
    pub fn keys_left(&self, store: &str) -> i64 {
        match store {
            "redis-keys" if self.loses_tail() => 24,
            "redis-keys" | "etcd-keys" if self.needs_former() => 4,
            _ => 0,
        }
    }

    /// Whether it begins with an earlier version.
    #[must_use]
    pub fn needs_former(&self) -> bool {
        self.name == "F9"
    }

    /// Whether failures must be found in traces.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.name != "F30"
    }

    fn loses_tail(&self) -> bool {
        matches!(self.name, "F16" | "F17")
    }

    /// How the mesh is put together for it.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let wait_replicas = usize::from(self.name == "F15");
        Shape { wait_replicas, ..usual() }
    }

    /// What clients do.
    #[must_use]
    pub fn load(&self) -> Load {
        // A session of HTTP+SSE ends with its gateway, as the response to a batch does, so only where none is lost.
        let keeps_gateways = matches!(self.name, "F1" | "F3" | "F21" | "F22" | "drain");
        let (carried, batched) = if keeps_gateways { (4, 2) } else { (0, 0) };
        // The slowest hundredth of a few operations says nothing.
        let usual = Load::default();
        let pause = if self.is_compared() { usual.pause / 2 } else { usual.pause };
        Load { carried, batched, pause, ..usual }
    }

    /// Whether what it does to callers is compared with the same run without it.
    fn is_compared(&self) -> bool {
        self.limits.iter().any(|limit| matches!(limit, Limit::Slower(_)))
    }

    /// Whose metrics are looked at.
    #[must_use]
    pub fn counted(&self) -> &'static [Role] {
        if self.is_compared() {
            &[Role::Session, Role::Gateway, Role::Tools, Role::Resources, Role::Prompts]
        } else {
            &[Role::Session]
        }
    }

    /// What else is to be said of a run, whatever became of it.
    #[must_use]
    pub fn notes(&self, history: &History, beside: &Beside) -> Vec<String> {
        let mut notes = Vec::new();
        if self.is_planned() {
            let (running, parked) = beside.cut_short;
            notes.push(format!(
                "{running} calls at work and {parked} that waited for their clients were cut short with their registries"
            ));
        }
        if self.is_compared() {
            notes.push(limits::compared(history).to_string());
            let spans = beside.spans;
            notes.push(format!(
                "spans: at most {} waited in a process, {} sent, {} failed, {} dropped",
                spans.waiting, spans.sent, spans.failed, spans.dropped
            ));
        }
        notes
    }

    /// Whether processes are asked to end.
    fn is_planned(&self) -> bool {
        matches!(self.name, "F8" | "F9" | "drain")
    }

    /// What is wrong beyond the invariants.
    #[must_use]
    pub fn own_limit(&self, history: &History, judgement: &Judgement, beside: &Beside) -> Vec<String> {
        // A tail of Redis that is lost may take a session that was just begun along, and says so.
        let lost = if self.loses_tail() { &[][..] } else { &[Limit::SessionsLost(0)][..] };
        let limits = self.limits.iter().chain(lost);
        limits.filter_map(|limit| limits::broken(*limit, history, judgement, beside)).collect()
    }
}

/// Injects a fault.
///
/// # Errors
/// When that cannot be done.
pub async fn inject(fault: &Fault, run: &mut Run) -> Result<()> {
    let times = fault.planned(run.quick);
    match fault.name {
        "F1" => processes::killed_owner(run, times).await,
        "F2" => processes::paused_owner(run, times, 3.0, None).await,
        "F3" => {
            let seconds = if run.quick { 10.0 } else { 30.0 };
            processes::paused_owner(run, times, seconds, Some(6_500)).await
        }
        "F4" => processes::paused_owner_at_random(run, times).await,
        "F5" => processes::paused_owner_at_dispatches(run, times).await,
        "F6" => processes::killed_gateway(run).await,
        "F7" => processes::killed_gateway_and_owner(run, times).await,
        "F8" => processes::rolled(run).await,
        "F9" => processes::upgraded(run).await,
        "F10" => stores::etcd_leader(run, times).await,
        "F11" => stores::etcd_down(run).await,
        "F12" => links::etcd_slow(run).await,
        "F15" => stores::redis_failover(run, stores::Loss::Nothing).await,
        "F16" => stores::redis_failover(run, stores::Loss::Tail).await,
        "F17" => stores::redis_failover(run, stores::Loss::TailAndOwner).await,
        "F18" => stores::redis_down(run).await,
        "F19" => links::redis_slow(run).await,
        "F20" => stores::scripts_forgotten(run, times).await,
        "F21" => links::gateway_from_owner(run, times).await,
        "F22" => links::owner_from_stores(run).await,
        "F23" => processes::killed_registry(run, times).await,
        "F30" => links::collector(run, times).await,
        "I17" => stores::both_down(run).await,
        "drain" => processes::drained(run, times).await,
        other => anyhow::bail!("nobody knows how to inject {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_to_do_enough_and_former_owners_to_be_refused() {
        let mut refused = Vec::new();
        for fault in ALL {
            for quick in [false, true] {
                let demands = fault.demands(quick);
                assert_eq!(demands.operations, 2_000, "{}", fault.name);
                assert!(demands.faults > 0 && demands.faults == fault.planned(quick), "{}", fault.name);
            }
            refused.extend((fault.demands(false).refused > 0).then_some(fault.name));
        }
        assert_eq!(refused, ["F3", "F4", "F5"]);
    }
}
