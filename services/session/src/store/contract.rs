//! What every [`SessionStore`] does, as one suite that each implementation passes.

#![allow(clippy::expect_used, clippy::panic, reason = "a suite of assertions, called by tests only")]

use api::session::Transport;
use api::{Epoch, KeyRing, Principal, SessionId, Slot};
use machines::snapshot::StreamChange;
use machines::{Change, CommitRefusal, Snapshot, StreamId};
use mcp::Json;
use mcp::log::Level;

use super::{Answered, Commit, Fenced, SessionStore, Stored};

fn id(slot: u16, random: u8) -> SessionId {
    let slot = Slot::new(slot).expect("a slot of the suite");
    SessionId::mint(&KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef"), slot, [random; 16])
}

/// Runs every check against an empty store.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn all(store: &dyn SessionStore) {
    assert!(store.is_up().await);
    what_is_committed_is_loaded(store).await;
    a_lower_epoch_is_refused_everywhere(store).await;
    an_unfenced_slot_is_refused(store).await;
    many_slots_are_fenced_at_once(store).await;
    versions_are_compared(store).await;
    the_transport_is_kept(store).await;
    removed_is_unknown(store).await;
    an_ended_session_keeps_nothing_else(store).await;
    answers_are_found_by_their_key(store).await;
    the_last_answers_are_kept(store).await;
    answers_are_bounded_in_bytes(store).await;
    a_refused_commit_answers_nothing(store).await;
    a_session_is_written_back(store).await;
    what_was_ended_is_not_written_back(store).await;
    a_write_back_is_fenced_too(store).await;
    events_are_trimmed_and_streams_dropped(store).await;
    the_first_name_stays(store).await;
}

/// Checks a store that keeps sessions outside of this process, by two that were opened for the same place: what one has written is
/// there for the other, so that no memory of it is needed.
///
/// # Panics
/// Where they break the contract.
pub async fn outside(one: &dyn SessionStore, other: &dyn SessionStore) {
    assert!(one.is_outside() && other.is_outside());
    let mut writer = Writer::begin(one, 1, 1).await;
    for level in [Level::Error, Level::Info] {
        writer.write(&[Change::LevelSet(level)], None).await;
        let there = other.load(&writer.id).await.expect("load").expect("is there");
        assert_eq!((there.version, there.snapshot), (writer.version, writer.state.clone()));
    }
    one.remove(&writer.id, writer.epoch).await.expect("remove");
    assert_eq!(other.load(&writer.id).await, Ok(None));
}

/// Commits to a session, and keeps its state along with it.
struct Writer<'a> {
    store: &'a dyn SessionStore,
    id: SessionId,
    epoch: Epoch,
    state: Snapshot,
    version: u64,
}

impl<'a> Writer<'a> {
    async fn begin(store: &'a dyn SessionStore, slot: u16, random: u8) -> Self {
        let id = id(slot, random);
        fence(store, slot, 1).await;
        store.create(&id, Epoch(1), &Principal::default(), Transport::Streamable).await.expect("create");
        Self { store, id, epoch: Epoch(1), state: Snapshot::default(), version: 0 }
    }

    async fn attempt(&self, changes: &[Change], answered: Option<Answered>) -> Result<(), CommitRefusal> {
        let mut after = self.state.clone();
        changes.iter().for_each(|change| after.apply(change));
        let commit = Commit { changes, after: &after, answered };
        self.store.commit(&self.id, self.epoch, self.version, commit).await
    }

    async fn write(&mut self, changes: &[Change], answered: Option<Answered>) {
        self.attempt(changes, answered).await.expect("commit");
        changes.iter().for_each(|change| self.state.apply(change));
        self.version += 1;
    }

    async fn loaded(&self) -> Stored {
        self.store.load(&self.id).await.expect("load").expect("is there")
    }

    async fn found(&self, key: &str) -> Option<Answered> {
        self.store.answered(&self.id, key).await.expect("answered")
    }

    async fn is_whole(&self) {
        let stored = self.loaded().await;
        assert_eq!((stored.version, &stored.snapshot), (self.version, &self.state));
    }
}

async fn fence(store: &dyn SessionStore, slot: u16, epoch: u64) {
    let slot = Slot::new(slot).expect("a slot of the suite");
    assert_eq!(store.fence(&[(slot, Epoch(epoch))]).await, [Fenced::Done]);
}

