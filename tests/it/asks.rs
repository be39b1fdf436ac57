//! A registry that needs input: server-to-client requests for older clients, `input_required` for modern ones.

use anyhow::Result;
use api::registry::{Continuation, FrameBody, InputRequired, Kind};
use bytes::Bytes;
use mcp::Json;
use mcp::scan::{member, path};
use tests::mesh::{Mesh, Topology};
use tests::scripted::{Scripted, bodies, shared};

topologies!(
    an_older_client_is_asked_on_the_stream_of_its_call,
    an_older_client_that_cannot_answer_is_not_asked,
    a_modern_client_answers_on_the_retry,
    a_state_is_accepted_for_its_own_request_only,
    a_handler_without_state_is_called_again,
    answers_may_come_with_the_first_request,
);

const ASK: &str = r#"{"who":{"method":"elicitation/create","params":{"mode":"form","message":"Name?","requestedSchema":{"type":"object","properties":{"n":{"type":"string","x-ui":1.0}}}}}}"#;

fn registry() -> Scripted {
    let registry = Scripted::new("r", |_, start| {
        let continuation = match (&start.continuation, start.target.as_str()) {
            (Some(round), _) => {
                let text = format!("{:?} {} {}", round.state, round.round, round.responses.len());
                let result =
                    format!("{{\"content\":[{{\"type\":\"text\",\"text\":{}}}]}}", mcp::edit::quote(&text));
                return bodies([FrameBody::Result(Json::trusted(result))]);
            }
            (None, "parked") => Continuation::Parked,
            (None, _) => Continuation::State(Bytes::from_static(b"mine")),
        };
        let input =
            InputRequired { requests: Json::trusted(ASK), round: 1, expires_unix_ms: u64::MAX, continuation };
        bodies([FrameBody::InputRequired(input)])
    });
    let tools = [
        r#"{"name":"parked","inputSchema":{"type":"object"}}"#,
        r#"{"name":"stateless","inputSchema":{"type":"object"}}"#,
    ];
    registry.list(Kind::Tools, tools);
    registry
}

