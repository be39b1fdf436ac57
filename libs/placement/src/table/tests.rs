use proptest::prelude::*;

use super::*;
use crate::record::encode;

fn keys() -> Keys {
    Keys::new("/t")
}

fn slot(n: u16) -> Slot {
    Slot::new(n).unwrap()
}

fn put(key: &Key, value: Vec<u8>, revision: Revision) -> Entry {
    Entry { key: keys().write(key), value, revision, lease: Some(LeaseId(1)) }
}

fn claimed(n: u16, node: &str, epoch: u64, revision: Revision) -> Entry {
    let record = SlotRecord::new(&node.into(), Incarnation(1), Epoch(epoch));
    put(&Key::Slot(slot(n)), encode(&record), revision)
}

fn shown(node: &str, address: &str, incarnation: u64, revision: Revision) -> Entry {
    let record = NodeRecord::new(address, "", 100, Incarnation(incarnation), LeaseId(1));
    put(&Key::Node(node.to_owned()), encode(&record), revision)
}

fn deleted(n: u16, revision: Revision) -> Event {
    Event::Deleted { key: keys().write(&Key::Slot(slot(n))), revision }
}

fn listed(entries: Vec<Entry>, revision: Revision) -> Table {
    let mut table = Table::new(keys(), SlotCount::Usual);
    assert_eq!(table.list(Listing { entries, revision }, 0), Listed::Taken { missed: 0 });
    table
}

fn owner_of(table: &Table, n: u16) -> Option<(String, u64)> {
    table.owner(slot(n)).map(|owner| (owner.peer.address.to_string(), owner.epoch.0))
}

#[test]
fn events_and_lists_make_one_table() {
    let mut table = listed(vec![shown("a", "a:1", 1, 3), claimed(7, "a", 1, 4)], 5);
    assert_eq!(owner_of(&table, 7), Some(("a:1".into(), 1)));
    assert!(table.apply(vec![Event::Put(shown("b", "b:1", 1, 6)), Event::Put(claimed(7, "b", 2, 6))]));
    assert_eq!(owner_of(&table, 7), Some(("b:1".into(), 2)));
    assert!(table.apply(vec![deleted(7, 8)]));
    assert_eq!((owner_of(&table, 7), table.newest()), (None, 8));
}

#[test]
fn late_and_repeated_events_change_nothing() {
    let mut table = listed(vec![shown("a", "a:1", 1, 3), claimed(7, "a", 2, 5)], 6);
    assert!(!table.apply(vec![
        Event::Put(claimed(7, "b", 1, 4)),
        deleted(7, 4),
        Event::Put(claimed(8, "b", 1, 6))
    ]));
    // A write of one's own, before the watch tells of an older one.
    assert!(table.apply(vec![Event::Put(claimed(7, "a", 3, 9))]));
    assert!(!table.apply(vec![deleted(7, 8)]));
    assert_eq!(owner_of(&table, 7), Some(("a:1".into(), 3)));
}

#[test]
fn an_owner_that_restarted_is_none() {
    let table = listed(vec![shown("a", "a:2", 2, 6), claimed(7, "a", 1, 4)], 7);
    assert_eq!(owner_of(&table, 7), None);
    assert!(table.slot(slot(7)).is_some());
}

#[test]
fn a_list_says_what_a_watch_missed() {
    let mut table = listed(vec![shown("a", "a:1", 1, 3), claimed(7, "a", 1, 4)], 5);
    table.apply(vec![Event::Put(claimed(8, "a", 1, 9))]);
    let truth = || {
        vec![shown("a", "a:1", 1, 3), claimed(7, "b", 2, 7), claimed(8, "a", 1, 9), claimed(9, "a", 1, 11)]
    };
    assert_eq!(table.list(Listing { entries: truth(), revision: 8 }, 5), Listed::Overtaken);
    assert_eq!(table.list(Listing { entries: truth(), revision: 11 }, 9), Listed::Taken { missed: 1 });
    assert_eq!(table.slot(slot(7)).unwrap().record.as_ref().unwrap().epoch, Epoch(2));
    assert_eq!(table.list(Listing { entries: truth(), revision: 11 }, 11), Listed::Taken { missed: 0 });
}

