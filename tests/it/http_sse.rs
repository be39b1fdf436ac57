//! 2024-11-05's transport: a GET that everything comes back on, and POSTs that land at any gateway.

use anyhow::{Context as _, Result};
use api::registry::{Continuation, FrameBody, InputRequired, Kind};
use futures::{StreamExt as _, stream};
use http::{Method, StatusCode};
use mcp::Json;
use mcp::scan::{member, path};
use tests::client::{Client, DEADLINE};
use tests::http_sse::HttpSse;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

topologies!(
    a_conversation,
    several_requests_in_flight_and_progress,
    the_client_is_asked_on_the_stream,
    elicitation_where_the_revision_has_it,
    a_cancelled_request_has_no_answer,
    closing_the_stream_ends_the_session_and_its_calls,
    a_gateway_that_dies_ends_its_sessions,
    sessions_are_found_in_their_own_way_only,
    newer_revisions_get_no_ids_and_no_gaps,
    changes_come_on_the_stream,
    before_and_instead_of_a_handshake,
    a_draining_mesh_lets_calls_end,
    a_draining_gateway_lets_calls_end,
);

const ASK: &str = r#"{"s":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":7}},"r":{"method":"roots/list"}}"#;
const ELICIT: &str = r#"{"e":{"method":"elicitation/create","params":{"message":"Name?","requestedSchema":{"type":"object","properties":{}}}}}"#;
const TOOLS: [&str; 5] = [
    r#"{"name":"quick","inputSchema":{"type":"object"}}"#,
    r#"{"name":"held","inputSchema":{"type":"object"}}"#,
    r#"{"name":"asking","inputSchema":{"type":"object"}}"#,
    r#"{"name":"eliciting","inputSchema":{"type":"object"}}"#,
    r#"{"name":"detaching","inputSchema":{"type":"object"}}"#,
];
const DONE: &str = r#"{"content":[{"type":"text","text":"done"}]}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":"p","result":{}}"#;

fn json(text: &'static str) -> Json {
    Json::trusted(text)
}

/// `held` ends once the sender says so.
fn registry() -> (Scripted, watch::Sender<bool>) {
    let (go, gone) = watch::channel(false);
    let registry = Scripted::new("r", move |_, start| {
        let ask = |requests| {
            bodies([FrameBody::InputRequired(InputRequired {
                requests: json(requests),
                round: 1,
                expires_unix_ms: u64::MAX,
                continuation: Continuation::Parked,
            })])
        };
        let progress = FrameBody::Progress(json(r#"{"progress":1}"#));
        match start.target.as_str() {
            "held" => {
                let released =
                    WatchStream::new(gone.clone()).filter(|go| futures::future::ready(*go)).take(1);
                let rest = released.flat_map(|_| stream::iter([FrameBody::Result(json(DONE))]));
                stream::iter([progress]).chain(rest).boxed()
            }
            "asking" => ask(ASK),
            "eliciting" => ask(ELICIT),
            "detaching" => {
                let again = FrameBody::Progress(json(r#"{"progress":2}"#));
                let (away, result) = (FrameBody::Detach { retry_ms: 5 }, FrameBody::Result(json(DONE)));
                bodies([progress, away, again, FrameBody::Detach { retry_ms: 5 }, result])
            }
            _ => bodies([FrameBody::Result(json(DONE))]),
        }
    });
    registry.list(Kind::Tools, TOOLS);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    (registry, go)
}

fn call(id: u32, tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","_meta":{{"progressToken":"t{id}"}}}}}}"#
    )
}

fn result(id: u32) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{DONE}}}"#)
}

async fn connect(mesh: &Mesh, revision: &str, capabilities: &str) -> Result<HttpSse> {
    let mut client = HttpSse::open(mesh.client()).await?;
    let greeting = client.initialize(revision, capabilities).await?;
    assert_eq!(path(&greeting, &["result", "protocolVersion"]), Some(format!("\"{revision}\"").as_str()));
    Ok(client)
}

