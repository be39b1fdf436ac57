//! Which node should own which slot.
//!
//! Owns: weighted rendezvous hashing with a bound on every node's load. Must not know: who owns what now. Everybody who sees
//! the same nodes computes the same plan, on any machine: only whole numbers are used.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::sync::Arc;

use api::Slot;
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
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

impl Plan {
    /// The plan for these nodes, in whatever order they come. A name that comes twice counts once.
    #[must_use]
    pub fn of(members: impl IntoIterator<Item = Member>) -> Self {
        let mut members: Vec<Member> = members.into_iter().filter(|member| member.capacity > 0).collect();
        members.sort();
        members.dedup_by(|a, b| a.node == b.node);
        // As many as there are slots: more could own nothing.
        members.truncate(usize::from(Slot::COUNT));
        let seeds: Vec<u64> = members.iter().map(|member| hash(&member.node)).collect();
        let pins = BTreeMap::new();
        let mut plan = Self { counts: vec![0; members.len()], owners: Vec::new(), members, pins };
        let bounds: Vec<usize> = (0..plan.members.len()).map(|index| plan.bound(index)).collect();
        for slot in 0..Slot::COUNT {
            let open = (0..plan.members.len()).filter(|index| plan.counts[*index] < bounds[*index]);
            let Some(best) = open.min_by(|a, b| {
                let cost = |index: usize| cost(seeds[index], slot);
                let (weight_a, weight_b) = (plan.members[*a].capacity, plan.members[*b].capacity);
                // cost / weight, without dividing
                let (a_scaled, b_scaled) = (cost(*a) * u128::from(weight_b), cost(*b) * u128::from(weight_a));
                a_scaled.cmp(&b_scaled).then(a.cmp(b))
            }) else {
                break;
            };
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
        let share = (u128::from(Slot::COUNT) * own * tenths).div_ceil((total * 10).max(1));
        usize::try_from(share).unwrap_or(usize::MAX)
    }
}

fn hash(node: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(node.as_bytes());
    hasher.finish()
}

/// How unfit a node is for a slot: -log2 of a random number between 0 and 1, never 0.
fn cost(seed: u64, slot: u16) -> u128 {
    let drawn = mix(seed ^ mix(u64::from(slot).wrapping_add(0x9e37_79b9_7f4a_7c15))).max(1);
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

    fn slots() -> impl Iterator<Item = Slot> {
        (0..Slot::COUNT).filter_map(Slot::new)
    }

    fn moved(a: &Plan, b: &Plan, counts: impl Fn(&str, &str) -> bool) -> usize {
        let owners = slots().map(|slot| (a.owner(slot).unwrap(), b.owner(slot).unwrap()));
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
        let plan = Plan::of((0..5).map(|n| member(n, 100)));
        let owners: String =
            slots().take(24).map(|slot| plan.owner(slot).unwrap().chars().last().unwrap()).collect();
        assert_eq!(owners, "412202442033344231404132");
    }

    #[test]
    fn a_pinned_slot_goes_where_it_is_told_while_that_node_takes_part() {
        let members: Vec<Member> = (0..5).map(|n| member(n, 100)).collect();
        let (first, second) = (Slot::new(0).unwrap(), Slot::new(1).unwrap());
        let pins = [(first, "session-3".into()), (second, "session-9".into())];
        let free = Plan::of(members.clone());
        let plan = free.clone().with_pins(pins.clone());
        let pins = || pins.iter().map(|(slot, node)| (*slot, node));
        assert_eq!(plan.owner(first).map(|node| &**node), Some("session-3"));
        assert_ne!(free.owner(first), plan.owner(first));
        assert_eq!((free.owner(second), plan.is_pinned(second)), (plan.owner(second), false));
        assert!(plan.is_of(&members, pins()) && !free.is_of(&members, pins()));
        assert!(!plan.is_of(&members[1..], pins()) && !plan.is_of(&members, std::iter::empty()));
        assert_eq!(Plan::of([]).with_pins([(first, "session-3".into())]).owner(first), None);
    }

    #[test]
    fn nobody_owns_anything_without_nodes() {
        assert_eq!(Plan::of([]).owner(Slot::new(0).unwrap()), None);
        assert_eq!(Plan::of([member(1, 0)]), Plan::of([]));
    }

    #[test]
    fn a_hundred_nodes_stay_within_the_bound() {
        let plan = Plan::of((0..100).map(|n| member(n, 100)));
        assert!(plan.counts.iter().all(|count| *count <= 46 && *count > 20), "{:?}", plan.counts);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn every_slot_has_an_owner_and_no_node_too_many(members in nodes()) {
            let plan = Plan::of(members.clone());
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for slot in slots() {
                *counts.entry(plan.owner(slot).unwrap()).or_default() += 1;
            }
            for member in &members {
                let count = counts.get(&*member.node).copied().unwrap_or_default();
                prop_assert!(count <= plan.limit(&member.node));
                prop_assert!(plan.limit(&member.node) <= plan.share(&member.node) * 11 / 10 + 2);
            }
        }

        #[test]
        fn the_order_of_nodes_does_not_matter(members in nodes()) {
            let mut turned = members.clone();
            turned.reverse();
            turned.push(members[0].clone());
            prop_assert_eq!(Plan::of(members), Plan::of(turned));
        }

        #[test]
        fn a_node_that_leaves_moves_little_else(mut members in nodes(), which in any::<prop::sample::Index>()) {
            prop_assume!(members.len() > 1);
            let before = Plan::of(members.clone());
            let gone = members.remove(which.index(members.len()));
            let after = Plan::of(members);
            let others = moved(&before, &after, |before, _| *before != *gone.node);
            prop_assert!(others <= 4096 / 100, "{} moved that need not have", others);
        }

        #[test]
        fn a_node_that_joins_takes_its_own(members in nodes(), capacity in 1_u32..400) {
            let before = Plan::of(members.clone());
            let new = member(99, capacity);
            let after = Plan::of(members.into_iter().chain([new.clone()]));
            let others = moved(&before, &after, |_, after| *after != *new.node);
            prop_assert!(others <= 4096 / 100, "{} moved that need not have", others);
        }
    }
}
