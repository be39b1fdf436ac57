//! Our own client library against our own mesh, in both eras: each is the other's contract test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use api::registry::{Continuation, FrameBody, InputRequired, Kind};
use async_trait::async_trait;
use chassis::task::{self, Handle};
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use mcp::rpc::RpcError;
use mcp::{Json, Method, Revision};
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};
use upstream::{Ask, Client, Error, Host, Listener, Options, Question, Silent, Speak};

topologies!(
    lists_calls_reads_and_gets,
    progress_and_logs_are_heard,
    questions_are_answered,
    a_cancelled_call_is_cancelled_at_the_registry,
    arguments_are_repeated_in_headers,
    an_ended_session_is_opened_again,
);

const ERAS: [Speak; 4] = [
    Speak::Auto,
    Speak::Older(Revision::V2025_11_25),
    Speak::Older(Revision::V2025_06_18),
    Speak::Older(Revision::V2025_03_26),
];

const ASK: &str = r#"{"who":{"method":"elicitation/create","params":{"mode":"form","message":"Name?","requestedSchema":{"type":"object","properties":{"n":{"type":"string"}}}}}}"#;

fn json(text: &'static str) -> Json {
    Json::trusted(text)
}

fn said(text: &str) -> FrameBody {
    FrameBody::Result(Json::trusted(format!(
        "{{\"content\":[{{\"type\":\"text\",\"text\":{}}}]}}",
        mcp::edit::quote(text)
    )))
}

