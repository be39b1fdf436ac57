//! Resource subscriptions: one watch per URI at every replica of its registry, however many clients want it.
//!
//! A replica reports the changes it sees, so each is asked; a client that subscribes is answered by the first that accepts, or
//! when all that are connected have refused. The same change reported by several replicas is told once. What may have been
//! missed while a replica was out of reach is told as a change, for nobody can know that it was none.

mod repeats;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::registry::{Registry, SubscriptionChange, SubscriptionEvent};
use api::{Code, Error};
use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt as _, future};
use mcp::rpc::RpcError;
use mcp::{Json, code, edit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;

use self::repeats::Repeats;
use super::Link;
use super::catalogue::{LinkId, SourceKey};
use super::link::own_context;

/// Who is told of an update. Called with the URI and the params of `notifications/resources/updated`; must not wait.
pub(crate) type Listener = Arc<dyn Fn(&str, &Json) + Send + Sync>;

/// (registry, URI)
type Key = (Arc<SourceKey>, String);
type Events = SelectAll<BoxStream<'static, (String, Result<SubscriptionEvent, Error>)>>;
type Senders = HashMap<String, mpsc::Sender<SubscriptionChange>>;

/// Changes that may wait for a registry to take them.
const CHANGE_QUEUE: usize = 1024;
/// How long a registry, or one that is out of reach, has to accept or refuse.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Watches {
    state: Mutex<State>,
    /// Rung when what is wanted, or who is to be asked, has changed.
    bell: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    next: u64,
    wanted: BTreeMap<Key, Watched>,
    /// The connected processes.
    links: BTreeMap<LinkId, Asked>,
}

/// What a process has been asked over its present connection.
#[derive(Default)]
struct Asked {
    serves: Vec<Arc<SourceKey>>,
    told: BTreeSet<Key>,
}

#[derive(Default)]
struct Watched {
    listeners: BTreeMap<u64, Listener>,
    /// Listeners that have not been told whether they are one.
    waiting: Vec<(u64, oneshot::Sender<Result<(), RpcError>>)>,
    replies: BTreeMap<LinkId, Reply>,
    /// Replicas that had answered before their connection was lost.
    lapsed: BTreeSet<LinkId>,
    repeats: Repeats,
}

enum Reply {
    Accepted,
    /// It does not have it (yet). Asked again when its lists change.
    Refused(RpcError),
}

/// Keeps a subscription; dropping it ends it.
pub(crate) struct Subscription {
    watches: Arc<Watches>,
    key: Key,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.watches.remove(&self.key, self.number);
    }
}

/// A process is asked for as long as this lives.
struct Connected<'a> {
    watches: &'a Watches,
    link: LinkId,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.watches.lock().disconnect(self.link);
    }
}

