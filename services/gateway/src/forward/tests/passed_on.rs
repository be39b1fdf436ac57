//! What becomes of requests that another node has to pass on.

use super::*;

/// An owner that this gateway cannot hear, another node that may pass requests on to it, and one that was accepted and lost.
async fn cut_off(passes: Way) -> (Arc<Mesh>, Arc<Forward>, Frames) {
    let mesh = Mesh::new(&[("a", Way::Say(vec![accepted(), Err(broken())])), ("b", Way::Hang)], Some("a"));
    mesh.passes.lock().unwrap().insert("b".to_owned(), passes);
    let forward = mesh.forward();
    let lost = frames(&forward, deliver(CALL)).await;
    mesh.set("a", Way::Hang);
    (mesh, forward, lost)
}

#[tokio::test(start_paused = true)]
async fn what_only_we_cannot_bring_to_the_owner_is_passed_on_by_another_node() {
    let (mesh, forward, mut lost) = cut_off(answered()).await;
    assert!(matches!(lost.next().await, Some(Ok(Frame::Answer(_)))));
    let via = |again, at| ("b".to_owned(), "a".to_owned(), Some(again), at);
    let first = via(Again { accepted: true, last_event_id: None }, 250);
    assert_eq!(*mesh.passed.lock().unwrap(), [first]);
    // Who comes later need not wait, and a call is not left lying about at the owner's door.
    let direct = mesh.asked("a").len();
    assert!(forward.send(deliver(CALL), slot()).await.is_ok());
    assert_eq!((mesh.now(), mesh.asked("a").len()), (250, direct));
    assert_eq!(mesh.passed.lock().unwrap()[1..], [via(Again::default(), 250)]);
    // Others find out whether it is back.
    mesh.set("a", answered());
    assert!(forward.send(deliver(LIST), slot()).await.is_ok());
    assert_eq!((forward.reach.since(&peer("a")), mesh.passed.lock().unwrap().len()), (None, 2));
    assert_eq!(mesh.suspected(), []);
}

#[tokio::test(start_paused = true)]
async fn whoever_passes_on_may_miss_the_owner_too() {
    // As it crosses a wire.
    for missed in [Error::draining(), broken(), Error::new(Code::Unavailable, "x")] {
        let (mesh, _forward, mut lost) = cut_off(Way::Refuse(missed)).await;
        let moving = async {
            sleep(Duration::from_secs(2)).await;
            mesh.set("b", answered());
            mesh.own(Some("b"));
        };
        let ((), answer) = tokio::join!(moving, lost.next());
        assert!(matches!(answer, Some(Ok(Frame::Answer(_)))), "{answer:?}");
        assert_eq!((mesh.now(), mesh.asked("b")), (2000, vec![2000]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_passed_on_is_not_said_to_be_undone() {
    for (error, end) in [(broken(), Code::OutcomeUnknown), (Error::draining(), Code::Unavailable)] {
        let mesh = Mesh::new(&[("a", Way::Refuse(not_reached())), ("b", Way::Hang)], Some("a"));
        mesh.passes.lock().unwrap().insert("b".to_owned(), Way::Refuse(error));
        let forward = mesh.forward();
        assert_eq!(code(forward.send(deliver(CALL), slot()).await), Some(end));
        // Others miss it, too: it will have a successor.
        assert_eq!(mesh.now(), 7000);
        assert!(forward.send(deliver(LIST), slot()).await.is_err());
        // What may have arrived waits once more.
        assert_eq!(mesh.now(), if end == Code::OutcomeUnknown { 14_000 } else { 7000 });
    }
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_passed_on_are_followed_as_any_others() {
    let event = |id: &str| Ok(Frame::Event(Event { id: Some(id.into()), ..Event::default() }));
    let (mesh, _forward, mut lost) =
        cut_off(Way::Say(vec![accepted(), Ok(Frame::Open), event("1"), Err(Error::draining())])).await;
    assert_eq!(lost.next().await, Some(Ok(Frame::Open)));
    assert_eq!(lost.next().await, Some(event("1")));
    mesh.passes
        .lock()
        .unwrap()
        .insert("b".to_owned(), Way::Say(vec![accepted(), Ok(Frame::Open), event("2")]));
    assert_eq!(lost.next().await, Some(event("2")));
    assert_eq!(lost.next().await, None);
    let again = Again { accepted: true, last_event_id: Some("1".into()) };
    assert_eq!(mesh.passed.lock().unwrap()[1].2, Some(again));
}
