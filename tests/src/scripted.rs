//! A registry that says exactly what a test tells it to, byte for byte, and remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::registry::{
    CatalogEvent, Context, Description, Frame, FrameBody, Frames, InputResponse, Kind, Page, Registry,
    RegistryDescription, Start, SubscriptionChange, SubscriptionEvent,
};
use api::{Code, Error};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use mcp::Json;
use mcp::rpc::RpcError;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::{BroadcastStream, WatchStream};

/// Answers a start with the bodies of the frames behind `Accepted`.
pub type Script = dyn Fn(&Context, &Start) -> BoxStream<'static, FrameBody> + Send + Sync;

/// See the module.
pub struct Scripted {
    name: String,
    script: Box<Script>,
    lists: watch::Sender<BTreeMap<Kind, (String, Vec<Json>)>>,
    seen: Mutex<Vec<(Context, Start)>>,
    cancelled: watch::Sender<Vec<String>>,
    resumed: Mutex<Vec<Vec<InputResponse>>>,
    /// What those who come back to an invocation hear, whichever it is.
    later: watch::Sender<Vec<Frame>>,
    updates: broadcast::Sender<Json>,
    watched: watch::Sender<Vec<String>>,
    /// Capabilities it announces.
    pub capabilities: Option<Json>,
    /// Whether what is said later is also heard by those who have never gone away.
    pub goes_on: bool,
}

/// A stream of ready bodies.
#[must_use]
pub fn bodies(bodies: impl IntoIterator<Item = FrameBody>) -> BoxStream<'static, FrameBody> {
    stream::iter(bodies.into_iter().collect::<Vec<_>>()).boxed()
}

