//! Calls of both eras: progress, log, cancellation, and the ways they end.

use anyhow::Result;
use api::registry::{FrameBody, Kind};
use futures::{StreamExt as _, stream};
use mcp::Json;
use mcp::rpc::RpcError;
use mcp::scan::path;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};

topologies!(
    progress_and_logs_come_before_the_result,
    logs_below_the_level_are_not_sent,
    a_quick_answer_is_plain_json,
    a_burst_reaches_an_older_reader_whole,
    an_older_disconnect_does_not_cancel,
    a_modern_disconnect_cancels,
    an_older_client_cancels_by_notification,
    a_request_cancelled_before_it_said_anything_has_an_empty_answer,
    ending_a_session_ends_and_cancels_what_is_under_way,
    unknown_tools_and_resources_have_their_codes,
    what_a_revision_does_not_know_becomes_text,
    missing_capability_is_an_http_400_for_modern_clients,
    parallel_calls_of_one_session_do_not_wait_for_each_other,
    completion_reaches_the_registry,
);

const TOOLS: [&str; 4] = [
    r#"{"name":"chatty","description":"d","inputSchema":{"type":"object"}}"#,
    r#"{"name":"quick","description":"d","inputSchema":{"type":"object"}}"#,
    r#"{"name":"never","description":"d","inputSchema":{"type":"object"}}"#,
    r#"{"name":"audio","description":"d","inputSchema":{"type":"object"}}"#,
];

fn json(text: &'static str) -> Json {
    Json::trusted(text)
}

