//! One of several processes with the same registry `r`, which drains, dies and comes back as a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use api::registry::{
    CatalogEvent, Context, Description, Frame, FrameBody, Frames, InputResponse, Kind, Page, Registry,
    RegistryDescription, Start, SubscriptionChange, SubscriptionEvent,
};
use api::{Code, Detail, Error};
use async_trait::async_trait;
use chassis::telemetry::{Scope, Trace};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use mcp::Json;
use mcp::rpc::RpcError;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::{BroadcastStream, WatchStream};

use crate::deps::RegistryPeer;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::registries) enum Stage {
    Serving,
    Draining,
    /// Out of reach: every connection is refused.
    Down,
    /// Takes requests and never answers; what it was asked may happen.
    Silent,
}

/// What it is at present.
#[derive(Clone)]
pub(in crate::registries) struct View {
    pub(in crate::registries) stage: Stage,
    /// Run of the process.
    pub(in crate::registries) run: u32,
    pub(in crate::registries) version: &'static str,
    pub(in crate::registries) tools: Vec<&'static str>,
}

/// See the module. A tool `slow` says nothing but that it was accepted until the gate is opened.
pub(in crate::registries) struct Replica {
    address: String,
    pub(in crate::registries) view: watch::Sender<View>,
    pub(in crate::registries) gate: watch::Sender<bool>,
    /// Invocations that were executed, with their epochs.
    pub(in crate::registries) runs: Mutex<Vec<String>>,
    /// What this run of the process knows.
    known: Mutex<BTreeSet<String>>,
    highest: Mutex<u64>,
    /// Verbs and invocations, as they came.
    pub(in crate::registries) asked: watch::Sender<Vec<(&'static str, String)>>,
    /// In which traces it was attached to.
    pub(in crate::registries) traces: Mutex<Vec<String>>,
    pub(in crate::registries) watched: watch::Sender<BTreeSet<String>>,
    updates: broadcast::Sender<Json>,
}

pub(in crate::registries) const TOOLS: [&str; 2] = [r#"{"name":"t"}"#, r#"{"name":"slow"}"#];

impl Replica {
    pub(in crate::registries) fn new(address: &str) -> Arc<Self> {
        let view = View { stage: Stage::Serving, run: 1, version: "1", tools: TOOLS.to_vec() };
        Arc::new(Self {
            address: address.to_owned(),
            view: watch::channel(view).0,
            gate: watch::channel(false).0,
            runs: Mutex::default(),
            known: Mutex::default(),
            highest: Mutex::default(),
            asked: watch::channel(Vec::new()).0,
            traces: Mutex::default(),
            watched: watch::channel(BTreeSet::new()).0,
            updates: broadcast::channel(16).0,
        })
    }

    pub(in crate::registries) fn peer(self: &Arc<Self>) -> RegistryPeer {
        RegistryPeer { address: self.address.clone(), namespace: None, port: self.clone() }
    }

    pub(in crate::registries) fn enter(&self, stage: Stage) {
        self.view.send_modify(|view| view.stage = stage);
    }

    /// Ends, and starts again as another run that knows nothing.
    pub(in crate::registries) fn restart(&self) {
        self.enter(Stage::Down);
        self.known.lock().unwrap().clear();
        *self.highest.lock().unwrap() = 0;
        self.view.send_modify(|view| {
            view.run += 1;
            view.stage = Stage::Serving;
        });
    }

    pub(in crate::registries) fn instance(&self) -> String {
        format!("{}#{}", self.address, self.view.borrow().run)
    }

    /// Knows this invocation, as if it had taken it on.
    pub(in crate::registries) fn take_on(&self, invocation: &str) {
        self.known.lock().unwrap().insert(invocation.to_owned());
    }

    pub(in crate::registries) fn runs(&self) -> usize {
        self.runs.lock().unwrap().len()
    }

    /// How often it was asked this.
    pub(in crate::registries) fn asked(&self, verb: &str) -> usize {
        self.asked.borrow().iter().filter(|(asked, _)| *asked == verb).count()
    }

    /// Waits until it was asked this so often.
    pub(in crate::registries) async fn is_asked(&self, verb: &str, times: usize) {
        let count = |asked: &Vec<(&'static str, String)>| asked.iter().filter(|(v, _)| *v == verb).count();
        self.asked.subscribe().wait_for(|asked| count(asked) >= times).await.unwrap();
    }

    pub(in crate::registries) fn update(&self, params: &'static str) {
        self.updates.send(Json::trusted(params)).unwrap();
    }

    async fn reach(&self, verb: &'static str, invocation: &str) -> Result<(), Error> {
        let stage = self.view.borrow().stage;
        match stage {
            Stage::Down => Err(Error::new(Code::Unavailable, "refused").with(Detail::NotReached)),
            Stage::Silent => {
                self.note(verb, invocation);
                std::future::pending().await
            }
            Stage::Serving | Stage::Draining => {
                self.note(verb, invocation);
                Ok(())
            }
        }
    }

    fn note(&self, verb: &'static str, invocation: &str) {
        self.asked.send_modify(|asked| asked.push((verb, invocation.to_owned())));
    }

    fn fence(&self, context: &Context) -> Result<(), Error> {
        let epoch = context.owner.map_or(0, |(_, epoch)| epoch.0);
        let mut highest = self.highest.lock().unwrap();
        *highest = (*highest).max(epoch);
        if epoch > 0 && epoch < *highest { Err(Error::stale_epoch(*highest)) } else { Ok(()) }
    }

    fn frames(&self, context: &Context, slow: bool, after: u64) -> Frames {
        let (invocation, instance) = (context.invocation.clone(), self.instance());
        let mut gate = self.gate.subscribe();
        let ending = async move {
            if slow {
                gate.wait_for(|open| *open).await.unwrap();
            }
            Json::trusted(format!(r#"{{"content":[],"by":"{instance}"}}"#))
        };
        let accepted = FrameBody::Accepted { invocation, instance: self.instance() };
        let bodies = stream::iter([accepted]).chain(stream::once(ending).map(FrameBody::Result));
        let frames = bodies.enumerate().map(|(at, body)| Ok(Frame { number: at as u64 + 1, body }));
        let mut view = self.view.subscribe();
        let run = view.borrow().run;
        let lost = async move {
            // The test has ended.
            let _gone = view.wait_for(|view| view.stage == Stage::Down || view.run != run).await.is_err();
        };
        let broken = Err(Error::new(Code::Unavailable, "connection lost"));
        let rest = frames.filter(move |frame| {
            std::future::ready(frame.as_ref().is_ok_and(|frame: &Frame| frame.number > after))
        });
        rest.take_until(lost).chain(stream::iter([broken])).boxed()
    }
}

#[async_trait]
impl Registry for Replica {
    async fn describe(&self) -> Result<Description, Error> {
        self.reach("describe", "").await?;
        let view = self.view.borrow().clone();
        let registry = RegistryDescription {
            name: "r".into(),
            kinds: [Kind::Tools, Kind::Resources].map(|kind| (kind, view.tools.concat())).into(),
            version: view.version.into(),
            namespace: String::new(),
            capabilities: None,
            instructions: String::new(),
            server_info: None,
            completions: true,
            subscriptions: true,
        };
        Ok(Description { instance: self.instance(), registries: vec![registry] })
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<CatalogEvent, Error>>, Error> {
        self.reach("watch", "").await?;
        let run = self.view.borrow().run;
        let views = WatchStream::new(self.view.subscribe());
        let alive = move |view: &View| std::future::ready(view.stage != Stage::Down && view.run == run);
        let events = views.take_while(alive).flat_map(|view| {
            let digest = view.tools.concat();
            let changed = CatalogEvent::Changed { registry: "r".into(), kind: Kind::Tools, digest };
            let drains = (view.stage == Stage::Draining).then_some(CatalogEvent::NotServing);
            stream::iter([Some(changed), drains].into_iter().flatten().map(Ok).collect::<Vec<_>>())
        });
        Ok(events.boxed())
    }

    async fn list(&self, _: Context, kind: Kind, _: Option<String>) -> Result<Page, Error> {
        self.reach("list", "").await?;
        let tools = self.view.borrow().tools.clone();
        let items = match kind {
            Kind::Tools => tools.iter().map(|item| Json::trusted(*item)).collect(),
            Kind::Resources | Kind::Templates | Kind::Prompts => {
                vec![Json::trusted(r#"{"uri":"a:1","name":"one"}"#)]
            }
        };
        Ok(Page { items, next_cursor: None, ttl_ms: 0, public: true, digest: tools.concat(), meta: None })
    }

    async fn start(&self, context: Context, start: Start) -> Result<Frames, Error> {
        self.reach("start", &context.invocation).await?;
        self.fence(&context)?;
        let new = !self.known.lock().unwrap().contains(&context.invocation);
        if new && self.view.borrow().stage == Stage::Draining {
            return Err(Error::draining());
        }
        if new {
            self.take_on(&context.invocation);
            self.runs.lock().unwrap().push(context.invocation.clone());
        }
        Ok(self.frames(&context, start.target == "slow", 0))
    }

    async fn complete(&self, context: Context, _: Json) -> Result<Result<Json, RpcError>, Error> {
        self.reach("complete", &context.invocation).await?;
        match self.view.borrow().stage {
            Stage::Draining => Err(Error::draining()),
            Stage::Serving | Stage::Down | Stage::Silent => Ok(Ok(Json::empty_object())),
        }
    }

    async fn subscribe(
        &self,
        _: Context,
        changes: BoxStream<'static, SubscriptionChange>,
    ) -> Result<BoxStream<'static, Result<SubscriptionEvent, Error>>, Error> {
        self.reach("subscribe", "").await?;
        let watched = self.watched.clone();
        let answers = changes.filter_map(move |change| {
            let answer = match change {
                SubscriptionChange::Add(uri) => {
                    watched.send_modify(|all| _ = all.insert(uri.clone()));
                    Some(Ok(SubscriptionEvent::Accepted(uri)))
                }
                SubscriptionChange::Remove(uri) => {
                    watched.send_modify(|all| _ = all.remove(&uri));
                    None
                }
            };
            std::future::ready(answer)
        });
        let updates = BroadcastStream::new(self.updates.subscribe());
        let updates = updates.map(|params| Ok(SubscriptionEvent::Updated(params.unwrap())));
        Ok(stream::select(answers, updates).boxed())
    }

    async fn attach(&self, context: Context, after: u64) -> Result<Frames, Error> {
        self.reach("attach", &context.invocation).await?;
        self.traces.lock().unwrap().extend(Scope::current().trace().map(Trace::id));
        self.fence(&context)?;
        if !self.known.lock().unwrap().contains(&context.invocation) {
            return Err(Error::not_found("unknown"));
        }
        Ok(self.frames(&context, true, after))
    }

    async fn resume(&self, context: Context, _: u32, _: Vec<InputResponse>) -> Result<Frames, Error> {
        self.reach("resume", &context.invocation).await?;
        self.attach(context, 1).await
    }

    async fn cancel(&self, context: Context, _: String) -> Result<(), Error> {
        self.reach("cancel", &context.invocation).await
    }

    async fn release(&self, _: Context, invocations: Vec<String>) -> Result<(), Error> {
        for invocation in invocations {
            self.reach("release", &invocation).await?;
        }
        Ok(())
    }
}

/// How often each replica answered, by the instance that the results name.
pub(in crate::registries) fn by(results: &[Json]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for result in results {
        *counts.entry(result.text("by").unwrap_or_default()).or_default() += 1;
    }
    counts
}
