//! A registry process without a process, for the tests of this folder.

pub(super) mod replica;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::registry::{
    CatalogEvent, Context, Description, Frame, Frames, InputResponse, Kind, Page, Registry,
    RegistryDescription, Start, SubscriptionChange, SubscriptionEvent,
};
use api::{Code, Error};
use async_trait::async_trait;
use chassis::metrics::Metrics;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, future};
use mcp::Json;
use mcp::rpc::RpcError;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use super::{Link, Registries};
use crate::deps::RegistryPeer;
use crate::observe::Observed;

/// What a registry does with every URI it is asked to watch.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Manner {
    Accepts,
    Refuses,
    /// Has no subscriptions.
    Lacks,
    /// Ends the stream.
    Leaves,
}

/// See the module.
pub(super) struct Fake {
    pub(super) manner: watch::Sender<Manner>,
    /// Its registries; each lists one tool of its own name. The one called `illegal` announces a namespace that is none.
    pub(super) names: watch::Sender<Vec<&'static str>>,
    /// Gives each page of a list another digest.
    pub(super) restless: bool,
    pub(super) listed: AtomicUsize,
    /// What the next starts, attaches and resumes come to.
    pub(super) scripts: Mutex<VecDeque<Opened>>,
    /// What was asked: the verb, the invocation, and the number of the last frame for an attach.
    pub(super) asked: Mutex<Vec<(&'static str, String, u64)>>,
}

/// An opened stream of frames, or the refusal of one.
pub(super) type Opened = Result<Vec<Result<Frame, Error>>, Error>;

impl Fake {
    pub(super) fn new(manner: Manner, names: &[&'static str]) -> Self {
        let (manner, names) = (watch::channel(manner).0, watch::channel(names.to_vec()).0);
        Self {
            manner,
            names,
            restless: false,
            listed: AtomicUsize::new(0),
            scripts: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// The only process of a fleet that nobody keeps.
    pub(super) fn alone(self) -> (Arc<Registries>, Arc<Link>, Arc<Self>) {
        let fake = Arc::new(self);
        let peer = RegistryPeer { address: "fake".into(), namespace: None, port: fake.clone() };
        let all = fleet(vec![peer]);
        let link = all.links().values().next().unwrap().clone();
        (all, link, fake)
    }

    fn opened(&self, verb: &'static str, context: Context, after: u64) -> Result<Frames, Error> {
        self.asked.lock().unwrap().push((verb, context.invocation, after));
        let script = self.scripts.lock().unwrap().pop_front();
        Ok(stream::iter(script.unwrap_or_else(|| Err(Error::new(Code::Unavailable, "gone")))?).boxed())
    }
}

/// Registries that nobody keeps yet.
pub(super) fn fleet(peers: Vec<RegistryPeer>) -> Arc<Registries> {
    Registries::new(peers, 10, Duration::from_secs(5), Observed::new(&Metrics::default()))
}

fn lacks() -> Error {
    Error::new(Code::Unimplemented, "no subscriptions")
}

#[async_trait]
impl Registry for Fake {
    async fn describe(&self) -> Result<Description, Error> {
        let one = |name: &&str| RegistryDescription {
            name: (*name).to_owned(),
            kinds: vec![(Kind::Tools, "d".into())],
            version: String::new(),
            namespace: if *name == "illegal" { "no__such".into() } else { String::new() },
            capabilities: None,
            instructions: String::new(),
            server_info: None,
            completions: false,
            subscriptions: true,
        };
        let registries = self.names.borrow().iter().map(one).collect();
        Ok(Description { instance: "fake".into(), registries })
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<CatalogEvent, Error>>, Error> {
        let event = |name: &str| {
            Ok(CatalogEvent::Changed { registry: name.to_owned(), kind: Kind::Tools, digest: "d".into() })
        };
        let states = WatchStream::new(self.names.subscribe());
        Ok(states
            .flat_map(move |names| stream::iter(names.into_iter().map(event).collect::<Vec<_>>()))
            .boxed())
    }

    async fn list(&self, context: Context, _: Kind, cursor: Option<String>) -> Result<Page, Error> {
        let count = self.listed.fetch_add(1, Ordering::Relaxed);
        let digest = if self.restless { count.to_string() } else { "d".to_owned() };
        let item = Json::of(&std::collections::BTreeMap::from([("name", context.registry)]));
        let next_cursor = (self.restless && cursor.is_none()).then(|| "more".to_owned());
        Ok(Page { items: vec![item], next_cursor, ttl_ms: 0, public: true, digest, meta: None })
    }

    async fn start(&self, context: Context, _: Start) -> Result<Frames, Error> {
        self.opened("start", context, 0)
    }

    async fn complete(&self, _: Context, _: Json) -> Result<Result<Json, RpcError>, Error> {
        Err(lacks())
    }

    async fn subscribe(
        &self,
        _: Context,
        changes: BoxStream<'static, SubscriptionChange>,
    ) -> Result<BoxStream<'static, Result<SubscriptionEvent, Error>>, Error> {
        if *self.manner.borrow() == Manner::Lacks {
            return Err(lacks());
        }
        let manner = self.manner.clone();
        let answers = changes.filter_map(move |change| {
            let manner = *manner.borrow();
            future::ready(match change {
                SubscriptionChange::Add(uri) if manner == Manner::Refuses => {
                    Some(SubscriptionEvent::Refused(uri, RpcError::new(-1, "no")))
                }
                SubscriptionChange::Add(uri) => Some(SubscriptionEvent::Accepted(uri)),
                SubscriptionChange::Remove(_) => None,
            })
        });
        let mut left = WatchStream::new(self.manner.subscribe());
        let leaves = async move { while left.next().await.is_some_and(|m| m != Manner::Leaves) {} };
        Ok(answers.map(Ok).take_until(leaves).boxed())
    }

    async fn attach(&self, context: Context, after: u64) -> Result<Frames, Error> {
        self.opened("attach", context, after)
    }

    async fn resume(&self, context: Context, _: u32, _: Vec<InputResponse>) -> Result<Frames, Error> {
        self.opened("resume", context, 0)
    }

    async fn cancel(&self, _: Context, _: String) -> Result<(), Error> {
        Err(lacks())
    }

    async fn release(&self, _: Context, _: Vec<String>) -> Result<(), Error> {
        Err(lacks())
    }
}