fn registry() -> Scripted {
    let registry = Scripted::new("r", |_, start| match start.target.as_str() {
        "chatty" => bodies([
            FrameBody::Progress(json(r#"{"progress":1,"total":2}"#)),
            FrameBody::Log(json(r#"{"level":"error","data":"careful"}"#)),
            FrameBody::Progress(json(r#"{"progress":2,"total":2}"#)),
            said("done"),
        ]),
        "never" => {
            stream::iter([FrameBody::Progress(json(r#"{"progress":1}"#))]).chain(stream::pending()).boxed()
        }
        "asking" => bodies([FrameBody::InputRequired(InputRequired {
            requests: Json::trusted(ASK),
            round: 1,
            expires_unix_ms: u64::MAX,
            continuation: Continuation::Parked,
        })]),
        "a:1" => bodies([FrameBody::Result(json(r#"{"contents":[{"uri":"a:1","text":"one"}]}"#))]),
        "p" => bodies([FrameBody::Result(json(
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"go"}}]}"#,
        ))]),
        _ => bodies([said(start.params.as_str())]),
    });
    let tools = [
        r#"{"name":"chatty","inputSchema":{"type":"object"}}"#,
        r#"{"name":"never","inputSchema":{"type":"object"}}"#,
        r#"{"name":"asking","inputSchema":{"type":"object"}}"#,
        r#"{"name":"placed","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}"#,
    ];
    registry.list(Kind::Tools, tools);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    registry.list(Kind::Prompts, [r#"{"name":"p"}"#]);
    registry
}

/// The tasks of this runtime; they end with it.
#[derive(Default)]
struct Tasks(Mutex<Vec<Handle<()>>>);

impl Host for Tasks {
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        self.0.lock().unwrap().push(task::spawn(task::Kind::Call, "connection", work));
    }

    fn sleep(&self, period: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(period))
    }
}

/// Notes what it hears, and accepts every question.
#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

#[async_trait]
impl Listener for Ear {
    fn progress(&self, params: &Json) {
        self.0.lock().unwrap().push(format!("progress {}", params.member("progress").unwrap()));
    }

    fn log(&self, params: &Json) {
        self.0.lock().unwrap().push(format!("log {}", params.member("data").unwrap()));
    }

    async fn answer(&self, question: &Question) -> Result<Json, RpcError> {
        self.0.lock().unwrap().push(question.method.clone());
        Ok(json(r#"{"action":"accept","content":{"n":"Ada"}}"#))
    }
}

async fn connect(mesh: &Mesh, speak: Speak) -> Result<Client> {
    let url = format!("http://{}/mcp", mesh.gateways[0]);
    let mut options = Options::new(url.parse()?, "tests", "1");
    options.speak = speak;
    options.capabilities = json(r#"{"elicitation":{"form":{}}}"#);
    Ok(Client::connect(&options, Arc::new(Tasks::default())).await?)
}

fn call(name: &str, arguments: &str) -> Ask {
    let params = format!("{{\"name\":{},\"arguments\":{arguments}}}", mcp::edit::quote(name));
    Ask { progress: true, ..Ask::new(Method::ToolsCall, Json::trusted(params), Duration::from_secs(20)) }
}

async fn lists_calls_reads_and_gets(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    for speak in ERAS {
        let client = connect(&mesh, speak).await?;
        let wanted = match speak {
            Speak::Auto | Speak::Modern => Revision::LATEST,
            Speak::Older(revision) => revision,
        };
        assert_eq!(client.server().revision, wanted);
        let deadline = Duration::from_secs(20);
        let tools = client.list(Method::ToolsList, deadline).await?;
        assert_eq!((tools.entries.len(), tools.dropped.len()), (4, 0));
        assert_eq!(client.list(Method::ResourcesList, deadline).await?.entries.len(), 1);
        let ask = |method, params: &'static str| Ask::new(method, json(params), deadline);
        let forever = std::future::pending::<()>;
        let read = client.ask(&ask(Method::ResourcesRead, r#"{"uri":"a:1"}"#), &Silent, forever()).await?;
        assert!(read.as_str().contains(r#""text":"one""#), "{read}");
        let got = client.ask(&ask(Method::PromptsGet, r#"{"name":"p"}"#), &Silent, forever()).await?;
        assert!(got.as_str().contains(r#""text":"go""#), "{got}");
        let missing = client.ask(&ask(Method::ToolsCall, r#"{"name":"nope"}"#), &Silent, forever()).await;
        assert_eq!(missing.unwrap_err().code(), Some(-32602));
        client.close().await;
    }
    Ok(())
}

async fn progress_and_logs_are_heard(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    for speak in ERAS {
        let client = connect(&mesh, speak).await?;
        let ear = Ear::default();
        let ask = Ask { log: Some(mcp::log::Level::Debug), ..call("chatty", "{}") };
        let result = client.ask(&ask, &ear, std::future::pending()).await?;
        assert!(result.as_str().contains("done"));
        assert_eq!(*ear.0.lock().unwrap(), ["progress 1", "log \"careful\"", "progress 2"]);
    }
    Ok(())
}

async fn questions_are_answered(topology: Topology) -> Result<()> {
    for speak in [Speak::Auto, Speak::Older(Revision::V2025_11_25), Speak::Older(Revision::V2025_06_18)] {
        let registry = shared(registry());
        let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
        let client = connect(&mesh, speak).await?;
        let ear = Ear::default();
        let result = client.ask(&call("asking", "{}"), &ear, std::future::pending()).await?;
        assert!(
            result.as_str().contains(r#"who=Ok({\"action\":\"accept\",\"content\":{\"n\":\"Ada\"}})"#),
            "{result}"
        );
        assert_eq!(*ear.0.lock().unwrap(), ["elicitation/create"]);
        assert_eq!(registry.seen().len(), 1, "the handler ran once");
    }
    Ok(())
}

async fn a_cancelled_call_is_cancelled_at_the_registry(topology: Topology) -> Result<()> {
    for speak in ERAS {
        let registry = shared(registry());
        let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
        let client = connect(&mesh, speak).await?;
        let ear = Ear::default();
        let heard = async {
            while ear.0.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let ended = client.ask(&call("never", "{}"), &ear, heard).await;
        assert_eq!(ended, Err(Error::Cancelled));
        tokio::time::timeout(Duration::from_secs(20), registry.cancellation()).await?;
    }
    Ok(())
}

async fn arguments_are_repeated_in_headers(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let client = connect(&mesh, Speak::Modern).await?;
    let ask = call("placed", r#"{"region":"Zürich"}"#);
    // The definition was not seen yet: the gateway refuses, the client learns it, and asks again.
    for _ in 0..2 {
        let result = client.ask(&ask, &Silent, std::future::pending()).await?;
        assert!(result.as_str().contains("Zürich"), "{result}");
    }
    Ok(())
}

async fn an_ended_session_is_opened_again(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let client = connect(&mesh, Speak::Older(Revision::V2025_11_25)).await?;
    let before = client.session().unwrap();
    let mut raw = mesh.client();
    raw.session = Some(before.clone());
    assert_eq!(raw.send(http::Method::DELETE, &[], "").await?.status, 200);
    let result = client.ask(&call("echo", "{}"), &Silent, std::future::pending()).await;
    assert_eq!(result.unwrap_err().code(), Some(-32602), "the tool is unknown, the session is not");
    assert_ne!(client.session().unwrap(), before);
    Ok(())
}
