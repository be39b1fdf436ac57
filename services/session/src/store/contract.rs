//! What every [`SessionStore`] does, as one suite that each implementation passes.

#![allow(clippy::expect_used, clippy::panic, reason = "a suite of assertions, called by tests only")]

use api::session::Transport;
use api::{Epoch, KeyRing, Principal, SessionId, Slot};
use machines::{Change, CommitRefusal};
use mcp::log::Level;

use super::SessionStore;

fn id(slot: u16, random: u8) -> SessionId {
    let slot = Slot::new(slot).expect("a slot of the suite");
    SessionId::mint(&KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef"), slot, [random; 16])
}

/// Runs every check against an empty store.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn all(store: &dyn SessionStore) {
    what_is_committed_is_loaded(store).await;
    a_lower_epoch_is_refused_everywhere(store).await;
    an_unfenced_slot_is_refused(store).await;
    versions_are_compared(store).await;
    the_transport_is_kept(store).await;
    removed_is_unknown(store).await;
}

async fn fresh(store: &dyn SessionStore, slot: u16, random: u8) -> SessionId {
    let id = id(slot, random);
    store.fence(id.slot(), Epoch(1)).await.expect("fence");
    store.create(&id, Epoch(1), &Principal::default(), Transport::Streamable).await.expect("create");
    id
}

async fn what_is_committed_is_loaded(store: &dyn SessionStore) {
    let who = Principal { subject: "s".into(), issuer: "i".into(), tenant: "t".into(), client: "c".into() };
    let id = id(1, 1);
    assert_eq!(store.load(&id).await, Ok(None));
    store.fence(id.slot(), Epoch(1)).await.expect("fence");
    store.create(&id, Epoch(1), &who, Transport::Streamable).await.expect("create");
    let again = store.create(&id, Epoch(1), &who, Transport::HttpSse).await;
    assert_eq!(again, Err(CommitRefusal::Conflict));
    let changes = [Change::LevelSet(Level::Error), Change::Subscribed("a:b".into())];
    store.commit(&id, Epoch(1), 0, &changes).await.expect("commit");
    let stored = store.load(&id).await.expect("load").expect("is there");
    assert_eq!((stored.version, stored.principal, stored.transport), (1, who, Transport::Streamable));
    let mut expected = machines::Snapshot::default();
    changes.iter().for_each(|c| expected.apply(c));
    assert_eq!(stored.snapshot, expected);
}

async fn a_lower_epoch_is_refused_everywhere(store: &dyn SessionStore) {
    let id = fresh(store, 2, 2).await;
    store.fence(id.slot(), Epoch(5)).await.expect("fence");
    let stale = Err(CommitRefusal::Stale);
    assert_eq!(store.fence(id.slot(), Epoch(4)).await, stale);
    assert_eq!(store.commit(&id, Epoch(4), 0, &[Change::Ready]).await, stale);
    let created = store.create(&self::id(2, 9), Epoch(4), &Principal::default(), Transport::HttpSse).await;
    assert_eq!(created, stale);
    assert_eq!(store.remove(&id, Epoch(4)).await, stale);
    assert_eq!(store.load(&id).await.map(|s| s.map(|s| s.version)), Ok(Some(0)), "nothing was written");
    store.commit(&id, Epoch(5), 0, &[Change::Ready]).await.expect("the owner writes");
}

async fn an_unfenced_slot_is_refused(store: &dyn SessionStore) {
    let id = id(3, 3);
    let regress = Err(CommitRefusal::Regress);
    let nobody = Principal::default();
    let create = |epoch| store.create(&id, epoch, &nobody, Transport::Streamable);
    assert_eq!(create(Epoch(1)).await, regress);
    store.fence(id.slot(), Epoch(1)).await.expect("fence");
    assert_eq!(create(Epoch(2)).await, regress, "a fence that the store has lost");
}

async fn versions_are_compared(store: &dyn SessionStore) {
    let id = fresh(store, 4, 4).await;
    store.commit(&id, Epoch(1), 0, &[Change::LevelSet(Level::Info)]).await.expect("first");
    for version in [0, 2] {
        let refused = store.commit(&id, Epoch(1), version, &[Change::LevelSet(Level::Alert)]).await;
        assert_eq!(refused, Err(CommitRefusal::Conflict));
    }
    let stored = store.load(&id).await.expect("load").expect("is there");
    assert_eq!((stored.snapshot.level, stored.version), (Some(Level::Info), 1));
}

async fn the_transport_is_kept(store: &dyn SessionStore) {
    for (random, transport) in [(6, Transport::Streamable), (7, Transport::HttpSse)] {
        let id = id(6, random);
        store.fence(id.slot(), Epoch(1)).await.expect("fence");
        store.create(&id, Epoch(1), &Principal::default(), transport).await.expect("create");
        store.commit(&id, Epoch(1), 0, &[Change::LevelSet(Level::Info)]).await.expect("commit");
        let stored = store.load(&id).await.expect("load").expect("is there");
        assert_eq!(stored.transport, transport);
    }
}

async fn removed_is_unknown(store: &dyn SessionStore) {
    let id = fresh(store, 5, 5).await;
    store.remove(&id, Epoch(1)).await.expect("remove");
    store.remove(&id, Epoch(1)).await.expect("again");
    assert_eq!(store.load(&id).await, Ok(None));
    assert_eq!(store.commit(&id, Epoch(1), 0, &[]).await, Err(CommitRefusal::Conflict));
}
