//! Two processes with the same registry: they drain, stop and start again, one after the other, while clients go on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chassis::drain::{self, Trigger};
use chassis::grpc::server::serve_until_drained;
use chassis::serve::Incoming;
use futures::future::join_all;
use mcp::scan::{member, path};
use registry::{Ask, Registry, Tool};
use tests::client::{Client, DEADLINE};
use tests::mesh::Mesh;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// What the tools have done, beyond the life of any process.
#[derive(Default)]
struct Ledger {
    /// How often each argument was worked on.
    work: Mutex<BTreeMap<String, usize>>,
    asked: AtomicUsize,
    asking: Notify,
}

impl Ledger {
    fn registry(self: &Arc<Self>) -> Registry {
        let (work, ask) = (self.clone(), self.clone());
        Registry::new("r")
            .tool(Tool::new("work").raw_handler(move |arguments, _| {
                let work = work.clone();
                async move {
                    let nonce = arguments.text("nonce").unwrap_or_default();
                    *work.work.lock().unwrap().entry(nonce.clone()).or_default() += 1;
                    // Some are under way whenever it drains.
                    for _ in 0..nonce.len() {
                        tokio::task::yield_now().await;
                    }
                    Ok(nonce)
                }
            }))
            .tool(Tool::new("ask").raw_handler(move |_, call| {
                let ledger = ask.clone();
                async move {
                    ledger.asked.fetch_add(1, Ordering::Relaxed);
                    ledger.asking.notify_one();
                    call.ask(Ask::new().elicit("name", "Name?", [])).await?;
                    Ok("answered")
                }
            }))
    }
}

/// A process in all but name: a runtime of its own, with all its connections.
struct Replica {
    address: SocketAddr,
    trigger: Trigger,
    ended: oneshot::Receiver<()>,
    _process: Process,
}

struct Process(Option<Runtime>);

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Replica {
    async fn start(ledger: &Arc<Ledger>, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = listener.into_std().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (trigger, shutdown) = drain::pair();
        let (ending, ended) = oneshot::channel();
        let registry = ledger.registry();
        #[allow(
            clippy::disallowed_methods,
            reason = "the task ends with the runtime, which its owner shuts down"
        )]
        runtime.spawn(async move {
            let listener = Incoming::Tcp(TcpListener::from_std(listener).unwrap());
            let host = registry.build(::registry::Runtime::tokio()).unwrap();
            let routes = api::registry::services(host.port());
            let patience = shutdown.clone();
            let drained = async {
                let _cut_short = host.drain_until(async { patience.expired().await }).await;
            };
            serve_until_drained(routes, listener, shutdown, drained).await.unwrap();
            ending.send(())
        });
        Self { address, trigger, ended, _process: Process(Some(runtime)) }
    }

    async fn stop(self) -> SocketAddr {
        self.trigger.drain();
        timeout(DEADLINE, self.ended).await.expect("it ends when it has nothing left").unwrap();
        self.address
    }

    async fn restart(self, ledger: &Arc<Ledger>) -> Self {
        let address = self.stop().await;
        Self::start(ledger, address).await
    }
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn call(id: u32, tool: &str, nonce: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"nonce":"{nonce}"}}}}}}"#
    )
}

