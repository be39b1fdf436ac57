//! Which node should own which slot.
//!
//! Owns: weighted rendezvous hashing with a bound on every node's load. Must not know: who owns what now. Everybody who sees
//! the same nodes computes the same plan, on any machine: only whole numbers decide. Others only tell in advance, by a wide
//! margin, which nodes cannot be meant, since exact logarithms take their time.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::sync::Arc;

use api::{Slot, SlotCount};
use siphasher::sip::SipHasher13;

use crate::cluster::mix;

/// A node that can take slots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name.
    pub node: Arc<str>,
    /// Its share, against the others'. A node with 0 takes none.
    pub capacity: u32,
    /// Where it stands. Not used yet: a slot has one owner, and its data is elsewhere.
    pub zone: Arc<str>,
}

/// An owner for every slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    slots: SlotCount,
    members: Vec<Member>,
    /// Slots that go to a member of the operator's choice, whatever its load.
    pins: BTreeMap<Slot, Arc<str>>,
    owners: Vec<u16>,
    counts: Vec<usize>,
}

/// Tenths by which a node's load may exceed its share.
const OVER: u128 = 1;
/// Binary digits behind the point of a logarithm.
const DIGITS: u32 = 20;
/// More than a logarithm of floating-point numbers and one of these digits differ by.
const MARGIN: f64 = 1e-4;

/// A member, while slots are dealt.
struct Bidder {
    seed: u64,
    weight: u32,
    /// Slots that it may still get.
    left: usize,
}

impl Plan {
    /// The plan for so many slots and these nodes, in whatever order they come. A name that comes twice counts once.
    #[must_use]
    pub fn of(slots: SlotCount, members: impl IntoIterator<Item = Member>) -> Self {
        let mut members: Vec<Member> = members.into_iter().filter(|member| member.capacity > 0).collect();
        members.sort();
        members.dedup_by(|a, b| a.node == b.node);
        // As many as there are slots: more could own nothing.
        members.truncate(usize::from(slots.get()));
        let (count, owners) = (members.len(), Vec::with_capacity(usize::from(slots.get())));
        let mut plan = Self { slots, members, pins: BTreeMap::new(), owners, counts: vec![0; count] };
        let bidder = |(index, member): (usize, &Member)| Bidder {
            seed: hash(&member.node),
            weight: member.capacity,
            left: plan.bound(index),
        };
        let mut bidders: Vec<Bidder> = plan.members.iter().enumerate().map(bidder).collect();
        let mut bids = Vec::with_capacity(count);
        for slot in slots.slots() {
            let Some(best) = fittest(&bidders, slot, &mut bids) else { break };
            bidders[best].left -= 1;
            plan.counts[best] += 1;
            plan.owners.push(u16::try_from(best).unwrap_or(u16::MAX));
        }
        plan
    }

    /// The same, but for the slots that were moved by hand. A node that takes no part gets none.
    #[must_use]
    pub fn with_pins(mut self, pins: impl IntoIterator<Item = (Slot, Arc<str>)>) -> Self {
        self.pins = pins.into_iter().filter(|(_, node)| self.index(node).is_some()).collect();
        self
    }

    /// Whether it is for these nodes and pins.
    #[must_use]
    pub fn is_of<'a>(&'a self, members: &[Member], pins: impl Iterator<Item = (Slot, &'a Arc<str>)>) -> bool {
        let known = |(_, node): &(Slot, &Arc<str>)| self.index(node).is_some();
        let mine = self.pins.iter().map(|(slot, node)| (*slot, node));
        self.members == members && mine.eq(pins.filter(known))
    }

    /// Whether an operator has chosen who owns it.
    #[must_use]
    pub fn is_pinned(&self, slot: Slot) -> bool {
        self.pins.contains_key(&slot)
    }