fn registry() -> Scripted {
    let registry = Scripted::new("r", |_, start| match start.target.as_str() {
        "chatty" => bodies([
            FrameBody::Progress(json(r#"{"progress":1,"total":2.0,"message":"half"}"#)),
            FrameBody::Log(json(r#"{"level":"debug","data":"quiet"}"#)),
            FrameBody::Log(json(r#"{"level":"error","logger":"l","data":{"n":1.0}}"#)),
            FrameBody::Progress(json(r#"{"progress":2,"total":2.0}"#)),
            FrameBody::Result(json(r#"{"content":[{"type":"text","text":"done"}]}"#)),
        ]),
        "never" => {
            stream::iter([FrameBody::Progress(json(r#"{"progress":1}"#))]).chain(stream::pending()).boxed()
        }
        "audio" => bodies([FrameBody::Result(json(
            r#"{"content":[{"type":"audio","data":"AAAA","mimeType":"audio/wav"},{"type":"resource_link","uri":"a:b","name":"n"}]}"#,
        ))]),
        "refusing" => bodies([FrameBody::Error(
            RpcError::new(-32021, "needs sampling")
                .with_data(json(r#"{"requiredCapabilities":{"sampling":{}}}"#)),
        )]),
        _ => bodies([FrameBody::Result(json(r#"{"content":[{"type":"text","text":"quick"}]}"#))]),
    });
    registry.list(
        Kind::Tools,
        TOOLS.into_iter().chain([r#"{"name":"refusing","inputSchema":{"type":"object"}}"#]),
    );
    registry.list(Kind::Prompts, [r#"{"name":"p","arguments":[{"name":"a"}]}"#]);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    registry
}

fn call(id: u32, name: &str, more: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{name}","arguments":{{}}{more}}}}}"#
    )
}

async fn progress_and_logs_come_before_the_result(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let level = client
        .post(r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"debug"}}"#)
        .await?;
    assert_eq!(level.text().await?, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    let answer = client.post(call(2, "chatty", r#","_meta":{"progressToken":7.0e0}"#)).await?;
    // A token that is neither text nor integer is none.
    let mut events = answer.events();
    while let Some(event) = events.next().await? {
        assert!(!event.data.contains("notifications/progress"), "{event:?}");
    }
    let answer = client.post(call(3, "chatty", r#","_meta":{"progressToken":"t"}"#)).await?;
    assert!(answer.is_stream());
    let mut events = answer.events();
    let priming = events.next().await?.unwrap();
    assert!(priming.id.is_some() && priming.data.is_empty() && priming.retry.is_some(), "{priming:?}");
    let mut seen = Vec::new();
    while let Some(event) = events.next().await? {
        assert!(event.id.is_some());
        seen.push(event.data);
    }
    assert_eq!(
        seen,
        [
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1,"total":2.0,"message":"half"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","data":"quiet"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","logger":"l","data":{"n":1.0}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":2,"total":2.0}}"#,
            r#"{"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"done"}]}}"#,
        ]
    );
    Ok(())
}

async fn logs_below_the_level_are_not_sent(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let mut client = mesh.client();
    client.initialize("2025-06-18", "{}").await?;
    let set = client
        .post(r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"error"}}"#)
        .await?;
    assert_eq!(set.status, 200);
    let text = client.post(call(2, "chatty", "")).await?.text().await?;
    assert!(text.contains("\"error\"") && !text.contains("quiet"), "{text}");
    let bad = client
        .post(r#"{"jsonrpc":"2.0","id":3,"method":"logging/setLevel","params":{"level":"loud"}}"#)
        .await?;
    assert_eq!(path(&bad.text().await?, &["error", "code"]), Some("-32602"));
    // A modern request that names no level gets none.
    let modern = mesh.client().modern("4", "tools/call", r#"{"name":"chatty","arguments":{}}"#, "{}").await?;
    let text = modern.text().await?;
    assert!(!text.contains("notifications/message") && text.contains("done"), "{text}");
    let meta = r#","io.modelcontextprotocol/logLevel":"error","progressToken":5"#;
    let params = r#"{"name":"chatty","arguments":{}}"#;
    let modern = mesh.client().modern_with(&[], "5", "tools/call", params, "{}", meta).await?;
    let text = modern.text().await?;
    assert!(text.contains("\"level\":\"error\"") && !text.contains("quiet"), "{text}");
    assert!(text.contains(r#""progressToken":5"#), "{text}");
    Ok(())
}

async fn a_burst_reaches_an_older_reader_whole(topology: Topology) -> Result<()> {
    // More than all buffers on the way together, read more slowly than it is made.
    const BURST: usize = 4000;
    let registry = Scripted::new("r", |_, _| {
        let text = "x".repeat(4000);
        let progress = move |n| Json::trusted(format!("{{\"progress\":{n},\"message\":\"{text}\"}}"));
        let frames = (1..=BURST).map(move |n| FrameBody::Progress(progress(n)));
        bodies(frames.chain([FrameBody::Result(json("{}"))]))
    });
    registry.list(Kind::Tools, [r#"{"name":"burst"}"#]);
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    let mut client = mesh.client();
    client.initialize("2025-06-18", "{}").await?;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"burst","_meta":{"progressToken":1}}}"#;
    let mut events = client.post(call).await?.events();
    for n in 1..=BURST {
        let message = events.message().await?;
        assert_eq!(path(&message, &["params", "progress"]), Some(n.to_string().as_str()), "{message}");
    }
    assert_eq!(events.message().await?, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    Ok(())
}

async fn a_quick_answer_is_plain_json(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let answer = client.post(call(2, "quick", "")).await?;
    assert!(!answer.is_stream());
    assert_eq!(
        answer.text().await?,
        r#"{"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"quick"}]}}"#
    );
    let modern = mesh.client().modern("1", "tools/call", r#"{"name":"quick"}"#, "{}").await?;
    assert!(!modern.is_stream());
    assert_eq!(path(&modern.text().await?, &["result", "resultType"]), Some("\"complete\""));
    Ok(())
}

async fn an_older_disconnect_does_not_cancel(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let mut events = client.post(call(2, "never", r#","_meta":{"progressToken":1}"#)).await?.events();
    events.message().await?;
    drop(events);
    // The session still knows the request: its id is in use.
    let again = client.post(call(2, "quick", "")).await?;
    assert_eq!(path(&again.text().await?, &["error", "code"]), Some("-32600"));
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
    assert_eq!(client.post(cancel).await?.status, 202);
    registry.cancellation().await;
    Ok(())
}

async fn a_modern_disconnect_cancels(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let meta = r#","progressToken":"x""#;
    let params = r#"{"name":"never","arguments":{}}"#;
    let mut events = mesh.client().modern_with(&[], "1", "tools/call", params, "{}", meta).await?.events();
    events.message().await?;
    drop(events);
    tokio::time::timeout(tests::client::DEADLINE, registry.cancellation()).await?;
    Ok(())
}

async fn an_older_client_cancels_by_notification(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-06-18", "{}").await?;
    let mut events = client.post(call(4, "never", r#","_meta":{"progressToken":1}"#)).await?.events();
    events.message().await?;
    let cancel =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":4,"reason":"enough"}}"#;
    assert_eq!(client.post(cancel).await?.status, 202);
    assert_eq!(events.next().await?, None, "a cancelled request is not answered");
    tokio::time::timeout(tests::client::DEADLINE, registry.cancellation()).await?;
    Ok(())
}

async fn a_request_cancelled_before_it_said_anything_has_an_empty_answer(topology: Topology) -> Result<()> {
    let registry = Scripted::new("r", |_, _| stream::pending().boxed());
    registry.list(Kind::Tools, [r#"{"name":"silent"}"#]);
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-06-18", "{}").await?;
    let (answer, cancelled) = tokio::join!(client.post(call(4, "silent", "")), async {
        while registry.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        client.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":4}}"#).await
    });
    assert_eq!(cancelled?.status, 202);
    let answer = answer?;
    assert_eq!(answer.status, 200);
    assert!(answer.is_stream());
    assert_eq!(answer.events().next().await?, None);
    Ok(())
}

async fn ending_a_session_ends_and_cancels_what_is_under_way(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let mut events = client.post(call(2, "never", r#","_meta":{"progressToken":1}"#)).await?.events();
    assert!(events.message().await?.contains("notifications/progress"));
    assert!(client.delete().await?.status.is_success());
    let ending = events.message().await?;
    assert_eq!(path(&ending, &["id"]), Some("2"), "{ending}");
    assert_eq!(path(&ending, &["error", "data", "reason"]), Some("\"session_ended\""), "{ending}");
    assert_eq!(events.next().await?, None);
    tokio::time::timeout(tests::client::DEADLINE, registry.cancellation()).await?;
    Ok(())
}

async fn unknown_tools_and_resources_have_their_codes(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let older = [
        (call(1, "nobody", ""), "-32602"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:none"}}"#.to_owned(),
            "-32002",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"none"}}"#.to_owned(), "-32602"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#.to_owned(), "-32602"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}"#.to_owned(), "-32602"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#.to_owned(), "-32601"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"no/such"}"#.to_owned(), "-32601"),
    ];
    for (body, code) in older {
        let answer = client.post(body.clone()).await?;
        assert_eq!(answer.status, 200, "{body}");
        let text = answer.text().await?;
        assert_eq!(
            (path(&text, &["error", "code"]), path(&text, &["id"])),
            (Some(code), Some("1")),
            "{body}: {text}"
        );
    }
    let modern = [
        ("tools/call", r#"{"name":"nobody"}"#, 200, "-32602"),
        ("resources/read", r#"{"uri":"a:none"}"#, 200, "-32602"),
        ("prompts/get", r#"{"name":"none"}"#, 200, "-32602"),
        ("tools/list", r#"{"cursor":"x"}"#, 200, "-32602"),
        ("ping", "{}", 404, "-32601"),
        ("resources/subscribe", r#"{"uri":"a:1"}"#, 404, "-32601"),
    ];
    for (method, params, status, code) in modern {
        let answer = mesh.client().modern("1", method, params, "{}").await?;
        assert_eq!(answer.status, status, "{method}");
        let text = answer.text().await?;
        assert_eq!(
            (path(&text, &["error", "code"]), path(&text, &["id"])),
            (Some(code), Some("1")),
            "{method}: {text}"
        );
        if method == "resources/read" {
            assert_eq!(path(&text, &["error", "data", "uri"]), Some("\"a:none\""));
        }
    }
    assert_eq!(registry.seen().len(), 0, "nothing reached the registry");
    Ok(())
}

async fn what_a_revision_does_not_know_becomes_text(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    for (revision, audio, link) in
        [("2024-11-05", false, false), ("2025-03-26", true, false), ("2025-06-18", true, true)]
    {
        let mut client = mesh.client();
        client.initialize(revision, "{}").await?;
        let text = client.post(call(1, "audio", "")).await?.response().await?;
        assert_eq!(text.contains(r#""type":"audio""#), audio, "{revision}: {text}");
        assert_eq!(text.contains(r#""type":"resource_link""#), link, "{revision}: {text}");
        let kinds = text.matches(r#""type":"text""#).count();
        assert_eq!(kinds, usize::from(!audio) + usize::from(!link), "{revision}: {text}");
    }
    Ok(())
}

async fn missing_capability_is_an_http_400_for_modern_clients(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let answer = mesh.client().modern("1", "tools/call", r#"{"name":"refusing"}"#, "{}").await?;
    assert_eq!(answer.status, 400);
    let text = answer.text().await?;
    assert_eq!(path(&text, &["error", "data", "requiredCapabilities"]), Some(r#"{"sampling":{}}"#));
    Ok(())
}

async fn parallel_calls_of_one_session_do_not_wait_for_each_other(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let mut slow = client.post(call(1, "never", r#","_meta":{"progressToken":1}"#)).await?.events();
    slow.message().await?;
    for id in 2..20 {
        assert!(client.post(call(id, "quick", "")).await?.text().await?.contains("quick"));
    }
    Ok(())
}

async fn completion_reaches_the_registry(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let params = r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"v"}}"#;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    let older = client
        .post(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{params}}}"#))
        .await?;
    let modern = mesh.client().modern("1", "completion/complete", params, "{}").await?;
    for answer in [older, modern] {
        let text = answer.response().await?;
        assert_eq!(path(&text, &["result", "completion", "values"]), Some(r#"["v-completed"]"#), "{text}");
    }
    Ok(())
}