#[test]
fn a_store_that_went_back_is_believed() {
    let mut table = listed(vec![shown("a", "a:1", 1, 30), claimed(7, "a", 9, 40)], 50);
    let old = vec![shown("a", "a:1", 1, 3), claimed(7, "a", 2, 4)];
    assert_eq!(table.list(Listing { entries: old, revision: 5 }, 50), Listed::Restored);
    assert_eq!((owner_of(&table, 7), table.newest()), (Some(("a:1".into(), 2)), 5));
    assert!(table.apply(vec![deleted(7, 6)]));
}

#[test]
fn reporters_are_counted_per_run() {
    let report = |incarnation: u64, reporter: &str, revision| {
        let key = Key::Suspect {
            node: "a".into(),
            incarnation: Incarnation(incarnation),
            reporter: reporter.into(),
        };
        put(&key, b"{}".to_vec(), revision)
    };
    let mut table = listed(vec![report(1, "x", 1), report(1, "y", 2), report(2, "x", 3)], 3);
    let count = |table: &Table, run| table.reporters(&"a".into(), Incarnation(run)).map_or(0, BTreeSet::len);
    assert_eq!((count(&table, 1), count(&table, 2), count(&table, 3)), (2, 1, 0));
    let gone = Event::Deleted { key: report(1, "x", 0).key, revision: 4 };
    table.apply(vec![gone]);
    assert_eq!(count(&table, 1), 1);
}

#[test]
fn values_of_another_version_are_kept_but_not_believed() {
    let strange = put(&Key::Slot(slot(7)), br#"{"v":2,"owner":"x"}"#.to_vec(), 4);
    let table = listed(vec![strange], 5);
    assert_eq!(table.slot(slot(7)).map(|held| held.record.is_none()), Some(true));
}

proptest! {
    /// However a history is cut into a list and the events after it, and whichever of them come twice or late.
    #[test]
    fn the_table_does_not_depend_on_when_it_was_listed(
        writes in prop::collection::vec((0_u16..4, prop::option::of(1_u64..50)), 1..40),
        cut in any::<prop::sample::Index>(),
        back in 0_usize..10,
    ) {
        let event = |(at, (n, epoch)): (usize, &(u16, Option<u64>))| {
            let revision = Revision::try_from(at).unwrap() + 1;
            match epoch {
                Some(epoch) => Event::Put(claimed(*n, "a", *epoch, revision)),
                None => deleted(*n, revision),
            }
        };
        let events: Vec<Event> = writes.iter().enumerate().map(event).collect();
        let mut whole = listed(Vec::new(), 0);
        whole.apply(events.clone());

        let cut = cut.index(events.len());
        let mut until = listed(Vec::new(), 0);
        until.apply(events[..cut].to_vec());
        let entries = until.entries.values().cloned().collect();
        let mut split = listed(entries, Revision::try_from(cut).unwrap());
        split.apply(events[cut.saturating_sub(back)..].to_vec());
        prop_assert_eq!(&whole.entries, &split.entries);
        prop_assert_eq!(whole.slots, split.slots);
    }
}

#[test]
fn a_table_has_the_slots_of_its_mesh_and_no_others() {
    for count in SlotCount::ALL {
        let mut table = Table::new(keys(), count);
        let entries = vec![claimed(count.last(), "a", 3, 5)];
        assert_eq!(table.list(Listing { entries, revision: 5 }, 0), Listed::Taken { missed: 0 });
        assert!(table.slot(slot(count.last())).is_some());
        assert_eq!((table.load("a"), table.made().number), (1, None));
    }
    let mut table = Table::new(keys(), SlotCount::Usual);
    let made = put(&Key::Slots, encode(&SlotsRecord::new(SlotCount::Large)), 4);
    let entries = vec![claimed(4096, "a", 3, 5), made.clone()];
    table.list(Listing { entries, revision: 5 }, 0);
    assert!(table.slot(slot(4096)).is_none() && table.load("a") == 0);
    assert_eq!(table.made().number, Some(Some(16_384)));
    assert!(!table.made().is_dealt);
    table.apply(vec![Event::Deleted { key: made.key, revision: 6 }]);
    assert_eq!(table.made().number, None);
}
