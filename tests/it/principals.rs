//! Whose session it is: everybody else is told that there is none, in exactly the words that are true of no session at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use api::registry::{FrameBody, Kind};
use api::{KeyRing, Principal, SessionId, Slot};
use futures::StreamExt as _;
use http::{HeaderValue, Method, StatusCode};
use mcp::Json;
use tests::claimed::Claimed;
use tests::client::{Answer, Client};
use tests::http_sse::HttpSse;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, shared};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

topologies!(
    a_session_is_its_principals_and_nobody_elses,
    a_session_of_http_sse_is_its_principals_too,
    ids_that_clients_bring_are_not_taken,
    a_session_from_before_the_login_is_not_the_same_callers,
    event_ids_are_worth_nothing_to_others,
    a_lost_answer_is_for_whoever_asked,
    registries_hear_who_asks_and_nothing_of_what_was_shown,
);

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"held","_meta":{"progressToken":"t"}}}"#;
/// Whose session it is; then others who are the same in all but one respect.
const ADA: &str = "ada|https://idp.example|acme|agent";
const OTHERS: [&str; 5] = [
    "eve|https://idp.example|acme|agent",
    "ada|https://other.example|acme|agent",
    "ada|https://idp.example|umbrella|agent",
    "ada|https://idp.example|acme|another",
    "",
];

