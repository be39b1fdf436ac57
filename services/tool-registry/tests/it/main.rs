//! The role from its doors: the port in process, and the network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "assertions")]

use std::sync::Arc;
use std::time::Duration;

use api::registry::{Context, FrameBody, Kind, Operation, RegistryClient, Start};
use api::{Code, Principal, Registry};
use chassis::drain;
use chassis::serve::Incoming;
use futures::{FutureExt as _, StreamExt as _};
use mcp::{Json, Revision};
use tool_registry::{App, Config, Deps};

async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an answer within 20 s")
}

fn context(invocation: &str) -> Context {
    Context {
        mesh: "m".into(),
        registry: "tools".into(),
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

async fn app(config: &str) -> App {
    let config: Config = toml::from_str(config).unwrap();
    App::build(&config, Deps::connect(&config).await.unwrap()).unwrap()
}

async fn call(port: &Arc<dyn Registry>, tool: &str, arguments: &str) -> String {
    let params = Json::trusted(format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#));
    let start = Start { operation: Operation::Call, target: tool.into(), params, continuation: None };
    let frames = soon(port.start(context(&format!("{tool}{arguments}")), start)).await.unwrap();
    let frames: Vec<_> = soon(frames.collect()).await;
    match frames.last().unwrap().as_ref().map(|frame| &frame.body) {
        Ok(FrameBody::Result(result)) => result.to_string(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn the_founding_tools_answer() {
    let port = app("node = \"node2\"").await.handle();
    assert_eq!(
        call(&port, "echo", r#"{"message":"hé"}"#).await,
        r#"{"content":[{"type":"text","text":"{\"echo\":\"hé\",\"node\":\"node2\"}"}],"structuredContent":{"echo":"hé","node":"node2"}}"#
    );
    assert_eq!(
        call(&port, "calculator", r#"{"operation":"divide","a":1,"b":4}"#).await,
        r#"{"content":[{"type":"text","text":"{\"result\":0.25}"}],"structuredContent":{"result":0.25}}"#
    );
    for (arguments, text) in [
        (r#"{"operation":"divide","a":1,"b":0}"#, "division by zero"),
        (r#"{"operation":"power","a":1,"b":0}"#, "unknown operation"),
        (r#"{"operation":"add","a":"1","b":2}"#, "/a"),
        (r#"{"operation":"add","a":1}"#, "required"),
        (r#"{"operation":"add","a":1e400,"b":2}"#, "out of range"),
    ] {
        let result = call(&port, "calculator", arguments).await;
        assert!(result.contains(text) && result.contains(r#""isError":true"#), "{arguments}: {result}");
    }
    assert!(call(&port, "no", "{}").await.contains("-32602"));
}

#[tokio::test]
async fn definitions_are_those_of_the_founding_documents() {
    let page = app("").await.handle().list(context("l"), Kind::Tools, None).await.unwrap();
    let [calculator, echo] = &page.items[..] else { panic!("two tools: {page:?}") };
    assert_eq!(
        calculator.member("inputSchema").unwrap().as_str(),
        r#"{"type":"object","properties":{"operation":{"type":"string","description":"Operation to perform (add, subtract, multiply, divide)"},"a":{"type":"number","description":"First operand"},"b":{"type":"number","description":"Second operand"}},"required":["operation","a","b"]}"#
    );
    assert_eq!(
        echo.member("inputSchema").unwrap().as_str(),
        r#"{"type":"object","properties":{"message":{"type":"string","description":"The message to echo back"}},"required":["message"]}"#
    );
    assert!(page.items.iter().all(|tool| tool.member("outputSchema").is_some()));
}

#[tokio::test]
async fn the_configuration_chooses_the_tools() {
    let names = async |config: &str| {
        let page = app(config).await.handle().list(context("l"), Kind::Tools, None).await.unwrap();
        page.items.iter().map(|tool| tool.text("name").unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names("tools = [\"echo\"]").await, ["echo"]);
    assert!(names("tools = []").await.is_empty());
    let config: Config = toml::from_str("tools = [\"echo\", \"echo\"]").unwrap();
    assert!(App::build(&config, Deps::connect(&config).await.unwrap()).is_err());
    let described = app("namespace = \"a-b\"").await.handle().describe().await.unwrap().registries.remove(0);
    assert_eq!(described.namespace, "a-b");
    let config: Config = toml::from_str("namespace = \"a__b\"").unwrap();
    assert!(App::build(&config, Deps::connect(&config).await.unwrap()).is_err());
    assert!(toml::from_str::<Config>("tools = [\"abacus\"]").unwrap_err().to_string().contains("abacus"));
    assert!(toml::from_str::<Config>("tool = []").is_err());
}

#[tokio::test]
async fn the_network_door_opens_and_drains() {
    let app = app("").await;
    let listener = chassis::serve::bind("tool-registry.listen", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (trigger, shutdown) = drain::pair();
    let mut served = Box::pin(app.serve(Incoming::Tcp(listener), shutdown)).fuse();
    let channel = chassis::grpc::channel::dial(&address).unwrap();
    let port: Arc<dyn Registry> = Arc::new(RegistryClient::new(api::wire::wire(channel)));
    let session = async {
        assert!(call(&port, "echo", r#"{"message":"m"}"#).await.contains("tool-registry-1"));
        let mut events = soon(port.watch()).await.unwrap();
        soon(events.next()).await.unwrap().unwrap();
        trigger.drain();
        let left: Vec<_> = soon(events.collect()).await;
        assert_eq!(left, [Ok(api::registry::CatalogEvent::NotServing)]);
    };
    tokio::select! {
        () = session => {}
        ended = &mut served => panic!("ended too early: {ended:?}"),
    }
    soon(served).await.unwrap();
    assert_eq!(soon(port.describe()).await.unwrap_err().code, Code::Unavailable);
}
