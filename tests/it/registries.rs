//! Several registries: merged, named apart, coming and going while sessions last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use api::Principal;
use api::registry::{Context, FrameBody, Kind, Operation, Start};
use chassis::drain::Shutdown;
use chassis::serve::Incoming;
use futures::{StreamExt as _, stream};
use mcp::Json;
use mcp::scan::path;
use tests::client::DEADLINE;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};
use tokio::net::TcpListener;
use tokio::sync::watch;

topologies!(
    lists_are_merged_and_calls_find_their_registry,
    the_same_name_twice_is_hidden_and_comes_back,
    header_params_are_checked_against_what_was_served,
);

fn named(name: &'static str, tools: impl IntoIterator<Item = &'static str>) -> Scripted {
    let registry = Scripted::new(name, move |_, start| {
        let text = format!("{name}:{}", start.target);
        bodies([FrameBody::Result(Json::trusted(format!(
            "{{\"content\":[{{\"type\":\"text\",\"text\":{}}}]}}",
            mcp::edit::quote(&text)
        )))])
    });
    registry.list(Kind::Tools, tools);
    registry
}

async fn lists_are_merged_and_calls_find_their_registry(topology: Topology) -> Result<()> {
    let one = shared(named("one", [r#"{"name":"b"}"#]));
    let two = shared(named("two", [r#"{"name":"a"}"#]));
    let mesh = Mesh::start(topology, vec![one.clone(), two.clone()]).await?;
    let client = mesh.client();
    let list = client.modern("1", "tools/list", "{}", "{}").await?.text().await?;
    assert_eq!(path(&list, &["result", "tools"]), Some(r#"[{"name":"a"},{"name":"b"}]"#));
    for (tool, registry) in [("a", "two"), ("b", "one")] {
        let answer =
            client.modern("2", "tools/call", &format!(r#"{{"name":"{tool}"}}"#), "{}").await?.text().await?;
        assert!(answer.contains(&format!("{registry}:{tool}")), "{answer}");
    }
    Ok(())
}

async fn the_same_name_twice_is_hidden_and_comes_back(topology: Topology) -> Result<()> {
    let one = shared(named("one", [r#"{"name":"same"}"#, r#"{"name":"x"}"#]));
    let two = shared(named("two", [r#"{"name":"same"}"#]));
    let mesh = Mesh::start(topology, vec![one, two.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let list = |id: u32| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
    let before = client.post(list(1)).await?.text().await?;
    assert_eq!(path(&before, &["result", "tools"]), Some(r#"[{"name":"x"}]"#));
    let mut own = client.get(None).await?.events();
    two.list_as(Kind::Tools, "gone", []);
    assert!(own.message().await?.contains("tools/list_changed"));
    let after = client.post(list(2)).await?.text().await?;
    assert_eq!(path(&after, &["result", "tools"]), Some(r#"[{"name":"same"},{"name":"x"}]"#));
    Ok(())
}

async fn header_params_are_checked_against_what_was_served(topology: Topology) -> Result<()> {
    let tool = r#"{"name":"t","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"}}}}"#;
    let registry = shared(named("one", [tool]));
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let client = mesh.client();
    let params = r#"{"name":"t","arguments":{"region":"eu-1","n":42}}"#;
    let good: [&[(&str, &str)]; 3] = [
        &[("mcp-param-region", "eu-1"), ("mcp-param-n", "42")],
        &[("mcp-param-region", "=?base64?ZXUtMQ==?="), ("mcp-param-n", "42")],
        &[("mcp-param-region", "eu-1"), ("mcp-param-n", "42"), ("mcp-param-other", "x")],
    ];
    for headers in good {
        let answer = client.modern_with(headers, "1", "tools/call", params, "{}", "").await?;
        assert_eq!(answer.status, 200, "{headers:?}");
    }
    let before = registry.seen().len();
    let bad: [&[(&str, &str)]; 6] = [
        &[],
        &[("mcp-param-region", "eu-1")],
        &[("mcp-param-region", "eu-2"), ("mcp-param-n", "42")],
        &[("mcp-param-region", "eu-1"), ("mcp-param-region", "eu-1"), ("mcp-param-n", "42")],
        &[("mcp-param-region", "=?base64?ZXUtMQ=?="), ("mcp-param-n", "42")],
        &[("mcp-param-region", "eu-1"), ("mcp-param-n", "forty-two")],
    ];
    for headers in bad {
        let answer = client.modern_with(headers, "1", "tools/call", params, "{}", "").await?;
        assert_eq!(answer.status, 400, "{headers:?}");
        let text = answer.text().await?;
        assert_eq!(path(&text, &["error", "code"]), Some("-32020"), "{headers:?}");
        assert_eq!(path(&text, &["id"]), Some("1"));
    }
    assert_eq!(registry.seen().len(), before, "nothing reached the registry");
    Ok(())
}

/// Asks for the list until it is the one expected.
async fn listed(client: &tests::client::Client, expected: &str) -> Result<()> {
    let asking = async {
        loop {
            let list = client.modern("1", "tools/list", "{}", "{}").await?.text().await?;
            if path(&list, &["result", "tools"]) == Some(expected) {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_when_a_registry_dies_is_read_again_or_said_to_be_unknown() {
    let back = Arc::new(AtomicBool::new(false));
    let is_back = back.clone();
    let registry = Scripted::new("r", move |_, start| match start.target.as_str() {
        "a:1" if is_back.load(Ordering::Relaxed) => {
            bodies([FrameBody::Result(Json::trusted(r#"{"contents":[]}"#))])
        }
        _ => stream::pending().boxed(),
    });
    registry.list(Kind::Tools, [r#"{"name":"t"}"#]);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    let registry = shared(registry);
    let mut mesh = Mesh::start(Topology::Split, vec![registry.clone()]).await.unwrap();
    let client = mesh.client();
    let under_way = async {
        while registry.seen().len() < 2 {
            tokio::task::yield_now().await;
        }
        mesh.stop_registry(0);
        back.store(true, Ordering::Relaxed);
        // Its address is free again as soon as the old runtime has let go of it.
        while mesh.start_registry(0).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    let (read, called, ()) = tokio::join!(
        async { client.modern("1", "resources/read", r#"{"uri":"a:1"}"#, "{}").await?.response().await },
        async { client.modern("2", "tools/call", r#"{"name":"t"}"#, "{}").await?.response().await },
        under_way,
    );
    let (read, called) = (read.unwrap(), called.unwrap());
    assert_eq!(path(&read, &["result", "contents"]), Some("[]"), "{read}");
    assert_eq!(path(&called, &["error", "data", "reason"]), Some("\"registry_lost\""), "{called}");
    assert_eq!(path(&called, &["error", "data", "outcome"]), Some("\"unknown\""), "{called}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_come_and_go_while_sessions_last() {
    let (one, two) = (shared(named("one", [r#"{"name":"a"}"#])), shared(named("two", [r#"{"name":"b"}"#])));
    let mut mesh = Mesh::start(Topology::Split, vec![one, two.clone()]).await.unwrap();
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await.unwrap();
    let mut own = client.get(None).await.unwrap().events();
    mesh.stop_registry(1);
    let call = |id: u32, name: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{name}"}}}}"#)
    };
    // Whatever was on its way has one explicit ending, and the other registry is not concerned.
    let answer = client.post(call(2, "b")).await.unwrap();
    assert_eq!(answer.status, 200);
    let text = answer.response().await.unwrap();
    assert!(matches!(path(&text, &["error", "code"]), Some("-32603" | "-32602")), "{text}");
    assert!(client.post(call(3, "a")).await.unwrap().response().await.unwrap().contains("one:a"));
    assert!(own.message().await.unwrap().contains("tools/list_changed"), "it is no longer listed");
    listed(&mesh.client(), r#"[{"name":"a"}]"#).await.unwrap();
    let text = client.post(call(5, "b")).await.unwrap().response().await.unwrap();
    assert_eq!(path(&text, &["error", "code"]), Some("-32602"), "nobody serves it: {text}");
    mesh.start_registry(1).await.unwrap();
    assert!(own.message().await.unwrap().contains("tools/list_changed"), "it is back");
    listed(&mesh.client(), r#"[{"name":"a"},{"name":"b"}]"#).await.unwrap();
    assert!(client.post(call(4, "b")).await.unwrap().response().await.unwrap().contains("two:b"));
    assert_eq!(two.seen().len(), 1, "the refused call never reached it");
}

/// What is asked of a registry directly, without a session.
fn asked(invocation: usize, target: &str) -> (Context, Start) {
    let context = Context {
        mesh: "m".into(),
        registry: "r".into(),
        invocation: invocation.to_string(),
        owner: None,
        principal: Principal::default(),
        affinity: String::new(),
        revision: mcp::Revision::LATEST,
        client_capabilities: None,
        log_level: None,
        progress: true,
        catalogue_digest: String::new(),
        deadline: None,
    };
    let start = Start {
        operation: Operation::Call,
        target: target.into(),
        params: Json::empty_object(),
        continuation: None,
    };
    (context, start)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_hold_up_nobody_else() {
    const UNREAD: usize = 100;
    let full = watch::Sender::new(0);
    let filling = full.clone();
    let registry = shared(Scripted::new("r", move |_, start| {
        if start.target != "flood" {
            return bodies([FrameBody::Result(Json::empty_object())]);
        }
        // As much as one answer may send ahead.
        let frames = stream::iter(0..120)
            .map(|n| FrameBody::Progress(Json::trusted(format!("[{n},\"{}\"]", "x".repeat(1000)))));
        let filling = filling.clone();
        let last = stream::once(async move {
            filling.send_modify(|count| *count += 1);
            std::future::pending().await
        });
        frames.chain(last).boxed()
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = chassis::grpc::server::serve(
        api::registry::services(registry),
        Incoming::Tcp(listener),
        Shutdown::never(),
    );
    let asking = async {
        let port = session::Deps::registry(&address, None, &chassis::tls::Dialler::default()).unwrap().port;
        let mut unread = Vec::new();
        for n in 0..UNREAD {
            let (context, start) = asked(n, "flood");
            unread.push(port.start(context, start).await.unwrap());
        }
        full.subscribe().wait_for(|count| *count == UNREAD).await.unwrap();
        let (context, start) = asked(UNREAD, "quick");
        let frames: Vec<_> = port.start(context, start).await.unwrap().collect().await;
        assert_eq!(frames.last().unwrap().as_ref().unwrap().body, FrameBody::Result(Json::empty_object()));
    };
    tokio::select! {
        _ended = serving => panic!("the server ended"),
        asked = tokio::time::timeout(DEADLINE, asking) => asked.expect("held up"),
    }
}
