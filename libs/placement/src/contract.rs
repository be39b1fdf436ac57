//! The behaviour every lease store must show, as a suite that runs against any implementation of the port.
//!
//! Each part works under a prefix of its own, so that one store can be asked all of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "assertions; called by tests only"
)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use futures::{FutureExt as _, StreamExt as _};

use crate::port::{Compare, Entry, Event, Events, LeaseId, LeaseStore, Op, Revision, StoreError, Txn};

/// Longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn LeaseStore>;

    /// Lets time pass for leases; nothing where time passes by itself.
    fn pass(&self, by: Duration);

    /// Forgets the history up to a moment.
    async fn compact(&self, revision: Revision);
}

/// Asks a store everything.
pub async fn all(subject: &dyn Subject) {
    transactions_are_all_or_nothing(&*subject.store()).await;
    lists_have_an_order_and_a_moment(&*subject.store()).await;
    one_of_many_claims_wins(&subject.store()).await;
    sixty_slots_fit_into_a_transaction(&*subject.store()).await;
    a_lease_takes_its_keys_with_it(&*subject.store()).await;
    a_key_that_moved_stays(&*subject.store()).await;
    a_lease_ends_by_itself(subject).await;
    a_renewed_lease_lives_on(subject).await;
    a_watch_sees_everything_in_order(&*subject.store()).await;
    a_watch_begins_in_the_past(&*subject.store()).await;
    forgotten_history_is_said(subject).await;
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(key.to_owned(), value.into(), None)
}

fn put_on(key: &str, lease: LeaseId) -> Op {
    Op::Put(key.to_owned(), b"x".to_vec(), Some(lease))
}

async fn written(store: &dyn LeaseStore, ops: Vec<Op>) -> Revision {
    match store.txn(Vec::new(), ops).await.unwrap() {
        Txn::Done(revision) => revision,
        Txn::Refused => panic!("refused without a condition"),
    }
}

async fn values(store: &dyn LeaseStore, prefix: &str) -> Vec<(String, String)> {
    let listed = store.list(prefix).await.unwrap();
    listed.entries.into_iter().map(|e| (e.key, String::from_utf8(e.value).unwrap())).collect()
}

async fn soon<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

async fn seen(events: &mut Events) -> Vec<Event> {
    soon("an event", events.next()).await.expect("a watch does not end in silence").unwrap()
}

fn said(event: &Event) -> String {
    match event {
        Event::Put(Entry { key, value, .. }) => format!("{key}={}", String::from_utf8_lossy(value)),
        Event::Deleted { key, .. } => format!("-{key}"),
    }
}

/// Reads until so many events came.
async fn told(events: &mut Events, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(seen(events).await.iter().map(said));
    }
    all
}

async fn transactions_are_all_or_nothing(store: &dyn LeaseStore) {
    let absent = |key: &str| Compare::Absent(key.to_owned());
    let first = store.txn(vec![absent("txn/a")], vec![put("txn/a", "1")]).await.unwrap();
    let Txn::Done(revision) = first else { panic!("{first:?}") };
    let again = store.txn(vec![absent("txn/a"), absent("txn/b")], vec![put("txn/b", "1")]).await;
    assert_eq!(again, Ok(Txn::Refused));
    assert_eq!(values(store, "txn/").await, [("txn/a".into(), "1".into())]);

    let is = |value: &str| Compare::Value("txn/a".to_owned(), value.into());
    let at = |revision| Compare::Revision("txn/a".to_owned(), revision);
    for wrong in [
        vec![is("2")],
        vec![at(revision - 1)],
        vec![at(revision), is("")],
        vec![Compare::Value("txn/none".to_owned(), Vec::new())],
    ] {
        assert_eq!(
            store.txn(wrong.clone(), vec![put("txn/a", "wrong")]).await,
            Ok(Txn::Refused),
            "{wrong:?}"
        );
    }
    let ops = vec![put("txn/a", "2"), put("txn/b", "2"), Op::Delete("txn/none".to_owned())];
    let Ok(Txn::Done(later)) = store.txn(vec![is("1"), at(revision)], ops).await else { panic!("refused") };
    assert!(later > revision);
    let listed = store.list("txn/").await.unwrap();
    let revisions: Vec<Revision> = listed.entries.iter().map(|entry| entry.revision).collect();
    assert_eq!((revisions, listed.revision >= later), (vec![later, later], true));
}

