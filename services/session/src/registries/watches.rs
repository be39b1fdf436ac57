//! Resource subscriptions at one registry process: one upstream watch per URI, however many clients want it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use api::Error;
use api::registry::{Registry, SubscriptionChange, SubscriptionEvent};
use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use mcp::rpc::RpcError;
use mcp::{Json, code, edit};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::link::own_context;

/// Who is told of an update. Called with the URI and the params of `notifications/resources/updated`; must not wait.
pub(crate) type Listener = Arc<dyn Fn(&str, &Json) + Send + Sync>;

/// Changes that may wait for a registry to take them.
const CHANGE_QUEUE: usize = 1024;

/// See the module.
pub(crate) struct Watches {
    port: Arc<dyn Registry>,
    state: Mutex<State>,
    /// Rung when `wanted` has changed.
    bell: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    /// (registry, uri) -> who wants it.
    wanted: BTreeMap<(String, String), Watched>,
}

#[derive(Default)]
struct Watched {
    listeners: HashMap<u64, Listener>,
    waiting: Vec<oneshot::Sender<Result<(), RpcError>>>,
    accepted: bool,
}

/// Keeps a subscription; dropping it ends it.
pub(crate) struct Subscription {
    watches: Arc<super::Link>,
    key: (String, String),
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.watches.watches.remove(&self.key, self.number);
    }
}