async fn what_is_committed_is_loaded(store: &dyn SessionStore) {
    let who = Principal { subject: "s".into(), issuer: "i".into(), tenant: "t".into(), client: "c".into() };
    let id = id(1, 1);
    assert_eq!(store.load(&id).await, Ok(None));
    fence(store, 1, 1).await;
    store.create(&id, Epoch(1), &who, Transport::Streamable).await.expect("create");
    let again = store.create(&id, Epoch(1), &who, Transport::HttpSse).await;
    assert_eq!(again, Err(CommitRefusal::Conflict));
    let empty = Stored {
        principal: who.clone(),
        transport: Transport::Streamable,
        snapshot: Snapshot::default(),
        version: 0,
    };
    assert_eq!(store.load(&id).await, Ok(Some(empty)));
    let changes = [Change::LevelSet(Level::Error), Change::Subscribed("a:b".into())];
    let mut expected = Snapshot::default();
    changes.iter().for_each(|change| expected.apply(change));
    store.commit(&id, Epoch(1), 0, Commit::new(&changes, &expected)).await.expect("commit");
    store.touch(&id).await.expect("touch");
    let stored = store.load(&id).await.expect("load").expect("is there");
    assert_eq!((stored.version, stored.principal, stored.transport), (1, who, Transport::Streamable));
    assert_eq!(stored.snapshot, expected);
}

async fn a_lower_epoch_is_refused_everywhere(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 2, 2).await;
    fence(store, 2, 5).await;
    fence(store, 2, 5).await;
    let (stale, id) = (Err(CommitRefusal::Stale), writer.id.clone());
    writer.epoch = Epoch(4);
    assert_eq!(store.fence(&[(id.slot(), Epoch(4))]).await, [Fenced::Higher(Epoch(5))]);
    assert_eq!(writer.attempt(&[Change::LevelSet(Level::Info)], None).await, stale);
    let created = store.create(&self::id(2, 9), Epoch(4), &Principal::default(), Transport::HttpSse).await;
    assert_eq!(created, stale);
    assert_eq!(store.remove(&id, Epoch(4)).await, stale);
    writer.is_whole().await;
    writer.epoch = Epoch(5);
    writer.write(&[Change::LevelSet(Level::Info)], None).await;
}

async fn an_unfenced_slot_is_refused(store: &dyn SessionStore) {
    let id = id(3, 3);
    let regress = Err(CommitRefusal::Regress);
    let nobody = Principal::default();
    let create = |epoch| store.create(&id, epoch, &nobody, Transport::Streamable);
    assert_eq!(create(Epoch(1)).await, regress);
    fence(store, 3, 1).await;
    assert_eq!(create(Epoch(2)).await, regress, "a fence that the store has lost");
    assert_eq!(store.remove(&id, Epoch(2)).await, regress);
}

async fn many_slots_are_fenced_at_once(store: &dyn SessionStore) {
    fence(store, 100, 7).await;
    let slot = |number| Slot::new(number).expect("a slot of the suite");
    let claimed: Vec<_> = (90..190).map(|number| (slot(number), Epoch(3))).collect();
    let mut expected = vec![Fenced::Done; 100];
    expected[10] = Fenced::Higher(Epoch(7));
    assert_eq!(store.fence(&claimed).await, expected);
    assert_eq!(store.fence(&[]).await, []);
    let high = Epoch(u64::from(u32::MAX) << 20);
    assert_eq!(store.fence(&[(slot(90), high)]).await, [Fenced::Done]);
    assert_eq!(store.fence(&[(slot(90), Epoch(high.0 - 1))]).await, [Fenced::Higher(high)]);
}

async fn versions_are_compared(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 4, 4).await;
    writer.write(&[Change::LevelSet(Level::Info)], None).await;
    for version in [0, 2] {
        writer.version = version;
        let refused = writer.attempt(&[Change::LevelSet(Level::Alert)], None).await;
        assert_eq!(refused, Err(CommitRefusal::Conflict));
    }
    writer.version = 1;
    writer.is_whole().await;
}

async fn the_transport_is_kept(store: &dyn SessionStore) {
    for (random, transport) in [(6, Transport::Streamable), (7, Transport::HttpSse)] {
        let id = id(6, random);
        fence(store, 6, 1).await;
        store.create(&id, Epoch(1), &Principal::default(), transport).await.expect("create");
        let stored = store.load(&id).await.expect("load").expect("is there");
        assert_eq!(stored.transport, transport);
    }
}