    /// Whether an operator has chosen any owner.
    #[must_use]
    pub fn has_pins(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Who should own a slot; `None` only where there is no node.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<&Arc<str>> {
        if let Some(pinned) = self.pins.get(&slot) {
            return Some(pinned);
        }
        let index = self.owners.get(usize::from(slot.number()))?;
        self.members.get(usize::from(*index)).map(|member| &member.node)
    }

    /// What a node would own if all were as full as their capacity says, rounded up.
    #[must_use]
    pub fn share(&self, node: &str) -> usize {
        self.index(node).map_or(0, |index| self.tenths(index, 10))
    }

    /// Most slots a node may own: its share and a tenth.
    #[must_use]
    pub fn limit(&self, node: &str) -> usize {
        self.index(node).map_or(0, |index| self.bound(index))
    }

    /// The nodes, by name.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    fn index(&self, node: &str) -> Option<usize> {
        self.members.binary_search_by(|member| (*member.node).cmp(node)).ok()
    }

    fn bound(&self, index: usize) -> usize {
        self.tenths(index, 10 + OVER)
    }

    /// Tenths of a node's share, rounded up.
    fn tenths(&self, index: usize, tenths: u128) -> usize {
        let total: u128 = self.members.iter().map(|member| u128::from(member.capacity)).sum();
        let own = self.members.get(index).map_or(0, |member| u128::from(member.capacity));
        let share = (u128::from(self.slots.get()) * own * tenths).div_ceil((total * 10).max(1));
        usize::try_from(share).unwrap_or(usize::MAX)
    }
}

fn hash(node: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(node.as_bytes());
    hasher.finish()
}

/// Who of those that may still get one is the fittest for a slot: whose cost is the lowest for its weight. `bids` is room to work in.
fn fittest(bidders: &[Bidder], slot: Slot, bids: &mut Vec<(usize, u64, f64)>) -> Option<usize> {
    bids.clear();
    let mut ceiling = f64::INFINITY;
    for (index, bidder) in bidders.iter().enumerate().filter(|(_, bidder)| bidder.left > 0) {
        let drawn = draw(bidder.seed, slot);
        let (about, weight) = (64.0 - (drawn as f64).log2(), f64::from(bidder.weight));
        ceiling = ceiling.min((about + MARGIN) / weight);
        bids.push((index, drawn, (about - MARGIN) / weight));
    }
    let near = bids.iter().filter(|(_, _, floor)| *floor <= ceiling);
    let exact = near.map(|(index, drawn, _)| (*index, cost(*drawn)));
    let lowest = exact.min_by(|(a, cost_a), (b, cost_b)| {
        let (weight_a, weight_b) = (bidders[*a].weight, bidders[*b].weight);
        // cost / weight, without dividing
        let (a_scaled, b_scaled) = (cost_a * u128::from(weight_b), cost_b * u128::from(weight_a));
        a_scaled.cmp(&b_scaled).then(a.cmp(b))
    });
    lowest.map(|(index, _)| index)
}

/// What a node draws for a slot; never 0.
fn draw(seed: u64, slot: Slot) -> u64 {
    mix(seed ^ mix(u64::from(slot.number()).wrapping_add(0x9e37_79b9_7f4a_7c15))).max(1)
}

/// How unfit a node is that has drawn this: -log2 of a random number between 0 and 1, never 0.
fn cost(drawn: u64) -> u128 {
    u128::from((64_u64 << DIGITS) - log2(drawn)).max(1)
}

