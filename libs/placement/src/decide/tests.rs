mod world;

use std::sync::atomic::Ordering;

use self::world::{World, at_rest, now, slot};
use super::moves::ALONE_MS;
use super::*;
use crate::port::{LeaseStore as _, Op};
use crate::record::{Key, decode};

#[test]
fn one_node_takes_everything_and_fences_it_first() {
    let mut world = World::new(1);
    world.fences_down = true;
    world.settle();
    assert_eq!(world.loads(), [0]);
    world.fences_down = false;
    world.pass(FENCE_AGAIN_MS);
    world.settle();
    world.assert_whole();
    assert_eq!(world.nodes[0].desk.counts(), (4096, 0));
}

#[test]
fn nodes_that_join_get_their_share() {
    let mut world = World::new(1);
    world.settle();
    world.join("session-1", 1);
    world.join("session-2", 2);
    let before = world.ms();
    let mut given = 0;
    while world.loads().iter().any(|load| *load < 1_200) {
        world.settle();
        world.assert_whole();
        let held = world.nodes[0].serves.len();
        let second = usize::try_from((world.ms() - before) / 1_000).unwrap();
        assert!(4096 - held <= 205 * second, "{held} after {second} s");
        given = given.max(4096 - held);
        world.pass(500);
        assert!(world.ms() < before + 60_000, "{:?}", world.loads());
    }
    assert!(given > 2_400);
    let rest = at_rest(3);
    assert!(rest.loads().iter().all(|load| (1_100..=1_503).contains(load)), "{:?}", rest.loads());
}

#[test]
fn nothing_moves_at_rest() {
    let mut world = at_rest(4);
    world.pass(120_000);
    world.settle();
    assert!(world.nodes.iter().all(|node| node.log.is_empty()));
}

#[test]
fn the_preferred_node_claims_at_once_and_others_wait() {
    let mut world = at_rest(3);
    let lost = world.nodes[0].serves.len();
    world.kill(0);
    // The second is on its way to claim; the third does not move.
    let preferred = world.nodes[1].serves.len();
    while world.turn(1) {}
    let took = world.nodes[1].serves.len() - preferred;
    assert!(took > 0 && took < lost);
    world.nodes[2].running = false;
    world.pass(PATIENCE_MS - 50);
    world.settle();
    assert_eq!(world.nodes[1].serves.len(), preferred + took);
    world.pass(PATIENCE_SPREAD_MS + 100);
    world.settle();
    assert_eq!(world.nodes[1].serves.len(), preferred + lost);
}

#[test]
fn a_dead_node_is_replaced_in_few_transactions() {
    let mut world = at_rest(3);
    world.kill(0);
    world.settle();
    world.assert_whole();
    let claims: usize = world.nodes.iter().map(|node| node.log.len()).sum();
    assert!(claims <= 26, "{claims} transactions for {:?}", world.loads());
}

#[test]
fn two_who_suspect_move_slots_and_one_does_not() {
    let mut world = at_rest(3);
    let victims = world.nodes[0].serves.clone();
    world.suspect(0, "gateway-1");
    world.suspect(0, "session-0");
    world.suspect(0, "session-0-0000000000000000");
    world.pass(1_000);
    world.settle();
    assert_eq!(world.nodes[0].serves, victims, "what it says of itself does not count");
    world.suspect(0, "gateway-2");
    // It is paused: it hands nothing over by itself.
    world.nodes[0].running = false;
    world.settle();
    assert_eq!(world.nodes[1].serves.len() + world.nodes[2].serves.len(), 4096);
    assert!(victims.iter().all(|(slot, epoch)| world.fences[slot] == Epoch(epoch.0 + 1)));
    world.nodes[0].running = true;
    world.settle();
    world.assert_whole();
    assert!(world.nodes[0].log[0].starts_with("lost"), "{:?}", world.nodes[0].log);
}

#[test]
fn slots_are_not_forced_twice_within_thirty_seconds() {
    let mut world = at_rest(3);
    for reporter in ["gateway-1", "gateway-2"] {
        world.suspect(0, reporter);
    }
    world.nodes[0].running = false;
    world.settle();
    for reporter in ["gateway-1", "gateway-2"] {
        world.suspect(1, reporter);
    }
    let before = world.nodes[1].serves.clone();
    world.see();
    let forced: Vec<Slot> = before
        .keys()
        .filter(|slot| world.table.slot(**slot).unwrap().record.as_ref().unwrap().forced)
        .copied()
        .collect();
    assert!(!forced.is_empty());
    world.nodes[1].running = false;
    world.settle();
    // What was not forced yet goes to the last node.
    assert_eq!(world.nodes[2].serves.len() + forced.len(), 4096);
    world.clock.fetch_add(FORCED_EVERY_MS, Ordering::SeqCst);
    for node in [0, 1] {
        // Their leases must not be what moves them.
        world.nodes[node].running = true;
    }
    world.pass(100);
    let lease = world.nodes[2].lease;
    assert!(lease.is_some());
    world.settle();
    world.assert_whole();
}

