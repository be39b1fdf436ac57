//! The examples as processes: each prints where it listens, answers, and drains when asked to stop.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "assertions")]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use api::registry::{Context, FrameBody, InputResponse, Kind, Operation, RegistryClient, Start};
use api::{Principal, Registry as _};
use futures::StreamExt as _;
use mcp::{Json, Revision};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an answer within 20 s")
}

struct Example {
    name: &'static str,
    process: Child,
    port: RegistryClient,
}

impl Example {
    async fn start(name: &'static str) -> Self {
        // Cargo builds examples for tests, beside the directory of the test's own program.
        let own = std::env::current_exe().unwrap();
        let folder: PathBuf = own.parent().unwrap().parent().unwrap().join("examples");
        let mut process = Command::new(folder.join(name))
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        let address = line.strip_prefix(&format!("listening {name} ")).expect(&line).to_owned();
        let channel = chassis::grpc::channel::dial(&address).unwrap();
        Self { name, process, port: RegistryClient::new(api::wire::wire(channel)) }
    }

    fn context(&self, invocation: &str) -> Context {
        Context {
            mesh: "m".into(),
            registry: self.name.into(),
            invocation: invocation.into(),
            owner: None,
            principal: Principal::default(),
            affinity: String::new(),
            revision: Revision::LATEST,
            client_capabilities: Some(Json::trusted(r#"{"elicitation":{}}"#)),
            log_level: None,
            progress: false,
            catalogue_digest: String::new(),
            deadline: None,
        }
    }

    async fn call(&self, tool: &str, arguments: &str) -> FrameBody {
        let params = Json::trusted(format!(r#"{{"arguments":{arguments}}}"#));
        let start = Start { operation: Operation::Call, target: tool.into(), params, continuation: None };
        let invocation = format!("{tool}{arguments}");
        let frames = soon(self.port.start(self.context(&invocation), start)).await.unwrap();
        let frames: Vec<_> = soon(frames.collect()).await;
        frames.into_iter().last().unwrap().unwrap().body
    }

    async fn names(&self, kind: Kind) -> Vec<String> {
        let page = soon(self.port.list(self.context("list"), kind, None)).await.unwrap();
        page.items.iter().map(|item| item.text("name").unwrap()).collect()
    }

    async fn stop(mut self) {
        let pid = self.process.id().unwrap().to_string();
        assert!(soon(Command::new("kill").args(["-TERM", &pid]).status()).await.unwrap().success());
        assert!(soon(self.process.wait()).await.unwrap().success(), "{} drains", self.name);
    }
}

#[tokio::test]
async fn the_calculator_of_the_founding_document_is_a_process_of_its_own() {
    let example = Example::start("calculator").await;
    let answer = format!("{:?}", example.call("calculator", r#"{"operation":"multiply","a":6,"b":7}"#).await);
    assert!(answer.contains(r#""structuredContent":{"result":42.0}"#), "{answer}");
    let answer = format!("{:?}", example.call("calculator", r#"{"operation":"divide","a":6,"b":0}"#).await);
    assert!(answer.contains("division by zero") && answer.contains(r#""isError":true"#), "{answer}");
    example.stop().await;
}

#[tokio::test]
async fn a_dynamic_registry_gains_and_loses_entries() {
    let example = Example::start("weather").await;
    assert_eq!(example.names(Kind::Tools).await, ["close-station", "open-station", "weather"]);
    let answer = format!("{:?}", example.call("weather", r#"{"location":"Bern"}"#).await);
    assert!(answer.contains("°C"), "the default unit: {answer}");
    example.call("open-station", r#"{"city":"Rome"}"#).await;
    assert_eq!(example.names(Kind::Resources).await, ["Rome"]);
    let answer = format!("{:?}", example.call("weather-Rome", "{}").await);
    assert!(answer.contains("Rome"), "{answer}");
    example.call("close-station", r#"{"city":"Rome"}"#).await;
    assert_eq!(example.names(Kind::Tools).await, ["close-station", "open-station", "weather"]);
    example.stop().await;
}

#[tokio::test]
async fn a_handler_asks_and_goes_on() {
    let example = Example::start("ask").await;
    let asked = example.call("book", "{}").await;
    assert!(matches!(asked, FrameBody::InputRequired(_)), "{asked:?}");
    let answer = Ok(Json::trusted(r#"{"action":"accept","content":{"name":"Ada"}}"#));
    let responses = vec![InputResponse { key: "who".into(), answer }];
    let frames = soon(example.port.resume(example.context("book{}"), 1, responses)).await.unwrap();
    let frames: Vec<_> = soon(frames.collect()).await;
    assert!(format!("{frames:?}").contains("booked for Ada"), "{frames:?}");
    example.stop().await;
}
