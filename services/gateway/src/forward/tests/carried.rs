//! What gateways tell owners of sessions of HTTP+SSE.

use api::{KeyRing, SessionId};

use super::*;
use crate::http::http_sse::{Client, Farewells};

fn farewell() -> Close {
    let (session, principal) = ("s".into(), Principal::default());
    Close { session, revision: None, principal, when_idle: false, transport: Transport::HttpSse }
}

#[tokio::test(start_paused = true)]
async fn that_a_client_has_gone_is_told_for_as_long_as_its_stream_would_be_followed() {
    let mesh = Mesh::new(&[("b", answered())], None);
    let forward = mesh.forward();
    let told = forward.part(farewell(), slot().unwrap());
    let owned = async {
        sleep(Duration::from_secs(25)).await;
        mesh.own(Some("b"));
    };
    let (told, ()) = tokio::join!(told, owned);
    assert!(matches!(told, Ok(Taken::Accepted { .. })));
    assert_eq!(mesh.asked("b").len(), 1);

    let start = mesh.now();
    mesh.set("b", Way::Refuse(not_reached()));
    assert_eq!(code(mesh.forward().part(farewell(), slot().unwrap()).await), Some(Code::Unavailable));
    let took = mesh.now() - start;
    assert!((27_500..=29_000).contains(&took), "{took}");
    // One that says that there is no such session is believed.
    mesh.set("b", Way::Say(vec![Ok(Frame::Refused(Answer::new(404, None)))]));
    let start = mesh.now();
    let told = mesh.forward().part(farewell(), slot().unwrap()).await;
    assert!(matches!(told, Ok(Taken::Refused(answer)) if answer.status == 404) && mesh.now() == start);
}

#[tokio::test(start_paused = true)]
async fn who_wants_to_know_hears_of_each_later_owner_and_of_the_end() {
    let event = |id: &str| Ok(Frame::Event(Event { id: Some(id.into()), ..Event::default() }));
    let began = Ok(Frame::Accepted { session: Some("s".into()) });
    let first = Way::Say(vec![began, Ok(Frame::Open), event("1"), Err(broken())]);
    let mesh = Mesh::new(&[("a", first)], Some("b"));
    let (tell, mut owners) = watch::channel(0);
    let forward = mesh.forward();
    let taken = forward.begin(Principal::default(), |_| slot(), tell).await;
    let Ok(Taken::Accepted { mut frames, .. }) = taken else { panic!("not begun") };
    mesh.set("b", Way::Stay(vec![accepted(), event("2")]));
    assert!(matches!(frames.next().await, Some(Ok(Frame::Open))));
    assert!(frames.next().await.is_some() && !owners.has_changed().unwrap());
    assert!(frames.next().await.is_some() && owners.has_changed().unwrap());
    owners.mark_unchanged();
    drop(frames);
    assert!(owners.changed().await.is_err(), "the stream has ended");
    assert_eq!(mesh.patient.load(Ordering::Relaxed), 0, "it is missed as soon as any other stream");
}

#[tokio::test(start_paused = true)]
async fn a_session_without_an_owner_keeps_no_other_from_being_told() {
    let keys = KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef");
    let mesh = Mesh::new(&[("b", answered())], Some("b"));
    *mesh.missing.lock().unwrap() = slot();
    let farewells = Farewells::new();
    let goes = |slot, random| {
        let session = SessionId::mint(&keys, Slot::new(slot).unwrap(), [random; 16]);
        drop(Client::new(farewells.clone(), session.as_str().to_owned(), Principal::default()));
    };
    (0..200).for_each(|random| goes(1, random));
    goes(2, 0);
    let told = async {
        while mesh.asked("b").is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = farewells.run(mesh.forward(), &keys) => panic!("it runs until it is dropped"),
        () = told => {}
    }
    assert!(mesh.now() < 4_000, "{}", mesh.now());
}
