//! Batches: legal in sessions of 2025-03-26, refused everywhere else before anything is done.

use anyhow::{Context as _, Result};
use api::registry::{Continuation, FrameBody, InputRequired, Kind};
use futures::{StreamExt as _, stream};
use http::StatusCode;
use mcp::Json;
use mcp::scan::{member, path};
use tests::client::{Client, DEADLINE, Events};
use tests::cluster::Nodes;
use tests::http_sse::HttpSse;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};

topologies!(
    each_member_is_answered_for_itself,
    a_member_may_ask_the_client,
    what_wants_no_answer_gets_none,
    a_cancelled_member_has_no_answer,
    fifty_are_taken,
    the_version_header_decides_too,
    everywhere_else_arrays_are_refused,
    on_http_sse_the_answers_come_on_the_stream,
);

const ASK: &str = r#"{"r":{"method":"roots/list"}}"#;
const DONE: &str = r#"{"content":[{"type":"text","text":"done"}]}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":"p","result":{}}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;

fn registry() -> Scripted {
    let registry = Scripted::new("r", |_, start| match start.target.as_str() {
        "asking" => bodies([FrameBody::InputRequired(InputRequired {
            requests: Json::trusted(ASK),
            round: 1,
            expires_unix_ms: u64::MAX,
            continuation: Continuation::Parked,
        })]),
        "never" => {
            let progress = FrameBody::Progress(Json::trusted(r#"{"progress":1}"#));
            stream::iter([progress]).chain(stream::pending()).boxed()
        }
        _ => bodies([FrameBody::Result(Json::trusted(DONE))]),
    });
    let tools = [
        r#"{"name":"quick","inputSchema":{"type":"object"}}"#,
        r#"{"name":"asking","inputSchema":{"type":"object"}}"#,
        r#"{"name":"never","inputSchema":{"type":"object"}}"#,
    ];
    registry.list(Kind::Tools, tools);
    registry
}

fn call(id: u32, tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","_meta":{{"progressToken":{id}}}}}}}"#
    )
}

fn result(id: u32) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{DONE}}}"#)
}

fn batch<T: AsRef<str>>(members: &[T]) -> String {
    let members: Vec<&str> = members.iter().map(AsRef::as_ref).collect();
    format!(" [\n{} ]\n", members.join(" ,"))
}

/// Everything a batch is answered with, in order of its text.
async fn answers(client: &Client, body: String) -> Result<Vec<String>> {
    let answer = client.post(body).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.is_stream());
    let (mut events, mut all) = (answer.events(), Vec::new());
    while let Some(event) = events.next().await? {
        assert_eq!((event.id, event.retry), (None, None));
        all.push(event.data);
    }
    all.sort();
    Ok(all)
}

async fn each_member_is_answered_for_itself(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-03-26", "{}").await?;
    let members = [
        PING.to_owned(),
        call(1, "quick"),
        NOTE.to_owned(),
        call(2, "quick"),
        r#"{"jsonrpc":"2.0","id":3,"method":"no/such"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"unknown"}}"#.to_owned(),
        "1".to_owned(),
        "[]".to_owned(),
        r#"{"jsonrpc":"2.0","id":5}"#.to_owned(),
        r#"{"jsonrpc":"1.0","id":{},"method":"ping"}"#.to_owned(),
    ];
    let seen = answers(&client, batch(&members)).await?;
    let short = |text: &String| {
        let code = path(text, &["error", "code"]).unwrap_or("ok").to_owned();
        (member(text, "id").unwrap_or("-").to_owned(), code)
    };
    let mut verdicts: Vec<(String, String)> = seen.iter().map(short).collect();
    verdicts.sort();
    let expected = [
        ("\"p\"", "ok"),
        ("-", "-32600"),
        ("-", "-32600"),
        ("-", "-32600"),
        ("1", "ok"),
        ("2", "ok"),
        ("3", "-32601"),
        ("4", "-32602"),
        ("5", "-32600"),
    ];
    assert_eq!(verdicts, expected.map(|(id, code)| (id.to_owned(), code.to_owned())), "{seen:?}");
    assert!(seen.contains(&result(1)) && seen.contains(&result(2)) && seen.contains(&PONG.to_owned()));
    assert_eq!(registry.seen().len(), 2);
    // Nothing but nonsense is no batch, and the session goes on.
    let refused = client.post("[1,2]").await?;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(path(&refused.text().await?, &["error", "code"]), Some("-32600"));
    assert_eq!(answers(&client, batch(&[PING])).await?, [PONG]);
    assert_eq!(client.post(PING).await?.text().await?, PONG);
    Ok(())
}

