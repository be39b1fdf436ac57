//! The transactions by which slots change hands. Everything that makes them safe together stands in this file.

use std::sync::Arc;

use crate::decide::{Claim, HandOver};
use crate::port::{Compare, Event, LeaseId, Op, Revision};
use crate::record::{EpochRecord, Key, Keys, SlotRecord, encode};

/// Conditions and writes.
pub(crate) type Writes = (Vec<Compare>, Vec<Op>);

/// Shows a node, instead of exactly what is shown.
pub(crate) fn announce(
    keys: &Keys,
    node: &Arc<str>,
    lease: LeaseId,
    value: Vec<u8>,
    instead_of: Option<Vec<u8>>,
) -> Writes {
    let key = keys.write(&Key::Node(node.to_string()));
    (vec![exactly(key.clone(), instead_of)], vec![Op::Put(key, value, Some(lease))])
}

/// Claims slots that stand exactly as they were seen, in epochs that nobody was dealt since.
pub(crate) fn claim(keys: &Keys, lease: LeaseId, claims: &[Claim]) -> Writes {
    let mut writes = (Vec::new(), Vec::new());
    for claim in claims {
        let (slot, epoch) = (keys.write(&Key::Slot(claim.slot)), keys.write(&Key::Epoch(claim.slot)));
        writes.0.push(exactly(slot.clone(), claim.instead_of.clone()));
        writes.0.push(dealt(epoch.clone(), claim.epoch_at));
        writes.1.push(Op::Put(slot, encode(&claim.record), Some(lease)));
        if !claim.again {
            writes.1.push(Op::Put(epoch, encode(&EpochRecord::new(claim.record.epoch)), None));
        }
    }
    writes
}

/// Gives slots to a node that stands exactly as it was seen, on its own lease, each in a new epoch.
pub(crate) fn hand_over(keys: &Keys, hand_over: &HandOver) -> Writes {
    let to = &hand_over.to;
    let mut writes = (Vec::new(), Vec::new());
    writes.0.push(Compare::Value(keys.write(&Key::Node(to.node.to_string())), hand_over.shown.clone()));
    for moved in &hand_over.moves {
        let (slot, epoch) = (keys.write(&Key::Slot(moved.slot)), keys.write(&Key::Epoch(moved.slot)));
        let record = SlotRecord::new(&to.node, to.incarnation, moved.epoch);
        writes.0.push(Compare::Value(slot.clone(), moved.instead_of.clone()));
        writes.0.push(dealt(epoch.clone(), moved.epoch_at));
        writes.1.push(Op::Put(slot, encode(&record), Some(hand_over.lease)));
        writes.1.push(Op::Put(epoch, encode(&EpochRecord::new(moved.epoch)), None));
    }
    writes
}

/// What a watch will say of writes that were done.
pub(crate) fn events(ops: &[Op], revision: Revision) -> Vec<Event> {
    let event = |op: &Op| match op {
        Op::Put(key, value, lease) => {
            let (key, value, lease) = (key.clone(), value.clone(), *lease);
            Event::Put(crate::port::Entry { key, value, revision, lease })
        }
        Op::Delete(key) => Event::Deleted { key: key.clone(), revision },
    };
    ops.iter().map(event).collect()
}

fn exactly(key: String, value: Option<Vec<u8>>) -> Compare {
    match value {
        Some(value) => Compare::Value(key, value),
        None => Compare::Absent(key),
    }
}

fn dealt(key: String, at: Option<Revision>) -> Compare {
    match at {
        Some(revision) => Compare::Revision(key, revision),
        None => Compare::Absent(key),
    }
}
