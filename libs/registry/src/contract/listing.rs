//! Cases: lists, changes, completion, subscriptions.

use std::collections::BTreeMap;

use api::registry::{CatalogEvent, Kind, SubscriptionChange, SubscriptionEvent};
use api::{Code, Error};
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use mcp::Json;
use tokio::sync::mpsc;

use super::{Subject, is, owned, ownerless, soon};

impl Subject {
    /// Every entry of a kind, page by page: names, digests, sizes of the pages.
    async fn all(&self, kind: Kind) -> (Vec<String>, Vec<String>, Vec<usize>) {
        let (mut names, mut digests, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        let mut cursor = None;
        loop {
            let page = soon(self.port.list(ownerless(), kind, cursor)).await.unwrap();
            sizes.push(page.items.len());
            names.extend(page.items.iter().map(|item| item.text("name").unwrap()));
            digests.push(page.digest);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return (names, digests, sizes);
            }
        }
    }

    async fn described(&self, kind: Kind) -> String {
        let description = soon(self.port.describe()).await.unwrap();
        let suite = description.registries.iter().find(|r| r.name == "suite").unwrap();
        suite.kinds.iter().find(|(k, _)| *k == kind).unwrap().1.clone()
    }
}

/// Every entry once, in order, two a page; one digest on all pages.
pub async fn lists_come_in_pages(subject: Subject) {
    let (names, digests, sizes) = subject.all(Kind::Tools).await;
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(names, sorted, "in order, each once");
    assert!(
        ["page-1", "page-5", "count", "ask"].iter().all(|name| names.iter().any(|n| n == name)),
        "{names:?}"
    );
    assert!(sizes.iter().rev().skip(1).all(|size| *size == 2), "{sizes:?}");
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    for (kind, name) in [(Kind::Resources, "text"), (Kind::Templates, "item"), (Kind::Prompts, "greet")] {
        assert_eq!(subject.all(kind).await.0, [name]);
    }
}

/// Made-up cursors, cursors of another list, and cursors of a list that has changed are refused.
pub async fn cursors_are_bound_to_their_list(subject: Subject) {
    let cursor = soon(subject.port.list(ownerless(), Kind::Tools, None)).await.unwrap().next_cursor.unwrap();
    let refused = async |kind, cursor: &str| {
        let error = soon(subject.port.list(ownerless(), kind, Some(cursor.to_owned()))).await.unwrap_err();
        assert!(is(&error, Code::InvalidRequest), "{cursor}: {error:?}");
    };
    for bad in ["x", "AAAA", &cursor[1..], &format!("{cursor}A"), &"A".repeat(10_000)] {
        refused(Kind::Tools, bad).await;
    }
    refused(Kind::Prompts, &cursor).await;
    subject.control.add_tool("zzz");
    refused(Kind::Tools, &cursor).await;
    subject.control.remove_tool("zzz");
    soon(subject.port.list(ownerless(), Kind::Tools, Some(cursor))).await.unwrap();
}

/// Describe, List and Watch name the same digest, which changes with the list and comes back with it.
pub async fn one_digest_everywhere(subject: Subject) {
    let mut watched = BTreeMap::new();
    let mut events = soon(subject.port.watch()).await.unwrap();
    for _ in Kind::ALL {
        let Some(Ok(CatalogEvent::Changed { registry, kind, digest })) = soon(events.next()).await else {
            panic!("the state comes first");
        };
        assert_eq!(registry, "suite");
        watched.insert(kind, digest);
    }
    for kind in Kind::ALL {
        let listed = subject.all(kind).await.1.swap_remove(0);
        assert_eq!((&listed, &subject.described(kind).await), (&watched[&kind], &watched[&kind]), "{kind:?}");
    }
    subject.control.add_tool("zzz");
    assert_ne!(subject.described(Kind::Tools).await, watched[&Kind::Tools]);
    subject.control.remove_tool("zzz");
    assert_eq!(subject.described(Kind::Tools).await, watched[&Kind::Tools]);
}