/// Posts until the session is not found; whatever is said before must be 202.
async fn gone(client: &HttpSse) -> Result<()> {
    let asking = async {
        loop {
            match client.post(PING).await?.status {
                StatusCode::ACCEPTED => tokio::task::yield_now().await,
                StatusCode::NOT_FOUND => return Ok(()),
                other => anyhow::bail!("{other}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.context("the session stayed")?
}

async fn a_conversation(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    let mut client = HttpSse::open(mesh.client()).await?;
    assert!(client.endpoint.starts_with("/messages?sessionId=v1."), "{}", client.endpoint);
    let greeting = client.initialize("2024-11-05", "{}").await?;
    assert_eq!(member(&greeting, "id"), Some("\"init\""), "{greeting}");
    assert_eq!(path(&greeting, &["result", "protocolVersion"]), Some("\"2024-11-05\""));
    assert_eq!(path(&greeting, &["result", "capabilities", "completions"]), None);
    assert_eq!(client.ask(PING).await?, PONG);
    let list = client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#).await?;
    assert!(TOOLS.iter().all(|tool| list.contains(tool)), "{list}");
    assert_eq!(client.ask(call(3, "quick")).await?, result(3));
    let unknown = client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"no/such"}"#).await?;
    assert_eq!((path(&unknown, &["error", "code"]), member(&unknown, "id")), (Some("-32601"), Some("4")));
    let read = r#"{"jsonrpc":"2.0","id":5,"method":"resources/read","params":{"uri":"a:none"}}"#;
    assert!(client.ask(read).await?.contains("-32002"));
    let complete = r#"{"jsonrpc":"2.0","id":6,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"a:1"},"argument":{"name":"n","value":"v"}}}"#;
    let completed = client.ask(complete).await?;
    assert!(completed.contains("v-completed"), "{completed}");
    Ok(())
}

async fn several_requests_in_flight_and_progress(topology: Topology) -> Result<()> {
    let (registry, go) = registry();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    let mut client = connect(&mesh, "2024-11-05", "{}").await?;
    for id in 10..15 {
        client.tell(call(id, "held")).await?;
        let progress = client.next().await?;
        assert_eq!(path(&progress, &["params", "progressToken"]), Some(format!("\"t{id}\"").as_str()));
    }
    // The same id again is refused on the stream, and the first one goes on.
    let twice = client.ask(call(12, "quick")).await?;
    assert_eq!((path(&twice, &["error", "code"]), member(&twice, "id")), (Some("-32600"), Some("12")));
    assert_eq!(client.ask(PING).await?, PONG);
    go.send_replace(true);
    let mut seen = Vec::new();
    for _ in 10..15 {
        seen.push(client.next().await?);
    }
    seen.sort();
    assert_eq!(seen, (10..15).map(result).collect::<Vec<_>>());
    Ok(())
}

async fn the_client_is_asked_on_the_stream(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = connect(&mesh, "2024-11-05", r#"{"sampling":{},"roots":{}}"#).await?;
    client.tell(call(2, "asking")).await?;
    for _ in 0..2 {
        let ask = client.next().await?;
        let (id, method) = (member(&ask, "id").context("an id")?, member(&ask, "method"));
        let answer = match method {
            Some("\"sampling/createMessage\"") => {
                format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"role":"assistant"}}}}"#)
            }
            Some("\"roots/list\"") => {
                format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-1,"message":"no"}}}}"#)
            }
            other => anyhow::bail!("{other:?}"),
        };
        client.tell(answer).await?;
    }
    let text = client.next().await?;
    assert_eq!(member(&text, "id"), Some("2"));
    assert!(text.contains(r#"s=Ok({\"role\":\"assistant\"})"#) && text.contains("r=Err("), "{text}");
    assert_eq!(registry.seen().len(), 1, "the handler ran once");
    Ok(())
}

async fn elicitation_where_the_revision_has_it(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    for revision in ["2025-06-18", "2025-11-25"] {
        let mut client = connect(&mesh, revision, r#"{"elicitation":{}}"#).await?;
        let ask = client.ask(call(2, "eliciting")).await?;
        assert_eq!(member(&ask, "method"), Some("\"elicitation/create\""), "{ask}");
        let id = member(&ask, "id").context("an id")?;
        client.tell(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"decline"}}}}"#)).await?;
        assert!(client.next().await?.contains("decline"));
    }
    let mut client = connect(&mesh, "2024-11-05", r#"{"elicitation":{}}"#).await?;
    let refused = client.ask(call(2, "eliciting")).await?;
    assert!(refused.contains("e=Err("), "the revision has none: {refused}");
    Ok(())
}

async fn a_cancelled_request_has_no_answer(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = connect(&mesh, "2024-11-05", "{}").await?;
    assert!(client.ask(call(2, "held")).await?.contains("notifications/progress"));
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
    client.tell(cancel).await?;
    tokio::time::timeout(DEADLINE, registry.cancellation()).await?;
    assert_eq!(client.ask(PING).await?, PONG, "nothing was said of the cancelled request");
    Ok(())
}

