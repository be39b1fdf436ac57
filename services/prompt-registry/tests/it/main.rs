//! The prompt registry through its port, with a real directory that changes under it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use api::registry::{CatalogEvent, Context, FrameBody, Kind, Operation, Start};
use api::{Principal, Registry};
use chassis::drain::Shutdown;
use chassis::serve::Incoming;
use chassis::task::{self, Handle};
use futures::StreamExt as _;
use mcp::rpc::RpcError;
use mcp::scan::path;
use mcp::{Json, Revision};
use prompt_registry::{App, Config, Deps};
use tempfile::TempDir;

const GREET: &str = "+++\ndescription = \"Greets\"\n\n[[arguments]]\nname = \"who\"\nrequired = true\n\n\
    [[arguments]]\nname = \"manner\"\nvalues = [\"formal\", \"friendly\"]\ndefault = \"friendly\"\n+++\n\
    Greet {{ who }} ({{ manner }}).\n";

/// A running registry and its directory.
struct Ground {
    directory: TempDir,
    port: Arc<dyn Registry>,
    _serving: Handle<()>,
}

impl Ground {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("greet.md"), GREET).unwrap();
        let config = Config { directory: directory.path().to_owned(), ..Config::default() };
        let deps = Deps::connect(&config).await.unwrap();
        let app = App::build(&config, deps).unwrap();
        let port = app.handle();
        let serving = task::spawn(task::Kind::Role, "prompts", async move {
            app.serve(Incoming::None, Shutdown::never()).await.unwrap();
        });
        Self { directory, port, _serving: serving }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    async fn names(&self) -> Vec<String> {
        let page = self.port.list(context("list"), Kind::Prompts, None).await.unwrap();
        page.items.iter().map(|item| item.text("name").unwrap()).collect()
    }

    async fn get(&self, name: &str, arguments: &str) -> Result<Json, RpcError> {
        let params = Json::trusted(format!(r#"{{"name":"{name}","arguments":{arguments}}}"#));
        let start = Start { operation: Operation::Get, target: name.into(), params, continuation: None };
        let frames = self.port.start(context(&format!("{name}{arguments}")), start).await.unwrap();
        match frames.map(|frame| frame.unwrap().body).collect::<Vec<_>>().await.pop().unwrap() {
            FrameBody::Result(result) => Ok(result),
            FrameBody::Error(error) => Err(error),
            other @ (FrameBody::Accepted { .. }
            | FrameBody::Progress(_)
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
        mesh: "m".into(),
        registry: "prompts".into(),
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

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("took too long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_are_filled_in_and_wrong_arguments_named() {
    let ground = Ground::new().await;
    let said = ground.get("greet", r#"{"who":"Ada"}"#).await.unwrap();
    assert_eq!(
        path(said.as_str(), &["messages"]).unwrap().matches("Greet Ada (friendly).").count(),
        1,
        "{said}"
    );
    for (name, arguments, hint) in
        [("greet", "{}", "who"), ("greet", r#"{"who":"a","whom":"b"}"#, "whom"), ("nobody", "{}", "nobody")]
    {
        let error = ground.get(name, arguments).await.unwrap_err();
        assert_eq!(error.code, -32602, "{error:?}");
        assert!(error.message.contains(hint), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn argument_values_are_completed() {
    let ground = Ground::new().await;
    let complete = |typed: &str| {
        let params = format!(
            r#"{{"ref":{{"type":"ref/prompt","name":"greet"}},"argument":{{"name":"manner","value":"{typed}"}}}}"#
        );
        ground.port.complete(context("complete"), Json::trusted(params))
    };
    for (typed, values) in [("f", r#"["formal","friendly"]"#), ("fr", r#"["friendly"]"#), ("x", "[]")] {
        let result = complete(typed).await.unwrap().unwrap();
        assert_eq!(path(result.as_str(), &["completion", "values"]), Some(values), "{typed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_announced_and_a_broken_file_keeps_its_last_good_version() {
    let ground = Ground::new().await;
    let mut changes = ground.port.watch().await.unwrap();
    let mut next = async || match soon(changes.next()).await.unwrap().unwrap() {
        CatalogEvent::Changed { digest, .. } => digest,
        CatalogEvent::NotServing => panic!("it is serving"),
    };
    let first = next().await;
    ground.write("other.md", "+++\ndescription = \"Says\"\n+++\nSay it.\n");
    assert_ne!(next().await, first);
    assert_eq!(ground.names().await, ["greet", "other"]);
    ground.write("greet.md", "+++\nbroken = [\n+++\n{{");
    fs::remove_file(ground.directory.path().join("other.md")).unwrap();
    assert_eq!(next().await, first, "the list is the first one again");
    assert_eq!(ground.names().await, ["greet"]);
    assert!(ground.get("greet", r#"{"who":"Ada"}"#).await.is_ok(), "the last good version");
}