impl Watches {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), bell: watch::channel(()).0 })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.bell.send_replace(());
    }

    fn remove(&self, key: &Key, number: u64) {
        let mut state = self.lock();
        let Some(watched) = state.wanted.get_mut(key) else { return };
        watched.listeners.remove(&number);
        watched.waiting.retain(|(waiting, _)| *waiting != number);
        // What a registry was told of stays until it is told otherwise: whoever comes before that finds it watched.
        state.drop_unwanted(key);
        drop(state);
        self.ring();
    }

    /// Watches a resource; returns once a replica has accepted it, all have refused it, or none has answered for too long.
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        source: &Arc<SourceKey>,
        uri: &str,
        listener: Listener,
    ) -> Result<Subscription, RpcError> {
        let key = (source.clone(), uri.to_owned());
        let (answer, answered) = oneshot::channel();
        let subscription = {
            let mut state = self.lock();
            state.next += 1;
            let number = state.next;
            let State { wanted, links, .. } = &mut *state;
            let watched = wanted.entry(key.clone()).or_default();
            watched.listeners.insert(number, listener);
            let subscription = Subscription { watches: self.clone(), key: key.clone(), number };
            if watched.is_accepted() {
                return Ok(subscription);
            }
            watched.waiting.push((number, answer));
            // Who has refused is asked again.
            for (link, _) in std::mem::take(&mut watched.replies) {
                if let Some(asked) = links.get_mut(&link) {
                    asked.told.remove(&key);
                }
                watched.lapsed.insert(link);
            }
            subscription
        };
        self.ring();
        match timeout(ACCEPT_WITHIN, answered).await {
            Ok(Ok(Ok(()))) => Ok(subscription),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(RpcError::reason("the subscription was given up", "unavailable")),
            Err(_elapsed) => Err(RpcError::reason("the registry did not answer in time", "timeout")),
        }
    }

    /// A registry's lists have changed: the process may have now what it had not.
    pub(super) fn ask_again(&self, link: LinkId, registry: &str) {
        let mut state = self.lock();
        let State { wanted, links, .. } = &mut *state;
        let Some(asked) = links.get_mut(&link) else { return };
        for (key, watched) in wanted.iter().filter(|((source, _), _)| source.registry == registry) {
            if matches!(watched.replies.get(&link), Some(Reply::Refused(_))) {
                asked.told.remove(key);
            }
        }
        drop(state);
        self.ring();
    }

    /// The process serves other registries than before.
    pub(super) fn serve(&self, link: &Link) {
        if let Some(asked) = self.lock().links.get_mut(&link.id) {
            asked.serves = link.serves().unwrap_or_default();
        }
        self.ring();
    }

    /// Asks a process while its connection lives; returns how it was lost.
    pub(super) async fn run(&self, link: &Link) -> Error {
        let serves = link.serves().unwrap_or_default();
        let (id, port) = (link.id, &link.port);
        let mut senders = Senders::new();
        let mut events = Events::new();
        let mut bell = self.bell.subscribe();
        self.lock().links.insert(id, Asked { serves, told: BTreeSet::new() });
        let _connected = Connected { watches: self, link: id };
        loop {
            if let Err(error) = self.reconcile(id, port, &mut senders, &mut events).await {
                return error;
            }
            tokio::select! {
                // The sender lives as long as `self`.
                _closed = bell.changed() => {}
                Some((registry, event)) = events.next(), if !events.is_empty() => match event {
                    Ok(event) => self.heard(id, &registry, event),
                    Err(error) if is_refusal(&error) => {
                        senders.remove(&registry);
                        self.lock().refuse_all(id, &registry);
                    }
                    Err(error) => return error,
                },
            }
        }
    }

    /// Tells the process what is wanted now and was not before, and the other way round.
    async fn reconcile(
        &self,
        link: LinkId,
        port: &Arc<dyn Registry>,
        senders: &mut Senders,
        events: &mut Events,
    ) -> Result<(), Error> {
        let (added, removed) = self.lock().differences(link);
        for (source, uri) in added {
            let registry = &source.registry;
            if !senders.contains_key(registry) {
                match open(port, registry).await {
                    Ok((sender, stream)) => {
                        senders.insert(registry.clone(), sender);
                        events.push(stream);
                    }
                    Err(error) if is_refusal(&error) => {
                        self.lock().refuse_all(link, registry);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            tell(senders, registry, SubscriptionChange::Add(uri)).await?;
        }
        for (source, uri) in removed {
            // A registry that takes no subscriptions has nothing to remove.
            if senders.contains_key(&source.registry) {
                tell(senders, &source.registry, SubscriptionChange::Remove(uri)).await?;
            }
        }
        Ok(())
    }

    fn heard(&self, link: LinkId, registry: &str, event: SubscriptionEvent) {
        match event {
            SubscriptionEvent::Accepted(uri) => {
                let Some(key) = self.lock().key(link, registry, uri) else { return };
                let missed = self.lock().accept(link, &key);
                tell_unseen(&key.1, &missed);
            }
            SubscriptionEvent::Refused(uri, error) => {
                let mut state = self.lock();
                if let Some(key) = state.key(link, registry, uri) {
                    state.refuse(link, &key, error);
                }
            }
            SubscriptionEvent::Updated(params) => {
                let Some(uri) = params.text("uri") else { return };
                let Some(key) = self.lock().key(link, registry, uri) else { return };
                let listeners = self.lock().updated(link, &key, &params);
                for listener in listeners {
                    listener(&key.1, &params);
                }
            }
        }
    }
}

impl Watched {
    fn all(&self) -> Vec<Listener> {
        self.listeners.values().cloned().collect()
    }

    fn is_accepted(&self) -> bool {
        self.replies.values().any(|reply| matches!(reply, Reply::Accepted))
    }
}

impl State {
    /// How the registry that a process calls so is known here.
    fn key(&self, link: LinkId, registry: &str, uri: String) -> Option<Key> {
        let serves = &self.links.get(&link)?.serves;
        serves.iter().find(|source| source.registry == registry).map(|source| (source.clone(), uri))
    }

    fn drop_unwanted(&mut self, key: &Key) {
        let unwanted = self.wanted.get(key).is_some_and(|watched| watched.listeners.is_empty());
        if unwanted && !self.links.values().any(|asked| asked.told.contains(key)) {
            self.wanted.remove(key);
        }
    }

    /// What a process has to be told, in order to know what is wanted. From now on it has been.
    fn differences(&mut self, link: LinkId) -> (Vec<Key>, Vec<Key>) {
        let Self { wanted, links, .. } = self;
        let Some(asked) = links.get_mut(&link) else { return (Vec::new(), Vec::new()) };
        let is_wanted = |key: &Key| wanted.get(key).is_some_and(|watched| !watched.listeners.is_empty());
        let removed: Vec<Key> = asked.told.iter().filter(|key| !is_wanted(key)).cloned().collect();
        let wanted_here = wanted.keys().filter(|key| asked.serves.contains(&key.0) && is_wanted(key));
        let added: Vec<Key> = wanted_here.filter(|key| !asked.told.contains(*key)).cloned().collect();
        for key in &removed {
            asked.told.remove(key);
            if let Some(watched) = wanted.get_mut(key) {
                watched.replies.remove(&link);
            }
        }
        asked.told.extend(added.iter().cloned());
        for key in &removed {
            self.drop_unwanted(key);
        }
        (added, removed)
    }

    /// Who waits is told. Returns whom to tell that something may have changed unseen: whoever was listening while this
    /// replica, or every one, did not watch.
    fn accept(&mut self, link: LinkId, key: &Key) -> Vec<Listener> {
        let Some(watched) = self.wanted.get_mut(key) else { return Vec::new() };
        let settled = watched.listeners.len() > watched.waiting.len();
        let unwatched = settled && !watched.is_accepted();
        watched.replies.insert(link, Reply::Accepted);
        for (_, sender) in watched.waiting.drain(..) {
            // A caller that gave up does not want to know.
            let _gone = sender.send(Ok(())).is_err();
        }
        let lapsed = watched.lapsed.remove(&link) && settled;
        if lapsed || unwatched { watched.all() } else { Vec::new() }
    }

    fn refuse(&mut self, link: LinkId, key: &Key, error: RpcError) {
        if let Some(watched) = self.wanted.get_mut(key) {
            watched.replies.insert(link, Reply::Refused(error));
        }
        self.refuse_waiting(key);
    }

    /// Where nobody is left who may accept, who waits is told; who has listened since before a restart goes on to.
    fn refuse_waiting(&mut self, key: &Key) {
        let Some(watched) = self.wanted.get_mut(key) else { return };
        let mut asked =
            self.links.iter().filter(|(_, asked)| asked.serves.contains(&key.0)).map(|(id, _)| id);
        let is_open = asked.any(|id| !matches!(watched.replies.get(id), Some(Reply::Refused(_))));
        let refusal = watched.replies.values().find_map(|reply| match reply {
            Reply::Refused(error) => Some(error.clone()),
            Reply::Accepted => None,
        });
        let Some(error) = refusal.filter(|_| !is_open) else { return };
        for (number, sender) in watched.waiting.drain(..) {
            watched.listeners.remove(&number);
            // A caller that gave up does not want to know.
            let _gone = sender.send(Err(error.clone())).is_err();
        }
        if watched.listeners.is_empty() {
            for asked in self.links.values_mut() {
                asked.told.remove(key);
            }
            self.wanted.remove(key);
        }
    }

    /// The registry takes no subscriptions at all.
    fn refuse_all(&mut self, link: LinkId, registry: &str) {
        let serves = self.links.get(&link).map(|asked| asked.serves.clone()).unwrap_or_default();
        let here = |source: &SourceKey| {
            source.registry == registry && serves.iter().any(|served| **served == *source)
        };
        let keys: Vec<Key> = self.wanted.keys().filter(|key| here(&key.0)).cloned().collect();
        for key in keys {
            let error = RpcError::new(code::INVALID_PARAMS, format!("Resource cannot be watched: {}", key.1));
            self.refuse(link, &key, error);
        }
    }

    /// What the process watched it may watch again; until then it is one less.
    fn disconnect(&mut self, link: LinkId) {
        self.links.remove(&link);
        let keys: Vec<Key> = self.wanted.keys().cloned().collect();
        for key in keys {
            if let Some(watched) = self.wanted.get_mut(&key) {
                if watched.replies.remove(&link).is_some() {
                    watched.lapsed.insert(link);
                }
                watched.repeats.forget(link);
            }
            self.refuse_waiting(&key);
            self.drop_unwanted(&key);
        }
    }

    /// Who is to be told of an update that a replica reports.
    fn updated(&mut self, link: LinkId, key: &Key, params: &Json) -> Vec<Listener> {
        let Some(watched) = self.wanted.get_mut(key) else { return Vec::new() };
        let accepted = watched.replies.iter().filter(|(_, reply)| matches!(reply, Reply::Accepted));
        let others = accepted.map(|(id, _)| *id).filter(|id| *id != link);
        match watched.repeats.is_repeat(link, params, others, Instant::now()) {
            true => Vec::new(),
            false => watched.all(),
        }
    }
}

/// A stream of one registry. Its end is an error, and the last thing heard on it.
async fn open(
    port: &Arc<dyn Registry>,
    registry: &str,
) -> Result<
    (mpsc::Sender<SubscriptionChange>, BoxStream<'static, (String, Result<SubscriptionEvent, Error>)>),
    Error,
> {
    let (sender, receiver) = mpsc::channel(CHANGE_QUEUE);
    let changes = ReceiverStream::new(receiver).boxed();
    let opened = timeout(ACCEPT_WITHIN, port.subscribe(own_context(registry), changes)).await;
    let events = opened.map_err(|_elapsed| Error::new(Code::Deadline, "no answer in time"))??;
    let name = registry.to_owned();
    let events = events.chain(stream::once(future::ready(Err(gone())))).scan(false, |ended, event| {
        let heard = (!*ended).then_some(event);
        *ended |= heard.as_ref().is_some_and(Result::is_err);
        future::ready(heard)
    });
    Ok((sender, events.map(move |event| (name.clone(), event)).boxed()))
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

async fn tell(senders: &Senders, registry: &str, change: SubscriptionChange) -> Result<(), Error> {
    senders.get(registry).ok_or_else(gone)?.send(change).await.map_err(|_| gone())
}

#[cfg(test)]
mod tests;