async fn a_member_may_ask_the_client(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-03-26", r#"{"roots":{}}"#).await?;
    let members = [call(1, "asking"), call(2, "quick"), call(3, "asking"), call(4, "quick")];
    let mut events = client.post(batch(&members)).await?.events();
    let (mut asked, mut done) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let message = events.message().await?;
        match member(&message, "method") {
            Some("\"roots/list\"") => asked.push(member(&message, "id").context("an id")?.to_owned()),
            _ => done.push(message),
        }
    }
    done.sort();
    assert_eq!((asked.len(), done), (2, vec![result(2), result(4)]), "the others do not wait");
    // Both answers at once: a batch of responses.
    let reply = |id: &String| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"roots":[]}}}}"#);
    let replied = client.post(batch(&[reply(&asked[0]), reply(&asked[1])])).await?;
    assert_eq!((replied.status, replied.text().await?.as_str()), (StatusCode::ACCEPTED, ""));
    for _ in 0..2 {
        assert!(events.message().await?.contains(r#"r=Ok({\"roots\":[]})"#));
    }
    assert_eq!(events.next().await?, None);
    assert_eq!(registry.seen().len(), 4);
    Ok(())
}

async fn what_wants_no_answer_gets_none(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(registry())]).await?;
    let mut client = mesh.client();
    client.initialize("2025-03-26", "{}").await?;
    let response = r#"{"jsonrpc":"2.0","id":"nobody asked","result":{}}"#;
    for members in [&[NOTE][..], &[NOTE, NOTE], &[response], &[response, NOTE]] {
        let answer = client.post(batch(members)).await?;
        assert_eq!((answer.status, answer.is_stream()), (StatusCode::ACCEPTED, false), "{members:?}");
        assert_eq!(answer.text().await?, "");
    }
    Ok(())
}

async fn a_cancelled_member_has_no_answer(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-03-26", "{}").await?;
    let mut events = client.post(batch(&[call(1, "never"), call(2, "never")])).await?.events();
    for _ in 0..2 {
        assert!(events.message().await?.contains("notifications/progress"));
    }
    let cancel = |id| {
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#)
    };
    assert_eq!(client.post(cancel(1)).await?.status, StatusCode::ACCEPTED);
    assert_eq!(client.post(batch(&[cancel(2)])).await?.status, StatusCode::ACCEPTED);
    assert_eq!(events.next().await?, None, "over with its last member");
    tokio::time::timeout(DEADLINE, registry.cancellation()).await?;
    // Whoever goes away cancels nothing.
    let mut left = client.post(batch(&[call(3, "never"), PING.to_owned()])).await?.events();
    left.message().await?;
    drop(left);
    let again = client.post(call(3, "quick")).await?.text().await?;
    assert_eq!(path(&again, &["error", "code"]), Some("-32600"), "it is still under way: {again}");
    Ok(())
}

async fn fifty_are_taken(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-03-26", "{}").await?;
    let members: Vec<String> = (100..150).map(|id| call(id, "quick")).collect();
    assert_eq!(answers(&client, batch(&members)).await?, (100..150).map(result).collect::<Vec<_>>());
    let more: Vec<String> = (100..151).map(|id| call(id, "quick")).collect();
    let refused = client.post(batch(&more)).await?;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().await?.contains("-32600"));
    assert_eq!(registry.seen().len(), 50);
    Ok(())
}

async fn the_version_header_decides_too(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = mesh.client();
    client.initialize("2025-03-26", "{}").await?;
    assert_eq!(client.revision, None);
    assert_eq!(client.post(call(1, "quick")).await?.text().await?, result(1), "without a version header");
    let own = [("mcp-protocol-version", "2025-03-26")];
    let body = batch(&[call(2, "quick")]);
    assert_eq!(client.post_with(&own, body.clone()).await?.response().await?, result(2));
    for other in ["2024-11-05", "2025-06-18", "2025-11-25", "2026-07-28", "2099-01-01"] {
        let refused = client.post_with(&[("mcp-protocol-version", other)], body.clone()).await?;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{other}");
        let text = refused.text().await?;
        assert_eq!((path(&text, &["error", "code"]), member(&text, "id")), (Some("-32600"), None), "{other}");
    }
    assert_eq!(registry.seen().len(), 2);
    Ok(())
}

