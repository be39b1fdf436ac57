use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::fake::{Fake, Manner};
use super::super::{Link, Registries};
use super::*;

type Bench = (Arc<Registries>, Arc<Link>, Arc<Fake>);

/// A process with the registry `r`, described as it is when it is first reached.
fn bench(manner: Manner) -> Bench {
    let (all, link, fake) = Fake::new(manner, &["r"]).alone();
    link.know(&["r"]);
    (all, link, fake)
}

/// Watches `a:1` and counts what is heard.
async fn subscribe((all, ..): &Bench, heard: &Arc<AtomicUsize>) -> Result<Subscription, RpcError> {
    let heard = heard.clone();
    let listener: Listener = Arc::new(move |_, _| {
        heard.fetch_add(1, Ordering::Relaxed);
    });
    all.watches.subscribe(&source(), "a:1", listener).await
}

fn source() -> Arc<SourceKey> {
    Arc::new(SourceKey { registry: "r".into(), ..SourceKey::default() })
}

/// Runs `test` while the connection lives, which must not end meanwhile.
async fn connected<T>((all, link, _): &Bench, test: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        lost = all.watches.run(link) => panic!("the connection was given up: {lost}"),
        done = test => done,
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_right_after_the_last_one_left_is_answered() {
    let bench = bench(Manner::Accepts);
    let heard = Arc::default();
    connected(&bench, async {
        let first = subscribe(&bench, &heard).await.unwrap();
        // Nobody tells the registry between these two.
        drop(first);
        assert!(subscribe(&bench, &heard).await.is_ok());
    })
    .await;
    let state = bench.0.watches.lock();
    assert!(state.wanted.values().all(|watched| watched.listeners.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_registry_without_subscriptions_refuses_and_stays_connected() {
    let bench = bench(Manner::Lacks);
    connected(&bench, async {
        let refused = subscribe(&bench, &Arc::default()).await.err().unwrap();
        assert_eq!((refused.code, refused.message.as_str()), (-32602, "Resource cannot be watched: a:1"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_a_lost_connection_and_what_was_missed_is_told() {
    let bench = bench(Manner::Accepts);
    let fake = bench.2.clone();
    let heard = Arc::default();
    let _watching = connected(&bench, subscribe(&bench, &heard)).await.unwrap();
    fake.manner.send_replace(Manner::Leaves);
    assert_eq!(bench.0.watches.run(&bench.1).await.code, Code::Unavailable);
    fake.manner.send_replace(Manner::Accepts);
    connected(&bench, async {
        while heard.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(heard.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_listener_outlives_a_restart_before_which_its_resource_is_not_there() {
    let bench = bench(Manner::Accepts);
    let fake = bench.2.clone();
    let heard = Arc::default();
    let _watching = connected(&bench, subscribe(&bench, &heard)).await.unwrap();
    fake.manner.send_replace(Manner::Refuses);
    connected(&bench, async {
        assert_eq!(subscribe(&bench, &Arc::default()).await.err().unwrap().code, -1);
        fake.manner.send_replace(Manner::Accepts);
        bench.0.watches.ask_again(bench.1.id, "r");
        assert!(subscribe(&bench, &Arc::default()).await.is_ok());
    })
    .await;
    assert_eq!(heard.load(Ordering::Relaxed), 1, "it is watched again, and may have changed");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_is_not_waited_for_for_ever() {
    let bench = bench(Manner::Accepts);
    // Not connected.
    let refused = subscribe(&bench, &Arc::default()).await.err().unwrap();
    assert_eq!(refused.data.unwrap().as_str(), r#"{"reason":"timeout"}"#);
    assert!(bench.0.watches.lock().wanted.is_empty());
}