/// A tool that says one thing, and the rest once it may.
fn held() -> (Scripted, watch::Sender<bool>) {
    let (go, gone) = watch::channel(false);
    let registry = Scripted::new("r", move |_, _| {
        let first = futures::stream::iter([FrameBody::Progress(Json::trusted(r#"{"progress":1}"#))]);
        let rest = WatchStream::new(gone.clone()).filter(|go| futures::future::ready(*go)).take(1);
        let rest = rest.map(|_| FrameBody::Result(Json::trusted(r#"{"content":[],"secret":"ada's"}"#)));
        first.chain(rest).boxed()
    });
    registry.list(Kind::Tools, [r#"{"name":"held","inputSchema":{"type":"object"}}"#]);
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one"}"#]);
    (registry, go)
}

async fn mesh(topology: Topology) -> Result<(Mesh, Arc<Scripted>, watch::Sender<bool>)> {
    let (registry, go) = held();
    let registry = shared(registry);
    let mesh = Mesh::asking(topology, Arc::new(Claimed), vec![registry.clone()]).await?;
    Ok((mesh, registry, go))
}

fn as_whom(mesh: &Mesh, claim: &str) -> Client {
    let mut client = mesh.client();
    client.authorization = (!claim.is_empty()).then(|| format!("Bearer {claim}"));
    client
}

async fn session_of(mesh: &Mesh, claim: &str) -> Result<Client> {
    let mut client = as_whom(mesh, claim);
    client.initialize("2025-11-25", "{}").await?;
    Ok(client)
}

/// Status, headers but the date, and body: all that a client can see.
async fn seen(answer: Answer) -> Result<(StatusCode, Vec<(String, HeaderValue)>, String)> {
    let mut headers: Vec<_> =
        answer.headers.iter().map(|(n, v)| (n.as_str().to_owned(), v.clone())).collect();
    headers.retain(|(name, _)| name != "date");
    headers.sort();
    Ok((answer.status, headers, answer.text().await?))
}

/// Every verb, and every kind of message.
async fn knock(
    client: &Client,
    event: &str,
) -> Result<Vec<(StatusCode, Vec<(String, HeaderValue)>, String)>> {
    let messages = [
        PING,
        CALL,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#,
        r#"{"jsonrpc":"2.0","id":"ask-1","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"no/such"}"#,
    ];
    let mut all = Vec::new();
    for message in messages {
        all.push(seen(client.post(message).await?).await?);
    }
    all.push(seen(client.get(None).await?).await?);
    all.push(seen(client.get(Some(event)).await?).await?);
    all.push(seen(client.get(Some("not-an-id")).await?).await?);
    all.push(seen(client.delete().await?).await?);
    Ok(all)
}

fn never_existed(slot: u16) -> String {
    let keys = KeyRing::single("k1", *b"0123456789abcdefghijklmnopqrstuv");
    SessionId::mint(&keys, Slot::new(slot).unwrap(), [slot.to_be_bytes()[1]; 16]).as_str().to_owned()
}

async fn a_session_is_its_principals_and_nobody_elses(topology: Topology) -> Result<()> {
    let (mesh, registry, go) = mesh(topology).await?;
    let ada = session_of(&mesh, ADA).await?;
    let mut events = ada.post(CALL).await?.events();
    let event = events.next().await?.context("a priming event")?.id.context("an id")?;
    events.next().await?;
    let ended = session_of(&mesh, ADA).await?;
    assert_eq!(ended.delete().await?.status, StatusCode::OK);
    let situations = [
        ("live", ada.session.clone()),
        ("ended", ended.session.clone()),
        ("never existed, one node", Some(never_existed(5))),
        ("never existed, the other", Some(never_existed(4000))),
        ("forged", ada.session.clone().map(|id| id.replace("v1.k1.", "v1.k2."))),
        ("no id at all", Some("x".to_owned())),
    ];
    let mut first = None;
    let mut count = 0;
    for claim in OTHERS {
        for (situation, session) in &situations {
            let mut other = as_whom(&mesh, claim);
            other.session.clone_from(session);
            other.revision = Some("2025-11-25".to_owned());
            let knocked = knock(&other, &event).await?;
            for (at, answer) in knocked.into_iter().enumerate() {
                assert_eq!(answer.0, StatusCode::NOT_FOUND, "{claim}, {situation}, {at}");
                let expected = first.get_or_insert_with(|| answer.clone());
                assert_eq!(&answer, expected, "{claim}, {situation}, {at}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 5 * 6 * 10);
    let (_, headers, body) = first.context("an answer")?;
    assert_eq!(body, r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Session not found"}}"#);
    assert!(
        headers.iter().all(|(name, _)| name == "content-length" || name == "content-type"),
        "{headers:?}"
    );
    // Its owner has noticed nothing, and to its owner an ended one is the same as none.
    assert_eq!(registry.seen().len(), 1);
    assert_eq!(ended.post(PING).await?.text().await?, body);
    go.send_replace(true);
    assert!(events.next().await?.context("the result")?.data.contains("ada's"));
    assert_eq!(ada.post(PING).await?.status, StatusCode::OK);
    Ok(())
}

async fn a_session_of_http_sse_is_its_principals_too(topology: Topology) -> Result<()> {
    let (mesh, registry, _go) = mesh(topology).await?;
    let mut ada = HttpSse::open(as_whom(&mesh, ADA)).await?;
    ada.initialize("2024-11-05", "{}").await?;
    let mut first = None;
    for claim in OTHERS {
        let mut other = as_whom(&mesh, claim);
        for session in [ada.session(), &never_existed(6), "x"] {
            let target = format!("/messages?sessionId={session}");
            for message in [PING, CALL] {
                let headers = [("content-type", "application/json"), ("accept", "*/*")];
                let answer = seen(other.send_to(&target, Method::POST, &headers, message).await?).await?;
                assert_eq!(answer.0, StatusCode::NOT_FOUND, "{claim} {session}");
                assert_eq!(&answer, first.get_or_insert_with(|| answer.clone()), "{claim} {session}");
            }
        }
        other.session = Some(ada.session().to_owned());
        for answer in knock(&other, "x").await? {
            assert_eq!(Some(&answer), first.as_ref(), "by the other transport");
        }
    }
    assert_eq!(registry.seen().len(), 0);
    assert_eq!(ada.ask(PING).await?, r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
    Ok(())
}

async fn ids_that_clients_bring_are_not_taken(topology: Topology) -> Result<()> {
    let (mesh, _registry, _go) = mesh(topology).await?;
    let eve = session_of(&mesh, OTHERS[0]).await?;
    let planted = eve.session.clone().context("a session")?;
    for id in [planted.as_str(), &never_existed(9), "00000000-0000-0000-0000-000000000000", "x"] {
        let mut ada = as_whom(&mesh, ADA);
        ada.session = Some(id.to_owned());
        let answer = ada.post(INITIALIZE).await?;
        assert_eq!(answer.status, StatusCode::OK);
        let given = answer.headers["mcp-session-id"].to_str()?.to_owned();
        assert_ne!(given, id);
        let mut thief = as_whom(&mesh, OTHERS[0]);
        thief.session = Some(given);
        assert_eq!(thief.post(PING).await?.status, StatusCode::NOT_FOUND);
        ada.session = Some(id.to_owned());
        assert_eq!(ada.post(PING).await?.status, StatusCode::NOT_FOUND, "what was planted is not hers");
    }
    assert_eq!(eve.post(PING).await?.status, StatusCode::OK);
    Ok(())
}

async fn a_session_from_before_the_login_is_not_the_same_callers(topology: Topology) -> Result<()> {
    let (mesh, _registry, _go) = mesh(topology).await?;
    let mut client = session_of(&mesh, "").await?;
    assert_eq!(client.post(PING).await?.status, StatusCode::OK);
    client.authorization = Some(format!("Bearer {ADA}"));
    assert_eq!(client.post(PING).await?.status, StatusCode::NOT_FOUND);
    client.authorization = None;
    assert_eq!(client.post(PING).await?.status, StatusCode::OK);
    Ok(())
}

async fn event_ids_are_worth_nothing_to_others(topology: Topology) -> Result<()> {
    let (mesh, _registry, _go) = mesh(topology).await?;
    let ada = session_of(&mesh, ADA).await?;
    let event = ada.post(CALL).await?.events().next().await?.context("an event")?.id.context("an id")?;
    for claim in OTHERS {
        let mut other = session_of(&mesh, claim).await?;
        let foreign = other.get(Some(&event)).await?;
        assert_eq!(foreign.status, StatusCode::BAD_REQUEST, "in a session of one's own");
        assert!(foreign.text().await?.contains("Last-Event-ID was not handed out in this session"));
        let own = other.session.take();
        assert_eq!(other.get(Some(&event)).await?.status, StatusCode::BAD_REQUEST, "in none");
        other.session.clone_from(&ada.session);
        assert_eq!(other.get(Some(&event)).await?.status, StatusCode::NOT_FOUND, "in hers");
        other.session = own;
        other.revision = Some("2026-07-28".to_owned());
        assert_eq!(
            other.get(Some(&event)).await?.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "by another revision"
        );
    }
    // Her other session is hers, and still another one.
    let second = session_of(&mesh, ADA).await?;
    assert_eq!(second.get(Some(&event)).await?.status, StatusCode::BAD_REQUEST);
    Ok(())
}

async fn a_lost_answer_is_for_whoever_asked(topology: Topology) -> Result<()> {
    let (mesh, _registry, go) = mesh(topology).await?;
    let ada = session_of(&mesh, ADA).await?;
    let mut events = ada.post(CALL).await?.events();
    let event = events.next().await?.context("an event")?.id.context("an id")?;
    events.next().await?;
    drop(events);
    go.send_replace(true);
    for claim in OTHERS {
        let mut other = as_whom(&mesh, claim);
        other.session.clone_from(&ada.session);
        let refused = other.get(Some(&event)).await?;
        assert_eq!(refused.status, StatusCode::NOT_FOUND);
        assert!(!refused.text().await?.contains("ada's"));
    }
    let mut resumed = ada.get(Some(&event)).await?.events();
    let mut texts = String::new();
    while let Some(event) = resumed.next().await? {
        texts.push_str(&event.data);
    }
    assert!(texts.contains("ada's"), "{texts}");
    Ok(())
}

async fn registries_hear_who_asks_and_nothing_of_what_was_shown(topology: Topology) -> Result<()> {
    let (mesh, registry, go) = mesh(topology).await?;
    go.send_replace(true);
    let older = session_of(&mesh, ADA).await?;
    older.post(CALL).await?.response().await?;
    let modern = as_whom(&mesh, ADA).modern("3", "tools/call", r#"{"name":"held"}"#, "{}").await?;
    modern.response().await?;
    let seen = registry.seen();
    assert_eq!(seen.len(), 2);
    for (context, start) in &seen {
        let expected = Principal {
            subject: "ada".into(),
            issuer: "https://idp.example".into(),
            tenant: "acme".into(),
            client: "agent".into(),
        };
        assert_eq!(context.principal, expected);
        let text = format!("{context:?} {start:?}");
        assert!(!text.contains("Bearer") && !text.contains(ADA), "{text}");
    }
    Ok(())
}

/// Information, not a judgement: how long it takes to be told that a session is somebody else's, and that there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_it_takes_to_be_told_that_there_is_no_session() {
    let (mesh, _registry, _go) = mesh(Topology::Embedded).await.unwrap();
    let ada = session_of(&mesh, ADA).await.unwrap();
    let mut eve = as_whom(&mesh, OTHERS[0]);
    let ids = [ada.session.clone(), Some(never_existed(5))];
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for round in 0..1000 {
        let at = round % 2;
        eve.session.clone_from(&ids[at]);
        let start = Instant::now();
        assert_eq!(eve.post(PING).await.unwrap().status, StatusCode::NOT_FOUND);
        times[at].push(start.elapsed());
    }
    let [theirs, none] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!("median of 500: somebody else's {theirs:?}, none {none:?}");
}