async fn removed_is_unknown(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 5, 5).await;
    let stream = StreamId(9);
    let begun = [
        Change::Stream(StreamId::OWN, opened(None)),
        Change::Stream(stream, opened(Some("a"))),
        appended(stream, 1, false),
    ];
    writer.write(&begun, Some(answered("k", None))).await;
    store.remove(&writer.id, Epoch(1)).await.expect("remove");
    store.remove(&writer.id, Epoch(1)).await.expect("again");
    assert_eq!(store.load(&writer.id).await, Ok(None));
    assert_eq!(writer.found("k").await, None);
    assert_eq!(writer.attempt(&[], None).await, Err(CommitRefusal::Conflict));
    store.touch(&writer.id).await.expect("nothing to touch");
}

async fn an_ended_session_keeps_nothing_else(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 7, 1).await;
    let streams = [StreamId::OWN, StreamId(3), StreamId(4)];
    let begun = streams.map(|stream| Change::Stream(stream, opened(None)));
    writer.write(&begun, None).await;
    writer.write(&streams.map(|stream| appended(stream, 1, false)), None).await;
    writer.write(&[Change::Subscribed("a:b".into())], None).await;
    writer.write(&[Change::Ended], None).await;
    writer.is_whole().await;
}

async fn answers_are_found_by_their_key(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 8, 1).await;
    let other = Writer::begin(store, 8, 2).await;
    let body = Some(Json::trusted(r#"{"jsonrpc":"2.0","id":1,"result":{"text":"ä:1"}}"#));
    writer.write(&[], Some(answered("a", body.clone()))).await;
    writer.write(&[Change::LevelSet(Level::Info)], Some(answered("b c:1", None))).await;
    writer.write(&[], Some(answered("a", None))).await;
    assert_eq!(writer.found("a").await, Some(answered("a", body)), "the first one stays");
    assert_eq!(writer.found("b c:1").await, Some(answered("b c:1", None)));
    assert_eq!((writer.found("c").await, other.found("a").await), (None, None));
    writer.is_whole().await;
}

async fn the_last_answers_are_kept(store: &dyn SessionStore) {
    for (random, most, body) in [(1, Answered::MOST, Some(Json::empty_object())), (2, Answered::BARE, None)] {
        let mut writer = Writer::begin(store, 9, random).await;
        let all = most * 3;
        for n in 0..all {
            writer.write(&[], Some(answered(&n.to_string(), body.clone()))).await;
        }
        assert_eq!(writer.found(&(most - 1).to_string()).await, None);
        for n in all - most..all {
            assert!(writer.found(&n.to_string()).await.is_some(), "{n}");
        }
    }
}

async fn answers_are_bounded_in_bytes(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 10, 1).await;
    let text = |length| Some(Json::trusted(format!("\"{}\"", "x".repeat(length))));
    for key in ["a", "b", "c"] {
        writer.write(&[], Some(answered(key, text(Answered::BYTES / 3)))).await;
    }
    assert_eq!(writer.found("a").await, None, "three are just too much");
    assert!(writer.found("b").await.is_some() && writer.found("c").await.is_some());
    writer.write(&[], Some(answered("d", text(Answered::BYTES)))).await;
    assert_eq!(writer.found("d").await, None, "too large alone");
    assert!(writer.found("c").await.is_some(), "and drives nothing out");
}

async fn a_refused_commit_answers_nothing(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 11, 1).await;
    writer.version = 1;
    assert_eq!(writer.attempt(&[], Some(answered("a", None))).await, Err(CommitRefusal::Conflict));
    assert_eq!(writer.found("a").await, None);
}

