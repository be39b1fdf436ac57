//! Negotiation of every revision, and where a session begins and ends.

use anyhow::Result;
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};

topologies!(
    each_older_revision_is_echoed,
    a_handshake_never_yields_the_modern_revision,
    a_malformed_handshake_makes_no_session,
    an_id_that_the_client_chose_is_ignored,
    a_deleted_session_is_gone_for_every_verb,
    a_second_initialize_leaves_the_first_session_alone,
    discovery_names_the_modern_revision_only,
    ping_has_an_empty_result,
);

fn nothing() -> Scripted {
    Scripted::new("r", |_, _| bodies([]))
}

async fn each_older_revision_is_echoed(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(nothing())]).await?;
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut client = mesh.client();
        let answer = client.initialize(revision, "{}").await?;
        assert_eq!(
            mcp::scan::path(&answer, &["result", "protocolVersion"]),
            Some(format!("\"{revision}\"").as_str())
        );
        let session = client.session.clone().unwrap();
        assert!(session.bytes().all(|c| (0x21..0x7f).contains(&c)), "{session}");
        let completions = mcp::scan::path(&answer, &["result", "capabilities", "completions"]);
        assert_eq!(completions.is_some(), revision >= "2025-03-26", "{revision}: {answer}");
    }
    Ok(())
}

async fn a_handshake_never_yields_the_modern_revision(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(nothing())]).await?;
    for asked in ["2026-07-28", "1999-01-01", ""] {
        let client = mesh.client();
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{asked}","capabilities":{{}},"clientInfo":{{"name":"c","version":"1"}}}}}}"#
        );
        let answer = client.post(body).await?;
        assert_eq!(answer.status, 200);
        let text = answer.text().await?;
        assert_eq!(mcp::scan::path(&text, &["result", "protocolVersion"]), Some("\"2025-11-25\""), "{asked}");
    }
    Ok(())
}

async fn a_malformed_handshake_makes_no_session(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(nothing())]).await?;
    for params in [
        "{}",
        r#"{"protocolVersion":1,"capabilities":{}}"#,
        r#"{"protocolVersion":"2025-11-25","capabilities":[]}"#,
    ] {
        let answer = mesh
            .client()
            .post(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#))
            .await?;
        assert!(answer.headers.get("mcp-session-id").is_none(), "{params}");
        let text = answer.text().await?;
        assert_eq!(mcp::scan::path(&text, &["error", "code"]), Some("-32602"), "{params}: {text}");
        assert_eq!(mcp::scan::member(&text, "id"), Some("1"));
    }
    Ok(())
}

async fn an_id_that_the_client_chose_is_ignored(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(nothing())]).await?;
    let mut first = mesh.client();
    first.initialize("2025-11-25", "{}").await?;
    let known = first.session.clone().unwrap();
    let mut second = mesh.client();
    second.session = Some(known.clone());
    second.initialize("2025-11-25", "{}").await?;
    assert_ne!(second.session.unwrap(), known);
    Ok(())
}

async fn a_deleted_session_is_gone_for_every_verb(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(nothing())]).await?;
    let mut client = mesh.client();
    client.initialize("2025-11-25", "{}").await?;
    assert!(client.delete().await?.status.is_success());
    let mut bodies = Vec::new();
    let post = client.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await?;
    let get = client.get(None).await?;
    let delete = client.delete().await?;
    for answer in [post, get, delete] {
        assert_eq!(answer.status, 404);
        bodies.push(answer.text().await?);
    }
    assert!(bodies.iter().all(|b| b.contains("Session not found") && b.contains("-32600")), "{bodies:?}");
    Ok(())
}

async fn a_second_initialize_leaves_the_first_session_alone(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(nothing())]).await?;
    let mut client = mesh.client();
    client.initialize("2025-06-18", "{}").await?;
    let again = r#"{"jsonrpc":"2.0","id":8,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
    let answer = client.post(again).await?;
    // `initialize` never belongs to a session: it makes another one, and the first goes on.
    assert_ne!(answer.headers.get("mcp-session-id").map(|v| v.to_str().unwrap()), client.session.as_deref());
    let ping = client.post(r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#).await?;
    assert_eq!(ping.text().await?, r#"{"jsonrpc":"2.0","id":9,"result":{}}"#);
    Ok(())
}

async fn discovery_names_the_modern_revision_only(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(nothing())]).await?;
    let answer = mesh.client().modern("\"d\"", "server/discover", "{}", "{}").await?;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.get("mcp-session-id").is_none());
    let text = answer.text().await?;
    let at = |path: &[&str]| mcp::scan::path(&text, path).map(str::to_owned);
    assert_eq!(at(&["result", "supportedVersions"]).as_deref(), Some(r#"["2026-07-28"]"#));
    assert_eq!(at(&["result", "resultType"]).as_deref(), Some("\"complete\""));
    assert!(at(&["result", "ttlMs"]).is_some() && at(&["result", "cacheScope"]).is_some(), "{text}");
    assert!(at(&["result", "_meta", "io.modelcontextprotocol/serverInfo"]).is_some(), "{text}");
    assert_eq!(at(&["id"]).as_deref(), Some("\"d\""));
    Ok(())
}

async fn ping_has_an_empty_result(topology: Topology) -> Result<()> {
    let mesh = Mesh::start(topology, vec![shared(nothing())]).await?;
    let mut client = mesh.client();
    client.initialize("2025-03-26", "{}").await?;
    for id in ["0", "-7", "9223372036854775808", "\"\\u0061\""] {
        let answer = client.post(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)).await?;
        assert_eq!(answer.text().await?, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
    }
    Ok(())
}
