//! How many sessions there may be, how long they last, and what an idle one costs.

use anyhow::Result;
use api::session::{Close, Delivery, Frame, Transport};
use futures::StreamExt as _;
use tests::client::{Client, DEADLINE};
use tests::mesh::Mesh;
use tests::scripted::{Scripted, bodies, shared};

fn nothing() -> Vec<std::sync::Arc<dyn api::Registry>> {
    vec![shared(Scripted::new("r", |_, _| bodies([])))]
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#;

/// Asks until the session is gone.
async fn gone(client: &Client) -> Result<()> {
    let asking = async {
        while client.post(PING).await?.status != 404 {
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::time::timeout(DEADLINE, asking).await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_never_finished_ends_the_session() {
    let config = session::Config { init_timeout_s: 1, ..session::Config::default() };
    let mesh = Mesh::embedded_with(config, nothing()).await.unwrap();
    let mut client = mesh.client();
    let answer = client.post(INITIALIZE).await.unwrap();
    client.session = Some(answer.headers["mcp-session-id"].to_str().unwrap().to_owned());
    gone(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_ends_and_one_that_is_used_does_not() {
    let config = session::Config { idle_timeout_s: 2, ..session::Config::default() };
    let mesh = Mesh::embedded_with(config, nothing()).await.unwrap();
    let (mut idle, mut used) = (mesh.client(), mesh.client());
    idle.initialize("2025-11-25", "{}").await.unwrap();
    used.initialize("2025-11-25", "{}").await.unwrap();
    let _reading = used.get(None).await.unwrap();
    let session = idle.session.take();
    let watched = async {
        // A ping would keep the idle one alive; a cursor that is none does not.
        loop {
            let answer = used.post(PING).await?;
            assert_eq!(answer.status, 200, "the used one stays");
            let mut other = mesh.client();
            other.session.clone_from(&session);
            let probe = other.get(Some("not-an-id")).await?;
            if probe.status == 404 {
                return anyhow::Ok(());
            }
            assert_eq!(probe.status, 400);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, watched).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_a_handshake_is_refused_and_keeps_nothing() {
    let config = session::Config { max_sessions: 2, ..session::Config::default() };
    let mesh = Mesh::embedded_with(config, nothing()).await.unwrap();
    let mut clients = [mesh.client(), mesh.client()];
    for client in &mut clients {
        client.initialize("2025-11-25", "{}").await.unwrap();
    }
    let refused = mesh.client().post(INITIALIZE).await.unwrap();
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after") && !refused.headers.contains_key("mcp-session-id"));
    let text = refused.text().await.unwrap();
    assert_eq!(mcp::scan::path(&text, &["error", "data", "reason"]), Some("\"rate_limited\""), "{text}");
    assert_eq!(mcp::scan::path(&text, &["id"]), Some("1"));
    assert!(clients[0].delete().await.unwrap().status.is_success());
    mesh.client().initialize("2025-11-25", "{}").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_has_no_task() {
    let mesh = Mesh::embedded_with(session::Config::default(), nothing()).await.unwrap();
    let mut first = mesh.client();
    first.initialize("2025-11-25", "{}").await.unwrap();
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    // One connection serves them all, so that only sessions are counted.
    for _ in 0..300 {
        first.session = None;
        first.revision = None;
        first.initialize("2025-11-25", "{}").await.unwrap();
    }
    let resting = async {
        while metrics.num_alive_tasks() > before + 5 {
            tokio::task::yield_now().await;
        }
    };
    let rested = tokio::time::timeout(DEADLINE, resting).await;
    assert!(rested.is_ok(), "{} tasks before, {} with 300 idle sessions", before, metrics.num_alive_tasks());
}

/// On one thread: nothing happens between the two requests.
#[tokio::test]
async fn what_waits_behind_the_end_of_a_session_is_told_that_it_is_gone() {
    let keys = api::KeyRing::single("k1", *b"0123456789abcdefghijklmnopqrstuv");
    let deps = session::Deps {
        keys,
        store: std::sync::Arc::new(session::store::Memory::default()),
        seat: session::Seat::Fixed { slots: Default::default(), epoch: session::Deps::epoch_of_this_start() },
        registries: Vec::new(),
        process: Default::default(),
    };
    let app = session::App::build(session::Config::default(), deps).unwrap();
    let host = app.handle();
    let (_trigger, shutdown) = chassis::drain::pair();
    let _served = chassis::task::spawn(chassis::task::Kind::Role, "session", async move {
        app.serve(chassis::serve::Incoming::None, shutdown).await
    });
    let delivery = |session: Option<String>, message: &'static str| Delivery {
        message: mcp::Json::trusted(message),
        read: None,
        era: mcp::Era::Older,
        session,
        revision: None,
        principal: api::Principal::default(),
        transport: Transport::Streamable,
        again: None,
        in_batch: false,
        group: String::new(),
        param_headers: Vec::new(),
        request_key: String::new(),
    };
    let mut begun = host.deliver(delivery(None, INITIALIZE)).await.unwrap();
    let Some(Ok(Frame::Accepted { session: Some(session) })) = begun.next().await else {
        panic!("no session");
    };
    while begun.next().await.is_some() {}
    let principal = api::Principal::default();
    let close = Close {
        session: session.clone(),
        revision: None,
        principal,
        when_idle: false,
        transport: Transport::Streamable,
    };
    let _closed = host.close(close).await.unwrap();
    let mut late = host.deliver(delivery(Some(session.clone()), PING)).await.unwrap();
    assert!(matches!(late.next().await, Some(Ok(Frame::Accepted { .. }))));
    let Some(Ok(Frame::Answer(answer))) = late.next().await else { panic!("no answer") };
    assert_eq!(answer.status, 404);

    // What an earlier attempt may have begun was not "not found": nobody can tell what came of it.
    let call = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"echo"}}"#;
    for (message, is_again, is_unknown) in [(call, true, true), (call, false, false), (PING, true, false)] {
        let again = is_again.then(api::session::Again::default);
        let asked = host.deliver(Delivery { again, ..delivery(Some(session.clone()), message) }).await;
        match asked {
            Err(error) => assert!(is_unknown && error.code == api::Code::OutcomeUnknown, "{error:?}"),
            Ok(mut frames) => {
                let first = frames.next().await;
                assert!(!is_unknown, "{first:?}");
                assert!(matches!(first, Some(Ok(Frame::Refused(answer))) if answer.status == 404));
            }
        }
    }
}
