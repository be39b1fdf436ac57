//! A process' registries behind the port: what callers of any of them talk to.

#[cfg(test)]
mod tests;
mod watching;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::registry::{
    CatalogEvent, Context, Description, Frames, InputResponse, Kind, Operation, Page, Registry as Port,
    RegistryDescription, Start, SubscriptionChange, SubscriptionEvent,
};
use api::{Code, Error};
use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use mcp::Json;
use mcp::rpc::RpcError;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::build::{BuildError, Registry, Settings};
use crate::call::Call;
use crate::completion::CompletionRequest;
use crate::feed::{Feed, Stage};
use crate::fence::{Fences, Stamp};
use crate::handle::Handle;
use crate::invocation::{self, Begun, CutShort, Invocation, Key, Shared, Table, Work};
use crate::limits::Limits;
use crate::output::Answered;
use crate::runtime::Runtime;
use crate::span;
use crate::state::State;

/// How long a draining process goes on at least.
const NOTICE: Duration = Duration::from_millis(100);

/// Registries that are ready to answer. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    registries: BTreeMap<String, Member>,
    runtime: Runtime,
    shared: Shared,
    table: Arc<Table>,
    feed: Feed,
    fences: Fences,
}

struct Member {
    state: Arc<State>,
    settings: Settings,
}

