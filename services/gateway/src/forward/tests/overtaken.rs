//! Owners that have another one after them and do not know.

use std::future::Future;

use super::*;

fn event(id: &str) -> Result<Frame, Error> {
    Ok(Frame::Event(Event { id: Some(id.into()), ..Event::default() }))
}

/// Does something while the table is followed.
async fn followed<T>(forward: &Forward, doing: impl Future<Output = T>) -> T {
    tokio::select! {
        () = forward.watch_table() => panic!("it runs until it is dropped"),
        done = doing => done,
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_with_the_owner_that_the_table_names_though_its_own_says_nothing() {
    let says = |id| Way::Stay(vec![accepted(), Ok(Frame::Open), event(id)]);
    let mesh = Mesh::new(&[("a", says("1")), ("b", says("2")), ("c", says("3"))], Some("a"));
    let forward = mesh.forward();
    let mut frames = frames(&forward, deliver(CALL)).await;
    assert_eq!(frames.next().await, Some(Ok(Frame::Open)));
    assert_eq!(frames.next().await, Some(event("1")));
    let changes = async {
        sleep(Duration::from_secs(5)).await;
        mesh.own(None);
        sleep(Duration::from_secs(2)).await;
        mesh.own(Some("b"));
        sleep(Duration::from_secs(2)).await;
        mesh.own(Some("c"));
        std::future::pending::<()>().await;
    };
    let reading = async { [frames.next().await, frames.next().await] };
    let read = followed(&forward, async {
        tokio::select! {
            () = changes => unreachable!("never ends"),
            read = reading => read,
        }
    });
    assert_eq!(read.await, [Some(event("2")), Some(event("3"))]);
    let [b, c] = ["b", "c"].map(|node| mesh.asked(node));
    // The first one has had none for a while already; a table that names another one at once leaves its owner a moment to say so.
    assert!(matches!(b[..], [7_000..=7_050]) && matches!(c[..], [9_250..=9_300]), "{b:?} {c:?}");
    assert_eq!((mesh.asked("a").len(), mesh.suspected()), (1, vec![]));
    drop(frames);
    assert!(forward.readings.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_behind_takes_nobody_back() {
    let moved =
        Error::new(Code::Precondition, "moved").with(Detail::NotOwner { owner: "b".into(), epoch: 2 });
    let first = Way::Say(vec![accepted(), Ok(Frame::Open), Err(moved)]);
    let next = Way::Stay(vec![accepted(), Ok(Frame::Open), event("2")]);
    let mesh = Mesh::new(&[("a", first), ("b", next)], Some("a"));
    let forward = mesh.forward();
    let mut frames = frames(&forward, deliver(CALL)).await;
    assert_eq!(frames.next().await, Some(Ok(Frame::Open)));
    assert_eq!(frames.next().await, Some(event("2")));
    let rest = async {
        mesh.changes.send_modify(|count| *count += 1);
        sleep(Duration::from_secs(2)).await;
        mesh.own(Some("b"));
        sleep(Duration::from_secs(2)).await;
    };
    let read = followed(&forward, async {
        tokio::select! {
            () = rest => None,
            frame = frames.next() => frame,
        }
    });
    assert_eq!(read.await, None);
    assert_eq!([mesh.asked("a").len(), mesh.asked("b").len()], [1, 1]);
}