async fn lists_have_an_order_and_a_moment(store: &dyn LeaseStore) {
    for key in ["list/b", "list/a", "list0", "lis", "list/a/c"] {
        written(store, vec![put(key, "x")]).await;
    }
    let keys: Vec<String> = values(store, "list/").await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["list/a", "list/a/c", "list/b"]);
    let before = store.list("list/").await.unwrap().revision;
    let revision = written(store, vec![put("elsewhere", "x")]).await;
    assert!(store.list("list/").await.unwrap().revision >= revision && revision > before);
    assert_eq!(store.list("nothing/").await.unwrap().entries, []);
}

async fn one_of_many_claims_wins(store: &Arc<dyn LeaseStore>) {
    let claims = (0..20).map(|who| {
        let store = Arc::clone(store);
        async move {
            let free = vec![Compare::Absent("claim/7".to_owned())];
            store.txn(free, vec![put("claim/7", &who.to_string())]).await.unwrap()
        }
    });
    let won = join_all(claims).await.into_iter().filter(|txn| matches!(txn, Txn::Done(_))).count();
    assert_eq!(won, 1);
}

async fn sixty_slots_fit_into_a_transaction(store: &dyn LeaseStore) {
    let keys: Vec<String> = (0..120).map(|n| format!("wide/{n:03}")).collect();
    let free = keys.iter().cloned().map(Compare::Absent).collect();
    let done = store.txn(free, keys.iter().map(|key| put(key, "x")).collect()).await;
    assert!(matches!(done, Ok(Txn::Done(_))), "{done:?}");
    assert_eq!(values(store, "wide/").await.len(), 120);
    let too_many = (0..129).map(|n| put(&format!("wider/{n}"), "x")).collect();
    assert!(matches!(store.txn(Vec::new(), too_many).await, Err(StoreError::Refused(_))));
}

async fn a_lease_takes_its_keys_with_it(store: &dyn LeaseStore) {
    let lease = store.grant(Duration::from_secs(60)).await.unwrap().lease;
    let from =
        written(store, vec![put_on("lease/a", lease), put_on("lease/b", lease), put("lease/c", "x")]).await;
    assert_eq!(store.list("lease/a").await.unwrap().entries[0].lease, Some(lease));
    let mut events = store.watch("lease/", from + 1).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(values(store, "lease/").await, [("lease/c".into(), "x".into())]);
    let mut gone = told(&mut events, 2).await;
    gone.sort();
    assert_eq!(gone, ["-lease/a", "-lease/b"]);

    assert_eq!(store.keep_alive(lease).await, Err(StoreError::Gone));
    assert_eq!(store.revoke(lease).await, Err(StoreError::Gone));
    let late = store.txn(Vec::new(), vec![put("lease/d", "x"), put_on("lease/e", lease)]).await;
    assert_eq!(late, Err(StoreError::Gone));
    assert_eq!(values(store, "lease/").await.len(), 1, "nothing of it was written");
}

async fn a_key_that_moved_stays(store: &dyn LeaseStore) {
    let old = store.grant(Duration::from_secs(60)).await.unwrap().lease;
    let new = store.grant(Duration::from_secs(60)).await.unwrap().lease;
    written(store, vec![put_on("moved/a", old), put_on("moved/b", old)]).await;
    written(store, vec![put_on("moved/a", new), put("moved/b", "x")]).await;
    store.revoke(old).await.unwrap();
    assert_eq!(values(store, "moved/").await.len(), 2);
    store.revoke(new).await.unwrap();
    assert_eq!(values(store, "moved/").await, [("moved/b".into(), "x".into())]);
}

