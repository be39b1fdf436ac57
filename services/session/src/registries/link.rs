//! One registry process: dialled with back-off, described, watched, listed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::registry::{CatalogEvent, Context, Kind, Page, Registry, RegistryDescription};
use api::{Error, Principal};
use chassis::metrics::Gauge;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use mcp::Revision;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Registries;
use super::catalogue::{List, Source, SourceKey};
use super::watches::Watches;
use crate::deps::RegistryPeer;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// For one list, describe or release.
const ASK: Duration = Duration::from_secs(10);
/// How often finished invocations are let go of.
const RELEASE_EVERY: Duration = Duration::from_secs(1);
/// How many are remembered, to be released or cancelled; beyond it they are left to expire.
const QUEUE: usize = 4096;
/// Invocations that are released without waiting longer: a busy node must not have its registries keep what nobody wants.
const ENOUGH: usize = 512;
/// How many are cancelled at a time.
const CANCELS: usize = 16;
/// Most pages that one list may have.
const MAX_PAGES: usize = 1000;
/// How often a list that changes while it is read is begun again at once. Beyond it the connection is given up, and with it
/// the haste.
const MAX_READINGS: usize = 10;

/// See the module.
pub(crate) struct Link {
    index: usize,
    address: String,
    namespace: Option<String>,
    /// How long a lost registry's entries stay listed: a restart within it changes nothing that clients see.
    grace: Duration,
    pub(crate) port: Arc<dyn Registry>,
    sources: Mutex<BTreeMap<String, Source>>,
    releases: Mutex<Vec<(Context, String)>>,
    cancels: Mutex<Vec<(Context, String)>>,
    /// Rung when there is something to cancel.
    bell: Notify,
    /// Rung when enough is to be released that it should not wait for its time.
    enough: Notify,
    /// Whether it is connected to.
    up: Gauge,
    /// Resource subscriptions at this process.
    pub(crate) watches: Watches,
}

/// So far that it never comes.
const FAR: Duration = Duration::from_secs(86_400 * 365);

type Events = BoxStream<'static, Result<CatalogEvent, Error>>;
type Digests = BTreeMap<(String, Kind), String>;

/// How a connection ended.
enum End {
    Shutdown,
    Lost(Error),
}

impl Link {
    pub(crate) fn new(index: usize, peer: RegistryPeer, grace: Duration, up: Gauge) -> Self {
        Self {
            index,
            address: peer.address,
            namespace: peer.namespace,
            grace,
            watches: Watches::new(peer.port.clone()),
            port: peer.port,
            sources: Mutex::default(),
            releases: Mutex::default(),
            cancels: Mutex::default(),
            bell: Notify::new(),
            enough: Notify::new(),
            up,
        }
    }

    /// Version of the content of a registry, as it says.
    pub(crate) fn version_of(&self, registry: &str) -> Option<String> {
        self.locked().get(registry).map(|source| source.version.clone()).filter(|version| !version.is_empty())
    }

