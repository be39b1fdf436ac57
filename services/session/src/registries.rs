//! All registries together: dialled, watched, merged, and asked.
//!
//! Owns the links to registry processes and the catalogue made of what they list. Processes that serve the same registry are
//! its replicas: one source in the catalogue, several links. Must not know sessions.

pub(crate) mod call;
pub(crate) mod catalogue;
#[cfg(test)]
mod fake;
mod fleet;
mod link;
pub(crate) mod reattach;
mod route;
pub(crate) mod watches;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use api::registry::{Kind, Operation};
use machines::ListKind;
use mcp::rpc::RpcError;
use mcp::{Json, Method, code, scan};
use tokio::sync::{Notify, broadcast, watch};

use self::catalogue::Catalogue;
use self::fleet::Links;
pub(crate) use self::link::Link;
use self::route::Named;
pub(crate) use self::route::Route;
use self::watches::{Listener, Subscription, Watches};
use crate::deps::RegistryPeer;
use crate::observe::Observed;

/// How many unheard changes are kept per listener; a listener that falls behind is told that every list has changed.
const CHANGE_QUEUE: usize = 64;
/// How long a change is kept to oneself. A burst becomes one announcement; and a client that lists again at once may reach
/// another node, which heard of the change at the same moment and has read the list by then.
const SETTLE: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Registries {
    links: RwLock<Arc<Links>>,
    next_link: AtomicU64,
    /// Links that nobody keeps yet.
    joining: Mutex<Vec<Arc<Link>>>,
    /// Rung when there is one.
    joined: Notify,
    grace: Duration,
    current: RwLock<Arc<Catalogue>>,
    /// Held while the catalogue is made anew, so that the last one made is the newest.
    building: Mutex<()>,
    changes: broadcast::Sender<ListKind>,
    /// What has changed and is not announced yet.
    unannounced: Mutex<BTreeSet<ListKind>>,
    /// Rung when there is something to announce.
    bell: Notify,
    /// Told whenever a link stands differently than before.
    stirred: watch::Sender<()>,
    watches: Arc<Watches>,
    page_size: usize,
    observed: Arc<Observed>,
}

impl Registries {
    /// Opens nothing yet; see [`Registries::run`].
    pub(crate) fn new(
        peers: Vec<RegistryPeer>,
        page_size: usize,
        grace: Duration,
        observed: Arc<Observed>,
    ) -> Arc<Self> {
        let all = Arc::new(Self {
            links: RwLock::default(),
            next_link: AtomicU64::new(0),
            joining: Mutex::default(),
            joined: Notify::new(),
            grace,
            current: RwLock::new(Arc::new(Catalogue::build(&[], page_size))),
            building: Mutex::default(),
            changes: broadcast::channel(CHANGE_QUEUE).0,
            unannounced: Mutex::default(),
            bell: Notify::new(),
            stirred: watch::channel(()).0,
            watches: Watches::new(),
            page_size,
            observed,
        });
        for peer in peers {
            all.configure(peer);
        }
        all
    }

    async fn announce(&self) {
        loop {
            self.bell.notified().await;
            tokio::time::sleep(SETTLE).await;
            let changed =
                std::mem::take(&mut *self.unannounced.lock().unwrap_or_else(PoisonError::into_inner));
            for kind in changed {
                // An error means that nobody listens at the moment.
                let _unheard = self.changes.send(kind).is_err();
            }
        }
    }

    /// What changed so far is news to nobody: no session has begun.
    pub(crate) fn begin(&self) {
        self.unannounced.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Where requests to registries are counted.
    pub(crate) const fn observed(&self) -> &Arc<Observed> {
        &self.observed
    }

    /// What is served at present.
    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Announces each visible change of a list, once.
    pub(crate) fn changes(&self) -> broadcast::Receiver<ListKind> {
        self.changes.subscribe()
    }

    /// Merges again what the links list, and announces what differs. Whoever waits for a replica looks again.
    fn rebuild(&self) {
        let building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let sources: Vec<_> = self.links().values().flat_map(|link| link.sources()).collect();
        let next = Catalogue::build(&sources, self.page_size);
        let changed: BTreeSet<ListKind> = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            let changed = next.differs(&current).into_iter().map(list_kind).collect();
            report_hidden(&current, &next);
            *current = Arc::new(next);
            changed
        };
        drop(building);
        self.stir();
        if !changed.is_empty() {
            self.unannounced.lock().unwrap_or_else(PoisonError::into_inner).extend(changed);
            self.bell.notify_one();
        }
    }

    /// Finds who serves a request that names a tool, prompt or resource.
    pub(crate) fn route(
        self: &Arc<Self>,
        operation: Operation,
        target: &str,
        modern: bool,
    ) -> Result<Route, RpcError> {
        self.route_to(Named::of(operation, target)).ok_or_else(|| unknown_target(operation, target, modern))
    }

