//! Resource subscriptions at one registry process: one upstream watch per URI, however many clients want it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::registry::{Registry, SubscriptionChange, SubscriptionEvent};
use api::{Code, Error};
use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt as _, future};
use mcp::rpc::RpcError;
use mcp::{Json, code, edit};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::link::own_context;

/// Who is told of an update. Called with the URI and the params of `notifications/resources/updated`; must not wait.
pub(crate) type Listener = Arc<dyn Fn(&str, &Json) + Send + Sync>;

/// (registry, URI)
type Key = (String, String);
type Events = SelectAll<BoxStream<'static, (String, Result<SubscriptionEvent, Error>)>>;

/// Changes that may wait for a registry to take them.
const CHANGE_QUEUE: usize = 1024;
/// How long a registry, or one that is out of reach, has to accept or refuse.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

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
    wanted: BTreeMap<Key, Watched>,
    /// What the registries have been asked to watch over the present connection.
    told: BTreeSet<Key>,
}

#[derive(Default)]
struct Watched {
    listeners: HashMap<u64, Listener>,
    /// Listeners that have not been told whether they are one.
    waiting: Vec<(u64, oneshot::Sender<Result<(), RpcError>>)>,
    accepted: bool,
    /// The registry, back from a restart, does not have it (yet). Asked again when its lists change.
    refused: bool,
}

impl Watched {
    fn all(&self) -> Vec<Listener> {
        self.listeners.values().cloned().collect()
    }
}

/// Keeps a subscription; dropping it ends it.
pub(crate) struct Subscription {
    link: Arc<super::Link>,
    key: Key,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.link.watches.remove(&self.key, self.number);
    }
}