async fn everywhere_else_arrays_are_refused(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let good = batch(&[call(1, "quick"), call(2, "quick")]);
    let mut clients = vec![mesh.client()];
    for revision in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let mut client = mesh.client();
        client.initialize(revision, "{}").await?;
        // So that it is the session that decides, and not the header.
        client.revision = None;
        clients.push(client);
    }
    for (number, client) in clients.iter().enumerate() {
        let refused = client.post(good.clone()).await?;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{number}");
        let text = refused.text().await?;
        assert_eq!(
            (path(&text, &["error", "code"]), member(&text, "id")),
            (Some("-32600"), None),
            "{number}"
        );
    }
    let mut client = mesh.client();
    client.initialize("2025-03-26", "{}").await?;
    let initialize = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{}}"#;
    let modern = call(1, "quick")
        .replace("\"progressToken\"", "\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\"x\"");
    let deep = format!("[{}{}]", "[".repeat(64), "]".repeat(64));
    let wide = format!("[{}1]", "1,".repeat(100_000));
    let bodies = [
        ("empty", "[]".to_owned()),
        ("initialize inside", batch(&[call(1, "quick"), initialize.to_owned()])),
        ("a modern member", batch(&[call(1, "quick"), modern])),
        ("too deep", deep),
        ("too wide", wide),
    ];
    for (name, body) in bodies {
        let refused = client.post(body).await?;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{name}");
        let text = refused.text().await?;
        assert_eq!((path(&text, &["error", "code"]), member(&text, "id")), (Some("-32600"), None), "{name}");
    }
    let broken = client.post(format!("[{PING},")).await?;
    assert!(broken.text().await?.contains("-32700"));
    client.session = Some("v1.k1.000.AAAA.BBBB".to_owned());
    assert_eq!(client.post(good).await?.status, StatusCode::NOT_FOUND);
    assert_eq!(registry.seen().len(), 0, "nothing reached the registry");
    Ok(())
}

async fn on_http_sse_the_answers_come_on_the_stream(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = HttpSse::open(mesh.client()).await?;
    client.initialize("2025-03-26", "{}").await?;
    client.tell(batch(&[&call(1, "quick"), PING, NOTE, "7"])).await?;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(client.next().await?);
    }
    assert!(seen.contains(&result(1)) && seen.contains(&PONG.to_owned()), "{seen:?}");
    assert!(seen.iter().any(|text| text.contains("-32600")), "{seen:?}");
    let mut older = HttpSse::open(mesh.client()).await?;
    older.initialize("2024-11-05", "{}").await?;
    assert_eq!(older.post(batch(&[call(1, "quick")])).await?.status, StatusCode::BAD_REQUEST);
    assert_eq!(registry.seen().len(), 1);
    Ok(())
}

/// The next message that does not merely say that a list has changed, as it may have with the owner.
async fn next(events: &mut Events) -> Result<String> {
    loop {
        let message = events.message().await?;
        if !message.contains("/list_changed\"") {
            return Ok(message);
        }
    }
}

async fn a_lost_owner_is_not_missed(drains: bool) -> Result<()> {
    let mut registry = registry();
    registry.goes_on = true;
    let registry = shared(registry);
    let mut nodes = Nodes::start(2, vec![registry.clone()]).await?;
    let mut client = nodes.client();
    client.initialize("2025-03-26", r#"{"roots":{}}"#).await?;
    let members = [call(1, "never"), call(2, "asking"), call(3, "quick"), PING.to_owned()];
    let mut events = client.post(batch(&members)).await?.events();
    let mut said = Vec::new();
    for _ in 0..4 {
        said.push(next(&mut events).await?);
    }
    let asked = said.iter().find_map(|text| member(text, "method").and_then(|_| member(text, "id")));
    let reply =
        format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[]}}}}"#, asked.context("no question")?);
    assert!(said.contains(&result(3)) && said.contains(&PONG.to_owned()), "{said:?}");
    let owner = nodes.owner_of(client.session.as_deref().context("no session")?)?;
    if drains {
        nodes.drain(&owner).await?;
    } else {
        nodes.kill(&owner);
    }
    // What the client posts while nobody owns the session waits.
    assert_eq!(client.post(batch(&[reply])).await?.status, StatusCode::ACCEPTED);
    let asked = next(&mut events).await?;
    assert!(member(&asked, "id") == Some("2") && asked.contains("r=Ok("), "{asked}");
    registry.say_later(3, FrameBody::Progress(Json::trusted(r#"{"progress":2}"#)));
    registry.say_later(4, FrameBody::Result(Json::trusted(DONE)));
    assert_eq!(
        path(&next(&mut events).await?, &["params", "progress"]),
        Some("2"),
        "the first is not said again"
    );
    assert_eq!(next(&mut events).await?, result(1));
    assert_eq!(events.next().await?, None);
    assert_eq!(registry.seen().len(), 3, "each was called once");
    assert_eq!(answers(&client, batch(&[PING])).await?, [PONG]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_do_not_notice_that_the_owner_is_lost() {
    for drains in [false, true] {
        a_lost_owner_is_not_missed(drains).await.unwrap();
    }
}
