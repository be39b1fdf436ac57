//! Questions: rounds of the modern era, requests of the older one.

use mcp::Revision;
use upstream::{Error, Speak};

use crate::kit::{DISCOVERED, Ear, Say, Server, ask, event, initialized, result};

const OLDER: Speak = Speak::Older(Revision::V2025_11_25);

fn wants(id: u64, state: &str) -> Say {
    Say::json(&result(
        id,
        &format!(
            "{{\"resultType\":\"input_required\",\"inputRequests\":{{\"q\":{{\"method\":\"elicitation/create\",\"params\":{{}}}}}}{state}}}"
        ),
    ))
}

#[tokio::test]
async fn answers_go_back_with_the_state_as_it_came() {
    let state = r#","requestState":"a\u0062\/é""#;
    let done = Say::json(&result(102, r#"{"resultType":"complete"}"#));
    let server = Server::start(vec![Say::json(DISCOVERED), wants(100, state), wants(101, ""), done]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    let ear = Ear::answering(&[r#"{"action":"accept","content":{"n":1.0}}"#, r#"{"action":"decline"}"#]);
    ask(&client, &ear).await.unwrap();
    assert_eq!(ear.heard(), ["asked elicitation/create", "asked elicitation/create"]);
    let seen = server.seen();
    assert_eq!(seen[2].member("id").as_deref(), Some("101"));
    assert_eq!(
        seen[2].member("params/inputResponses/q").as_deref(),
        Some(r#"{"action":"accept","content":{"n":1.0}}"#)
    );
    assert_eq!(seen[2].member("params/requestState").as_deref(), Some(r#""a\u0062\/é""#));
    assert_eq!(seen[2].member("params/arguments").as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(seen[2].header("mcp-name"), Some("t"));
    assert_eq!(seen[3].member("params/requestState"), None, "none was given the second time");
    assert_eq!(seen[3].member("params/inputResponses/q").as_deref(), Some(r#"{"action":"decline"}"#));
    server.last();
}

#[tokio::test]
async fn a_refused_question_is_cancelled_where_there_is_a_word_for_it() {
    let done = Say::json(&result(101, "{}"));
    let server = Server::start(vec![Say::json(DISCOVERED), wants(100, ""), done]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    ask(&client, &Ear::default()).await.unwrap();
    assert_eq!(server.last().member("params/inputResponses/q").as_deref(), Some(r#"{"action":"cancel"}"#));

    let roots = r#"{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"}}}"#;
    let server = Server::start(vec![Say::json(DISCOVERED), Say::json(&result(100, roots))]).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    assert_eq!(ask(&client, &Ear::default()).await, Err(Error::Unanswerable("roots/list".to_owned())));
}

#[tokio::test]
async fn a_server_that_never_has_enough_is_left() {
    let mut script = vec![Say::json(DISCOVERED)];
    script.extend((100..104).map(|id| wants(id, "")));
    let server = Server::start(script).await;
    let client = server.connect_with(Speak::Auto, |options| options.limits.rounds = 3).await.unwrap();
    let ear = Ear::answering(&[r#"{"action":"decline"}"#; 4]);
    assert_eq!(ask(&client, &ear).await, Err(Error::Rounds(3)));
    server.last();
}

#[tokio::test]
async fn a_state_alone_is_brought_back() {
    let later = r#"{"resultType":"input_required","requestState":"later"}"#;
    let script = vec![Say::json(DISCOVERED), Say::json(&result(100, later)), Say::json(&result(101, "{}"))];
    let server = Server::start(script).await;
    let client = server.connect(Speak::Auto).await.unwrap();
    ask(&client, &Ear::default()).await.unwrap();
    let seen = server.last();
    assert_eq!(seen.member("params/requestState").as_deref(), Some("\"later\""));
    assert_eq!(seen.member("params/inputResponses"), None);
}

#[tokio::test]
async fn headers_of_arguments_are_learned_when_the_server_wants_them() {
    let mismatch = r#"{"jsonrpc":"2.0","id":100,"error":{"code":-32020,"message":"mcp-param-a is missing"}}"#;
    let tools = r#"{"tools":[{"name":"t","inputSchema":{"type":"object","properties":{"a":{"type":"integer","x-mcp-header":"A"}}}}]}"#;
    let server = Server::start(vec![
        Say::json(DISCOVERED),
        Say::error("400 Bad Request", mismatch),
        Say::json(&result(101, tools)),
        Say::json(&result(102, "{}")),
        Say::json(&result(103, "{}")),
    ])
    .await;
    let client = server.connect(Speak::Auto).await.unwrap();
    ask(&client, &Ear::default()).await.unwrap();
    ask(&client, &Ear::default()).await.unwrap();
    let seen = server.seen();
    let headers: Vec<Option<&str>> = seen.iter().map(|seen| seen.header("mcp-param-a")).collect();
    assert_eq!(headers, [None, None, None, Some("1"), Some("1")]);
}

#[tokio::test]
async fn an_older_servers_questions_are_answered_while_its_stream_goes_on() {
    let question = |id: &str, method: &str| {
        event(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{{}}}}"))
    };
    let stream = [
        question("\"q1\"", "elicitation/create"),
        question("7", "ping"),
        question("8", "roots/list"),
        event(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"hi"}}"#),
    ];
    let server = Server::start(vec![
        initialized(),
        Say::accepted(),
        Say::events("").chunks(stream.iter().map(String::as_bytes)).hold(),
        Say::accepted(),
        Say::accepted(),
        Say::accepted(),
    ])
    .await;
    let client = server.connect(OLDER).await.unwrap();
    let ear = Ear::answering(&[r#"{"action":"accept"}"#]);
    let answered = async {
        while server.seen().len() < 6 {
            tokio::task::yield_now().await;
        }
    };
    // The stream is held open, so that all three answers are on their way before the end.
    let ended = client.ask(&crate::kit::call(), &ear, answered).await;
    assert_eq!(ended, Err(Error::Cancelled));
    let mut answers: Vec<String> = server.seen()[3..6].iter().map(|seen| seen.body.clone()).collect();
    answers.sort_unstable();
    assert_eq!(
        answers,
        [
            r#"{"jsonrpc":"2.0","id":"q1","result":{"action":"accept"}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":8,"error":{"code":-32601,"message":"no"}}"#,
        ]
    );
    assert!(ear.heard().contains(&"log \"hi\"".to_owned()), "{:?}", ear.heard());
}
