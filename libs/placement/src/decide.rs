//! What a node does about slots, decided.
//!
//! Owns: who claims what and when, when a slot counts as lost, what is handed to whom. Must not know: how any of it is done:
//! it is told the time and the table, and says what should happen ([`Effect`]); what came of it is told to it in turn. It
//! compares what is with what should be, so it does not matter which change it was woken by, or whether it saw all of them.

mod moves;
mod review;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Epoch, Slot, SlotCount};

use crate::claim::Identity;
use crate::cluster::mix;
use crate::locate::{Incarnation, Owner};
use crate::plan::{Member, Plan};
use crate::port::{LeaseId, Revision};
use crate::record::{NodeRecord, OPERATOR, Readiness, SlotRecord, encode};
use crate::table::Table;
use crate::tenant::Fenced;

/// Slots of one claim: two writes each, and etcd takes 128.
pub const CLAIMED_AT_ONCE: usize = 60;
/// Slots of one hand-over: they are at rest until it is written, so few at once keep the pause short.
pub const HANDED_AT_ONCE: usize = 32;
/// Slots of one hand-over by a node that cannot serve them anyway: two writes each, and etcd takes 128.
pub const GIVEN_UP_AT_ONCE: usize = 60;
const FENCED_AT_ONCE: usize = 256;
const CLAIMS_RUNNING: usize = 4;
const FENCES_RUNNING: usize = 4;
/// How long others leave a slot to the node that the plan gives it to.
const PATIENCE_MS: u64 = 250;
const PATIENCE_SPREAD_MS: u64 = 501;
/// A slot is taken from an owner that is only suspected at most so often.
const FORCED_EVERY_MS: u64 = 30_000;
/// After a claim or a hand-over that came to nothing.
const AGAIN_MS: u64 = 100;
/// After a fence that was not answered.
const FENCE_AGAIN_MS: u64 = 200;
/// A session store that answers no fence for so long is down, for this node.
const STORE_DOWN_MS: u64 = 2_000;
/// And is tried again after so long.
const STORE_RETRY_MS: u64 = 30_000;
/// A drain that cannot reach the lease store for so long ends without it.
const DRAIN_ALONE_MS: u64 = 3_000;

/// One slot of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The slot.
    pub slot: Slot,
    /// What must stand there, to the byte; `None` = nothing.
    pub instead_of: Option<Vec<u8>>,
    /// The write that must have dealt the newest epoch; `None` = there was none.
    pub epoch_at: Option<Revision>,
    /// What will stand there.
    pub record: SlotRecord,
    /// The key of a slot that this run still holds is put back, in the same epoch.
    pub again: bool,
}

/// One slot of a hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The slot.
    pub slot: Slot,
    /// What must stand there, to the byte.
    pub instead_of: Vec<u8>,
    /// The write that must have dealt the newest epoch.
    pub epoch_at: Option<Revision>,
    /// The epoch the new owner will have.
    pub epoch: Epoch,
    /// Whether this node serves it; otherwise it was claimed, and its fence never stood.
    pub served: bool,
}

/// Slots that go to another node together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    /// The slots.
    pub moves: Vec<Move>,
    /// The new owner; its epoch is in each move.
    pub to: Owner,
    /// What the new owner must show of itself, to the byte.
    pub shown: Vec<u8>,
    /// Its lease.
    pub lease: LeaseId,
}

/// What should happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Show this node, instead of exactly what is shown now.
    Announce {
        /// What to show.
        value: Vec<u8>,
        /// What stands there.
        instead_of: Option<Vec<u8>>,
    },
    /// Claim in one transaction.
    Claim(Vec<Claim>),
    /// Raise the fences of slots that were claimed.
    Fence(Vec<(Slot, Epoch)>),
    /// Give slots to another node.
    HandOver(HandOver),
    /// Let go of slots at once.
    Lost(Vec<Slot>, Option<Owner>),
    /// Another process has this node's name: end.
    Replaced(Incarnation),
    /// The drain has ended; so many slots had nobody to go to.
    Drained(usize),
}