    /// How many invocations wait to be released, and to be cancelled.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner).len();
        (releases, self.cancels.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    /// Where it is, as configured.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it lists at present.
    pub(crate) fn sources(&self) -> Vec<Source> {
        self.locked().values().cloned().collect()
    }

    /// An invocation that will not be attached to any more.
    pub(crate) fn release(&self, context: Context) {
        let mut releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        if releases.len() < QUEUE {
            let invocation = context.invocation.clone();
            releases.push((in_own_time(context), invocation));
        }
        if releases.len() == ENOUGH {
            self.enough.notify_one();
        }
    }

    /// An invocation that shall stop. It is told so whatever becomes of whoever began it.
    pub(crate) fn cancel(&self, context: Context, reason: String) {
        let mut cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        if cancels.len() < QUEUE {
            cancels.push((in_own_time(context), reason));
        }
        drop(cancels);
        self.bell.notify_one();
    }

    /// Keeps the connection until `shutdown`.
    pub(super) async fn run(self: Arc<Self>, all: Arc<Registries>, shutdown: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut settled = false;
        let mut lost_at: Option<Instant> = None;
        loop {
            let mut reached = false;
            let end = tokio::select! {
                () = shutdown.cancelled() => End::Shutdown,
                end = self.follow(&all, &mut reached, &mut settled) => end,
            };
            self.up.set(0);
            let End::Lost(error) = end else { return };
            if !std::mem::replace(&mut settled, true) {
                all.one_settled();
            }
            if reached {
                pause = FIRST_PAUSE;
                lost_at = None;
                tracing::info!(address = %self.address, %error, "registry lost");
            } else if pause == FIRST_PAUSE {
                tracing::info!(address = %self.address, %error, "registry not reached, trying again");
            }
            let since = *lost_at.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.grace {
                self.forget(&all);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(jittered(pause, self.index)) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The registry is gone for good, as far as clients can see.
    fn forget(&self, all: &Registries) {
        let gone = !std::mem::take(&mut *self.locked()).is_empty();
        if gone {
            tracing::warn!(address = %self.address, "registry's entries are no longer listed");
            all.rebuild();
        }
    }

    /// One connection, from describing to its loss.
    async fn follow(&self, all: &Registries, reached: &mut bool, settled: &mut bool) -> End {
        End::Lost(self.follow_until_lost(all, reached, settled).await)
    }

    async fn follow_until_lost(&self, all: &Registries, reached: &mut bool, settled: &mut bool) -> Error {
        let (mut events, mut digests) = match self.open(all).await {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        *reached = true;
        self.up.set(1);
        if !std::mem::replace(settled, true) {
            all.one_settled();
        }
        let watching = self.watches.run();
        tokio::pin!(watching);
        let releasing = self.release_regularly();
        tokio::pin!(releasing);
        let cancelling = self.cancel_promptly();
        tokio::pin!(cancelling);
        // Once the registry drains, what it has goes on, and its entries are listed as they are for the grace period only.
        let mut draining = false;
        let forgotten = sleep(FAR);
        tokio::pin!(forgotten);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    None => return Error::new(api::Code::Unavailable, "watch ended"),
                    Some(Err(error)) => return error,
                    Some(Ok(CatalogEvent::NotServing)) => {
                        tracing::info!(address = %self.address, "registry drains");
                        draining = true;
                        forgotten.as_mut().reset(Instant::now() + self.grace);
                    }
                    Some(Ok(CatalogEvent::Changed { .. })) if draining => {}
                    Some(Ok(CatalogEvent::Changed { registry, kind, digest })) => {
                        let known = digests.insert((registry.clone(), kind), digest.clone());
                        if known.as_ref() != Some(&digest) {
                            if let Err(error) = self.refresh(&registry, kind).await {
                                return error;
                            }
                            all.rebuild();
                            self.watches.ask_again(&registry);
                        }
                    }
                },
                error = &mut watching => return error,
                () = &mut forgotten => {
                    self.forget(all);
                    forgotten.as_mut().reset(Instant::now() + FAR);
                }
                never = &mut releasing => match never {},
                never = &mut cancelling => match never {},
            }
        }
    }

    /// Reads everything the process holds, and watches it from before on, so that no change falls between: what has changed
    /// since it was described has another digest.
    async fn open(&self, all: &Registries) -> Result<(Events, Digests), Error> {
        let described = limited(self.port.describe()).await?;
        let events = limited(self.port.watch()).await?;
        let mut sources = BTreeMap::new();
        for registry in &described.registries {
            if let Some(source) = self.read_source(registry).await? {
                sources.insert(registry.name.clone(), source);
            }
        }
        *self.locked() = sources;
        all.rebuild();
        tracing::info!(address = %self.address, registries = described.registries.len(), "registry reached");
        let digests = described.registries.into_iter().flat_map(|registry| {
            let name = registry.name;
            registry.kinds.into_iter().map(move |(kind, digest)| ((name.clone(), kind), digest))
        });
        Ok((events, digests.collect()))
    }

    /// Everything a registry lists. `None` where its namespace is none: it is left out, and the process' others are not.
    async fn read_source(&self, registry: &RegistryDescription) -> Result<Option<Source>, Error> {
        let namespace = self.namespace.clone().unwrap_or_else(|| registry.namespace.clone());
        if !namespace.is_empty() && !mcp::name::is_namespace(&namespace) {
            let (address, name) = (&self.address, &registry.name);
            tracing::warn!(%address, registry = %name, %namespace, "registry left out: a namespace is [A-Za-z0-9-]{{1,24}}");
            return Ok(None);
        }
        let mut lists = BTreeMap::new();
        for (kind, _) in &registry.kinds {
            lists.insert(*kind, self.read_list(&registry.name, *kind).await?);
        }
        Ok(Some(Source {
            key: SourceKey { link: self.index, registry: registry.name.clone() },
            namespace,
            capabilities: registry.capabilities.clone(),
            instructions: registry.instructions.clone(),
            version: registry.version.clone(),
            lists,
        }))
    }

    /// Reads a list that has changed, or the whole of a registry that the process did not have before.
    async fn refresh(&self, registry: &str, kind: Kind) -> Result<(), Error> {
        let list = self.read_list(registry, kind).await?;
        if let Some(source) = self.locked().get_mut(registry) {
            source.lists.insert(kind, list);
            return Ok(());
        }
        let described = limited(self.port.describe()).await?;
        if let Some(new) = described.registries.iter().find(|r| r.name == registry)
            && let Some(source) = self.read_source(new).await?
        {
            self.locked().insert(registry.to_owned(), source);
        }
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pages. A list that changes while it is read is read again from the start.
    async fn read_list(&self, registry: &str, kind: Kind) -> Result<List, Error> {
        'again: for _ in 0..MAX_READINGS {
            let mut list = List { public: true, ttl_ms: u64::MAX, ..List::default() };
            let mut cursor = None;
            let mut digest: Option<String> = None;
            for _ in 0..MAX_PAGES {
                let page = match limited(self.port.list(own_context(registry), kind, cursor.take())).await {
                    Err(error) if error.code == api::Code::InvalidRequest && digest.is_some() => {
                        continue 'again;
                    }
                    other => other?,
                };
                if *digest.get_or_insert_with(|| page.digest.clone()) != page.digest {
                    continue 'again;
                }
                cursor = append(&mut list, page);
                if cursor.is_none() {
                    return Ok(list);
                }
            }
            return Err(Error::new(
                api::Code::InvalidRequest,
                format!("{registry}: a list of more than {MAX_PAGES} pages"),
            ));
        }
        Err(Error::new(
            api::Code::Unavailable,
            format!("{registry}: a list that changes whenever it is read"),
        ))
    }

    /// Beside everything else, so that a registry that is slow to let go holds nothing up.
    async fn release_regularly(&self) -> Infallible {
        let mut tick = tokio::time::interval(RELEASE_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.enough.notified() => {}
            }
            self.flush_releases().await;
        }
    }

    async fn cancel_promptly(&self) -> Infallible {
        loop {
            let due = std::mem::take(&mut *self.cancels.lock().unwrap_or_else(PoisonError::into_inner));
            let telling = stream::iter(due).for_each_concurrent(CANCELS, |(context, reason)| async {
                if let Err(error) = limited(self.port.cancel(context, reason)).await {
                    tracing::debug!(address = %self.address, %error, "a cancellation did not reach its registry");
                }
            });
            telling.await;
            self.bell.notified().await;
        }
    }

    async fn flush_releases(&self) {
        let releases = std::mem::take(&mut *self.releases.lock().unwrap_or_else(PoisonError::into_inner));
        let mut by_registry: BTreeMap<String, (Context, Vec<String>)> = BTreeMap::new();
        for (context, invocation) in releases {
            by_registry
                .entry(context.registry.clone())
                .or_insert_with(|| (context, Vec::new()))
                .1
                .push(invocation);
        }
        for (context, invocations) in by_registry.into_values() {
            if let Err(error) = limited(self.port.release(context, invocations)).await {
                tracing::debug!(address = %self.address, %error, "release failed; the invocations expire by themselves");
            }
        }
    }
}

fn append(list: &mut List, page: Page) -> Option<String> {
    list.items.extend(page.items);
    list.ttl_ms = list.ttl_ms.min(page.ttl_ms);
    list.public &= page.public;
    if list.meta.is_none() {
        list.meta = page.meta;
    }
    page.next_cursor
}

/// What is said after a call is not bound by the call's deadline, which may be why it is said.
fn in_own_time(context: Context) -> Context {
    Context { deadline: None, ..context }
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
fn jittered(pause: Duration, index: usize) -> Duration {
    let spread = u32::try_from(index % 8).unwrap_or_default();
    pause + pause * spread / 16
}

#[cfg(test)]
mod tests;
