//! What is in the server: keys, how long they live, how large they are.

use api::{Epoch, SlotCount};
use machines::snapshot::{Handshake, StreamChange};
use machines::{Change, CommitRefusal, Lists, StreamId};
use mcp::log::Level;
use mcp::{Json, Revision};
use session::store::{Answered, Config, Unfit};

use crate::server::{IDLE, Server, config, connect};
use crate::writer::{Writer, answered, appended, level, opened};

const STREAM: StreamId = StreamId(4);

async fn left_ms(server: &Server, key: &str) -> i64 {
    server.ask(&["PTTL", key]).await
}

#[tokio::test]
async fn every_key_of_a_session_ends_by_itself_and_lives_on_while_it_is_used() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1)]).await;
    assert_eq!(writer.attempt(&[], Some(answered("k"))).await, Ok(()));
    writer.version += 1;
    let keys: Vec<String> = server.ask(&["KEYS", "*"]).await;
    assert_eq!(keys.len(), 5, "{keys:?}");
    let idle = i64::try_from(IDLE.as_millis()).unwrap();
    for key in [writer.key(), writer.log(STREAM)] {
        let left = left_ms(&server, &key).await;
        assert!(left > idle && left < 2 * idle, "{key}: {left}");
    }
    let done = writer.key().replace(":sess:", ":done:");
    assert!((600_000..=660_000).contains(&left_ms(&server, &done).await));
    for key in [writer.fence_key(), writer.fence_key().replace(":fence", ":holder")] {
        assert_eq!(left_ms(&server, &key).await, -1, "there is one for each slot, for ever");
    }

    let near = |left: i64| left > idle;
    for key in [writer.key(), writer.log(STREAM)] {
        let _: i64 = server.ask(&["PEXPIRE", &key, &(idle / 2).to_string()]).await;
    }
    writer.write(&level(Level::Info)).await;
    assert!(near(left_ms(&server, &writer.key()).await));
    assert!(near(left_ms(&server, &writer.log(STREAM)).await), "its events live as long");
    for key in [writer.key(), writer.log(STREAM)] {
        let _: i64 = server.ask(&["PEXPIRE", &key, &(idle / 2).to_string()]).await;
    }
    store.touch(&writer.id).await.unwrap();
    assert!(near(left_ms(&server, &writer.key()).await) && near(left_ms(&server, &writer.log(STREAM)).await));
    // Most commits leave it alone.
    let _: i64 = server.ask(&["PEXPIRE", &writer.key(), &(idle + 590_000).to_string()]).await;
    writer.write(&level(Level::Debug)).await;
    assert!(left_ms(&server, &writer.key()).await <= idle + 590_000);
}

#[tokio::test]
async fn answers_are_let_go_of_together_and_live_as_long_as_the_last_one() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    let done = writer.key().replace(":sess:", ":done:");
    let with_body = |key: &str| Answered { body: Some(Json::empty_object()), ..answered(key) };
    let mut most = 0;
    for n in 0..200 {
        assert_eq!(writer.attempt(&[], Some(with_body(&n.to_string()))).await, Ok(()));
        writer.version += 1;
        most = most.max(server.ask::<i64>(&["HLEN", &done]).await);
    }
    // Each has two fields, and there are four numbers; those that were last are there, and half as many again.
    assert_eq!(most, 96 * 2 + 4);
    let (oldest, next): (u64, u64) = server.ask(&["HMGET", &done, "oldest", "next"]).await;
    assert!(next == 200 && (64..=96).contains(&(next - oldest)), "{oldest}");
    let bytes: u64 = server.ask(&["HGET", &done, "bytes"]).await;
    let sizes = (oldest..next).map(|n| u64::try_from(n.to_string().len() + "{}".len()).unwrap());
    assert_eq!(bytes, sizes.sum::<u64>());

    // As a build leaves it that does not say until when nothing has to be done.
    let _: i64 = server.ask(&["HDEL", &done, "until"]).await;
    let _: i64 = server.ask(&["PEXPIRE", &done, "1000"]).await;
    assert_eq!(writer.attempt(&[], Some(answered("k"))).await, Ok(()));
    assert!(left_ms(&server, &done).await > 600_000);
    let _: i64 = server.ask(&["PEXPIRE", &done, "610000"]).await;
    writer.version += 1;
    assert_eq!(writer.attempt(&[], Some(answered("l"))).await, Ok(()));
    assert!(left_ms(&server, &done).await <= 610_000, "most answers leave it alone");

    // As another owner leaves it, whose clock is ahead, far or not.
    let until: String = server.ask(&["HGET", &done, "until"]).await;
    let (date, _epoch) = until.split_once('.').unwrap();
    for until in ["9999999999999.7", &format!("{date}.7"), date] {
        let _: i64 = server.ask(&["HSET", &done, "until", until]).await;
        let _: i64 = server.ask(&["PEXPIRE", &done, "610000"]).await;
        writer.version += 1;
        assert_eq!(writer.attempt(&[], Some(answered(until))).await, Ok(()));
        assert!(left_ms(&server, &done).await > 610_000, "{until}");
        assert_eq!(store.answered(&writer.id, until).await, Ok(Some(answered(until))));
    }
}