/// One event for a change, and only for the list that changed.
pub async fn a_change_is_one_event(subject: Subject) {
    let mut events = soon(subject.port.watch()).await.unwrap();
    for _ in Kind::ALL {
        soon(events.next()).await.unwrap().unwrap();
    }
    subject.control.add_tool("zzz");
    let digest = subject.described(Kind::Tools).await;
    let event = CatalogEvent::Changed { registry: "suite".into(), kind: Kind::Tools, digest };
    assert_eq!(soon(events.next()).await, Some(Ok(event)));
    assert!(events.next().now_or_never().is_none(), "nothing else has changed");
}

/// Values for an argument, of a prompt and of a template, and refusals of what is not there.
pub async fn arguments_are_completed(subject: Subject) {
    let complete = async |params: &'static str| {
        soon(subject.port.complete(ownerless(), Json::trusted(params))).await.unwrap()
    };
    assert_eq!(
        complete(r#"{"ref":{"type":"ref/prompt","name":"greet"},"argument":{"name":"name","value":"al"}}"#)
            .await,
        Ok(Json::trusted(r#"{"completion":{"values":["Alan"],"total":1,"hasMore":false}}"#))
    );
    let empty = Json::trusted(r#"{"completion":{"values":[],"total":0,"hasMore":false}}"#);
    assert_eq!(
        complete(
            r#"{"ref":{"type":"ref/resource","uri":"suite://item/{id}"},"argument":{"name":"id","value":""}}"#
        )
        .await,
        Ok(empty)
    );
    for bad in ["{}", r#"{"ref":{"type":"ref/prompt","name":"no"},"argument":{"name":"a","value":""}}"#] {
        assert_eq!(complete(bad).await.unwrap_err().code, -32602, "{bad}");
    }
}

type Events = BoxStream<'static, Result<SubscriptionEvent, Error>>;

/// Accepted or refused one by one; updates only of what is watched; the end of the wishes is the end.
pub async fn watched_resources_report_changes(subject: Subject) {
    let (wishes, incoming) = mpsc::channel(8);
    let incoming =
        futures::stream::unfold(incoming, |mut i| async move { Some((i.recv().await?, i)) }).boxed();
    let mut events: Events = soon(subject.port.subscribe(owned(), incoming)).await.unwrap();
    let add = |uri: &str| SubscriptionChange::Add(uri.to_owned());
    for uri in ["suite://text", "suite://item/1"] {
        wishes.send(add(uri)).await.unwrap();
        assert_eq!(soon(events.next()).await, Some(Ok(SubscriptionEvent::Accepted(uri.to_owned()))));
    }
    wishes.send(add("suite://none")).await.unwrap();
    let Some(Ok(SubscriptionEvent::Refused(uri, error))) = soon(events.next()).await else {
        panic!("not refused")
    };
    assert_eq!((uri.as_str(), error.code), ("suite://none", -32602));
    let updated =
        |uri: &str| Some(Ok(SubscriptionEvent::Updated(Json::trusted(format!(r#"{{"uri":"{uri}"}}"#)))));
    subject.control.touch("suite://none");
    subject.control.touch("suite://text");
    assert_eq!(soon(events.next()).await, updated("suite://text"));
    wishes.send(SubscriptionChange::Remove("suite://text".to_owned())).await.unwrap();
    // The next answer shows that the removal has arrived.
    wishes.send(add("suite://item/2")).await.unwrap();
    assert_eq!(soon(events.next()).await, Some(Ok(SubscriptionEvent::Accepted("suite://item/2".to_owned()))));
    subject.control.touch("suite://text");
    subject.control.touch("suite://item/1");
    assert_eq!(soon(events.next()).await, updated("suite://item/1"));
    drop(wishes);
    assert_eq!(soon(events.next()).await, None);
}
