//! One registry process: dialled with back-off, described, watched, listed; and how it stands to new requests.

mod reading;
mod telling;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::registry::{CatalogEvent, Context, Kind, Registry};
use api::{Error, Principal};
use chassis::metrics::Gauge;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use mcp::{Json, Revision};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::telling::Telling;
use super::Registries;
use super::catalogue::{LinkId, List, Source, SourceKey, Standing};
use crate::deps::RegistryPeer;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// For one list, describe or release.
const ASK: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    address: String,
    namespace: Option<String>,
    /// How long a lost registry's entries stay listed: a restart within it changes nothing that clients see.
    grace: Duration,
    pub(crate) port: Arc<dyn Registry>,
    known: Mutex<Known>,
    reached: AtomicBool,
    draining: AtomicBool,
    /// Whether it is in use because of the configuration.
    configured: AtomicBool,
    /// Whether it is in use because somebody announced it.
    announced: AtomicBool,
    settled: AtomicBool,
    /// Calls that are at this process.
    held: AtomicUsize,
    /// Rung when it was announced or is no longer.
    nudge: Notify,
    telling: Telling,
    /// Whether it is connected to.
    up: Gauge,
}

/// What the process said of itself.
#[derive(Default)]
struct Known {
    /// Names its run.
    instance: Option<String>,
    /// Whose invocations it may hold, whether or not it lists anything any more. `None` = it was never asked.
    serves: Option<Vec<Arc<SourceKey>>>,
    content: BTreeMap<String, Content>,
}

/// What it lists of one registry.
#[derive(Clone)]
struct Content {
    key: Arc<SourceKey>,
    capabilities: Option<Json>,
    instructions: String,
    version: String,
    lists: BTreeMap<Kind, Arc<List>>,
}

/// Keeps a link that is no longer announced until a call is done with it.
pub(crate) struct Held(Arc<Link>);

impl Held {
    pub(crate) const fn link(&self) -> &Arc<Link> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// So far that it never comes.
const FAR: Duration = Duration::from_secs(86_400 * 365);

type Events = BoxStream<'static, Result<CatalogEvent, Error>>;
type Digests = BTreeMap<(String, Kind), String>;

impl Link {
    pub(crate) fn new(id: LinkId, peer: RegistryPeer, grace: Duration, up: Gauge) -> Self {
        Self {
            id,
            telling: Telling::new(peer.address.clone(), peer.port.clone()),
            address: peer.address,
            namespace: peer.namespace,
            grace,
            port: peer.port,
            known: Mutex::default(),
            reached: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            configured: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            nudge: Notify::new(),
            up,
        }
    }

    /// From now on it is in use for good.
    pub(super) fn configure(&self) {
        self.configured.store(true, Ordering::Relaxed);
    }

    /// From now on it is in use, or no longer. Whether that is a change.
    pub(super) fn announce(&self, is_there: bool) -> bool {
        let before = self.announced.swap(is_there, Ordering::Relaxed);
        self.nudge.notify_one();
        before != is_there
    }

    pub(super) fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    fn is_wanted(&self) -> bool {
        self.is_announced() || self.configured.load(Ordering::Relaxed)
    }

    /// Whether nothing is left to do for it: nobody announces it, it is out of reach, and no call is at it.
    pub(super) fn is_over(&self) -> bool {
        !self.is_wanted() && !self.reached.load(Ordering::Relaxed) && self.held.load(Ordering::Relaxed) == 0
    }

    /// How it stands to new requests.
    pub(crate) fn standing(&self) -> Standing {
        match (
            self.draining.load(Ordering::Relaxed) || !self.is_wanted(),
            self.reached.load(Ordering::Relaxed),
        ) {
            (true, _) => Standing::Leaving,
            (false, true) => Standing::Serving,
            (false, false) => Standing::Lost,
        }
    }

    /// Whether it has answered, or failed to, for the first time.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Version of the content of a registry, as it says.
    pub(crate) fn version_of(&self, registry: &str) -> Option<String> {
        let known = self.locked();
        known
            .content
            .get(registry)
            .map(|content| content.version.clone())
            .filter(|version| !version.is_empty())
    }

    /// How many invocations wait to be released, and to be cancelled.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.telling.waiting()
    }