async fn closing_the_stream_ends_the_session_and_its_calls(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = connect(&mesh, "2024-11-05", "{}").await?;
    client.ask(call(2, "held")).await?;
    // A second session of the same client; the first one's end must not touch it.
    let mut other = connect(&mesh, "2024-11-05", "{}").await?;
    let open = std::mem::replace(&mut client.events, HttpSse::open(mesh.client()).await?.events);
    drop(open);
    gone(&client).await?;
    tokio::time::timeout(DEADLINE, registry.cancellation()).await?;
    assert_eq!(other.ask(PING).await?, PONG);
    Ok(())
}

async fn a_gateway_that_dies_ends_its_sessions(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let registry = shared(registry);
    let mut mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let Some(second) = mesh.gateways.get(1).copied() else { return Ok(()) };
    let first = Client::new(vec![mesh.gateways[0]]);
    let mut dying = HttpSse::open(first).await?;
    dying.initialize("2024-11-05", "{}").await?;
    dying.ask(call(2, "held")).await?;
    let mut staying = HttpSse::open(Client::new(vec![second])).await?;
    staying.initialize("2024-11-05", "{}").await?;
    mesh.stop_gateway(0);
    dying.client = Client::new(vec![second]);
    gone(&dying).await?;
    tokio::time::timeout(DEADLINE, registry.cancellation()).await?;
    assert_eq!(staying.ask(PING).await?, PONG);
    Ok(())
}

async fn sessions_are_found_in_their_own_way_only(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut client = connect(&mesh, "2024-11-05", "{}").await?;
    let mut streamable = mesh.client();
    streamable.initialize("2024-11-05", "{}").await?;
    let body = call(9, "quick");
    let forged = client.session().replace('A', "B") + "x";
    let mut unknown = Vec::new();
    for id in
        [streamable.session.as_deref().context("a session")?, forged.as_str(), "", "x", "v1.k1.000.AA.BB"]
    {
        let answer = client.post_to(&format!("/messages?sessionId={id}"), body.clone()).await?;
        unknown.push((answer.status, answer.text().await?));
    }
    let mut stranger = mesh.client();
    stranger.session = Some(client.session().to_owned());
    for answer in [stranger.post(body.clone()).await?, stranger.get(None).await?, stranger.delete().await?] {
        unknown.push((answer.status, answer.text().await?));
    }
    for (status, text) in &unknown {
        assert_eq!(
            (status, text),
            (&StatusCode::NOT_FOUND, &unknown[0].1),
            "one answer for all: {unknown:?}"
        );
    }
    assert_eq!(path(&unknown[0].1, &["error", "code"]), Some("-32600"));
    for target in ["/messages", "/messages?", "/messages?sessionid=1", "/messages?sessionId=a&sessionId=b"] {
        let answer = client.post_to(target, body.clone()).await?;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{target}");
        assert!(answer.text().await?.contains("-32600"));
    }
    assert_eq!(registry.seen().len(), 0, "nothing reached the registry");
    assert_eq!(client.ask(PING).await?, PONG);
    assert_eq!(streamable.post(PING).await?.text().await?, PONG);
    // Two streams are two sessions.
    let other = HttpSse::open(mesh.client()).await?;
    assert_ne!(other.session(), client.session());
    Ok(())
}

async fn newer_revisions_get_no_ids_and_no_gaps(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut client = connect(&mesh, revision, "{}").await?;
        // As their SDKs do, with the header of what was negotiated.
        client.client.revision = Some(revision.to_owned());
        client.tell(call(2, "detaching")).await?;
        for progress in ["1", "2"] {
            let message = client.next().await?;
            assert_eq!(path(&message, &["params", "progress"]), Some(progress), "{revision} {message}");
        }
        assert_eq!(client.next().await?, result(2), "{revision}");
        assert_eq!(client.ask(PING).await?, PONG);
        client.client.revision = Some("2026-07-28".to_owned());
        assert_eq!(client.post(PING).await?.status, StatusCode::BAD_REQUEST);
    }
    Ok(())
}