/// Calls until it is told to stop; returns what was not answered with the right result.
async fn caller(
    number: usize,
    client: Client,
    modern: bool,
    over: &AtomicBool,
    made: &AtomicUsize,
) -> Vec<String> {
    let mut failed = Vec::new();
    for n in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let nonce = format!("caller-{number}-call-{n}");
        let answer = if modern {
            let params = format!(r#"{{"name":"work","arguments":{{"nonce":"{nonce}"}}}}"#);
            client.modern("1", "tools/call", &params, "{}").await
        } else {
            client.post(call(n + 2, "work", &nonce)).await
        };
        let text = answer.unwrap().response().await.unwrap();
        let right = path(&text, &["result", "content"]).is_some_and(|content| content.contains(&nonce));
        if !right {
            failed.push(text);
        }
        made.fetch_add(1, Ordering::Relaxed);
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_both_replicas_fails_no_call_and_repeats_none() {
    let ledger = Arc::new(Ledger::default());
    let (one, other) = (Replica::start(&ledger, anywhere()).await, Replica::start(&ledger, anywhere()).await);
    let mesh = Mesh::before(&[one.address, other.address]).await.unwrap();
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut callers = Vec::new();
    for number in 0..12 {
        let (mut client, modern) = (mesh.client(), number % 3 == 0);
        if !modern {
            client.initialize("2025-11-25", "{}").await.unwrap();
        }
        callers.push(caller(number, client, modern, &over, &made));
    }
    let mut listener = mesh.client();
    listener.initialize("2025-11-25", "{}").await.unwrap();
    let mut own = listener.get(None).await.unwrap().events();
    let progress = async |from: usize| {
        let more = async {
            while made.load(Ordering::Relaxed) < from + 200 {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, more).await.expect("calls go on");
    };
    let rolling = async {
        let mut replicas = [one, other];
        for _ in 0..3 {
            let mut restarted = Vec::new();
            for replica in replicas {
                progress(made.load(Ordering::Relaxed)).await;
                restarted.push(replica.restart(&ledger).await);
            }
            replicas = restarted.try_into().unwrap_or_else(|_| unreachable!("two of two"));
        }
        progress(made.load(Ordering::Relaxed)).await;
        over.store(true, Ordering::Relaxed);
        replicas
    };
    let (failed, _replicas) = tokio::join!(join_all(callers), rolling);
    let failed: Vec<String> = failed.into_iter().flatten().collect();
    let made = made.load(Ordering::Relaxed);
    println!("{made} calls, six restarts, {} failed", failed.len());
    assert!(failed.is_empty(), "{} of {made}: {:?}", failed.len(), failed.first());
    {
        let work = ledger.work.lock().unwrap();
        assert_eq!(work.len(), made);
        assert!(work.values().all(|times| *times == 1), "nothing was done twice");
    }
    let announced = timeout(Duration::ZERO, own.message()).await;
    assert!(announced.is_err(), "no list has changed: {announced:?}");
}

/// Calls until a call is refused: from then on nothing new is executed.
async fn refused(client: &Client, ledger: &Ledger) {
    for n in 0.. {
        let nonce = format!("new-{n}");
        let params = format!(r#"{{"name":"work","arguments":{{"nonce":"{nonce}"}}}}"#);
        let answer = client.modern("1", "tools/call", &params, "{}").await.unwrap().response().await.unwrap();
        if path(&answer, &["error", "code"]).is_some() {
            // Once it is no longer listed, its name is refused.
            assert_ne!(path(&answer, &["error", "data", "outcome"]), Some("\"unknown\""), "{answer}");
            assert!(!ledger.work.lock().unwrap().contains_key(&nonce), "it was not executed");
            return;
        }
        assert!(answer.contains(&nonce), "{answer}");
    }
}

async fn asked(client: &Client, ledger: &Ledger) -> (tests::client::Events, String) {
    let mut events = client.post(call(2, "ask", "")).await.unwrap().events();
    let ask = events.message().await.unwrap();
    assert_eq!(path(&ask, &["method"]), Some("\"elicitation/create\""), "{ask}");
    assert!(ledger.asked.load(Ordering::Relaxed) > 0);
    (events, member(&ask, "id").unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_call_keeps_its_draining_registry_until_it_is_answered_or_the_time_is_over() {
    for answered in [true, false] {
        let ledger = Arc::new(Ledger::default());
        let replica = Replica::start(&ledger, anywhere()).await;
        let mesh = Mesh::before(&[replica.address]).await.unwrap();
        let mut client = mesh.client();
        client.initialize("2025-11-25", r#"{"elicitation":{}}"#).await.unwrap();
        let (mut events, id) = asked(&client, &ledger).await;
        replica.trigger.drain();
        refused(&mesh.client(), &ledger).await;
        if answered {
            let reply =
                format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept","content":{{}}}}}}"#);
            assert_eq!(client.post(reply).await.unwrap().status, 202);
        } else {
            replica.trigger.expire();
        }
        let mut text = events.message().await.unwrap();
        while member(&text, "id") != Some("2") {
            // The question is taken back.
            text = events.message().await.unwrap();
        }
        timeout(DEADLINE, replica.ended).await.expect("nothing keeps it").unwrap();
        if answered {
            assert!(text.contains("answered"), "{text}");
        } else {
            assert_eq!(path(&text, &["error", "data", "reason"]), Some("\"stopped\""), "{text}");
            assert_eq!(path(&text, &["error", "data", "outcome"]), Some("\"unknown\""), "{text}");
        }
    }
}