impl Scripted {
    /// A registry with this name and behaviour, and nothing in its lists.
    pub fn new(
        name: &str,
        script: impl Fn(&Context, &Start) -> BoxStream<'static, FrameBody> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            script: Box::new(script),
            lists: watch::channel(BTreeMap::new()).0,
            seen: Mutex::default(),
            cancelled: watch::channel(Vec::new()).0,
            resumed: Mutex::default(),
            later: watch::channel(Vec::new()).0,
            updates: broadcast::channel(64).0,
            watched: watch::channel(Vec::new()).0,
            capabilities: None,
            goes_on: false,
        }
    }

    /// A registry with a tool `held`, each call of which ends once `ended` is true.
    pub fn held(ended: &watch::Receiver<bool>) -> Arc<Self> {
        let ended = ended.clone();
        let registry = Self::new("r", move |_, _| {
            let mut ended = ended.clone();
            let result = async move {
                // Whoever would say so may be gone.
                let _ended = ended.wait_for(|ended| *ended).await.is_ok();
                FrameBody::Result(Json::trusted("{}"))
            };
            stream::once(result).boxed()
        });
        registry.list(Kind::Tools, [r#"{"name":"held","inputSchema":{"type":"object"}}"#]);
        shared(registry)
    }

    /// Lists these entries of a kind from now on.
    pub fn list(&self, kind: Kind, items: impl IntoIterator<Item = &'static str>) {
        let items: Vec<Json> = items.into_iter().map(Json::trusted).collect();
        self.lists.send_modify(|lists| {
            let digest = format!("{}-{}", lists.get(&kind).map_or(0, |(d, _)| d.len()), items.len());
            lists.insert(kind, (format!("{digest}{}", "x".repeat(lists.len())), items));
        });
    }

    /// The same with a digest that the test chooses; lists with the same digest are the same to the mesh.
    pub fn list_as(&self, kind: Kind, digest: &str, items: impl IntoIterator<Item = &'static str>) {
        let items: Vec<Json> = items.into_iter().map(Json::trusted).collect();
        self.lists.send_modify(|lists| {
            lists.insert(kind, (digest.to_owned(), items));
        });
    }

    /// Everything it was asked to start.
    pub fn seen(&self) -> Vec<(Context, Start)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The answers it was resumed with.
    pub fn resumed(&self) -> Vec<Vec<InputResponse>> {
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says something to whoever has come back, or will come back, to an invocation that was started here.
    pub fn say_later(&self, number: u64, body: FrameBody) {
        self.later.send_modify(|frames| frames.push(Frame { number, body }));
    }

    fn later(&self, after: u64) -> impl futures::Stream<Item = Result<Frame, Error>> + Send + use<> {
        let mut said = 0;
        let frames = WatchStream::new(self.later.subscribe()).flat_map(move |frames| {
            let new: Vec<Frame> = frames.get(said..).unwrap_or_default().to_vec();
            said = frames.len();
            stream::iter(new.into_iter().filter(move |frame| frame.number > after).map(Ok))
        });
        frames.chain(stream::pending())
    }

    /// Waits until a call was cancelled, by request or by letting go of it.
    pub async fn cancellation(&self) {
        let mut cancelled = self.cancelled.subscribe();
        // The sender lives as long as `self`.
        let _closed = cancelled.wait_for(|all| !all.is_empty()).await.is_err();
    }

    /// Waits until this URI is watched, or no longer is.
    pub async fn watching(&self, uri: &str, wanted: bool) {
        let mut watched = self.watched.subscribe();
        let _closed = watched.wait_for(|all| all.iter().any(|u| u == uri) == wanted).await.is_err();
    }

    /// Reports an update of a resource.
    pub fn update(&self, params: &'static str) {
        // Nobody may be listening.
        let _unheard = self.updates.send(Json::trusted(params)).is_err();
    }
}

/// Notes the end of a caller's interest.
struct Noted {
    invocation: String,
    cancelled: watch::Sender<Vec<String>>,
    ended: bool,
}

impl Noted {
    const fn hear(&mut self, body: &FrameBody) {
        self.ended |= body.is_ending();
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if !self.ended {
            self.cancelled.send_modify(|all| all.push(self.invocation.clone()));
        }
    }
}

#[async_trait]
impl Registry for Scripted {
    async fn describe(&self) -> Result<Description, Error> {
        let kinds = self.lists.borrow().iter().map(|(kind, (digest, _))| (*kind, digest.clone())).collect();
        Ok(Description {
            instance: "scripted".into(),
            registries: vec![RegistryDescription {
                name: self.name.clone(),
                kinds,
                version: "1".into(),
                namespace: String::new(),
                capabilities: self.capabilities.clone(),
                instructions: String::new(),
                server_info: None,
                completions: true,
                subscriptions: true,
            }],
        })
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<CatalogEvent, Error>>, Error> {
        let name = self.name.clone();
        let events = WatchStream::new(self.lists.subscribe()).flat_map(move |lists| {
            let event = |(kind, (digest, _)): (Kind, (String, Vec<Json>))| {
                Ok(CatalogEvent::Changed { registry: name.clone(), kind, digest })
            };
            stream::iter(lists.into_iter().map(event).collect::<Vec<_>>())
        });
        Ok(events.boxed())
    }

    async fn list(&self, _: Context, kind: Kind, _: Option<String>) -> Result<Page, Error> {
        let (digest, items) = self.lists.borrow().get(&kind).cloned().unwrap_or_default();
        Ok(Page { items, next_cursor: None, ttl_ms: 1000, public: false, digest, meta: None })
    }

    async fn start(&self, context: Context, start: Start) -> Result<Frames, Error> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((context.clone(), start.clone()));
        let invocation = context.invocation.clone();
        let mut noted = Noted {
            invocation: invocation.clone(),
            cancelled: self.cancelled.clone(),
            ended: context.owner.is_some(),
        };
        let first = FrameBody::Accepted { invocation, instance: "scripted".into() };
        let rest = (self.script)(&context, &start);
        let frames = stream::iter([first]).chain(rest).enumerate().map(move |(index, body)| {
            noted.hear(&body);
            Ok(Frame { number: index as u64 + 1, body })
        });
        if self.goes_on {
            return Ok(frames.chain(self.later(0)).boxed());
        }
        Ok(frames.boxed())
    }

    async fn complete(&self, _: Context, params: Json) -> Result<Result<Json, RpcError>, Error> {
        let value = params.member("argument").and_then(|a| a.text("value")).unwrap_or_default();
        let values = Json::of(&[format!("{value}-completed")]);
        Ok(Ok(Json::trusted(format!(
            "{{\"completion\":{{\"values\":{values},\"total\":1,\"hasMore\":false}}}}"
        ))))
    }

    async fn subscribe(
        &self,
        _: Context,
        changes: BoxStream<'static, SubscriptionChange>,
    ) -> Result<BoxStream<'static, Result<SubscriptionEvent, Error>>, Error> {
        let watched = self.watched.clone();
        let answers = changes.filter_map(move |change| {
            let watched = watched.clone();
            async move {
                match change {
                    SubscriptionChange::Add(uri) => {
                        watched.send_modify(|all| all.push(uri.clone()));
                        Some(Ok(SubscriptionEvent::Accepted(uri)))
                    }
                    SubscriptionChange::Remove(uri) => {
                        watched.send_modify(|all| all.retain(|u| *u != uri));
                        None
                    }
                }
            }
        });
        let updates = BroadcastStream::new(self.updates.subscribe())
            .filter_map(|update| async { update.ok().map(|params| Ok(SubscriptionEvent::Updated(params))) });
        Ok(stream::select(answers, updates).boxed())
    }

    async fn attach(&self, context: Context, after: u64) -> Result<Frames, Error> {
        if !self.seen().iter().any(|(known, _)| known.invocation == context.invocation) {
            return Err(Error::new(Code::NotFound, "no such invocation"));
        }
        Ok(self.later(after).boxed())
    }

    async fn resume(&self, context: Context, _: u32, responses: Vec<InputResponse>) -> Result<Frames, Error> {
        let text =
            responses.iter().map(|r| format!("{}={:?}", r.key, r.answer)).collect::<Vec<_>>().join(";");
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner).push(responses);
        if context.invocation.is_empty() {
            return Err(Error::new(Code::NotFound, "no such invocation"));
        }
        let result = format!("{{\"content\":[{{\"type\":\"text\",\"text\":{}}}]}}", mcp::edit::quote(&text));
        let frame = Frame { number: 1000, body: FrameBody::Result(Json::trusted(result)) };
        Ok(stream::iter([Ok(frame)]).boxed())
    }

    async fn cancel(&self, context: Context, _: String) -> Result<(), Error> {
        self.cancelled.send_modify(|all| all.push(context.invocation));
        Ok(())
    }

    async fn release(&self, _: Context, _: Vec<String>) -> Result<(), Error> {
        Ok(())
    }
}

/// A shared one, as the mesh takes it.
#[must_use]
pub fn shared(scripted: Scripted) -> Arc<Scripted> {
    Arc::new(scripted)
}
