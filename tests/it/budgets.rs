//! What one principal may have, and that it is told so; that others notice nothing.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use http::StatusCode;
use tests::claimed::Claimed;
use tests::client::{Answer, Client, DEADLINE};
use tests::mesh::Mesh;
use tests::scripted::{Scripted, bodies, shared};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#;

async fn mesh(config: session::Config) -> Mesh {
    let nothing = shared(Scripted::new("r", |_, _| bodies([])));
    Mesh::embedded_asking(Arc::new(Claimed), config, vec![nothing]).await.unwrap()
}

fn as_whom(mesh: &Mesh, claim: &str) -> Client {
    let mut client = mesh.client();
    client.authorization = (!claim.is_empty()).then(|| format!("Bearer {claim}"));
    client
}

/// How many of so many handshakes are accepted; the last that was not, if there is one.
async fn begin(mesh: &Mesh, claim: &str, count: usize) -> Result<(usize, Option<Answer>)> {
    let client = as_whom(mesh, claim);
    let (mut accepted, mut refused) = (0, None);
    for _ in 0..count {
        let answer = client.post(INITIALIZE).await?;
        if answer.status == StatusCode::OK {
            accepted += 1;
            answer.text().await?;
        } else {
            refused = Some(answer);
        }
    }
    Ok((accepted, refused))
}

async fn is_told_when_to_come_back(refused: Option<Answer>) -> Result<()> {
    let refused = refused.context("a refusal")?;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers["retry-after"].to_str()?.parse::<u32>()? >= 1);
    assert!(!refused.headers.contains_key("mcp-session-id"));
    let text = refused.text().await?;
    let at = |path: &[&str]| mcp::scan::path(&text, path).map(str::to_owned);
    assert_eq!(at(&["error", "data", "reason"]).as_deref(), Some("\"rate_limited\""), "{text}");
    assert_eq!(at(&["error", "code"]).as_deref(), Some("-32603"));
    assert_eq!(at(&["id"]).as_deref(), Some("1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_begun_at_a_rate_for_each_principal_and_without_one_here() {
    let mesh = mesh(session::Config { creations_per_s: 1, creation_burst: 3, ..Default::default() }).await;
    let start = Instant::now();
    let (accepted, refused) = begin(&mesh, "ada", 20).await.unwrap();
    let most = 4 + usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!((3..=most).contains(&accepted), "{accepted}");
    is_told_when_to_come_back(refused).await.unwrap();
    assert_eq!(begin(&mesh, "bob", 3).await.unwrap().0, 3);
    assert_eq!(begin(&mesh, "", 100).await.unwrap().0, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_from_elsewhere_share_a_small_budget_and_others_notice_nothing() {
    let config = session::Config {
        creations_per_s: 0,
        max_sessions_per_principal: 30,
        max_sessions_anonymous: 10,
        ..Default::default()
    };
    let mesh = mesh(config).await;
    for (claim, most) in [("remote", 10), ("", 30), ("ada", 30), ("bob|i", 30)] {
        let (accepted, refused) = begin(&mesh, claim, 60).await.unwrap();
        assert_eq!(accepted, most, "{claim}");
        is_told_when_to_come_back(refused).await.unwrap();
    }
    // What ends makes room again.
    let mut ada = as_whom(&mesh, "eve");
    ada.initialize("2025-11-25", "{}").await.unwrap();
    assert_eq!(begin(&mesh, "eve", 29).await.unwrap().0, 29);
    assert_eq!(begin(&mesh, "eve", 1).await.unwrap().0, 0);
    assert_eq!(ada.delete().await.unwrap().status, StatusCode::OK);
    assert_eq!(begin(&mesh, "eve", 2).await.unwrap().0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_defaults_are_a_thousand_sessions_and_a_hundred_for_strangers() {
    let config = session::Config { creations_per_s: 0, ..Default::default() };
    let mesh = mesh(config).await;
    for (claim, most) in [("remote", 100), ("", 1000)] {
        assert_eq!(begin(&mesh, claim, most + 1).await.unwrap().0, most, "{claim}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_principal_has_so_many_listen_streams() {
    let mesh = mesh(session::Config { max_listens_per_principal: 3, ..Default::default() }).await;
    let listen = async |claim: &str| {
        let params = r#"{"notifications":{"toolsListChanged":true}}"#;
        as_whom(&mesh, claim).modern("1", "subscriptions/listen", params, "{}").await.unwrap()
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        let answer = listen("ada").await;
        assert_eq!(answer.status, StatusCode::OK);
        open.push(answer.events());
    }
    is_told_when_to_come_back(Some(listen("ada").await)).await.unwrap();
    assert_eq!(listen("bob").await.status, StatusCode::OK);
    drop(open.pop());
    let freed = async {
        while listen("ada").await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, freed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_after_its_life_however_much_it_is_used() {
    let mesh = mesh(session::Config { max_life_s: 2, ..Default::default() }).await;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await.unwrap();
    let mut own = client.get(None).await.unwrap().events();
    let used = async {
        while client.post(PING).await.unwrap().status == StatusCode::OK {
            tokio::task::yield_now().await;
        }
        while own.next().await.unwrap().is_some() {}
    };
    tokio::time::timeout(DEADLINE, used).await.unwrap();
    assert_eq!(client.post(PING).await.unwrap().status, StatusCode::NOT_FOUND);
}
