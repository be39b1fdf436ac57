//! What goes to another node, and when.

use super::*;

/// A node that only holds too many slots gives away one part in so many of all of them in a second.
const PARTS_PER_WINDOW: u16 = 20;
const WINDOW_MS: u64 = 1_000;
/// Nodes must have been the same for so long before slots follow them.
const SETTLED_MS: u64 = 1_000;
/// So long must others have reached the session store that this node does not, before slots go to them for it. Where the store went and comes
/// back for all of them, none sees it first for long (who has just asked a silent host in vain asks again after 650 ms); and whoever has
/// served a slot until then knows more of it than a store that comes back without what it wrote last.
pub(super) const ALONE_MS: u64 = 1_000;

impl Desk {
    /// Gives slots away: all of them when it leaves, some when it holds too many. One hand-over at a time.
    pub(super) fn give_away(&mut self, view: View<'_>, effects: &mut Vec<Effect>) {
        let leaving = !self.takes_part();
        let misses_store = leaving && self.draining_since.is_none() && !self.has_store(view.now_ms);
        self.alone_since = misses_store.then(|| self.alone_since.unwrap_or(view.now_ms));
        let is_early = self.alone_since.is_some_and(|since| view.now_ms.saturating_sub(since) < ALONE_MS);
        if self.handing || is_early || view.now_ms < self.hand_after_ms || self.plan.members().is_empty() {
            return;
        }
        let room = match (leaving, self.draining_since) {
            (true, None) => GIVEN_UP_AT_ONCE,
            (true, Some(_)) => HANDED_AT_ONCE,
            (false, _) => self.surplus(view).min(HANDED_AT_ONCE),
        };
        let pinned = || self.hand_over(view, false, HANDED_AT_ONCE, &|slot| self.plan.is_pinned(slot));
        let is_settled = view.now_ms.saturating_sub(self.planned_ms) >= SETTLED_MS;
        let chosen = if is_settled && !leaving && self.plan.has_pins() { pinned() } else { None };
        let Some(hand_over) = chosen.or_else(|| self.hand_over(view, leaving, room, &|_| true)) else {
            return;
        };
        self.handing = true;
        self.window.1 += hand_over.moves.len();
        for moved in &hand_over.moves {
            self.local(moved.slot).busy = true;
        }
        effects.push(Effect::HandOver(hand_over));
    }

    /// How many slots more than its share this node holds, as far as they may go now.
    fn surplus(&mut self, view: View<'_>) -> usize {
        if view.now_ms.saturating_sub(self.planned_ms) < SETTLED_MS {
            return 0;
        }
        if view.now_ms.saturating_sub(self.window.0) >= WINDOW_MS {
            self.window = (view.now_ms, 0);
        }
        let held = self.counts().0;
        let over = held.saturating_sub(self.plan.share(&self.me.node));
        over.min(usize::from(self.slots.get() / PARTS_PER_WINDOW).saturating_sub(self.window.1))
    }

    /// Slots that go to one and the same node.
    fn hand_over(
        &self,
        view: View<'_>,
        leaving: bool,
        room: usize,
        wanted: &dyn Fn(Slot) -> bool,
    ) -> Option<HandOver> {
        if room == 0 {
            return None;
        }
        let mut free: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        let mut to: Option<(&Arc<str>, usize)> = None;
        let mut moves = Vec::new();
        for slot in self.slots.slots() {
            // Most slots are others', which costs nothing to see.
            let Some(served) = self.may_go(slot, leaving) else { continue };
            let Some(target) = self.plan.owner(slot).filter(|target| **target != self.me.node) else {
                continue;
            };
            if to.is_some_and(|(chosen, _)| chosen != target) || !wanted(slot) {
                continue;
            }
            let Some(moved) = self.movable(view, slot, served) else { continue };
            let free = *free.entry(target).or_insert_with(|| {
                // What an operator has moved goes whatever the load.
                let bounded = !leaving && !self.plan.is_pinned(slot);
                let limit = if bounded { self.plan.limit(target) } else { room };
                let load = if bounded { view.table.load(target) } else { 0 };
                limit.saturating_sub(load).min(room)
            });
            if free == 0 {
                continue;
            }
            to = Some((target, free));
            moves.push(moved);
            if moves.len() >= free {
                break;
            }
        }
        let target = to?.0;
        let shown = view.table.node(target)?;
        let record = shown.record.as_ref()?;
        let to = crate::table::owner(target, record, Epoch(0));
        Some(HandOver { moves, to, shown: shown.raw.clone(), lease: record.lease })
    }

    /// Whether a slot that is here is served, if it may go. One that is not served yet goes only when all do.
    fn may_go(&self, slot: Slot, leaving: bool) -> Option<bool> {
        let local = self.locals.get(usize::from(slot.number()))?;
        let served = matches!(local.phase, Phase::Held { .. });
        let goes = !local.busy && local.phase != Phase::Away && (served || leaving);
        goes.then_some(served)
    }

    /// How a slot goes that is ours in the table, too.
    fn movable(&self, view: View<'_>, slot: Slot, served: bool) -> Option<Move> {
        let stands = view.table.slot(slot)?;
        let record = stands.record.as_ref().filter(|record| self.is_mine(record))?;
        let dealt = view.table.epoch(slot);
        let newest = dealt.and_then(|held| held.record).map_or(Epoch(0), |record| record.epoch);
        let epoch = Epoch(newest.max(record.epoch).0.saturating_add(1));
        let epoch_at = dealt.map(|held| held.revision);
        Some(Move { slot, instead_of: stands.raw.clone(), epoch_at, epoch, served })
    }
}
