//! The resource registry through its port, with real directories.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod reading;
mod serving;
mod watching;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::registry::{
    CatalogEvent, Context, FrameBody, Kind, Operation, Page, Start, SubscriptionChange, SubscriptionEvent,
};
use api::{Error, Principal, Registry};
use chassis::drain::{self, Trigger};
use chassis::serve::Incoming;
use chassis::task::{self, Handle};
use futures::stream::BoxStream;
use futures::{SinkExt as _, StreamExt as _};
use mcp::rpc::RpcError;
use mcp::{Json, Revision};
use resource_registry::{App, Config, Deps, Directory};
use tempfile::TempDir;

const PREFIX: &str = "file:///docs/";

/// A served directory, and the registry that serves it.
struct Ground {
    top: TempDir,
    port: Arc<dyn Registry>,
    _trigger: Trigger,
    _running: Handle<Result<(), resource_registry::ServeError>>,
}

/// Serves `docs` with these files, changed by `edit`.
async fn ground(files: &[(&str, &str)], edit: impl FnOnce(&mut Config)) -> Ground {
    let top = tempfile::tempdir().unwrap();
    let root = top.path().join("docs");
    fs::create_dir(&root).unwrap();
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let mut config = config(&root);
    edit(&mut config);
    let app = build(&config).await;
    let port = app.handle();
    let (trigger, shutdown) = drain::pair();
    let running = task::spawn(task::Kind::Role, "resources", app.serve(Incoming::None, shutdown));
    Ground { top, port, _trigger: trigger, _running: running }
}

/// What serves this directory. It is not expected to say by itself that something has changed.
fn config(root: &std::path::Path) -> Config {
    let directory = Directory { path: root.to_owned(), uri: PREFIX.into(), ..Directory::default() };
    Config { directories: vec![directory], rescan_s: 3600, ..Config::default() }
}

async fn build(config: &Config) -> App {
    App::build(config, Deps::connect(config).await.unwrap()).unwrap()
}

impl Ground {
    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join("docs").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn uris(&self) -> Vec<String> {
        uris(&*self.port).await
    }

    /// Waits until the list is as expected, hearing of its changes and not asking again and again.
    async fn until_listed(&self, expected: &[&str]) {
        let mut events = self.port.watch().await.unwrap();
        loop {
            let listed: Vec<String> =
                self.uris().await.iter().map(|uri| uri.strip_prefix(PREFIX).unwrap().to_owned()).collect();
            if listed == expected {
                return;
            }
            soon(events.next(), &format!("{listed:?} becomes {expected:?}")).await.unwrap().unwrap();
        }
    }

    async fn read(&self, uri: &str) -> Result<Json, RpcError> {
        read(&*self.port, uri).await
    }

    async fn subscriber(&self) -> Subscriber {
        let (sender, receiver) = futures::channel::mpsc::channel(8);
        let events = self.port.subscribe(context(""), receiver.boxed()).await.unwrap();
        Subscriber { sender, events }
    }

    /// Changes of the list of resources, the present state taken off.
    async fn list_changes(&self) -> BoxStream<'static, Result<CatalogEvent, Error>> {
        let mut events = self.port.watch().await.unwrap();
        for _ in 0..2 {
            soon(events.next(), "the present state").await;
        }
        events
    }
}

struct Subscriber {
    sender: futures::channel::mpsc::Sender<SubscriptionChange>,
    events: BoxStream<'static, Result<SubscriptionEvent, Error>>,
}

impl Subscriber {
    async fn send(&mut self, change: SubscriptionChange) {
        self.sender.send(change).await.unwrap();
    }

    async fn next(&mut self) -> SubscriptionEvent {
        soon(self.events.next(), "an event").await.unwrap().unwrap()
    }

    async fn add(&mut self, name: &str) -> SubscriptionEvent {
        self.send(SubscriptionChange::Add(format!("{PREFIX}{name}"))).await;
        self.next().await
    }
}

fn updated(name: &str) -> SubscriptionEvent {
    SubscriptionEvent::Updated(Json::trusted(format!("{{\"uri\":\"{PREFIX}{name}\"}}")))
}

fn accepted(name: &str) -> SubscriptionEvent {
    SubscriptionEvent::Accepted(format!("{PREFIX}{name}"))
}

async fn page(port: &dyn Registry, kind: Kind, cursor: Option<String>) -> Page {
    port.list(context(""), kind, cursor).await.unwrap()
}

async fn uris(port: &dyn Registry) -> Vec<String> {
    let mut uris = Vec::new();
    let mut cursor = None;
    loop {
        let page = page(port, Kind::Resources, cursor).await;
        uris.extend(page.items.iter().map(|item| item.text("uri").unwrap()));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return uris;
        }
    }
}

async fn read(port: &dyn Registry, uri: &str) -> Result<Json, RpcError> {
    let params = Json::of(&std::collections::BTreeMap::from([("uri", uri)]));
    let start = Start { operation: Operation::Read, target: uri.into(), params, continuation: None };
    let mut frames = port.start(context(&format!("read {uri}")), start).await.unwrap();
    loop {
        match soon(frames.next(), "a frame").await.unwrap().unwrap().body {
            FrameBody::Result(result) => return Ok(result),
            FrameBody::Error(error) => return Err(error),
            FrameBody::Accepted { .. } => {}
            other @ (FrameBody::Progress(_)
            | FrameBody::Log(_)
            | FrameBody::Notice { .. }
            | FrameBody::Detach { .. }
            | FrameBody::InputRequired(_)
            | FrameBody::Task(_)) => panic!("{other:?}"),
        }
    }
}

fn context(invocation: &str) -> Context {
    Context {
        mesh: "test".into(),
        registry: "resources".into(),
        invocation: invocation.into(),
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

/// Waits, but not for ever.
async fn soon<T>(what: impl Future<Output = T>, name: &str) -> T {
    match tokio::time::timeout(Duration::from_secs(30), what).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: {name}"),
    }
}
