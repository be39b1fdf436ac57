use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::Link;
use super::super::fake::{Fake, Manner};
use super::*;

/// Watches `a:1` and counts what is heard.
async fn subscribe(link: &Arc<Link>, heard: &Arc<AtomicUsize>) -> Result<Subscription, RpcError> {
    let heard = heard.clone();
    let listener: Listener = Arc::new(move |_, _| {
        heard.fetch_add(1, Ordering::Relaxed);
    });
    Watches::subscribe(link, "r", "a:1", listener).await
}

/// Runs `test` while the connection lives, which must not end meanwhile.
async fn connected<T>(link: &Arc<Link>, test: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        lost = link.watches.run() => panic!("the connection was given up: {lost}"),
        done = test => done,
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_right_after_the_last_one_left_is_answered() {
    let (link, _fake) = Fake::new(Manner::Accepts, &[]).link();
    let heard = Arc::default();
    connected(&link, async {
        let first = subscribe(&link, &heard).await.unwrap();
        // Nobody tells the registry between these two.
        drop(first);
        assert!(subscribe(&link, &heard).await.is_ok());
    })
    .await;
    let state = link.watches.lock();
    assert!(state.wanted.values().all(|watched| watched.listeners.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_registry_without_subscriptions_refuses_and_stays_connected() {
    let (link, _fake) = Fake::new(Manner::Lacks, &[]).link();
    connected(&link, async {
        let refused = subscribe(&link, &Arc::default()).await.err().unwrap();
        assert_eq!((refused.code, refused.message.as_str()), (-32602, "Resource cannot be watched: a:1"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_a_lost_connection_and_what_was_missed_is_told() {
    let (link, fake) = Fake::new(Manner::Accepts, &[]).link();
    let heard = Arc::default();
    let _watching = connected(&link, subscribe(&link, &heard)).await.unwrap();
    fake.manner.send_replace(Manner::Leaves);
    assert_eq!(link.watches.run().await.code, Code::Unavailable);
    assert_eq!(heard.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_listener_outlives_a_restart_before_which_its_resource_is_not_there() {
    let (link, fake) = Fake::new(Manner::Accepts, &[]).link();
    let heard = Arc::default();
    let _watching = connected(&link, subscribe(&link, &heard)).await.unwrap();
    fake.manner.send_replace(Manner::Refuses);
    connected(&link, async {
        assert_eq!(subscribe(&link, &Arc::default()).await.err().unwrap().code, -1);
        assert_eq!(heard.load(Ordering::Relaxed), 1, "something may have changed");
        fake.manner.send_replace(Manner::Accepts);
        link.watches.ask_again("r");
        assert!(subscribe(&link, &Arc::default()).await.is_ok());
    })
    .await;
    assert_eq!(heard.load(Ordering::Relaxed), 2, "it is watched again, and may have changed");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_is_not_waited_for_for_ever() {
    let (link, _fake) = Fake::new(Manner::Accepts, &[]).link();
    // Not connected.
    let refused = subscribe(&link, &Arc::default()).await.err().unwrap();
    assert_eq!(refused.data.unwrap().as_str(), r#"{"reason":"timeout"}"#);
    assert!(link.watches.lock().wanted.is_empty());
}