#[test]
fn an_operators_word_is_enough() {
    let mut world = at_rest(2);
    world.suspect(0, OPERATOR);
    world.nodes[0].running = false;
    world.settle();
    assert_eq!(world.nodes[1].serves.len(), 4096);
}

#[test]
fn epochs_rise_above_a_fence_that_is_higher() {
    let mut world = World::new(1);
    world.fences.insert(slot(7), Epoch(1_700_000_000_000));
    world.fences.insert(slot(8), Epoch(1));
    world.settle();
    world.assert_whole();
    assert_eq!(world.fences[&slot(7)], Epoch(1_700_000_000_001));
    assert_eq!(world.fences[&slot(8)], Epoch(2), "an epoch dealt twice is not used");
}

#[test]
fn a_lease_that_was_lost_costs_nothing_when_nobody_was_quicker() {
    let mut world = at_rest(1);
    let before = world.nodes[0].serves.clone();
    drop(now(world.store.revoke(world.nodes[0].lease.unwrap())));
    assert_eq!(world.see().slot(slot(0)), None);
    world.nodes[0].lease = None;
    world.settle();
    assert_eq!(world.nodes[0].serves, before, "it goes on meanwhile");
    world.pass(100);
    world.settle();
    assert_eq!(world.nodes[0].serves, before);
    assert!(world.nodes[0].log.iter().all(|entry| entry.starts_with("claim")));
    world.assert_whole();
    let lease = world.nodes[0].lease;
    assert_eq!(world.see().slot(slot(0)).unwrap().lease, lease);
}

#[test]
fn a_lease_that_was_lost_to_others_loses_slots() {
    let mut world = at_rest(2);
    let lost = world.nodes[0].serves.len();
    drop(now(world.store.revoke(world.nodes[0].lease.unwrap())));
    world.nodes[0].lease = None;
    world.nodes[0].running = false;
    world.settle();
    world.nodes[0].running = true;
    world.settle();
    world.assert_whole();
    assert_eq!(world.nodes[0].log, [format!("lost {lost} to session-1")]);
    world.pass(40_000);
    world.settle();
    world.assert_whole();
}

#[test]
fn a_drain_gives_everything_away() {
    let mut world = at_rest(3);
    let count = world.nodes[0].serves.len();
    let now_ms = world.ms();
    world.nodes[0].desk.drain(now_ms);
    world.settle();
    world.assert_whole();
    assert!(!world.nodes[0].running);
    assert_eq!(world.nodes[0].log.last().unwrap(), "drained 0");
    assert_eq!(world.nodes[0].log.iter().filter(|entry| entry.starts_with("lost")).count(), 0);
    assert!(world.nodes[0].log.len() <= count / HANDED_AT_ONCE + 4, "{:?}", world.nodes[0].log);
}

#[test]
fn a_drain_of_the_last_node_says_what_it_dropped() {
    let mut world = at_rest(1);
    let now_ms = world.ms();
    world.nodes[0].desk.drain(now_ms);
    world.settle();
    assert_eq!(world.nodes[0].log, ["lost 4096 to nobody", "drained 4096"]);
}

#[test]
fn a_drain_without_the_lease_store_ends() {
    let mut world = at_rest(2);
    let (table, now_ms) = (world.see().clone(), world.ms());
    let node = &mut world.nodes[0];
    node.desk.drain(now_ms);
    let view = |now_ms| View { now_ms, table: &table, lease: None, reachable: false };
    assert_eq!(node.desk.decide(view(now_ms)), []);
    let effects = node.desk.decide(view(now_ms + DRAIN_ALONE_MS));
    assert!(matches!(effects.last(), Some(Effect::Drained(dropped)) if *dropped == node.serves.len()));
}

#[test]
fn a_node_without_the_session_store_gives_way() {
    let mut world = at_rest(2);
    let count = world.nodes[0].serves.len();
    world.nodes[0].desk.store_is(false);
    world.settle();
    world.pass(ALONE_MS);
    world.settle();
    assert_eq!(world.loads(), [0, 4096]);
    assert!(world.nodes[0].log.len() <= count / GIVEN_UP_AT_ONCE + 4, "{:?}", world.nodes[0].log);
    world.nodes[1].desk.store_is(false);
    world.settle();
    assert_eq!(world.loads(), [0, 4096], "neither has it: nothing moves");
    world.nodes[0].desk.store_is(true);
    world.settle();
    world.pass(ALONE_MS);
    world.settle();
    assert_eq!(world.loads(), [4096, 0]);
}