#[tokio::test]
async fn answers_look_to_their_session_when_they_are_prolonged() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    let done = writer.key().replace(":sess:", ":done:");
    let idle = i64::try_from(IDLE.as_millis()).unwrap();
    for (is_due, key) in [(true, "a"), (false, "b"), (true, "c")] {
        if is_due {
            let _: i64 = server.ask(&["HDEL", &done, "until"]).await;
        }
        let _: i64 = server.ask(&["PEXPIRE", &writer.key(), &(idle / 2).to_string()]).await;
        assert_eq!(writer.attempt(&[], Some(answered(key))).await, Ok(()));
        writer.version += 1;
        assert_eq!(left_ms(&server, &writer.key()).await > idle / 2, is_due, "{key}");
    }
    // One that is written anew as a whole has no end from before.
    assert_eq!(writer.attempt(&[Change::Ended], Some(answered("d"))).await, Ok(()));
    assert!(left_ms(&server, &writer.key()).await > idle);
}

#[tokio::test]
async fn a_session_that_rests_is_small_and_has_one_key() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    let client = r#"{"name":"an-ordinary-client","title":"An Ordinary Client","version":"1.2.3","websiteUrl":"https://example.com/client"}"#;
    let capabilities = r#"{"roots":{"listChanged":true},"sampling":{},"elicitation":{"form":{},"url":{}},"experimental":{}}"#;
    let handshake = Handshake {
        revision: Revision::V2025_11_25,
        capabilities: Json::trusted(capabilities),
        client_info: Json::trusted(client),
        ready: true,
        at: 1_790_000_000_000,
        lists: Some(Lists { tools: u32::MAX, resources: u32::MAX, prompts: u32::MAX }),
    };
    writer.write(&[Change::Greeted(Box::new(handshake))]).await;
    let own = StreamId::OWN;
    writer.write(&[opened(own), appended(own, 1), Change::Subscribed("file:///docs/a.md".into())]).await;
    let through = Change::Stream(own, StreamChange::Trimmed { through: 1 });
    writer.write(&[Change::Stream(own, StreamChange::Delivered { through: 1 }), through]).await;
    let keys: Vec<String> = server.ask(&["KEYS", "*:v1*"]).await;
    assert_eq!(keys, [writer.key()]);
    let bytes: i64 = server.ask(&["MEMORY", "USAGE", &writer.key(), "SAMPLES", "0"]).await;
    println!("an idle session takes {bytes} bytes of Redis");
    assert!(bytes <= 2_500, "{bytes}");
}

#[tokio::test]
async fn what_another_build_wrote_is_left_alone() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&level(Level::Info)).await;
    for (field, value) in [("v", "999"), ("head", "{"), ("j:x", "{}"), ("what", "")] {
        let _: i64 = server.ask(&["HSET", &writer.key(), field, value]).await;
        assert_eq!(store.load(&writer.id).await, Err(CommitRefusal::Conflict), "{field}");
        assert_eq!(store.repair(&writer.id, Epoch(1), &writer.stored()).await, Ok(()));
        writer.is_whole().await;
    }
}

