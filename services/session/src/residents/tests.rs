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
        is_in_doubt: false,
    })
}

fn say(resident: &mut Resident, now: Millis, text: &'static str) {
    let message = Message::parse(&text.into()).unwrap();
    let stream = resident.machine.reserve_stream();
    resident.machine.step(now, Input::Client { stream, message, key: None });
}

fn due(residents: &Residents, now: Millis) -> Vec<SessionId> {
    (0..PARTS).flat_map(|place| residents.due(place, now)).collect()
}

fn wheel(residents: &Residents) -> usize {
    residents.shards.iter().map(|shard| shard.lock().unwrap().wheel.len()).sum()
}

#[tokio::test]
async fn a_full_queue_loses_nothing_that_nobody_says_again() {
    let residents = Residents::new(None);
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
    let residents = Residents::new(None);
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
    assert_eq!(due(&residents, idle), [], "it was heard of since");
    assert_eq!(due(&residents, idle + 99), std::slice::from_ref(&id));
    assert_eq!(residents.count(&Principal::default()), (1, 1));
    drop(residents.remove(&id));
    assert_eq!((residents.count(&Principal::default()), wheel(&residents)), ((0, 0), 0));
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#;
const AFTER: Millis = 60_000;

/// One whose handshake is over, as the store has it.
fn greeted() -> Box<Resident> {
    let mut resident = resident();
    say(&mut resident, 0, INITIALIZE);
    say(&mut resident, 0, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    resident.machine.settle();
    (resident.version, resident.begun) = (2, 0);
    resident
}

fn none(_: Box<Resident>, _: mpsc::Receiver<Box<Letter>>) -> Handle<()> {
    panic!("an actor for a session that has to be loaded first")
}

#[test]
fn a_session_that_was_idle_for_long_enough_is_passive_and_counted_as_ever() {
    let residents = Residents::new(Some(AFTER));
    let resident = greeted();
    let (id, wake) = (resident.id.clone(), resident.machine.next_wake().unwrap());
    residents.insert(resident);
    assert_eq!((due(&residents, AFTER - 1), residents.presence(&id)), (vec![], Presence::Here));
    assert_eq!(due(&residents, AFTER), []);
    let Presence::Passive(passive) = residents.presence(&id) else { panic!("not passive") };
    assert_eq!((passive.version(), passive.begun(), passive.remembered().wake()), (2, 0, wake));
    let census = Census { all: 1, passive: 1, ..Census::default() };
    assert_eq!((residents.census(), residents.len()), (census, 1));
    assert_eq!((residents.count(&Principal::default()), wheel(&residents)), ((1, 1), 1));
    assert_eq!((residents.all(), residents.any_active()), (vec![id.clone()], false));

    let foreign = Principal { subject: "somebody".into(), ..Principal::default() };
    let (principal, transport) = (&foreign, Transport::Streamable);
    let mut letter = Some(Letter::Wake);
    let offered = residents.offer(&id, Some(Visitor { principal, transport }), &mut letter, &none);
    assert_eq!((offered, letter.is_some()), (Err(Undelivered::Foreign), true));
    assert_eq!(residents.offer(&id, None, &mut letter, &none), Err(Undelivered::Passive));
    assert!(letter.is_some(), "for when it is loaded");

    assert_eq!(residents.leave(&|_| true), []);
    assert_eq!((residents.count(&Principal::default()), wheel(&residents)), ((0, 0), 0));
}

#[test]
fn what_is_known_here_alone_stays() {
    let resting = |_: &mut Resident| {};
    type Case = (&'static str, fn(&mut Resident), bool);
    let cases: [Case; 6] = [
        ("nothing", resting, true),
        ("a delivery that came again", |one| one.repeated.note("key"), false),
        ("a commit that nobody heard of", |one| one.is_in_doubt = true, false),
        (
            "an answer that the store does not have",
            |one| {
                let answered = Answered { key: "key".into(), status: 200, body: None };
                one.unsaved.push((CallId(1), answered));
            },
            false,
        ),
        (
            "a call",
            |one| {
                let read = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{}}"#;
                one.machine.serve(Arc::new(Settings {
                    capabilities: Json::trusted(r#"{"tools":{}}"#),
                    ..Settings::default()
                }));
                say(one, 0, read);
            },
            false,
        ),
        ("more commits than are counted", |one| one.version = u64::from(u32::MAX) + 1, false),
    ];
    for (what, prepare, expected) in cases {
        let residents = Residents::new(Some(AFTER));
        let mut resident = greeted();
        let id = resident.id.clone();
        prepare(&mut resident);
        residents.insert(resident);
        let woken = due(&residents, AFTER);
        assert_eq!(residents.census().passive, usize::from(expected), "{what}");
        assert_eq!(residents.presence(&id) == Presence::Here, !expected, "{what}");
        assert_eq!(wheel(&residents) + woken.len(), 1, "{what}: woken all the same");
    }
}

#[test]
fn without_a_store_outside_everything_stays() {
    let residents = Residents::new(None);
    residents.insert(greeted());
    due(&residents, AFTER * 10);
    assert_eq!(residents.census(), Census { all: 1, ..Census::default() });
}

#[tokio::test]
async fn a_passive_session_is_due_when_its_moment_comes_until_it_is_loaded() {
    let residents = Residents::new(Some(AFTER));
    let resident = greeted();
    let (id, idle) = (resident.id.clone(), Settings::default().idle_timeout_ms);
    residents.insert(resident);
    due(&residents, AFTER);
    assert_eq!(due(&residents, idle - 1), []);
    assert_eq!(due(&residents, idle), std::slice::from_ref(&id));
    assert_eq!(due(&residents, idle + AGAIN - 1), [], "the store is not asked with each look");
    assert_eq!(due(&residents, idle + AGAIN), std::slice::from_ref(&id));
    residents.wake(greeted());
    assert_eq!((residents.presence(&id), wheel(&residents)), (Presence::Here, 1));
    let mut other = greeted();
    other.version = 99;
    residents.wake(other);
    let version = Mutex::new(0);
    let start = |resident: Box<Resident>, _| {
        *version.lock().unwrap() = resident.version;
        task::spawn(Kind::Call, "nothing", async {})
    };
    assert_eq!(residents.offer(&id, None, &mut Some(Letter::Wake), &start), Ok(()));
    assert_eq!((version.into_inner().unwrap(), residents.len()), (2, 1), "what is here stays");
    drop(residents.remove(&id));
    residents.wake(greeted());
    assert_eq!((residents.presence(&id), residents.len()), (Presence::Absent, 0), "what has gone stays so");
}

#[tokio::test]
async fn one_that_is_used_again_and_again_is_passive_when_that_ends_and_not_before() {
    let residents = Residents::new(Some(AFTER));
    let first = resident();
    let id = first.id.clone();
    residents.insert(first);
    let texts = [INITIALIZE].into_iter().chain(std::iter::repeat_n(PING, 9));
    for (now, text) in (1..).map(|step| step * 20_000).zip(texts) {
        let active = Mutex::new(None);
        let start = |resident, letters| {
            *active.lock().unwrap() = Some((resident, letters));
            task::spawn(Kind::Call, "nothing", async {})
        };
        residents.offer(&id, None, &mut Some(Letter::Wake), &start).unwrap();
        let (mut resident, mut letters) = active.into_inner().unwrap().unwrap();
        letters.try_recv().unwrap();
        if text == INITIALIZE {
            say(&mut resident, now, text);
            say(&mut resident, now, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        } else {
            say(&mut resident, now, text);
        }
        resident.machine.settle();
        assert!(residents.rest(resident, &mut letters).is_ok());
        assert_eq!(due(&residents, now), []);
        assert_eq!((residents.census().passive, wheel(&residents)), (0, 1), "at {now}");
    }
    due(&residents, 200_000 + AFTER - 1);
    assert_eq!(residents.census().passive, 0);
    due(&residents, 200_000 + AFTER);
    assert_eq!(residents.census().passive, 1);
}

#[test]
fn a_passive_session_is_small() {
    assert_eq!(size_of::<Passive>(), 32);
    assert!(size_of::<Option<Cell>>() <= 40, "{} bytes", size_of::<Option<Cell>>());
    assert!(size_of::<Entry>() <= 72, "{} bytes", size_of::<Entry>());
}
