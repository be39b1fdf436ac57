//! Who watches which resources, and what each still has to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp::Json;
use mcp::edit;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    inner: Mutex<Inner>,
    /// Held while a source is asked whether a first or last watcher may come or go.
    gate: Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    watchers: BTreeMap<u64, Watcher>,
    next: u64,
}

#[derive(Debug)]
struct Watcher {
    uris: BTreeSet<String>,
    /// At most one update for each watched URI.
    due: BTreeMap<String, Option<Json>>,
    bell: Arc<Notify>,
}

impl Subscriptions {
    /// A new watcher of nothing.
    pub(crate) fn open(&self) -> (u64, Arc<Notify>) {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        let bell = Arc::new(Notify::new());
        let watcher = Watcher { uris: BTreeSet::new(), due: BTreeMap::new(), bell: bell.clone() };
        inner.watchers.insert(number, watcher);
        (number, bell)
    }

    /// Lets a watcher watch; `first` is asked when nobody else does.
    pub(crate) fn add<E>(
        &self,
        watcher: u64,
        uri: &str,
        most: usize,
        first: impl FnOnce() -> Result<(), E>,
        too_many: impl FnOnce() -> E,
    ) -> Result<(), E> {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let is_watched = {
            let inner = self.lock();
            if inner.watchers.get(&watcher).is_some_and(|w| w.uris.len() >= most && !w.uris.contains(uri)) {
                return Err(too_many());
            }
            inner.is_watched(uri)
        };
        if !is_watched {
            first()?;
        }
        if let Some(watcher) = self.lock().watchers.get_mut(&watcher) {
            watcher.uris.insert(uri.to_owned());
        }
        Ok(())
    }

    /// Lets a watcher go; `last` is told when nobody else watches.
    pub(crate) fn remove(&self, watcher: u64, uri: &str, last: impl FnOnce()) {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = {
            let mut inner = self.lock();
            let Some(watcher) = inner.watchers.get_mut(&watcher) else { return };
            watcher.due.remove(uri);
            watcher.uris.remove(uri) && !inner.is_watched(uri)
        };
        if is_last {
            last();
        }
    }

    /// The watcher is gone.
    pub(crate) fn close(&self, watcher: u64, last: impl Fn(&str)) {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let orphans: Vec<String> = {
            let mut inner = self.lock();
            let Some(gone) = inner.watchers.remove(&watcher) else { return };
            gone.uris.into_iter().filter(|uri| !inner.is_watched(uri)).collect()
        };
        orphans.iter().for_each(|uri| last(uri));
    }

    /// Something has changed in a resource.
    pub(crate) fn updated(&self, uri: &str, params: Option<Json>) {
        let mut inner = self.lock();
        for watcher in inner.watchers.values_mut().filter(|watcher| watcher.uris.contains(uri)) {
            watcher.due.insert(uri.to_owned(), params.clone());
            watcher.bell.notify_one();
        }
    }

    /// What a watcher has not been told yet, as params of the notification.
    pub(crate) fn take_due(&self, watcher: u64) -> Vec<Json> {
        let mut inner = self.lock();
        let Some(watcher) = inner.watchers.get_mut(&watcher) else { return Vec::new() };
        let due = std::mem::take(&mut watcher.due);
        due.into_iter()
            .map(|(uri, params)| params.unwrap_or_else(|| edit::object([("uri", edit::quote(&uri).into())])))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_watched(&self, uri: &str) -> bool {
        self.watchers.values().any(|watcher| watcher.uris.contains(uri))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_source_hears_of_the_first_and_the_last_watcher_only() {
        let subscriptions = Subscriptions::default();
        let (one, _) = subscriptions.open();
        let (two, _) = subscriptions.open();
        let asked = Cell::new(0);
        let told = Cell::new(0);
        let add = |watcher| {
            subscriptions.add(
                watcher,
                "a",
                8,
                || {
                    asked.set(asked.get() + 1);
                    Ok::<_, ()>(())
                },
                || (),
            )
        };
        add(one).unwrap();
        add(two).unwrap();
        add(two).unwrap();
        assert_eq!(asked.get(), 1);
        subscriptions.remove(one, "a", || told.set(told.get() + 1));
        subscriptions.remove(one, "a", || told.set(told.get() + 1));
        assert_eq!(told.get(), 0);
        subscriptions.close(two, |_| told.set(told.get() + 1));
        assert_eq!(told.get(), 1);
        assert_eq!(subscriptions.add(one, "b", 8, || Err("no"), || "many"), Err("no"));
        assert_eq!(subscriptions.add(one, "c", 0, || Ok(()), || "many"), Err("many"));
    }

    #[test]
    fn updates_are_told_once_to_those_who_watch() {
        let subscriptions = Subscriptions::default();
        let (one, _) = subscriptions.open();
        let (two, _) = subscriptions.open();
        subscriptions.add(one, "a", 8, || Ok::<_, ()>(()), || ()).unwrap();
        subscriptions.updated("a", None);
        subscriptions.updated("a", None);
        subscriptions.updated("b", None);
        assert_eq!(subscriptions.take_due(one), [Json::trusted(r#"{"uri":"a"}"#)]);
        assert!(subscriptions.take_due(one).is_empty());
        assert!(subscriptions.take_due(two).is_empty());
    }
}