#[tokio::test]
async fn what_is_no_session_is_refused_and_written_over_by_its_owner() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1)]).await;
    let _: () = server.ask(&["SET", &writer.key(), "x"]).await;
    let conflict = Err(CommitRefusal::Conflict);
    assert_eq!(writer.attempt(&level(Level::Info), None).await, conflict);
    assert_eq!(store.load(&writer.id).await.map(|_| ()), conflict);
    assert_eq!(store.repair(&writer.id, Epoch(1), &writer.stored()).await, Ok(()));
    writer.is_whole().await;
    let _: () = server.ask(&["SET", &writer.log(STREAM), "x"]).await;
    assert_eq!(writer.attempt(&[appended(STREAM, 2)], None).await, conflict);
    assert_eq!(store.repair(&writer.id, Epoch(1), &writer.stored()).await, Ok(()));
    writer.is_whole().await;
    let _: () = server.ask(&["SET", &writer.key(), "x"]).await;
    assert_eq!(store.remove(&writer.id, Epoch(1)).await, Ok(()));
    assert_eq!(store.load(&writer.id).await, Ok(None));
}

#[tokio::test]
async fn events_that_are_gone_leave_a_gap_that_is_known() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1), appended(STREAM, 2)]).await;
    let _: i64 = server.ask(&["XTRIM", &writer.log(STREAM), "MAXLEN", "1"]).await;
    let log = &writer.loaded().await.snapshot.streams[&STREAM];
    assert_eq!((log.trimmed, log.events.len(), log.events[0].seq), (1, 1, 2));
    let _: i64 = server.ask(&["DEL", &writer.log(STREAM)]).await;
    let log = &writer.loaded().await.snapshot.streams[&STREAM];
    assert_eq!((log.trimmed, log.events.len(), log.bytes), (2, 0, 0));
}

#[tokio::test]
async fn a_mesh_of_fewer_slots_is_not_let_near_the_sessions_of_one_with_more() {
    let server = Server::start(&[]);
    let mine = Config { key_prefix: "ours:".into(), ..config(&[&server]) };
    let store = connect(&mine).await;
    assert_eq!(store.live_in(SlotCount::Usual).await, Ok(()));
    let writer = Writer::begin(&store, 1).await;
    // There is nothing to be missed by a mesh that has more.
    assert_eq!(store.live_in(SlotCount::Large).await, Ok(()));
    assert_eq!(store.live_in(SlotCount::Large).await, Ok(()));
    assert!(store.load(&writer.id).await.unwrap().is_some());
    let again = connect(&mine).await;
    let refused = again.live_in(SlotCount::Usual).await.unwrap_err().to_string();
    let said = "cluster.slots: 4096 here, and the Redis of store.redis was used with 16384: sessions in slots from 4096 on would be \
                lost. Set cluster.slots = 16384, or take another store.key_prefix, or delete the key ours:{mesh}:slots there once \
                nobody needs them";
    assert_eq!(refused, said);
    let _: i64 = server.ask(&["DEL", "ours:{mesh}:slots"]).await;
    assert_eq!(again.live_in(SlotCount::Usual).await, Ok(()));
    let _: String = server.ask(&["SET", "ours:{mesh}:slots", "many"]).await;
    assert_eq!(again.live_in(SlotCount::Usual).await, Err(Unfit::Down { place: "store.redis" }));
}

#[tokio::test]
async fn meshes_that_share_a_server_have_names_of_their_own() {
    let server = Server::start(&[]);
    let ours = Config { key_prefix: "ours:".into(), ..config(&[&server]) };
    let (mine, yours) = (connect(&ours).await, connect(&config(&[&server])).await);
    assert_eq!(mine.name("one").await, Ok("one".to_owned()));
    assert_eq!(yours.name("two").await, Ok("two".to_owned()));
    assert_eq!(connect(&ours).await.name("three").await, Ok("one".to_owned()), "another node");
    assert_eq!(server.ask::<i64>(&["PTTL", "ours:{mesh}:name"]).await, -1);
    let _: i64 = server.ask(&["DEL", "ours:{mesh}:name"]).await;
    let _: i64 = server.ask(&["RPUSH", "ours:{mesh}:name", "no name"]).await;
    assert_eq!(mine.name("one").await, Err(Unfit::Nameless { place: "store.redis" }));
}
