use std::sync::atomic::Ordering;

use api::Code;

use super::super::fake::{Fake, Manner};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_registry_that_joins_a_running_process_is_listed() {
    let (all, _, fake) = Fake::new(Manner::Accepts, &["one"]).alone();
    let mut changes = all.changes();
    let joined = async {
        while all.catalogue().find(Kind::Tools, "one").is_none() {
            changes.recv().await.unwrap();
        }
        fake.names.send_replace(vec!["one", "two"]);
        while all.catalogue().find(Kind::Tools, "two").is_none() {
            changes.recv().await.unwrap();
        }
    };
    tokio::select! {
        () = all.clone().run(CancellationToken::new()) => panic!("it runs until it is told to stop"),
        joined = timeout(Duration::from_secs(60), joined) => joined.unwrap(),
    }
    assert!(all.catalogue().find(Kind::Tools, "one").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_changes_whenever_it_is_read_is_given_up() {
    let mut fake = Fake::new(Manner::Accepts, &["one"]);
    fake.restless = true;
    let (_, link, fake) = fake.alone();
    assert_eq!(link.read_list("one", Kind::Tools).await.err().map(|e| e.code), Some(Code::Unavailable));
    assert_eq!(fake.listed.load(Ordering::Relaxed), 2 * reading::MAX_READINGS);
}

#[tokio::test(start_paused = true)]
async fn an_illegal_namespace_leaves_out_its_own_registry_only() {
    let (all, link, _fake) = Fake::new(Manner::Accepts, &["illegal", "one"]).alone();
    assert!(link.open(&all).await.is_ok());
    assert_eq!(link.sources().iter().map(|s| s.key.registry.as_str()).collect::<Vec<_>>(), ["one"]);
    // A change of it does not bring it in either.
    assert!(link.refresh("illegal", Kind::Tools).await.is_ok());
    assert_eq!(link.sources().len(), 1);
}
