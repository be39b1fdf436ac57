//! A table of owners that does not change, as configuration writes it.

use std::sync::Arc;

use api::{Slot, SlotCount};

use crate::locate::{Locator, Peer};
use crate::range::{BeyondError, SlotRange};

/// A table that does not change.
#[derive(Debug, Clone)]
pub struct Static {
    slots: SlotCount,
    nodes: Vec<(Peer, SlotRange)>,
}

/// Why a table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Two nodes would own a slot.
    #[error("slot {slot} is given to both {first} and {second}")]
    Twice {
        /// A slot of both.
        slot: u16,
        /// One of them.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// A slot would have no owner.
    #[error("slot {0} is given to no session node")]
    Nobody(u16),
    /// A node would own slots that there are not.
    #[error(transparent)]
    Beyond(#[from] BeyondError),
}

impl Static {
    /// A table in which every slot has exactly one owner.
    ///
    /// # Errors
    /// [`TableError`] naming the first slot with none or two, or the first range with slots that there are not.
    pub fn new(
        slots: SlotCount,
        nodes: impl IntoIterator<Item = (String, SlotRange)>,
    ) -> Result<Self, TableError> {
        let nodes: Vec<(Peer, SlotRange)> =
            nodes.into_iter().map(|(address, slots)| (Peer { address: address.into() }, slots)).collect();
        for (_, range) in &nodes {
            range.of(slots).map(drop)?;
        }
        for slot in slots.slots() {
            let mut owners = nodes.iter().filter(|(_, range)| range.contains(slot));
            let first = owners.next().ok_or(TableError::Nobody(slot.number()))?;
            if let Some(second) = owners.next() {
                let (first, second) = (first.0.address.clone(), second.0.address.clone());
                return Err(TableError::Twice { slot: slot.number(), first, second });
            }
        }
        Ok(Self { slots, nodes })
    }

    /// One node owns everything.
    #[must_use]
    pub fn embedded(slots: SlotCount, name: &str) -> Self {
        Self { slots, nodes: vec![(Peer { address: name.into() }, SlotRange::ALL)] }
    }
}

impl Locator for Static {
    fn slots(&self) -> SlotCount {
        self.slots
    }

    fn owner(&self, slot: Slot) -> Option<Peer> {
        self.nodes.iter().find(|(_, slots)| slots.contains(slot)).map(|(peer, _)| peer.clone())
    }

    fn ready(&self) -> Vec<Peer> {
        self.nodes.iter().map(|(peer, _)| peer.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(nodes: &[(&str, &str)]) -> Result<Static, TableError> {
        table_of(SlotCount::Usual, nodes)
    }

    fn table_of(slots: SlotCount, nodes: &[(&str, &str)]) -> Result<Static, TableError> {
        Static::new(
            slots,
            nodes.iter().map(|(address, slots)| ((*address).to_owned(), slots.parse().unwrap())),
        )
    }

    #[test]
    fn every_slot_has_exactly_one_owner() {
        let good = table(&[("a", "0-2047"), ("b", "2048-4095")]).unwrap();
        let owner = |n: u16| good.owner(Slot::new(n).unwrap()).unwrap().address.to_string();
        assert_eq!(
            (owner(0), owner(2047), owner(2048), owner(4095)),
            ("a".into(), "a".into(), "b".into(), "b".into())
        );
        assert_eq!(good.ready().len(), 2);
        assert_eq!(table(&[("a", "0-2046"), ("b", "2048-4095")]).err(), Some(TableError::Nobody(2047)));
        assert_eq!(
            table(&[("a", "0-2048"), ("b", "2048-4095")]).err(),
            Some(TableError::Twice { slot: 2048, first: "a".into(), second: "b".into() })
        );
        assert_eq!(table(&[]).err(), Some(TableError::Nobody(0)));
    }

    #[test]
    fn a_table_is_for_as_many_slots_as_the_mesh_has() {
        let large = |nodes: &[(&str, &str)]| table_of(SlotCount::Large, nodes);
        let good = large(&[("a", "0-4095"), ("b", "4096-16383")]).unwrap();
        let owner = |n: u16| good.owner(Slot::new(n).unwrap()).unwrap().address.to_string();
        assert_eq!((owner(4095), owner(4096), owner(16_383)), ("a".into(), "b".into(), "b".into()));
        assert_eq!(large(&[("a", "0-4095")]).err(), Some(TableError::Nobody(4096)));
        let range = "4096-16383".parse().unwrap();
        let beyond = BeyondError { range, count: SlotCount::Usual };
        assert_eq!(table(&[("a", "0-4095"), ("b", "4096-16383")]).err(), Some(TableError::Beyond(beyond)));
        for count in SlotCount::ALL {
            let all = table_of(count, &[("a", "all")]).unwrap();
            assert!(count.slots().all(|slot| all.owner(slot).is_some()) && all.slots() == count);
            assert_eq!(
                table_of(count, &[("a", "all"), ("b", "7")]).map(drop).map_err(|e| e.to_string()),
                Err("slot 7 is given to both a and b".into())
            );
        }
    }
}