async fn changes_come_on_the_stream(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let (one, two) = (r#"{"name":"one"}"#, r#"{"name":"two"}"#);
    for (revision, digest, tool) in [("2024-11-05", "d1", one), ("2025-11-25", "d2", two)] {
        let mut client = connect(&mesh, revision, "{}").await?;
        let subscribe = r#"{"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"a:1"}}"#;
        assert_eq!(client.ask(subscribe).await?, r#"{"jsonrpc":"2.0","id":3,"result":{}}"#);
        registry.update(r#"{"uri":"a:1","x":1.0}"#);
        let update =
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:1","x":1.0}}"#;
        assert_eq!(client.next().await?, update);
        registry.list_as(Kind::Tools, digest, [tool]);
        let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        assert_eq!(client.next().await?, changed);
    }
    Ok(())
}

async fn before_and_instead_of_a_handshake(topology: Topology) -> Result<()> {
    let (registry, _go) = registry();
    let registry = shared(registry);
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let mut early = HttpSse::open(mesh.client()).await?;
    assert_eq!(early.ask(PING).await?, PONG);
    let refused = early.ask(call(2, "quick")).await?;
    assert_eq!((path(&refused, &["error", "code"]), member(&refused, "id")), (Some("-32600"), Some("2")));
    early.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await?;
    assert!(early.initialize("2024-11-05", "{}").await?.contains("2024-11-05"));
    let mut wrong = HttpSse::open(mesh.client()).await?;
    let refused = wrong.ask(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#).await?;
    assert_eq!((path(&refused, &["error", "code"]), member(&refused, "id")), (Some("-32602"), Some("1")));
    assert_eq!(wrong.events.next().await?, None, "a refused handshake ends the session");
    assert_eq!(wrong.post(PING).await?.status, StatusCode::NOT_FOUND);
    assert_eq!(registry.seen().len(), 0);
    let posted = mesh.client().send_to("/sse", Method::POST, &[], "{}").await?;
    assert_eq!((posted.status, posted.headers["allow"].to_str()?), (StatusCode::METHOD_NOT_ALLOWED, "GET"));
    Ok(())
}

async fn a_draining_gateway_lets_calls_end(topology: Topology) -> Result<()> {
    let (registry, go) = registry();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    let open = async || -> Result<HttpSse> {
        let mut client = HttpSse::open(Client::new(vec![mesh.gateways[0]])).await?;
        client.initialize("2024-11-05", "{}").await?;
        Ok(client)
    };
    let (mut busy, mut idle) = (open().await?, open().await?);
    busy.ask(call(2, "held")).await?;
    mesh.drain_gateway(0);
    assert_eq!(idle.events.next().await?, None, "it has nothing to wait for");
    go.send_replace(true);
    assert_eq!(busy.next().await?, result(2));
    assert_eq!(busy.events.next().await?, None);
    Ok(())
}

async fn a_draining_mesh_lets_calls_end(topology: Topology) -> Result<()> {
    let (registry, go) = registry();
    let mesh = Mesh::start(topology, vec![shared(registry)]).await?;
    let mut busy = connect(&mesh, "2024-11-05", "{}").await?;
    let mut idle = connect(&mesh, "2024-11-05", "{}").await?;
    busy.ask(call(2, "held")).await?;
    mesh.drain();
    assert_eq!(idle.events.next().await?, None, "it has nothing to wait for");
    go.send_replace(true);
    assert_eq!(busy.next().await?, result(2));
    assert_eq!(busy.events.next().await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_never_comes_ends_the_stream() {
    let config = session::Config { init_timeout_s: 1, ..session::Config::default() };
    let mesh = Mesh::embedded_with(config, vec![shared(registry().0)]).await.unwrap();
    let mut client = HttpSse::open(mesh.client()).await.unwrap();
    assert_eq!(client.events.next().await.unwrap(), None);
    assert_eq!(client.post(PING).await.unwrap().status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_count_and_closed_ones_no_longer_do() {
    let config = session::Config { max_sessions: 2, ..session::Config::default() };
    let mesh = Mesh::embedded_with(config, vec![shared(registry().0)]).await.unwrap();
    let (one, _two) =
        (HttpSse::open(mesh.client()).await.unwrap(), HttpSse::open(mesh.client()).await.unwrap());
    let open = || async {
        let client = mesh.client();
        client.send_to("/sse", Method::GET, &[("accept", "text/event-stream")], "").await.unwrap()
    };
    let refused = open().await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers.contains_key("retry-after"));
    drop(one);
    let freed = async {
        while open().await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, freed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_with_separate_processes() {
    a_conversation(Topology::Processes).await.unwrap();
    a_gateway_that_dies_ends_its_sessions(Topology::Processes).await.unwrap();
}