#[test]
fn a_session_store_that_went_for_all_comes_back_for_all() {
    let mut world = at_rest(3);
    let before: Vec<_> = world.nodes.iter().map(|node| node.serves.clone()).collect();
    // They notice one after the other that it went, and that it came back.
    for up in [false, true] {
        for n in 0..3 {
            world.nodes[n].desk.store_is(up);
            world.settle();
            world.pass(400);
            world.settle();
        }
    }
    world.pass(10_000);
    world.settle();
    let after: Vec<_> = world.nodes.iter().map(|node| node.serves.clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_restart_takes_its_slots_back_at_once() {
    let mut world = at_rest(2);
    let before: Vec<Slot> = world.nodes[0].serves.keys().copied().collect();
    // Killed, and its lease still runs.
    world.nodes[0].running = false;
    let paused = std::mem::take(&mut world.nodes[0].serves);
    world.join("session-0", 99);
    world.settle();
    let after: Vec<Slot> = world.nodes[2].serves.keys().copied().collect();
    assert_eq!(before, after);
    world.assert_whole();
    // The old process was only paused.
    world.nodes[0].serves = paused;
    world.nodes[0].running = true;
    world.settle();
    assert_eq!(world.nodes[0].log.last().unwrap(), "replaced by 0000000000000063");
}

#[test]
fn a_store_restored_from_a_backup_deals_no_epoch_twice() {
    let mut world = at_rest(2);
    let backup = now(world.store.list("/t/")).unwrap();
    world.kill(1);
    world.settle();
    world.assert_whole();
    // Back in time: owners and epochs are as before, but fences are not.
    let ops: Vec<Op> = backup
        .entries
        .into_iter()
        .filter(|entry| !entry.key.contains("nodes/session-1"))
        .map(|entry| Op::Put(entry.key, entry.value, None))
        .collect();
    for part in ops.chunks(100) {
        assert!(world.txn(Vec::new(), part.to_vec()));
    }
    world.settle();
    world.assert_whole();
    assert_eq!(world.loads()[0], 4096);
}

#[test]
fn what_the_session_store_refuses_is_claimed_above_it() {
    let mut world = at_rest(2);
    let (held, epoch) = world.nodes[0].serves.first_key_value().map(|(slot, epoch)| (*slot, *epoch)).unwrap();
    // Somebody had it since, whom the lease store has forgotten.
    world.fences.insert(held, Epoch(epoch.0 + 5));
    world.nodes[0].desk.overtaken(held, Epoch(epoch.0 - 1));
    world.settle();
    assert_eq!(world.nodes[0].serves[&held], epoch, "an earlier epoch says nothing of this one");
    world.nodes[0].serves.remove(&held);
    world.nodes[0].desk.overtaken(held, epoch);
    world.settle();
    world.assert_whole();
    assert_eq!(world.nodes[0].serves[&held], Epoch(epoch.0 + 6));
}

#[test]
fn slots_of_a_newer_version_are_left_alone() {
    let mut world = World::new(1);
    world.put(&Key::Slot(slot(7)), br#"{"v":2}"#.to_vec());
    world.put(&Key::Epoch(slot(8)), br#"{"v":2}"#.to_vec());
    world.settle();
    assert_eq!(world.loads(), [4094]);
    assert_eq!(decode::<SlotRecord>(&world.see().slot(slot(7)).unwrap().raw), None);
}

#[test]
fn a_claim_whose_answer_was_lost_is_noticed() {
    let mut world = World::new(1);
    // Show itself first.
    world.turn(0);
    world.see();
    let now_ms = world.ms();
    let effects = world.decide(0);
    let lease = world.nodes[0].lease.unwrap();
    for effect in effects {
        let Effect::Claim(claims) = effect else { panic!("{effect:?}") };
        let (compares, ops) = crate::claim::writes::claim(&world.keys, lease, &claims);
        assert!(world.txn(compares, ops));
        world.nodes[0].desk.claimed(now_ms, &claims, false);
    }
    world.settle();
    world.pass(AGAIN_MS);
    world.settle();
    world.assert_whole();
    assert!(world.fences.values().all(|epoch| *epoch == Epoch(1)), "none was claimed again");
}
