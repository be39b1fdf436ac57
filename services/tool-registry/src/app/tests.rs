use api::Principal;
use api::registry::{Context, FrameBody, Kind, Operation, Start};
use futures::StreamExt as _;
use mcp::{Json, Revision, scan};
use registry::Runtime;

use super::*;

fn app(config: &Config) -> App {
    App::build(config, Deps { runtime: Runtime::tokio() }).unwrap()
}

fn context(invocation: &str) -> Context {
    Context {
        mesh: "m".into(),
        registry: NAME.into(),
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

async fn call(app: &App, name: &str, arguments: &str) -> FrameBody {
    let params = Json::trusted(format!("{{\"name\":\"{name}\",\"arguments\":{arguments}}}"));
    let start = Start { operation: Operation::Call, target: name.into(), params, continuation: None };
    let frames = app.handle().start(context(&format!("{name}{arguments}")), start).await.unwrap();
    frames.map(Result::unwrap).collect::<Vec<_>>().await.pop().unwrap().body
}

#[tokio::test]
async fn results_are_structured_and_said_as_text_too() {
    let app = app(&Config { node: "n1".into(), ..Config::default() });
    let FrameBody::Result(result) = call(&app, "echo", r#"{"message":"hi"}"#).await else {
        panic!("no result")
    };
    assert_eq!(scan::path(result.as_str(), &["structuredContent"]), Some(r#"{"echo":"hi","node":"n1"}"#));
    assert!(result.as_str().contains(r#"\"echo\":\"hi\""#), "{result}");
    let FrameBody::Result(result) = call(&app, "calculator", r#"{"operation":"add","a":1,"b":2}"#).await
    else {
        panic!("no result")
    };
    assert_eq!(scan::path(result.as_str(), &["structuredContent", "result"]), Some("3.0"));
}

#[tokio::test]
async fn bad_arguments_are_tool_errors_that_say_where() {
    let app = app(&Config::default());
    for (name, arguments, hint) in [
        ("calculator", r#"{"operation":"divide","a":1,"b":0}"#, "division by zero"),
        ("calculator", r#"{"operation":"root","a":1,"b":0}"#, "operation"),
        ("calculator", r#"{"operation":"add","a":"1","b":0}"#, "a"),
        ("calculator", r#"{"operation":"add","a":1}"#, "b"),
        ("echo", "{}", "message"),
    ] {
        let FrameBody::Result(result) = call(&app, name, arguments).await else {
            panic!("{name} {arguments}")
        };
        assert_eq!(scan::member(result.as_str(), "isError"), Some("true"), "{result}");
        assert!(result.as_str().contains(hint), "{arguments}: {result}");
    }
}

#[tokio::test]
async fn only_what_is_configured_is_listed() {
    for (tools, expected) in [(vec![], 0), (vec![crate::Builtin::Echo], 1), (Config::default().tools, 2)] {
        let app = app(&Config { tools, ..Config::default() });
        let described = app.handle().describe().await.unwrap();
        let has_tools = described.registries[0].kinds.iter().any(|(kind, _)| *kind == Kind::Tools);
        let listed = if has_tools {
            app.handle().list(context(""), Kind::Tools, None).await.unwrap().items.len()
        } else {
            0
        };
        assert_eq!(listed, expected);
    }
}