impl Watches {
    pub(super) fn new(port: Arc<dyn Registry>) -> Self {
        Self { port, state: Mutex::default(), bell: Notify::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, key: &(String, String), number: u64) {
        let mut state = self.lock();
        if let Some(watched) = state.wanted.get_mut(key) {
            watched.listeners.remove(&number);
            if watched.listeners.is_empty() {
                state.wanted.remove(key);
            }
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Watches a resource; returns once the registry has accepted or refused it.
    pub(crate) async fn subscribe(
        link: &Arc<super::Link>,
        registry: &str,
        uri: &str,
        listener: Listener,
    ) -> Result<Subscription, RpcError> {
        let key = (registry.to_owned(), uri.to_owned());
        let (answer, answered) = oneshot::channel();
        let this = &link.watches;
        let number = {
            let mut state = this.lock();
            state.next += 1;
            let number = state.next;
            let watched = state.wanted.entry(key.clone()).or_default();
            watched.listeners.insert(number, listener);
            if watched.accepted {
                // The receiver is in this function.
                let _held = answer.send(Ok(())).is_err();
            } else {
                watched.waiting.push(answer);
            }
            number
        };
        let subscription = Subscription { watches: link.clone(), key, number };
        this.bell.notify_one();
        match answered.await {
            Ok(Ok(())) => Ok(subscription),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(RpcError::reason("the subscription was given up", "unavailable")),
        }
    }

    /// Serves while the connection lives; returns how it was lost.
    pub(super) async fn run(&self) -> Error {
        let mut senders: HashMap<String, mpsc::Sender<SubscriptionChange>> = HashMap::new();
        let mut streams: SelectAll<BoxStream<'static, (String, Result<SubscriptionEvent, Error>)>> =
            SelectAll::new();
        let mut sent: BTreeMap<(String, String), ()> = BTreeMap::new();
        self.after_reconnect();
        loop {
            if let Err(error) = self.reconcile(&mut senders, &mut streams, &mut sent).await {
                return error;
            }
            tokio::select! {
                () = self.bell.notified() => {}
                Some((registry, event)) = streams.next(), if !streams.is_empty() => match event {
                    Ok(event) => self.heard(&registry, event, &mut sent),
                    Err(error) => return error,
                },
            }
        }
    }

    /// What was watched before may have changed unseen.
    fn after_reconnect(&self) {
        let mut missed: Vec<(String, Vec<Listener>)> = Vec::new();
        for ((_, uri), watched) in &mut self.lock().wanted {
            if std::mem::take(&mut watched.accepted) {
                missed.push((uri.clone(), watched.listeners.values().cloned().collect()));
            }
        }
        for (uri, listeners) in missed {
            let params = Json::trusted(format!("{{\"uri\":{}}}", edit::quote(&uri)));
            for listener in listeners {
                listener(&uri, &params);
            }
        }
    }

    /// Tells the registries what is wanted now and was not before, and the other way round.
    async fn reconcile(
        &self,
        senders: &mut HashMap<String, mpsc::Sender<SubscriptionChange>>,
        streams: &mut SelectAll<BoxStream<'static, (String, Result<SubscriptionEvent, Error>)>>,
        sent: &mut BTreeMap<(String, String), ()>,
    ) -> Result<(), Error> {
        let (added, removed) = {
            let state = self.lock();
            let added: Vec<_> = state.wanted.keys().filter(|key| !sent.contains_key(*key)).cloned().collect();
            let removed: Vec<_> =
                sent.keys().filter(|key| !state.wanted.contains_key(*key)).cloned().collect();
            (added, removed)
        };
        for (registry, uri) in added {
            if !senders.contains_key(&registry) {
                let (sender, receiver) = mpsc::channel(CHANGE_QUEUE);
                let changes = ReceiverStream::new(receiver).boxed();
                let events = self.port.subscribe(own_context(&registry), changes).await?;
                let name = registry.clone();
                streams.push(events.map(move |event| (name.clone(), event)).boxed());
                senders.insert(registry.clone(), sender);
            }
            sent.insert((registry.clone(), uri.clone()), ());
            tell(senders, &registry, SubscriptionChange::Add(uri)).await?;
        }
        for key in removed {
            sent.remove(&key);
            tell(senders, &key.0, SubscriptionChange::Remove(key.1)).await?;
        }
        Ok(())
    }

    fn heard(&self, registry: &str, event: SubscriptionEvent, sent: &mut BTreeMap<(String, String), ()>) {
        match event {
            SubscriptionEvent::Accepted(uri) => {
                let mut state = self.lock();
                if let Some(watched) = state.wanted.get_mut(&(registry.to_owned(), uri)) {
                    watched.accepted = true;
                    answer(&mut watched.waiting, &Ok(()));
                }
            }
            SubscriptionEvent::Refused(uri, error) => {
                let key = (registry.to_owned(), uri);
                sent.remove(&key);
                if let Some(mut watched) = self.lock().wanted.remove(&key) {
                    answer(&mut watched.waiting, &Err(error));
                }
            }
            SubscriptionEvent::Updated(params) => {
                let Some(uri) = params.text("uri") else { return };
                let listeners: Vec<Listener> = self
                    .lock()
                    .wanted
                    .get(&(registry.to_owned(), uri.clone()))
                    .map(|watched| watched.listeners.values().cloned().collect())
                    .unwrap_or_default();
                for listener in listeners {
                    listener(&uri, &params);
                }
            }
        }
    }
}

async fn tell(
    senders: &HashMap<String, mpsc::Sender<SubscriptionChange>>,
    registry: &str,
    change: SubscriptionChange,
) -> Result<(), Error> {
    let gone = || Error::new(api::Code::Unavailable, "the subscription stream has ended");
    senders.get(registry).ok_or_else(gone)?.send(change).await.map_err(|_| gone())
}

fn answer(waiting: &mut Vec<oneshot::Sender<Result<(), RpcError>>>, outcome: &Result<(), RpcError>) {
    for sender in waiting.drain(..) {
        // A caller that gave up does not want to know.
        let _gone = sender.send(outcome.clone()).is_err();
    }
}

/// The error for a resource that nobody serves.
pub(crate) fn unknown_resource(uri: &str, modern: bool) -> RpcError {
    let code = if modern { code::INVALID_PARAMS } else { code::RESOURCE_NOT_FOUND };
    RpcError::new(code, format!("Resource not found: {uri}"))
        .with_data(Json::trusted(format!("{{\"uri\":{}}}", edit::quote(uri))))
}
