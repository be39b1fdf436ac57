//! Data that the store has lost, and owners that do not know that they are none any more.

use api::Epoch;
use machines::{CommitRefusal, StreamId};
use mcp::log::Level;
use session::store::Fenced;

use crate::server::{Server, config, connect};
use crate::writer::{Writer, appended, appended_in, level, opened};

const STREAM: StreamId = StreamId(4);

#[tokio::test]
async fn an_owner_before_writes_nothing_even_if_the_fence_is_lost() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1)]).await;
    let zombie = writer.clone();
    writer.epoch = Epoch(2);
    writer.fence().await;
    let event = [appended_in(2, STREAM, 2)];
    assert_eq!(zombie.attempt(&event, None).await, Err(CommitRefusal::Stale));
    writer.write(&event).await;
    let _: i64 = server.ask(&["DEL", &writer.fence_key()]).await;
    assert_eq!(zombie.attempt(&event, None).await, Err(CommitRefusal::Regress));
    // It takes the slot over as if it were its own, and knows the version, too.
    zombie.fence().await;
    let mut zombie = Writer { version: writer.version, state: writer.state.clone(), ..zombie };
    let next = [appended(STREAM, 3)];
    assert_eq!(zombie.attempt(&next, None).await, Err(CommitRefusal::Stale), "who committed last is known");
    assert_eq!(store.repair(&zombie.id, Epoch(1), &zombie.stored()).await, Err(CommitRefusal::Stale));
    // Even that is lost: the log itself refuses what goes back.
    let _: i64 = server.ask(&["HSET", &writer.key(), "by", "1.0.0"]).await;
    zombie.epoch = Epoch(1);
    assert_eq!(zombie.attempt(&next, None).await, Err(CommitRefusal::Stale));
    let ids: Vec<(String, Vec<String>)> = server.ask(&["XRANGE", &writer.log(STREAM), "-", "+"]).await;
    let ids: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["1-1", "2-2"]);
    writer.is_whole().await;
}

#[tokio::test]
async fn an_epoch_that_was_used_by_another_store_is_not_given_again() {
    let server = Server::start(&[]);
    let (one, other) = (connect(&config(&[&server])).await, connect(&config(&[&server])).await);
    let slot = api::Slot::new(9).unwrap();
    assert_eq!(one.fence(&[(slot, Epoch(3))]).await, [Fenced::Done]);
    assert_eq!(one.fence(&[(slot, Epoch(3))]).await, [Fenced::Done], "an answer may have been lost");
    assert_eq!(other.fence(&[(slot, Epoch(3))]).await, [Fenced::Higher(Epoch(3))]);
    assert_eq!(other.fence(&[(slot, Epoch(4))]).await, [Fenced::Done]);
    assert_eq!(one.fence(&[(slot, Epoch(3))]).await, [Fenced::Higher(Epoch(4))]);
}

#[tokio::test]
async fn a_lost_end_is_noticed_and_written_back() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1)]).await;
    let mut saved = Vec::new();
    for key in [writer.key(), writer.log(STREAM)] {
        let dump: Vec<u8> = server.ask(&["DUMP", &key]).await;
        saved.push((key, dump));
    }
    writer.write(&[appended(STREAM, 2)]).await;
    writer.write(&level(Level::Info)).await;
    for (key, dump) in &saved {
        let mut restore = redis::cmd("RESTORE");
        let restore = restore.arg(key).arg(0).arg(dump).arg("REPLACE");
        let _: () = restore.query_async(&mut server.connection().await).await.unwrap();
    }
    assert_eq!(writer.attempt(&[appended(STREAM, 3)], None).await, Err(CommitRefusal::Conflict));
    assert_eq!(store.repair(&writer.id, Epoch(1), &writer.stored()).await, Ok(()));
    writer.is_whole().await;
    writer.write(&[appended(STREAM, 3)]).await;
    writer.is_whole().await;
}

#[tokio::test]
async fn an_empty_store_is_noticed_and_filled_again() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1)]).await;
    let _: () = server.ask(&["FLUSHALL"]).await;
    assert_eq!(writer.attempt(&[appended(STREAM, 2)], None).await, Err(CommitRefusal::Regress));
    assert_eq!(store.repair(&writer.id, Epoch(1), &writer.stored()).await, Err(CommitRefusal::Regress));
    writer.fence().await;
    assert_eq!(writer.attempt(&[appended(STREAM, 2)], None).await, Err(CommitRefusal::Conflict));
    assert_eq!(store.repair(&writer.id, Epoch(1), &writer.stored()).await, Ok(()));
    writer.write(&[appended(STREAM, 2)]).await;
    writer.is_whole().await;
    // Another owner has come meanwhile.
    assert_eq!(store.fence(&[(writer.id.slot(), Epoch(2))]).await, [Fenced::Done]);
    let _: i64 = server.ask(&["DEL", &writer.key()]).await;
    assert_eq!(store.repair(&writer.id, Epoch(1), &writer.stored()).await, Err(CommitRefusal::Stale));
}

#[tokio::test]
async fn forgotten_scripts_are_no_error() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    for n in 1..=20 {
        if n % 5 == 0 {
            let _: () = server.ask(&["SCRIPT", "FLUSH"]).await;
        }
        writer.write(&[opened(StreamId(n)), appended(StreamId(n), 1)]).await;
    }
    let _: () = server.ask(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(store.answered(&writer.id, "x").await, Ok(None));
    writer.is_whole().await;
    let _: () = server.ask(&["SCRIPT", "FLUSH"]).await;
    writer.fence().await;
    store.remove(&writer.id, Epoch(1)).await.unwrap();
    let left: Vec<String> = server.ask(&["KEYS", "*:v1*"]).await;
    let over = writer.key().replace(":sess:", ":done:");
    assert_eq!(left, std::slice::from_ref(&over), "that it is over");
    let keeps: i64 = server.ask(&["PTTL", &over]).await;
    assert!((1..=60_000).contains(&keeps), "{keeps}");
}

/// It goes with its key, or with the count.
#[tokio::test]
async fn what_was_answered_is_found_whatever_the_clock_of_its_writer_said() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let writer = Writer::begin(&store, 1).await;
    let answered = crate::writer::answered("k");
    assert_eq!(writer.attempt(&[], Some(answered.clone())).await, Ok(()));
    assert_eq!(store.answered(&writer.id, "k").await, Ok(Some(answered.clone())));
    let done = writer.key().replace(":sess:", ":done:");
    let kept: String = server.ask(&["HGET", &done, "kk"]).await;
    let (at, rest) = kept.split_once(' ').unwrap();
    let at: u64 = at.parse().unwrap();
    for at in [0, at - 86_400_000, at + 86_400_000] {
        let _: i64 = server.ask(&["HSET", &done, "kk", &format!("{at} {rest}")]).await;
        assert_eq!(store.answered(&writer.id, "k").await, Ok(Some(answered.clone())), "{at}");
    }
}