async fn an_older_client_is_asked_on_the_stream_of_its_call(topology: Topology) -> Result<()> {
    for revision in ["2025-06-18", "2025-11-25"] {
        let registry = shared(registry());
        let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
        let mut client = mesh.client();
        client.initialize(revision, r#"{"elicitation":{}}"#).await?;
        let call =
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"parked","arguments":{}}}"#;
        let mut events = client.post(call).await?.events();
        let ask = events.message().await?;
        assert_eq!(path(&ask, &["method"]), Some("\"elicitation/create\""), "{ask}");
        assert!(ask.contains(r#""x-ui":1.0"#), "{ask}");
        assert_eq!(path(&ask, &["params", "mode"]).is_some(), revision == "2025-11-25", "{ask}");
        let id = member(&ask, "id").unwrap();
        let reply =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept","content":{{"n":1.0}}}}}}"#);
        assert_eq!(client.post(reply).await?.status, 202);
        let result = events.message().await?;
        assert!(result.contains(r#"who=Ok({\"action\":\"accept\",\"content\":{\"n\":1.0}})"#), "{result}");
        assert_eq!(events.next().await?, None);
        assert_eq!(registry.seen().len(), 1, "the handler ran once");
    }
    Ok(())
}

async fn an_older_client_that_cannot_answer_is_not_asked(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    for (revision, capabilities) in [("2025-03-26", r#"{"elicitation":{}}"#), ("2025-11-25", "{}")] {
        let mut client = mesh.client();
        client.initialize(revision, capabilities).await?;
        let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"parked"}}"#;
        let answer = client.post(call).await?.response().await?;
        assert!(answer.contains("who=Err("), "the registry is told that the client cannot: {answer}");
    }
    Ok(())
}

async fn a_modern_client_answers_on_the_retry(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let client = mesh.client();
    let params = r#"{"name":"parked","arguments":{"a":1}}"#;
    let first = client.modern("1", "tools/call", params, r#"{"elicitation":{}}"#).await?;
    assert!(!first.is_stream());
    let text = first.text().await?;
    assert_eq!(path(&text, &["result", "resultType"]), Some("\"input_required\""), "{text}");
    assert_eq!(path(&text, &["result", "inputRequests"]), Some(ASK), "{text}");
    let state = path(&text, &["result", "requestState"]).unwrap();
    let retry = format!(
        r#"{{"name":"parked","arguments":{{"a":1}},"requestState":{state},"inputResponses":{{"who":{{"action":"accept","content":{{"n":1.0}}}}}}}}"#
    );
    // Any gateway, any session node.
    let second = client.modern("2", "tools/call", &retry, r#"{"elicitation":{}}"#).await?;
    assert_eq!(second.status, 200);
    let text = second.response().await?;
    assert!(text.contains(r#"\"content\":{\"n\":1.0}"#), "{text}");
    assert_eq!(registry.seen().len(), 1, "the handler ran once");
    // A client that did not say it can answer is told what is needed.
    let refused = client.modern("3", "tools/call", params, "{}").await?;
    assert_eq!(refused.status, 400);
    let text = refused.text().await?;
    assert_eq!(path(&text, &["error", "code"]), Some("-32021"), "{text}");
    Ok(())
}

async fn a_state_is_accepted_for_its_own_request_only(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let client = mesh.client();
    let can = r#"{"elicitation":{}}"#;
    let text = client
        .modern("1", "tools/call", r#"{"name":"stateless","arguments":{"a":1}}"#, can)
        .await?
        .text()
        .await?;
    let state = path(&text, &["result", "requestState"]).unwrap().trim_matches('"').to_owned();
    let before = registry.seen().len();
    let attempts = [
        format!(
            r#"{{"name":"stateless","arguments":{{"a":1}},"requestState":"{state}-TAMPERED","inputResponses":{{}}}}"#
        ),
        format!(
            r#"{{"name":"stateless","arguments":{{"a":2}},"requestState":"{state}","inputResponses":{{}}}}"#
        ),
        format!(
            r#"{{"name":"parked","arguments":{{"a":1}},"requestState":"{state}","inputResponses":{{}}}}"#
        ),
        format!(
            r#"{{"name":"stateless","arguments":{{"a":1}},"requestState":"{state}","inputResponses":[]}}"#
        ),
        r#"{"name":"stateless","arguments":{"a":1},"requestState":7,"inputResponses":{}}"#.to_owned(),
        r#"{"name":"stateless","arguments":{"a":1},"requestState":"","inputResponses":{}}"#.to_owned(),
        r#"{"name":"stateless","arguments":{"a":1},"inputResponses":["who"]}"#.to_owned(),
    ];
    let mut answers = Vec::new();
    for params in attempts {
        let answer = client.modern("9", "tools/call", &params, can).await?;
        assert_eq!(answer.status, 400, "{params}");
        answers.push(answer.text().await?);
    }
    assert!(answers.iter().all(|a| a == &answers[0]), "one message for all reasons: {answers:?}");
    assert_eq!(path(&answers[0], &["error", "code"]), Some("-32602"));
    assert_eq!(registry.seen().len(), before, "nothing reached the registry");
    Ok(())
}

async fn a_handler_without_state_is_called_again(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let client = mesh.client();
    let can = r#"{"elicitation":{}}"#;
    let text = client.modern("1", "tools/call", r#"{"name":"stateless"}"#, can).await?.text().await?;
    let state = path(&text, &["result", "requestState"]).unwrap();
    let retry = format!(
        r#"{{"name":"stateless","requestState":{state},"inputResponses":{{"who":{{"action":"decline"}}}}}}"#
    );
    let token = r#","progressToken":"t""#;
    let text = client.modern_with(&[], "2", "tools/call", &retry, can, token).await?.response().await?;
    assert!(text.contains(r#"b\"mine\" 1 1"#), "{text}");
    let params = registry.seen()[1].1.params.to_string();
    for ours in ["progressToken", "requestState", "inputResponses"] {
        assert!(!params.contains(ours), "{params}");
    }
    let mut older = mesh.client();
    older.initialize("2025-11-25", can).await?;
    let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"stateless"}}"#;
    let mut events = older.post(call).await?.events();
    let ask = events.message().await?;
    let reply = format!(
        r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-1,"message":"no"}}}}"#,
        member(&ask, "id").unwrap()
    );
    assert_eq!(older.post(reply).await?.status, 202);
    assert!(events.message().await?.contains(r#"b\"mine\" 1 1"#));
    let invocations: Vec<String> = registry.seen().into_iter().map(|(c, _)| c.invocation).collect();
    let distinct: std::collections::BTreeSet<&String> = invocations.iter().collect();
    assert_eq!((invocations.len(), distinct.len()), (4, 4), "each call again is an invocation of its own");
    Ok(())
}

async fn answers_may_come_with_the_first_request(topology: Topology) -> Result<()> {
    let registry = shared(registry());
    let mesh = Mesh::start(topology, vec![registry.clone()]).await?;
    let params =
        r#"{"name":"parked","arguments":{},"inputResponses":{"who":{"action":"accept"},"extra":{}}}"#;
    let text =
        mesh.client().modern("1", "tools/call", params, r#"{"elicitation":{}}"#).await?.response().await?;
    assert!(text.contains(r#"b\"\" 0 2"#), "round 0, no state, both answers: {text}");
    assert!(registry.seen()[0].1.params.member("inputResponses").is_none());
    Ok(())
}