/// The binary logarithm, with [`DIGITS`] digits behind the point.
fn log2(number: u64) -> u64 {
    let whole = number.ilog2();
    let mut rest = number << (63 - whole);
    let mut result = u64::from(whole);
    for _ in 0..DIGITS {
        let square = u128::from(rest) * u128::from(rest);
        result <<= 1;
        if square >> 127 == 1 {
            result |= 1;
            rest = u64::try_from(square >> 64).unwrap_or(u64::MAX);
        } else {
            rest = u64::try_from(square >> 63).unwrap_or(u64::MAX);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(n: usize, capacity: u32) -> Member {
        Member { node: format!("session-{n}").into(), capacity, zone: "".into() }
    }

    /// The plan of the usual number of slots.
    fn plan(members: impl IntoIterator<Item = Member>) -> Plan {
        Plan::of(SlotCount::Usual, members)
    }

    /// What [`fittest`] is a faster way of: everybody's exact cost.
    fn the_slow_way(slots: SlotCount, members: &[Member]) -> Vec<Arc<str>> {
        let plan = Plan::of(slots, members.to_vec());
        let mut counts = vec![0; plan.members.len()];
        let mut owners = Vec::new();
        for slot in slots.slots() {
            let open = (0..counts.len()).filter(|index| counts[*index] < plan.bound(*index));
            let scaled = |index: &usize, other: usize| {
                cost(draw(hash(&plan.members[*index].node), slot)) * u128::from(plan.members[other].capacity)
            };
            let best = open.min_by(|a, b| scaled(a, *b).cmp(&scaled(b, *a)).then(a.cmp(b))).unwrap();
            counts[best] += 1;
            owners.push(Arc::clone(&plan.members[best].node));
        }
        owners
    }

    fn moved(a: &Plan, b: &Plan, counts: impl Fn(&str, &str) -> bool) -> usize {
        let owners = a.slots.slots().map(|slot| (a.owner(slot).unwrap(), b.owner(slot).unwrap()));
        owners.filter(|(before, after)| before != after && counts(before, after)).count()
    }

    fn nodes() -> impl Strategy<Value = Vec<Member>> {
        prop::collection::vec(1_u32..400, 1..24).prop_map(|capacities| {
            capacities.into_iter().enumerate().map(|(n, capacity)| member(n, capacity)).collect()
        })
    }

    #[test]
    fn logarithms_are_right() {
        for number in [1_u64, 2, 3, 1_000, u64::MAX / 3, u64::MAX] {
            let is = log2(number) as f64 / f64::from(1 << DIGITS);
            assert!(((number as f64).log2() - is).abs() < 1e-5, "{number}: {is}");
        }
    }

    #[test]
    fn the_plan_is_the_same_everywhere() {
        // Written down: a plan that changes with a version would move every slot of a cluster during its upgrade.
        let plan = plan((0..5).map(|n| member(n, 100)));
        let owners: String = plan
            .slots
            .slots()
            .take(24)
            .map(|slot| plan.owner(slot).unwrap().chars().last().unwrap())
            .collect();
        assert_eq!(owners, "412202442033344231404132");
    }

    #[test]
    fn a_pinned_slot_goes_where_it_is_told_while_that_node_takes_part() {
        let members: Vec<Member> = (0..5).map(|n| member(n, 100)).collect();
        let (first, second) = (Slot::new(0).unwrap(), Slot::new(1).unwrap());
        let pins = [(first, "session-3".into()), (second, "session-9".into())];
        let free = plan(members.clone());
        let plan = free.clone().with_pins(pins.clone());
        let pins = || pins.iter().map(|(slot, node)| (*slot, node));
        assert_eq!(plan.owner(first).map(|node| &**node), Some("session-3"));
        assert_ne!(free.owner(first), plan.owner(first));
        assert_eq!((free.owner(second), plan.is_pinned(second)), (plan.owner(second), false));
        assert!(plan.is_of(&members, pins()) && !free.is_of(&members, pins()));
        assert!(!plan.is_of(&members[1..], pins()) && !plan.is_of(&members, std::iter::empty()));
        assert_eq!(
            Plan::of(SlotCount::Usual, []).with_pins([(first, "session-3".into())]).owner(first),
            None
        );
    }

    #[test]
    fn nobody_owns_anything_without_nodes() {
        for slots in SlotCount::ALL {
            assert_eq!(Plan::of(slots, []).owner(Slot::new(0).unwrap()), None);
            assert_eq!(Plan::of(slots, [member(1, 0)]), Plan::of(slots, []));
        }
    }

    #[test]
    fn the_usual_slots_of_a_hundred_nodes_are_uneven_within_the_bound() {
        let plan = plan((0..100).map(|n| member(n, 100)));
        assert!(plan.counts.iter().all(|count| *count <= 46 && *count > 20), "{:?}", plan.counts);
    }

    #[test]
    fn many_slots_of_a_hundred_nodes_are_spread_evenly() {
        let plan = Plan::of(SlotCount::Large, (0..100).map(|n| member(n, 100)));
        assert_eq!(plan.limit("session-0"), 181);
        assert!(plan.counts.iter().all(|count| *count <= 181 && *count > 123), "{:?}", plan.counts);
    }

    #[test]
    fn a_mesh_with_more_slots_is_another_mesh() {
        let members: Vec<Member> = (0..9).map(|n| member(n, 100)).collect();
        let large = Plan::of(SlotCount::Large, members.clone());
        let owner = |n: u16| large.owner(Slot::new(n).unwrap());
        assert!(owner(16_383).is_some());
        assert_eq!(plan(members).owner(Slot::new(4096).unwrap()), None);
    }

    #[test]
    fn the_fast_way_to_a_plan_of_many_slots_is_right_too() {
        let members: Vec<Member> = (0..7).map(|n| member(n, 40 + 60 * (n as u32 % 3))).collect();
        let plan = Plan::of(SlotCount::Large, members.clone());
        let owners: Vec<_> = plan.slots.slots().map(|slot| plan.owner(slot).unwrap().clone()).collect();
        assert_eq!(owners, the_slow_way(SlotCount::Large, &members));
    }

    fn counts() -> impl Strategy<Value = SlotCount> {
        prop::sample::select(SlotCount::ALL.to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn every_slot_has_an_owner_and_no_node_too_many(slots in counts(), members in nodes()) {
            let plan = Plan::of(slots, members.clone());
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for slot in slots.slots() {
                *counts.entry(plan.owner(slot).unwrap()).or_default() += 1;
            }
            for member in &members {
                let count = counts.get(&*member.node).copied().unwrap_or_default();
                prop_assert!(count <= plan.limit(&member.node));
                prop_assert!(plan.limit(&member.node) <= plan.share(&member.node) * 11 / 10 + 2);
            }
        }

        #[test]
        fn the_order_of_nodes_does_not_matter(slots in counts(), members in nodes()) {
            let mut turned = members.clone();
            turned.reverse();
            turned.push(members[0].clone());
            prop_assert_eq!(Plan::of(slots, members), Plan::of(slots, turned));
        }

        #[test]
        fn a_node_that_leaves_moves_little_else(
            slots in counts(),
            mut members in nodes(),
            which in any::<prop::sample::Index>(),
        ) {
            prop_assume!(members.len() > 1);
            let before = Plan::of(slots, members.clone());
            let gone = members.remove(which.index(members.len()));
            let after = Plan::of(slots, members);
            let others = moved(&before, &after, |before, _| *before != *gone.node);
            prop_assert!(others <= usize::from(slots.get()) / 100, "{} moved that need not have", others);
        }

        #[test]
        fn a_node_that_joins_takes_its_own(slots in counts(), members in nodes(), capacity in 1_u32..400) {
            let before = Plan::of(slots, members.clone());
            let new = member(99, capacity);
            let after = Plan::of(slots, members.into_iter().chain([new.clone()]));
            let others = moved(&before, &after, |_, after| *after != *new.node);
            prop_assert!(others <= usize::from(slots.get()) / 100, "{} moved that need not have", others);
        }

        #[test]
        fn whoever_cannot_be_meant_is_left_out_and_nobody_else(members in nodes()) {
            let plan = plan(members.clone());
            let owners: Vec<_> = plan.slots.slots().map(|slot| plan.owner(slot).unwrap().clone()).collect();
            prop_assert_eq!(owners, the_slow_way(SlotCount::Usual, &members));
        }
    }
}