/// What a decision is made on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The time.
    pub now_ms: u64,
    /// The table; it was listed at least once.
    pub table: &'a Table,
    /// This node's lease, if it has one.
    pub lease: Option<LeaseId>,
    /// Whether the lease store answers.
    pub reachable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not ours.
    Away,
    /// Claimed; the fence is to be raised at that time.
    Due { epoch: Epoch, at_ms: u64 },
    /// Claimed, but the session store stands higher: claim above that.
    Raise { above: Epoch },
    /// Served.
    Held { epoch: Epoch },
}

#[derive(Debug, Clone, Copy)]
struct Local {
    phase: Phase,
    /// Something is being done about it: nothing else is until that has ended.
    busy: bool,
    /// Since when it has no owner, as far as was seen.
    vacant_since: Option<u64>,
    /// The last time it was taken from a suspect: the write, and when it was seen.
    forced: Option<(Revision, u64)>,
}

/// Decides for one node.
#[derive(Debug)]
pub struct Desk {
    me: Identity,
    slots: SlotCount,
    seed: u64,
    locals: Vec<Local>,
    plan: Plan,
    planned_ms: u64,
    announced: bool,
    announcing: bool,
    claims_running: usize,
    fences_running: usize,
    handing: bool,
    claim_after_ms: u64,
    hand_after_ms: u64,
    window: (u64, usize),
    draining_since: Option<u64>,
    store_up: bool,
    fence_down_since: Option<u64>,
    /// Since when others reach the session store and this node does not.
    alone_since: Option<u64>,
    /// The version of the table in which every slot was found as it should be.
    settled: Option<u64>,
}

impl Desk {
    /// A node that owns nothing yet. `seed` spreads nodes that would all claim at once.
    #[must_use]
    pub fn new(me: Identity, slots: SlotCount, seed: u64) -> Self {
        let local = Local { phase: Phase::Away, busy: false, vacant_since: None, forced: None };
        Self {
            me,
            slots,
            seed,
            locals: vec![local; usize::from(slots.get())],
            plan: Plan::of(slots, []),
            planned_ms: 0,
            announced: false,
            announcing: false,
            claims_running: 0,
            fences_running: 0,
            handing: false,
            claim_after_ms: 0,
            hand_after_ms: 0,
            window: (0, 0),
            draining_since: None,
            store_up: true,
            fence_down_since: None,
            alone_since: None,
            settled: None,
        }
    }

    /// From now on it gives away what it has.
    pub fn drain(&mut self, now_ms: u64) {
        self.draining_since.get_or_insert(now_ms);
    }

    /// Whether the session store answers, as somebody else saw.
    pub fn store_is(&mut self, up: bool) {
        self.store_up = up;
    }

    /// The session store refused this node what it holds in that epoch: somebody came later. Either the table shows who, in a
    /// moment, or the lease store went back in time and names this node still; then it claims above what there was.
    pub fn overtaken(&mut self, slot: Slot, epoch: Epoch) {
        let local = self.local(slot);
        if matches!(local.phase, Phase::Held { epoch: held } if held <= epoch) {
            local.phase = Phase::Raise { above: epoch };
            self.settled = None;
        }
    }