    /// Watches a resource; returns once its registry has accepted or refused it, or has not answered for too long.
    pub(crate) async fn subscribe(
        &self,
        route: &Route,
        uri: &str,
        listener: Listener,
    ) -> Result<Subscription, RpcError> {
        self.watches.subscribe(&route.entry.source, uri, listener).await
    }

    fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Finds who completes an argument.
    pub(crate) fn route_completion(self: &Arc<Self>, params: &Json) -> Result<Route, RpcError> {
        let refuse = |text: &str| RpcError::new(code::INVALID_PARAMS, text);
        let reference = params.member("ref").ok_or_else(|| refuse("`ref` is missing"))?;
        let route = match reference.text("type").as_deref() {
            Some("ref/prompt") => {
                let name = reference.text("name").ok_or_else(|| refuse("`ref.name` is missing"))?;
                self.route_to(Named::Entry(Kind::Prompts, name))
            }
            Some("ref/resource") => {
                let uri = reference.text("uri").ok_or_else(|| refuse("`ref.uri` is missing"))?;
                let template = self.route_to(Named::Entry(Kind::Templates, uri.clone()));
                template.or_else(|| self.route_to(Named::Resource(uri)))
            }
            _ => return Err(refuse("`ref.type` must be \"ref/prompt\" or \"ref/resource\"")),
        };
        route.ok_or_else(|| refuse("unknown prompt or resource template"))
    }

    fn route_to(self: &Arc<Self>, named: Named) -> Option<Route> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let entry = named.find(&current)?.clone();
        drop(current);
        Some(Route { all: self.clone(), entry, named })
    }

    /// How long a merged list may be cached, and whether principals may share it.
    pub(crate) fn caching(&self, method: Method) -> (u64, bool) {
        let catalogue = self.catalogue();
        listed(method).and_then(|kind| catalogue.section(kind)).map_or((0, false), |s| (s.ttl_ms, s.public))
    }

    /// A page of a merged list.
    pub(crate) fn list(&self, method: Method, params: Option<&Json>) -> Result<Json, RpcError> {
        let kind = listed(method).ok_or_else(|| RpcError::new(code::METHOD_NOT_FOUND, "Method not found"))?;
        let bad = || RpcError::new(code::INVALID_PARAMS, "unknown cursor: start again without one");
        let cursor = match params.and_then(|p| p.member("cursor")) {
            None => None,
            Some(raw) => Some(scan::string(raw.as_str()).ok_or_else(bad)?.into_owned()),
        };
        let catalogue = self.catalogue();
        catalogue.section(kind).and_then(|section| section.page(cursor.as_deref())).ok_or_else(bad)
    }
}

/// The kind that a method lists.
const fn listed(method: Method) -> Option<Kind> {
    match method {
        Method::ToolsList => Some(Kind::Tools),
        Method::ResourcesList => Some(Kind::Resources),
        Method::ResourceTemplatesList => Some(Kind::Templates),
        Method::PromptsList => Some(Kind::Prompts),
        Method::Initialize
        | Method::Ping
        | Method::Discover
        | Method::ToolsCall
        | Method::ResourcesRead
        | Method::ResourcesSubscribe
        | Method::ResourcesUnsubscribe
        | Method::Listen
        | Method::PromptsGet
        | Method::Complete
        | Method::SetLevel => None,
    }
}

const fn list_kind(kind: Kind) -> ListKind {
    match kind {
        Kind::Tools => ListKind::Tools,
        Kind::Resources | Kind::Templates => ListKind::Resources,
        Kind::Prompts => ListKind::Prompts,
    }
}

/// What is hidden is reported once, when it becomes so.
fn report_hidden(before: &Catalogue, after: &Catalogue) {
    for kind in Kind::ALL {
        let known = before.section(kind).map(|s| s.hidden.as_slice()).unwrap_or_default();
        let hidden = after.section(kind).map(|s| s.hidden.as_slice()).unwrap_or_default();
        for name in hidden.iter().filter(|name| !known.contains(name)) {
            tracing::warn!(?kind, %name, "entry hidden: advertised twice, without a name, or with an illegal x-mcp-header");
        }
    }
}

fn unknown_target(operation: Operation, target: &str, modern: bool) -> RpcError {
    match operation {
        Operation::Call => RpcError::new(code::INVALID_PARAMS, format!("Unknown tool: {target}")),
        Operation::Get => RpcError::new(code::INVALID_PARAMS, format!("Unknown prompt: {target}")),
        Operation::Read => {
            let code = if modern { code::INVALID_PARAMS } else { code::RESOURCE_NOT_FOUND };
            let data = format!("{{\"uri\":{}}}", mcp::edit::quote(target));
            RpcError::new(code, format!("Resource not found: {target}")).with_data(Json::trusted(data))
        }
    }
}

#[cfg(test)]
mod tests;