impl Host {
    /// Several registries in one process.
    ///
    /// # Errors
    /// [`BuildError`] of the first registry that has one, or if two have the same name.
    pub fn of(
        registries: impl IntoIterator<Item = Registry>,
        runtime: Runtime,
        limits: Limits,
    ) -> Result<Self, BuildError> {
        let feed = Feed::new();
        let mut members = BTreeMap::new();
        for registry in registries {
            registry.check()?;
            let name = registry.state.name().to_owned();
            let member = Member { state: registry.state, settings: registry.settings };
            if members.contains_key(&name) {
                return Err(BuildError::Duplicate("a registry", name));
            }
            member.state.publish_to(feed.clone());
            members.insert(name, member);
        }
        let shared = Shared {
            clock: runtime.clock.clone(),
            limits,
            parking: Arc::new(Semaphore::new(limits.parked)),
            instance: runtime.instance.as_str().into(),
        };
        let table = Table::new(shared.clone(), runtime.spawner.clone());
        let inner = Inner { registries: members, runtime, shared, table, feed, fences: Fences::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> Arc<dyn Port> {
        self.inner.clone()
    }

    /// What entries of a registry are added and removed with.
    #[must_use]
    pub fn handle(&self, registry: &str) -> Option<Handle> {
        self.inner.registries.get(registry).map(|member| Handle::new(member.state.clone()))
    }

    /// Says that nothing new is taken on. Callers may still come back for what runs, answer and cancel.
    pub fn begin_drain(&self) {
        self.inner.table.drain();
        self.inner.feed.advance(Stage::Draining);
    }

    /// Drains: takes nothing new on, waits until nothing runs or waits for a client, then ends the watches. Keep accepting
    /// connections meanwhile, and bound the wait.
    pub async fn drain(&self) {
        self.drain_until(std::future::pending()).await;
    }

    /// The same with a bound: what still runs or waits for its client at the end of `patience` ends with an error that says so.
    /// Give its callers a moment to hear it. Returns how many that were.
    pub async fn drain_until(&self, patience: impl Future<Output = ()>) -> CutShort {
        self.begin_drain();
        let clock = &self.inner.runtime.clock;
        let done = async {
            // Callers hear that it drains before they find the door closed.
            clock.sleep_until(clock.now() + NOTICE).await;
            self.inner.table.idle().await;
        };
        let cut = tokio::select! {
            () = done => CutShort::default(),
            () = patience => self.inner.table.give_up(),
        };
        if cut != CutShort::default() {
            tracing::warn!(running = cut.running, parked = cut.parked, "calls ended with their registry");
        }
        self.inner.feed.advance(Stage::Closed);
        cut
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("registries", &self.inner.registries.keys()).finish_non_exhaustive()
    }
}

impl Inner {
    fn member(&self, name: &str) -> Result<&Member, Error> {
        self.registries.get(name).ok_or_else(|| Error::not_found(format!("no registry {name:?}")))
    }

    fn known(&self, context: &Context) -> Result<Arc<Invocation>, Error> {
        self.fences.check(context)?;
        self.table
            .find(&Key::of(context), &context.registry)
            .ok_or_else(|| Error::not_found("the invocation is not known, or not any more"))
    }
}

/// The work a request asks for.
fn work(state: &Arc<State>, operation: Operation, call: Call) -> BoxFuture<'static, Answered> {
    match operation {
        Operation::Call => match state.tool(call.target()) {
            Some(tool) => tool.run(call.raw_arguments(), call).boxed(),
            None => futures::future::ready(Err(crate::Error::NotFound(call.target().to_owned()))).boxed(),
        },
        Operation::Read => state.clone().read(call).boxed(),
        Operation::Get => state.clone().get(call).boxed(),
    }
}

impl Member {
    fn describe(&self) -> RegistryDescription {
        let settings = &self.settings;
        RegistryDescription {
            name: self.state.name().to_owned(),
            kinds: self.state.digests(),
            version: settings.version.clone(),
            namespace: settings.namespace.clone(),
            capabilities: settings.capabilities.clone(),
            instructions: settings.instructions.clone(),
            server_info: settings.server_info.clone(),
            completions: self.state.completions(),
            subscriptions: self.state.offers_subscriptions(),
        }
    }
}

#[async_trait]
impl Port for Inner {
    async fn describe(&self) -> Result<Description, Error> {
        let registries = self.registries.values().map(Member::describe).collect();
        Ok(Description { instance: self.shared.instance.to_string(), registries })
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<CatalogEvent, Error>>, Error> {
        Ok(self.feed.events())
    }

    async fn list(&self, context: Context, kind: Kind, cursor: Option<String>) -> Result<Page, Error> {
        self.fences.check(&context)?;
        let member = self.member(&context.registry)?;
        let list = member
            .state
            .list(kind)
            .ok_or_else(|| Error::new(Code::Unimplemented, "this registry has no such list"))?;
        let (items, next_cursor) = list.page(cursor.as_deref(), member.settings.page_size)?;
        Ok(Page {
            items,
            next_cursor,
            ttl_ms: u64::try_from(member.settings.ttl.as_millis()).unwrap_or(u64::MAX),
            public: member.settings.public,
            digest: list.digest.clone(),
            meta: None,
        })
    }

    async fn start(&self, context: Context, start: Start) -> Result<Frames, Error> {
        self.fences.check(&context)?;
        if context.invocation.is_empty() {
            return Err(Error::new(Code::InvalidRequest, "the invocation has no identifier"));
        }
        let context = Arc::new(context);
        let state = &self.member(&context.registry)?.state;
        let (key, operation) = (Key::of(&context), start.operation);
        let begun = self.fences.pass(Stamp::of(&context), || {
            self.table.begin(key, |key| Invocation::new(key, context.clone(), operation, self.shared.clone()))
        })??;
        let invocation = match begun {
            Begun::New(invocation) => invocation,
            Begun::Known(invocation) if invocation.registry == context.registry => {
                return Ok(invocation.frames(0));
            }
            Begun::Known(_) => {
                return Err(Error::new(Code::InvalidRequest, "the invocation belongs to another registry"));
            }
        };
        let round = start.continuation.as_ref().map_or(1, |round| round.round.saturating_add(1));
        let span = span::open(operation, &start.target, &context.registry, context.revision);
        let call = Call::new(invocation.clone(), context, start);
        let handler = work(state, operation, call).instrument(span.clone()).boxed();
        let frames = invocation.frames(0);
        let table = Arc::downgrade(&self.table);
        invocation::start(invocation, Work { handler, round, span }, table, self.runtime.spawner.as_ref());
        Ok(frames)
    }

    async fn complete(&self, context: Context, params: Json) -> Result<Result<Json, RpcError>, Error> {
        self.fences.check(&context)?;
        let state = self.member(&context.registry)?.state.clone();
        let request = match CompletionRequest::read(params, context.principal) {
            Ok(request) => request,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(match state.complete(&request).await {
            Ok(completion) => Ok(completion.into_result()),
            Err(error) => error.into_outcome(Operation::Get),
        })
    }

    async fn subscribe(
        &self,
        context: Context,
        changes: BoxStream<'static, SubscriptionChange>,
    ) -> Result<BoxStream<'static, Result<SubscriptionEvent, Error>>, Error> {
        self.fences.check(&context)?;
        let state = self.member(&context.registry)?.state.clone();
        Ok(watching::events(state, changes, self.feed.closed().boxed(), self.shared.limits.watched_uris))
    }

    async fn attach(&self, context: Context, after: u64) -> Result<Frames, Error> {
        Ok(self.known(&context)?.frames(after))
    }

    async fn resume(
        &self,
        context: Context,
        round: u32,
        responses: Vec<InputResponse>,
    ) -> Result<Frames, Error> {
        let invocation = self.known(&context)?;
        let after = invocation.resume(context, round, responses)?;
        Ok(invocation.frames(after))
    }

    async fn cancel(&self, context: Context, reason: String) -> Result<(), Error> {
        self.fences.check(&context)?;
        if let Some(invocation) = self.table.find(&Key::of(&context), &context.registry) {
            tracing::debug!(invocation = context.invocation, reason, "cancelled by the caller");
            invocation.cancel();
        }
        Ok(())
    }

    async fn release(&self, context: Context, invocations: Vec<String>) -> Result<(), Error> {
        self.fences.check(&context)?;
        self.table.release(&context.mesh, invocations);
        Ok(())
    }
}
