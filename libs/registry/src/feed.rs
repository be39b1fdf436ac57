//! What watchers hear: the state of every list first, then each change once. A watcher that is slow hears the latest state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use api::Error;
use api::registry::{CatalogEvent, Kind};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;

/// How far the process is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    /// Takes nothing new.
    Draining,
    /// Has nothing left: watches end.
    Closed,
}

type Digests = BTreeMap<(String, Kind), String>;

#[derive(Debug, Clone)]
struct State {
    digests: Arc<Digests>,
    stage: Stage,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Feed(watch::Sender<State>);

impl Feed {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(State { digests: Arc::default(), stage: Stage::Serving }))
    }

    /// These are the digests of a registry now.
    pub(crate) fn publish(&self, registry: &str, digests: &BTreeMap<Kind, String>) {
        self.0.send_if_modified(|state| {
            let mut next = Digests::clone(&state.digests);
            for (kind, digest) in digests {
                next.insert((registry.to_owned(), *kind), digest.clone());
            }
            let differs = next != *state.digests;
            if differs {
                state.digests = Arc::new(next);
            }
            differs
        });
    }

    /// Goes forward to a stage.
    pub(crate) fn advance(&self, stage: Stage) {
        self.0.send_if_modified(|state| {
            let goes_on = stage > state.stage;
            state.stage = state.stage.max(stage);
            goes_on
        });
    }

    /// Ends when the process has nothing left.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut states = self.0.subscribe();
        async move {
            // If the sender is gone there is nothing left either.
            let _closed = states.wait_for(|state| state.stage == Stage::Closed).await.is_ok();
        }
    }

    pub(crate) fn events(&self) -> BoxStream<'static, Result<CatalogEvent, Error>> {
        let mut states = self.0.subscribe();
        states.mark_changed();
        let watcher = Watcher { states, told: Digests::new(), stage: Stage::Serving, due: VecDeque::new() };
        stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((Ok(event), watcher))
        })
        .boxed()
    }
}

struct Watcher {
    states: watch::Receiver<State>,
    told: Digests,
    stage: Stage,
    due: VecDeque<CatalogEvent>,
}

impl Watcher {
    async fn next(&mut self) -> Option<CatalogEvent> {
        loop {
            if let Some(event) = self.due.pop_front() {
                return Some(event);
            }
            if self.stage == Stage::Closed {
                return None;
            }
            self.states.changed().await.ok()?;
            let state = self.states.borrow_and_update().clone();
            for ((registry, kind), digest) in state.digests.iter() {
                let key = (registry.clone(), *kind);
                if self.told.get(&key) != Some(digest) {
                    self.told.insert(key, digest.clone());
                    let (registry, digest) = (registry.clone(), digest.clone());
                    self.due.push_back(CatalogEvent::Changed { registry, kind: *kind, digest });
                }
            }
            if self.stage == Stage::Serving && state.stage > Stage::Serving {
                self.due.push_back(CatalogEvent::NotServing);
            }
            self.stage = state.stage;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn changed(digest: &str) -> CatalogEvent {
        CatalogEvent::Changed { registry: "r".into(), kind: Kind::Tools, digest: digest.into() }
    }

    fn publish(feed: &Feed, digest: &str) {
        feed.publish("r", &BTreeMap::from([(Kind::Tools, digest.to_owned())]));
    }

    #[tokio::test]
    async fn the_state_comes_first_then_each_real_change_once() {
        let feed = Feed::new();
        publish(&feed, "1");
        let mut events = feed.events();
        assert_eq!(events.next().await, Some(Ok(changed("1"))));
        publish(&feed, "1");
        assert!(events.next().now_or_never().is_none(), "nothing has changed");
        publish(&feed, "2");
        publish(&feed, "3");
        assert_eq!(events.next().await, Some(Ok(changed("3"))), "a slow watcher hears the latest");
        publish(&feed, "4");
        publish(&feed, "3");
        assert!(events.next().now_or_never().is_none(), "what came back has not changed");
        feed.advance(Stage::Draining);
        feed.advance(Stage::Draining);
        assert_eq!(events.next().await, Some(Ok(CatalogEvent::NotServing)));
        assert!(events.next().now_or_never().is_none());
        feed.advance(Stage::Closed);
        assert_eq!(events.next().await, None);
        let late: Vec<_> = feed.events().collect().await;
        assert_eq!(late, [Ok(changed("3")), Ok(CatalogEvent::NotServing)]);
    }
}
