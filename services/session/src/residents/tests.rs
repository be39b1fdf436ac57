use std::sync::Mutex;

use api::{KeyRing, Slot};
use chassis::task::{self, Kind};
use machines::{Input, ListKind, Settings};
use mcp::Json;
use mcp::rpc::Message;

use super::*;

const KEY: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

fn resident() -> Box<Resident> {
    let slot = Slot::new(1).unwrap();
    Box::new(Resident {
        id: SessionId::mint(&KeyRing::single("k1", KEY), slot, [1; 16]),
        epoch: Epoch(1),
        principal: Arc::default(),
        transport: Transport::Streamable,
        machine: Session::new(Settings::default(), 0),
        version: 0,
        subscriptions: HashMap::new(),
        begun: 0,
        is_restored: false,
        repeated: Repeated::default(),
        unsaved: Vec::new(),
    })
}

fn say(resident: &mut Resident, now: Millis, text: &'static str) {
    let message = Message::parse(&text.into()).unwrap();
    let stream = resident.machine.reserve_stream();
    resident.machine.step(now, Input::Client { stream, message, key: None });
}

fn wheel(residents: &Residents) -> usize {
    residents.shards.iter().map(|shard| shard.lock().unwrap().wheel.len()).sum()
}

#[tokio::test]
async fn a_full_queue_loses_nothing_that_nobody_says_again() {
    let residents = Residents::default();
    let resident = resident();
    let id = resident.id.clone();
    residents.insert(resident);
    let queue = Mutex::new(None);
    let start = |_, letters| {
        *queue.lock().unwrap() = Some(letters);
        task::spawn(Kind::Call, "nothing", async {})
    };
    let post = |letter| residents.offer(&id, None, &mut Some(letter), &start);
    for _ in 0..MAILBOX {
        post(Letter::Wake).unwrap();
    }
    let (reply, _frames) = crate::reader::queue();
    assert_eq!(post(Letter::Close { reply }), Err(Undelivered::Full));
    for text in ["1", "2"] {
        post(Letter::Changed(ListKind::Tools)).unwrap();
        post(Letter::Updated { uri: "a:1".into(), params: Json::trusted(text) }).unwrap();
    }
    let [Letter::Changed(ListKind::Tools), Letter::Updated { uri, params }] = &residents.overdue(&id)[..]
    else {
        panic!("not each thing once");
    };
    assert_eq!((uri.as_str(), params.as_str()), ("a:1", "2"));
    assert!(residents.overdue(&id).is_empty());
    let mut queue = queue.into_inner().unwrap().unwrap();
    let mut waiting = Vec::new();
    while let Ok(letter) = queue.try_recv() {
        waiting.push(matches!(*letter, Letter::Overdue));
    }
    let told: Vec<bool> = (0..=MAILBOX).map(|place| place == MAILBOX).collect();
    assert_eq!(waiting, told, "told of once, behind all others");
}

#[tokio::test]
async fn a_busy_session_has_one_place_in_the_wheel_and_is_woken_in_time() {
    let residents = Residents::default();
    let mut first = resident();
    let id = first.id.clone();
    say(
        &mut first,
        0,
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}}"#,
    );
    say(&mut first, 0, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    residents.insert(first);
    let idle = Settings::default().idle_timeout_ms;
    for now in 1..100 {
        let active = Mutex::new(None);
        let start = |resident, letters| {
            *active.lock().unwrap() = Some((resident, letters));
            task::spawn(Kind::Call, "nothing", async {})
        };
        residents.offer(&id, None, &mut Some(Letter::Wake), &start).unwrap();
        let (mut resident, mut letters) = active.into_inner().unwrap().unwrap();
        letters.try_recv().unwrap();
        say(&mut resident, now, r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#);
        assert!(residents.rest(resident, &mut letters).is_ok());
        assert_eq!(wheel(&residents), 1);
    }
    assert_eq!(residents.due(idle), [], "it was heard of since");
    assert_eq!(residents.due(idle + 99), std::slice::from_ref(&id));
    assert_eq!(residents.count(&Principal::default()), (1, 1));
    drop(residents.remove(&id));
    assert_eq!((residents.count(&Principal::default()), wheel(&residents)), ((0, 0), 0));
}