    /// Where it is, as configured or announced.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The run of the process that was described last.
    pub(crate) fn instance(&self) -> Option<String> {
        self.locked().instance.clone()
    }

    /// Whose invocations it may hold; `None` if that was never found out.
    pub(crate) fn serves(&self) -> Option<Vec<Arc<SourceKey>>> {
        self.locked().serves.clone()
    }

    /// What it lists at present.
    pub(crate) fn sources(&self) -> Vec<Source> {
        let standing = self.standing();
        let source = |content: &Content| Source {
            key: content.key.clone(),
            link: self.id,
            standing,
            capabilities: content.capabilities.clone(),
            instructions: content.instructions.clone(),
            version: content.version.clone(),
            lists: content.lists.clone(),
        };
        self.locked().content.values().map(source).collect()
    }

    /// A call goes to it.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        self.held.fetch_add(1, Ordering::Relaxed);
        Held(self.clone())
    }

    /// An invocation that will not be attached to any more.
    pub(crate) fn release(&self, context: &Context) {
        self.telling.release(context);
    }

    /// An invocation that shall stop. It is told so whatever becomes of whoever began it.
    pub(crate) fn cancel(&self, context: Context, reason: String) {
        self.telling.cancel(context, reason);
    }

    /// Keeps the connection until `shutdown`, or until nobody needs it any more.
    pub(super) async fn run(self: Arc<Self>, all: Arc<Registries>, shutdown: CancellationToken) -> LinkId {
        let mut pause = FIRST_PAUSE;
        let mut lost_at: Option<Instant> = None;
        loop {
            let error = tokio::select! {
                () = shutdown.cancelled() => break,
                error = self.follow_until_lost(&all) => error,
            };
            let reached = self.reached.swap(false, Ordering::Relaxed);
            self.up.set(0);
            self.settle(&all);
            if reached {
                pause = FIRST_PAUSE;
                lost_at = None;
                tracing::info!(address = %self.address, %error, "registry lost");
                all.rebuild();
            } else if pause == FIRST_PAUSE {
                tracing::info!(address = %self.address, %error, "registry not reached, trying again");
            }
            let since = *lost_at.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.grace {
                self.forget(&all);
                if self.is_over() {
                    break;
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(jittered(pause, self.id)) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = self.nudge.notified() => {
                    pause = FIRST_PAUSE;
                    all.rebuild();
                }
            }
        }
        self.up.set(0);
        self.id
    }

    fn settle(&self, all: &Registries) {
        if !self.settled.swap(true, Ordering::Relaxed) {
            all.stir();
        }
    }

    /// The registry is gone for good, as far as clients can see.
    fn forget(&self, all: &Registries) {
        let gone = !std::mem::take(&mut self.locked().content).is_empty();
        if gone {
            tracing::warn!(address = %self.address, "registry's entries are no longer listed");
            all.rebuild();
        }
    }

    /// One connection, from describing to its loss.
    async fn follow_until_lost(&self, all: &Registries) -> Error {
        let (mut events, mut digests) = match self.open(all).await {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        let watching = all.watches().run(self);
        tokio::pin!(watching);
        let releasing = self.telling.release_regularly();
        tokio::pin!(releasing);
        let cancelling = self.telling.cancel_promptly();
        tokio::pin!(cancelling);
        // Once the registry leaves, what it has goes on, and its entries are listed as they are for the grace period only.
        let forgotten = sleep(FAR);
        tokio::pin!(forgotten);
        self.stay_or_leave(all, forgotten.as_mut());
        loop {
            tokio::select! {
                event = events.next() => match event {
                    None => return Error::new(api::Code::Unavailable, "watch ended"),
                    Some(Err(error)) => return error,
                    Some(Ok(CatalogEvent::NotServing)) => {
                        tracing::info!(address = %self.address, "registry drains");
                        self.draining.store(true, Ordering::Relaxed);
                        self.stay_or_leave(all, forgotten.as_mut());
                    }
                    Some(Ok(CatalogEvent::Changed { registry, kind, digest })) => {
                        if let Err(error) = self.changed(all, &mut digests, registry, kind, digest).await {
                            return error;
                        }
                    }
                },
                error = &mut watching => return error,
                () = self.nudge.notified() => self.stay_or_leave(all, forgotten.as_mut()),
                () = &mut forgotten => {
                    self.forget(all);
                    forgotten.as_mut().reset(Instant::now() + FAR);
                }
                never = &mut releasing => match never {},
                never = &mut cancelling => match never {},
            }
        }
    }

    /// Takes note of how it stands now.
    fn stay_or_leave(&self, all: &Registries, mut forgotten: std::pin::Pin<&mut Sleep>) {
        let until = match self.standing() {
            Standing::Leaving => self.grace,
            Standing::Lost | Standing::Serving => FAR,
        };
        forgotten.as_mut().reset(Instant::now() + until);
        all.rebuild();
    }

    async fn changed(
        &self,
        all: &Registries,
        digests: &mut Digests,
        registry: String,
        kind: Kind,
        digest: String,
    ) -> Result<(), Error> {
        if self.draining.load(Ordering::Relaxed) {
            return Ok(());
        }
        let known = digests.insert((registry.clone(), kind), digest.clone());
        if known.as_ref() != Some(&digest) {
            self.refresh(&registry, kind).await?;
            all.watches().serve(self);
            all.rebuild();
            all.watches().ask_again(self.id, &registry);
        }
        Ok(())
    }

    /// Reads everything the process holds, and watches it from before on, so that no change falls between: what has changed
    /// since it was described has another digest.
    async fn open(&self, all: &Registries) -> Result<(Events, Digests), Error> {
        let described = limited(self.port.describe()).await?;
        let events = limited(self.port.watch()).await?;
        let mut content = BTreeMap::new();
        for registry in &described.registries {
            if let Some(source) = self.read_source(registry).await? {
                content.insert(registry.name.clone(), source);
            }
        }
        let serves = content.values().map(|content: &Content| content.key.clone()).collect();
        *self.locked() = Known { instance: Some(described.instance), serves: Some(serves), content };
        // If it drains, it says so next.
        self.draining.store(false, Ordering::Relaxed);
        self.reached.store(true, Ordering::Relaxed);
        self.up.set(1);
        all.rebuild();
        self.settle(all);
        tracing::info!(address = %self.address, registries = described.registries.len(), "registry reached");
        let digests = described.registries.into_iter().flat_map(|registry| {
            let name = registry.name;
            registry.kinds.into_iter().map(move |(kind, digest)| ((name.clone(), kind), digest))
        });
        Ok((events, digests.collect()))
    }

    /// Reads a list that has changed, or the whole of a registry that the process did not have before.
    async fn refresh(&self, registry: &str, kind: Kind) -> Result<(), Error> {
        let list = Arc::new(self.read_list(registry, kind).await?);
        if let Some(content) = self.locked().content.get_mut(registry) {
            content.lists.insert(kind, list);
            return Ok(());
        }
        let described = limited(self.port.describe()).await?;
        if let Some(new) = described.registries.iter().find(|r| r.name == registry)
            && let Some(content) = self.read_source(new).await?
        {
            let mut known = self.locked();
            known.serves.get_or_insert_default().push(content.key.clone());
            known.content.insert(registry.to_owned(), content);
        }
        Ok(())
    }

    /// As if it had described these registries.
    #[cfg(test)]
    pub(super) fn know(&self, registries: &[&str]) {
        let key = |name: &&str| Arc::new(SourceKey { registry: (*name).to_owned(), ..SourceKey::default() });
        self.locked().serves = Some(registries.iter().map(key).collect());
        self.reached.store(true, Ordering::Relaxed);
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For requests that the mesh makes on its own behalf.
pub(super) fn own_context(registry: &str) -> Context {
    Context {
        mesh: String::new(),
        registry: registry.to_owned(),
        invocation: String::new(),
        owner: None,
        principal: Principal::default(),
        affinity: String::new(),
        revision: Revision::LATEST,
        client_capabilities: None,
        log_level: None,
        progress: false,
        catalogue_digest: String::new(),
        deadline: None,
    }
}

async fn limited<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(ASK, answer).await.unwrap_or_else(|_| Err(Error::new(api::Code::Deadline, "no answer in time")))
}

/// Spreads the attempts of several links without a source of randomness.
fn jittered(pause: Duration, id: LinkId) -> Duration {
    let spread = u32::try_from(id % 8).unwrap_or_default();
    pause + pause * spread / 16
}

#[cfg(test)]
mod tests;