    /// Slots served, and slots claimed but not served yet.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let held = self.locals.iter().filter(|local| matches!(local.phase, Phase::Held { .. })).count();
        let away = self.locals.iter().filter(|local| local.phase == Phase::Away).count();
        (held, self.locals.len() - held - away)
    }

    /// Lets go of everything, for good. Returns the slots that were served.
    #[must_use]
    pub fn give_up(&mut self) -> Vec<Slot> {
        self.let_everything_go()
    }

    /// What should happen now. Each effect is to be performed, and what came of it told.
    #[must_use]
    pub fn decide(&mut self, view: View<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(newer) = self.replaced_by(view) {
            let held = self.let_everything_go();
            effects.push(Effect::Lost(held, None));
            effects.push(Effect::Replaced(newer));
            return effects;
        }
        self.plan_for(view);
        let shown = self.announce(view, &mut effects);
        self.review(view, shown, &mut effects);
        if shown {
            self.give_away(view, &mut effects);
        }
        self.end_of_drain(view, &mut effects);
        effects
    }

    /// An announcement has ended.
    pub fn announced(&mut self, now_ms: u64, done: bool) {
        self.announcing = false;
        self.announced |= done;
        if !done {
            self.claim_after_ms = now_ms + AGAIN_MS;
        }
    }

    /// A claim has ended; not `done` also when nobody knows.
    pub fn claimed(&mut self, now_ms: u64, claims: &[Claim], done: bool) {
        self.claims_running = self.claims_running.saturating_sub(1);
        self.settled = None;
        for claim in claims {
            let local = self.local(claim.slot);
            local.busy = false;
            if done && !claim.again {
                local.phase = Phase::Due { epoch: claim.record.epoch, at_ms: now_ms };
            }
        }
        if !done {
            self.claim_after_ms = now_ms + AGAIN_MS;
        }
    }

    /// Fences have been raised, or not. Returns the slots that are served from now on.
    #[must_use]
    pub fn fenced(&mut self, now_ms: u64, asked: &[(Slot, Epoch)], answers: &[Fenced]) -> Vec<(Slot, Epoch)> {
        self.fences_running = self.fences_running.saturating_sub(1);
        self.settled = None;
        let mut acquired = Vec::new();
        for (n, (slot, epoch)) in asked.iter().enumerate() {
            let answer = answers.get(n).copied().unwrap_or(Fenced::Down);
            match answer {
                Fenced::Done | Fenced::Higher(_) => self.fence_down_since = None,
                Fenced::Down => drop(self.fence_down_since.get_or_insert(now_ms)),
            }
            let local = self.local(*slot);
            local.busy = false;
            if !matches!(local.phase, Phase::Due { epoch: due, .. } if due == *epoch) {
                continue;
            }
            local.phase = match answer {
                Fenced::Done => Phase::Held { epoch: *epoch },
                Fenced::Higher(above) => Phase::Raise { above: above.max(*epoch) },
                Fenced::Down => Phase::Due { epoch: *epoch, at_ms: now_ms + FENCE_AGAIN_MS },
            };
            if answer == Fenced::Done {
                acquired.push((*slot, *epoch));
            }
        }
        acquired
    }

    /// A hand-over has ended; not `done` also when nobody knows. Returns the slots that are served on.
    #[must_use]
    pub fn handed(&mut self, now_ms: u64, moves: &[Move], done: bool) -> Vec<(Slot, Epoch)> {
        self.handing = false;
        self.settled = None;
        let mut kept = Vec::new();
        for moved in moves {
            let local = self.local(moved.slot);
            local.busy = false;
            if done {
                local.phase = Phase::Away;
                local.vacant_since = None;
            } else if let Phase::Held { epoch } = local.phase {
                kept.push((moved.slot, epoch));
            }
        }
        if !done {
            self.hand_after_ms = now_ms + AGAIN_MS;
        }
        kept
    }

    /// A newer process that shows itself under this node's name.
    fn replaced_by(&self, view: View<'_>) -> Option<Incarnation> {
        let shown = view.table.node(&self.me.node)?.record.as_ref()?.incarnation;
        (self.announced && shown != self.me.incarnation).then_some(shown)
    }

    /// Whether what is shown of this node is what should be; has it shown otherwise.
    fn announce(&mut self, view: View<'_>, effects: &mut Vec<Effect>) -> bool {
        let Some(lease) = view.lease else { return false };
        let mut record =
            NodeRecord::new(&self.me.address, &self.me.zone, self.me.capacity, self.me.incarnation, lease);
        if self.draining_since.is_some() {
            record.state = Readiness::Draining;
        }
        record.store = self.has_store(view.now_ms);
        let value = encode(&record);
        let shown = view.table.node(&self.me.node).map(|held| &held.raw);
        if shown == Some(&value) {
            return true;
        }
        if !self.announcing && view.now_ms >= self.claim_after_ms {
            self.announcing = true;
            effects.push(Effect::Announce { value, instead_of: shown.cloned() });
        }
        false
    }

    fn has_store(&self, now_ms: u64) -> bool {
        let fences_answer = self.fence_down_since.is_none_or(|since| {
            let down = now_ms.saturating_sub(since);
            !(STORE_DOWN_MS..STORE_RETRY_MS).contains(&down)
        });
        self.store_up && fences_answer
    }

    /// Plans anew when other nodes take part than before.
    fn plan_for(&mut self, view: View<'_>) {
        let mut members = self.members(view);
        members.sort();
        if !self.plan.is_of(&members, view.table.pins()) {
            let pins = view.table.pins().map(|(slot, node)| (slot, Arc::clone(node)));
            self.plan = Plan::of(self.slots, members).with_pins(pins);
            self.planned_ms = view.now_ms;
        }
    }

    /// The nodes that slots can go to: ready ones that reach the session store and are not suspected. Where there is none,
    /// the conditions are given up, the last one first.
    fn members(&self, view: View<'_>) -> Vec<Member> {
        let ready = |node: &str, record: &NodeRecord| {
            let leaving = node == &*self.me.node && self.draining_since.is_some();
            record.state == Readiness::Ready && !leaving && record.capacity > 0
        };
        let stored = |node: &str, record: &NodeRecord| {
            if node == &*self.me.node { self.has_store(view.now_ms) } else { record.store }
        };
        let all: Vec<_> = view.table.nodes().filter(|(node, record)| ready(node, record)).collect();
        let trusted = all.iter().filter(|(node, record)| !is_suspected(view.table, node, record.incarnation));
        let best = trusted.clone().filter(|(node, record)| stored(node, record));
        let member = |(node, record): &(&Arc<str>, &NodeRecord)| Member {
            node: Arc::clone(node),
            capacity: record.capacity,
            zone: Arc::clone(&record.zone),
        };
        let best: Vec<Member> = best.map(member).collect();
        if !best.is_empty() {
            return best;
        }
        let trusted: Vec<Member> = trusted.map(member).collect();
        if trusted.is_empty() { all.iter().map(member).collect() } else { trusted }
    }

    fn takes_part(&self) -> bool {
        self.plan.members().iter().any(|member| member.node == self.me.node)
    }

    /// Ends a drain when nothing is left, or nobody is.
    fn end_of_drain(&mut self, view: View<'_>, effects: &mut Vec<Effect>) {
        let Some(since) = self.draining_since else { return };
        let alone = self.plan.members().is_empty();
        let cut = !view.reachable && view.now_ms.saturating_sub(since) >= DRAIN_ALONE_MS;
        let busy = self.handing || self.announcing || self.claims_running + self.fences_running > 0;
        let ours = self.slots.slots().filter(|slot| self.is_ours(view.table, *slot)).count();
        if cut || (!busy && (alone || ours == 0)) {
            let held = self.let_everything_go();
            if !held.is_empty() {
                effects.push(Effect::Lost(held, None));
            }
            effects.push(Effect::Drained(ours));
        }
    }

    fn is_ours(&self, table: &Table, slot: Slot) -> bool {
        let local = self.locals.get(usize::from(slot.number()));
        let claimed = table.slot(slot).and_then(|held| held.record.as_ref());
        local.is_some_and(|local| local.phase != Phase::Away)
            || claimed.is_some_and(|record| self.is_mine(record))
    }

    fn is_mine(&self, record: &SlotRecord) -> bool {
        record.node == self.me.node && record.incarnation == self.me.incarnation
    }

    fn let_everything_go(&mut self) -> Vec<Slot> {
        self.settled = None;
        let mut held = Vec::new();
        for slot in self.slots.slots() {
            let local = self.local(slot);
            if matches!(std::mem::replace(&mut local.phase, Phase::Away), Phase::Held { .. }) {
                held.push(slot);
            }
        }
        held
    }

    fn local(&mut self, slot: Slot) -> &mut Local {
        // One per slot of the mesh: no other is ever claimed, and so none comes back.
        &mut self.locals[usize::from(slot.number())]
    }
}

/// Two reporters that agree, or the one whose word is enough. What a node says of itself does not count, be it by its name or
/// as `<node>-<incarnation>`.
fn is_suspected(table: &Table, node: &Arc<str>, incarnation: Incarnation) -> bool {
    let none = BTreeSet::new();
    let reporters = table.reporters(node, incarnation).unwrap_or(&none);
    let is_itself = |reporter: &str| {
        let rest = reporter.strip_prefix(&**node);
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-') == Some(&incarnation.to_string()))
    };
    let others = reporters.iter().filter(|reporter| !is_itself(reporter)).count();
    others >= 2 || reporters.contains(OPERATOR)
}