async fn a_lease_ends_by_itself(subject: &dyn Subject) {
    let store = subject.store();
    let granted = store.grant(Duration::from_secs(2)).await.unwrap();
    assert!(granted.ttl >= Duration::from_secs(2));
    let from = written(&*store, vec![put_on("expiry/a", granted.lease)]).await;
    let mut events = store.watch("expiry/", from + 1).await.unwrap();
    subject.pass(granted.ttl / 2);
    assert!(seen(&mut events).now_or_never().is_none());
    subject.pass(granted.ttl / 2);
    assert_eq!(told(&mut events, 1).await, ["-expiry/a"]);
    assert_eq!(store.keep_alive(granted.lease).await, Err(StoreError::Gone));
}

async fn a_renewed_lease_lives_on(subject: &dyn Subject) {
    let store = subject.store();
    let granted = store.grant(Duration::from_secs(10)).await.unwrap();
    written(&*store, vec![put_on("renewed/a", granted.lease)]).await;
    for _ in 0..3 {
        subject.pass(granted.ttl * 3 / 4);
        assert_eq!(store.keep_alive(granted.lease).await, Ok(granted));
    }
    assert_eq!(values(&*store, "renewed/").await.len(), 1);
}

async fn a_watch_sees_everything_in_order(store: &dyn LeaseStore) {
    let from = store.list("watch/").await.unwrap().revision + 1;
    let mut events = store.watch("watch/", from).await.unwrap();
    let revision = written(store, vec![put("watch/a", "1"), put("other", "1"), put("watch/b", "1")]).await;
    written(store, vec![put("watch/a", "2")]).await;
    written(store, vec![Op::Delete("watch/a".to_owned()), Op::Delete("watch/none".to_owned())]).await;
    written(store, vec![put("watch/a", "3")]).await;
    let first = seen(&mut events).await;
    let together: Vec<Revision> = first
        .iter()
        .map(|event| match event {
            Event::Put(entry) => entry.revision,
            Event::Deleted { revision, .. } => *revision,
        })
        .take_while(|seen| *seen == revision)
        .collect();
    assert_eq!(together.len(), 2, "one write is seen at once: {first:?}");
    let mut all: Vec<String> = first.iter().map(said).collect();
    all.extend(told(&mut events, 5 - all.len()).await);
    assert_eq!(all, ["watch/a=1", "watch/b=1", "watch/a=2", "-watch/a", "watch/a=3"]);
}

async fn a_watch_begins_in_the_past(store: &dyn LeaseStore) {
    let from = written(store, vec![put("past/a", "1")]).await;
    written(store, vec![put("past/a", "2")]).await;
    let mut events = store.watch("past/", from).await.unwrap();
    assert_eq!(told(&mut events, 2).await, ["past/a=1", "past/a=2"]);
    let mut later = store.watch("past/", from + 1).await.unwrap();
    assert_eq!(told(&mut later, 1).await, ["past/a=2"]);
}

async fn forgotten_history_is_said(subject: &dyn Subject) {
    let store = subject.store();
    let from = written(&*store, vec![put("forgotten/a", "1")]).await;
    let last = written(&*store, vec![put("forgotten/a", "2")]).await;
    subject.compact(last).await;
    let said = match store.watch("forgotten/", from).await {
        Ok(mut events) => soon("the end", events.next()).await.expect("an error"),
        Err(error) => Err(error),
    };
    assert_eq!(said, Err(StoreError::Compacted));
    let mut events = store.watch("forgotten/", last + 1).await.unwrap();
    written(&*store, vec![put("forgotten/a", "3")]).await;
    assert_eq!(told(&mut events, 1).await, ["forgotten/a=3"]);
}