impl Watches {
    pub(super) fn new(port: Arc<dyn Registry>) -> Self {
        Self { port, state: Mutex::default(), bell: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, key: &Key, number: u64) {
        let mut state = self.lock();
        let Some(watched) = state.wanted.get_mut(key) else { return };
        watched.listeners.remove(&number);
        // What the registry was told of stays until it is told otherwise: whoever comes before that finds it watched.
        if watched.listeners.is_empty() && !state.told.contains(key) {
            state.wanted.remove(key);
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Watches a resource; returns once the registry has accepted or refused it, or has not answered for too long.
    pub(crate) async fn subscribe(
        link: &Arc<super::Link>,
        registry: &str,
        uri: &str,
        listener: Listener,
    ) -> Result<Subscription, RpcError> {
        let key = (registry.to_owned(), uri.to_owned());
        let (answer, answered) = oneshot::channel();
        let subscription = {
            let mut state = link.watches.lock();
            state.next += 1;
            let number = state.next;
            let State { wanted, told, .. } = &mut *state;
            let watched = wanted.entry(key.clone()).or_default();
            watched.listeners.insert(number, listener);
            if watched.accepted {
                return Ok(Subscription { link: link.clone(), key, number });
            }
            if watched.refused {
                told.remove(&key);
            }
            watched.waiting.push((number, answer));
            Subscription { link: link.clone(), key, number }
        };
        link.watches.bell.notify_one();
        match timeout(ACCEPT_WITHIN, answered).await {
            Ok(Ok(Ok(()))) => Ok(subscription),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(RpcError::reason("the subscription was given up", "unavailable")),
            Err(_elapsed) => Err(RpcError::reason("the registry did not answer in time", "timeout")),
        }
    }

    /// A registry's lists have changed: it may have now what it had not.
    pub(super) fn ask_again(&self, registry: &str) {
        let mut state = self.lock();
        let State { wanted, told, .. } = &mut *state;
        for (key, watched) in wanted.iter().filter(|((name, _), _)| name == registry) {
            if watched.refused {
                told.remove(key);
            }
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Serves while the connection lives; returns how it was lost.
    pub(super) async fn run(&self) -> Error {
        let mut senders: HashMap<String, mpsc::Sender<SubscriptionChange>> = HashMap::new();
        let mut events = Events::new();
        self.after_reconnect();
        loop {
            if let Err(error) = self.reconcile(&mut senders, &mut events).await {
                return error;
            }
            tokio::select! {
                () = self.bell.notified() => {}
                Some((registry, event)) = events.next(), if !events.is_empty() => match event {
                    Ok(event) => self.heard(&registry, event),
                    Err(error) if is_refusal(&error) => {
                        senders.remove(&registry);
                        self.refuse_all(&registry);
                    }
                    Err(error) => return error,
                },
            }
        }
    }

    /// What was watched before may have changed unseen.
    fn after_reconnect(&self) {
        let mut missed: Vec<(String, Vec<Listener>)> = Vec::new();
        let mut state = self.lock();
        state.told.clear();
        for ((_, uri), watched) in &mut state.wanted {
            let (accepted, refused) =
                (std::mem::take(&mut watched.accepted), std::mem::take(&mut watched.refused));
            if accepted || refused {
                missed.push((uri.clone(), watched.all()));
            }
        }
        drop(state);
        for (uri, listeners) in missed {
            tell_unseen(&uri, &listeners);
        }
    }

    /// Tells the registries what is wanted now and was not before, and the other way round.
    async fn reconcile(
        &self,
        senders: &mut HashMap<String, mpsc::Sender<SubscriptionChange>>,
        events: &mut Events,
    ) -> Result<(), Error> {
        let (added, removed) = self.lock().differences();
        for (registry, uri) in added {
            if !senders.contains_key(&registry) {
                match self.open(&registry).await {
                    Ok((sender, stream)) => {
                        senders.insert(registry.clone(), sender);
                        events.push(stream);
                    }
                    Err(error) if is_refusal(&error) => {
                        self.refuse_all(&registry);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            tell(senders, &registry, SubscriptionChange::Add(uri)).await?;
        }
        for (registry, uri) in removed {
            // A registry that takes no subscriptions has nothing to remove.
            if senders.contains_key(&registry) {
                tell(senders, &registry, SubscriptionChange::Remove(uri)).await?;
            }
        }
        Ok(())
    }

    /// A stream of one registry. Its end is an error, and the last thing heard on it.
    async fn open(
        &self,
        registry: &str,
    ) -> Result<
        (mpsc::Sender<SubscriptionChange>, BoxStream<'static, (String, Result<SubscriptionEvent, Error>)>),
        Error,
    > {
        let (sender, receiver) = mpsc::channel(CHANGE_QUEUE);
        let changes = ReceiverStream::new(receiver).boxed();
        let opened = timeout(ACCEPT_WITHIN, self.port.subscribe(own_context(registry), changes)).await;
        let events = opened.map_err(|_elapsed| Error::new(Code::Deadline, "no answer in time"))??;
        let name = registry.to_owned();
        let events = events.chain(stream::once(future::ready(Err(gone())))).scan(false, |ended, event| {
            let heard = (!*ended).then_some(event);
            *ended |= heard.as_ref().is_some_and(Result::is_err);
            future::ready(heard)
        });
        Ok((sender, events.map(move |event| (name.clone(), event)).boxed()))
    }

    fn heard(&self, registry: &str, event: SubscriptionEvent) {
        match event {
            SubscriptionEvent::Accepted(uri) => {
                let key = (registry.to_owned(), uri);
                let missed = self.lock().accept(&key);
                tell_unseen(&key.1, &missed);
            }
            SubscriptionEvent::Refused(uri, error) => {
                self.lock().refuse(&(registry.to_owned(), uri), &error);
            }
            SubscriptionEvent::Updated(params) => {
                let Some(uri) = params.text("uri") else { return };
                let key = (registry.to_owned(), uri);
                let listeners = self.lock().wanted.get(&key).map(Watched::all).unwrap_or_default();
                for listener in listeners {
                    listener(&key.1, &params);
                }
            }
        }
    }

    /// The registry takes no subscriptions at all.
    fn refuse_all(&self, registry: &str) {
        let mut state = self.lock();
        let keys: Vec<Key> = state.wanted.keys().filter(|(name, _)| name == registry).cloned().collect();
        for key in keys {
            let error = RpcError::new(code::INVALID_PARAMS, format!("Resource cannot be watched: {}", key.1));
            state.refuse(&key, &error);
        }
    }
}

impl State {
    /// What the registries have to be told, in order to know what is wanted. From now on they have been.
    fn differences(&mut self) -> (Vec<Key>, Vec<Key>) {
        self.wanted.retain(|_, watched| !watched.listeners.is_empty());
        let removed: Vec<Key> =
            self.told.iter().filter(|key| !self.wanted.contains_key(*key)).cloned().collect();
        let added: Vec<Key> = self.wanted.keys().filter(|key| !self.told.contains(*key)).cloned().collect();
        for key in &removed {
            self.told.remove(key);
        }
        self.told.extend(added.iter().cloned());
        (added, removed)
    }

    /// Who waits is told. What is given back has listened all the time while the registry did not watch.
    fn accept(&mut self, key: &Key) -> Vec<Listener> {
        let Some(watched) = self.wanted.get_mut(key) else { return Vec::new() };
        watched.accepted = true;
        for (_, sender) in watched.waiting.drain(..) {
            // A caller that gave up does not want to know.
            let _gone = sender.send(Ok(())).is_err();
        }
        if std::mem::take(&mut watched.refused) { watched.all() } else { Vec::new() }
    }

    /// Who waits is told; who has listened since before a restart goes on to.
    fn refuse(&mut self, key: &Key, error: &RpcError) {
        let Some(watched) = self.wanted.get_mut(key) else { return };
        watched.accepted = false;
        watched.refused = true;
        for (number, sender) in watched.waiting.drain(..) {
            watched.listeners.remove(&number);
            // A caller that gave up does not want to know.
            let _gone = sender.send(Err(error.clone())).is_err();
        }
        if watched.listeners.is_empty() {
            self.wanted.remove(key);
            self.told.remove(key);
        }
    }
}

fn tell_unseen(uri: &str, listeners: &[Listener]) {
    let params = Json::trusted(format!("{{\"uri\":{}}}", edit::quote(uri)));
    for listener in listeners {
        listener(uri, &params);
    }
}

/// Whether the registry has answered, as opposed to being out of reach.
const fn is_refusal(error: &Error) -> bool {
    match error.code {
        Code::InvalidRequest
        | Code::Unimplemented
        | Code::NotFound
        | Code::Unauthenticated
        | Code::Denied => true,
        Code::Precondition
        | Code::Overloaded
        | Code::Deadline
        | Code::Unavailable
        | Code::Cancelled
        | Code::OutcomeUnknown
        | Code::Internal => false,
    }
}

fn gone() -> Error {
    Error::new(Code::Unavailable, "the subscription stream has ended")
}

async fn tell(
    senders: &HashMap<String, mpsc::Sender<SubscriptionChange>>,
    registry: &str,
    change: SubscriptionChange,
) -> Result<(), Error> {
    senders.get(registry).ok_or_else(gone)?.send(change).await.map_err(|_| gone())
}

#[cfg(test)]
mod tests;