async fn a_session_is_written_back(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 12, 1).await;
    let stream = StreamId(2);
    writer.write(&[Change::Stream(stream, opened(None)), appended(stream, 1, false)], None).await;
    let before = writer.loaded().await;
    writer.write(&[appended(stream, 2, false), Change::Subscribed("a:b".into())], None).await;
    let whole = writer.loaded().await;
    let repair = |stored| async move { store.repair(&id(12, 1), Epoch(1), &stored).await };
    assert_eq!(repair(before).await, Err(CommitRefusal::Conflict), "the store knows more");
    let further = Stored { version: 7, ..whole };
    repair(further.clone()).await.expect("the store knows less");
    assert_eq!(writer.loaded().await, further);
    repair(further.clone()).await.expect("the store knows the same");
    let lost = id(12, 2);
    store.repair(&lost, Epoch(1), &further).await.expect("the store knows nothing");
    assert_eq!(store.load(&lost).await, Ok(Some(further)));
    writer.version = 7;
    writer.write(&[appended(stream, 3, false)], None).await;
    writer.is_whole().await;
}

async fn what_was_ended_is_not_written_back(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 15, 1).await;
    let stream = StreamId(2);
    writer.write(&[Change::Stream(stream, opened(None)), appended(stream, 1, false)], None).await;
    let before = writer.loaded().await;
    let further = Stored { version: 7, ..before.clone() };
    let repair = |stored| async move { store.repair_what_is_there(&id(15, 1), Epoch(1), &stored).await };
    repair(further.clone()).await.expect("the store knows less");
    assert_eq!(writer.loaded().await, further);
    assert_eq!(repair(before).await, Err(CommitRefusal::Conflict), "the store knows more");
    store.remove(&writer.id, Epoch(1)).await.expect("remove");
    assert_eq!(repair(further.clone()).await, Err(CommitRefusal::Conflict), "it was ended");
    let late = store.repair(&writer.id, Epoch(1), &further).await;
    assert_eq!(late, Err(CommitRefusal::Conflict), "and comes late");
    assert_eq!(store.load(&writer.id).await, Ok(None));
}

async fn a_write_back_is_fenced_too(store: &dyn SessionStore) {
    let writer = Writer::begin(store, 13, 1).await;
    let stored = writer.loaded().await;
    assert_eq!(store.repair(&writer.id, Epoch(2), &stored).await, Err(CommitRefusal::Regress));
    fence(store, 13, 3).await;
    assert_eq!(store.repair(&writer.id, Epoch(1), &stored).await, Err(CommitRefusal::Stale));
}

async fn events_are_trimmed_and_streams_dropped(store: &dyn SessionStore) {
    let mut writer = Writer::begin(store, 14, 1).await;
    let stream = StreamId(5);
    let change = |change| Change::Stream(stream, change);
    writer.write(&[change(opened(Some("ü"))), appended(stream, 1, false)], None).await;
    writer.write(&[appended(stream, 2, false), appended(stream, 3, true)], None).await;
    writer.is_whole().await;
    fence(store, 14, 2).await;
    writer.epoch = Epoch(2);
    let used_up = change(StreamChange::Appended { seq: 4, epoch: 2, message: None, delivered: false });
    writer
        .write(&[used_up, appended(stream, 5, false), change(StreamChange::Trimmed { through: 2 })], None)
        .await;
    writer.is_whole().await;
    writer.write(&[change(StreamChange::Delivered { through: 5 })], None).await;
    writer.write(&[appended(stream, 6, false), change(StreamChange::Trimmed { through: 6 })], None).await;
    writer.is_whole().await;
    writer.write(&[appended(stream, 7, false), change(StreamChange::Finished { at: 77 })], None).await;
    writer.is_whole().await;
    writer.write(&[change(StreamChange::Dropped)], None).await;
    writer.is_whole().await;
    writer.write(&[change(opened(None)), appended(stream, 1, false)], None).await;
    writer.is_whole().await;
}

async fn the_first_name_stays(store: &dyn SessionStore) {
    for proposed in ["one", "two", "one"] {
        assert_eq!(store.name(proposed).await, Ok("one".to_owned()));
    }
}

fn opened(request: Option<&str>) -> StreamChange {
    StreamChange::Opened { request: request.map(mcp::rpc::Id::text), key: request.map(str::to_owned) }
}

fn appended(stream: StreamId, seq: u64, delivered: bool) -> Change {
    let message = Json::trusted(format!(r#"{{"jsonrpc":"2.0","method":"n/{seq}","params":{{"a":1.0}}}}"#));
    Change::Stream(stream, StreamChange::Appended { seq, epoch: 1, message: Some(message), delivered })
}

fn answered(key: &str, body: Option<Json>) -> Answered {
    Answered { key: key.to_owned(), status: if body.is_some() { 200 } else { 202 }, body }
}
