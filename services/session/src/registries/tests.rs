//! Several processes with the same registry, seen from a session.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::registry::{Context, Start};
use api::{Epoch, Slot};
use chassis::metrics::Metrics;
use futures::StreamExt as _;
use machines::CallFrame;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::call::{Call, Heard};
use super::fake::fleet;
use super::fake::replica::{Replica, Stage, TOOLS, by};
use super::link::own_context;
use super::*;

/// Runs `test` while the fleet is kept.
pub(super) async fn kept<T>(all: &Arc<Registries>, test: impl Future<Output = T>) -> T {
    let test = async {
        all.settled().await;
        all.begin();
        test.await
    };
    tokio::select! {
        () = all.clone().run(CancellationToken::new()) => panic!("it runs until it is told to stop"),
        done = timeout(Duration::from_secs(600), test) => done.expect("an end"),
    }
}

/// Waits for something that a change of the fleet brings about.
pub(super) async fn until(all: &Registries, condition: impl Fn() -> bool) {
    let mut stirred = all.stirred.subscribe();
    while !condition() {
        stirred.changed().await.unwrap();
    }
}

pub(super) fn two() -> ([Arc<Replica>; 2], Arc<Registries>) {
    let replicas = ["a:1", "b:1"].map(Replica::new);
    let all = fleet(replicas.iter().map(Replica::peer).collect());
    (replicas, all)
}

/// The next call of a session with this affinity.
fn call(all: &Arc<Registries>, tool: &str, affinity: &str) -> Arc<Call> {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let route = all.route(Operation::Call, tool, true).unwrap();
    let begin = Start {
        operation: Operation::Call,
        target: tool.into(),
        params: Json::empty_object(),
        continuation: None,
    };
    let context = Context {
        invocation: format!("invocation-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        affinity: affinity.into(),
        owner: Some((Slot::new(1).unwrap(), Epoch(1))),
        deadline: Some(std::time::Instant::now() + Duration::from_secs(3600)),
        ..own_context("r")
    };
    Call::new(all.observed(), route, begin, context)
}

async fn ending(call: Arc<Call>) -> CallFrame {
    match call.begin().collect::<Vec<_>>().await.pop().unwrap() {
        Heard::Frame(frame) => frame,
        Heard::InputRequired(input) => panic!("not an ending: {input:?}"),
    }
}

async fn result(call: Arc<Call>) -> Json {
    let ending = ending(call).await;
    let CallFrame::Result(result) = ending else { panic!("no result: {ending:?}") };
    result
}

fn standing(all: &Registries, address: &str) -> Option<catalogue::Standing> {
    all.links().values().find(|link| link.address() == address).map(|link| link.standing())
}

#[tokio::test(start_paused = true)]
async fn a_session_keeps_to_one_replica_and_sessions_are_spread() {
    let (_, all) = two();
    kept(&all, async {
        let mut results = Vec::new();
        for session in 0..20 {
            let affinity = format!("session-{session}");
            let first = result(call(&all, "t", &affinity)).await;
            for _ in 0..3 {
                assert_eq!(result(call(&all, "t", &affinity)).await, first);
            }
            results.push(first);
        }
        assert!(by(&results).values().all(|count| *count >= 5), "{:?}", by(&results));
        let modern: Vec<Json> = futures::future::join_all((0..40).map(|_| result(call(&all, "t", "")))).await;
        assert!(by(&modern).values().all(|count| *count >= 10), "without affinity: {:?}", by(&modern));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_refuses_before_it_is_known_to_drain_goes_to_another() {
    for stage in [Stage::Draining, Stage::Down] {
        let (replicas, all) = two();
        kept(&all, async {
            // At the same moment: the links have not heard of it.
            replicas[0].enter(stage);
            let calls = (0..20).map(|n| result(call(&all, "t", &n.to_string())));
            assert_eq!(by(&futures::future::join_all(calls).await).len(), 1, "{stage:?}");
            assert_eq!((replicas[0].runs(), replicas[1].runs()), (0, 20));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_may_have_taken_on_is_never_executed_by_another() {
    let (replicas, all) = two();
    kept(&all, async {
        let calls: Vec<_> = (0..8).map(|n| call(&all, "slow", &n.to_string())).collect();
        let endings = futures::future::join_all(calls.into_iter().map(ending));
        let dies = async {
            while replicas[0].runs() + replicas[1].runs() < 8 {
                tokio::task::yield_now().await;
            }
            replicas[0].restart();
            replicas[1].gate.send_replace(true);
        };
        let (endings, ()) = tokio::join!(endings, dies);
        let unknown = CallFrame::Lost { reason: "registry_lost", not_executed: false };
        let lost = endings.iter().filter(|ending| **ending == unknown).count();
        let done = endings.iter().filter(|ending| matches!(ending, CallFrame::Result(_))).count();
        assert_eq!((lost, done), (replicas[0].runs(), replicas[1].runs()));
        assert_eq!(lost + done, 8);
        assert!(lost > 0 && done > 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_a_moment_for_the_only_replica_and_is_then_refused() {
    let replica = Replica::new("a:1");
    let all = fleet(vec![replica.peer()]);
    kept(&all, async {
        for stage in [Stage::Draining, Stage::Down] {
            replica.enter(stage);
            let refused = CallFrame::Lost { reason: "registry_lost", not_executed: true };
            assert_eq!(ending(call(&all, "t", "")).await, refused, "{stage:?}");
            let waiting = async {
                tokio::task::yield_now().await;
                replica.restart();
            };
            let (held, ()) = tokio::join!(result(call(&all, "t", "")), waiting);
            assert_eq!(held.text("by"), Some(replica.instance()));
        }
        assert_eq!(replica.runs(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_cancelled_while_it_waits_is_not_begun() {
    let replica = Replica::new("a:1");
    let all = fleet(vec![replica.peer()]);
    kept(&all, async {
        replica.enter(Stage::Down);
        let waiting = call(&all, "t", "");
        let changes = async {
            tokio::task::yield_now().await;
            waiting.cancel("enough".into());
            replica.restart();
        };
        let (ended, ()) = tokio::join!(ending(waiting.clone()), changes);
        assert_eq!(ended, CallFrame::Lost { reason: "registry_lost", not_executed: true });
        assert_eq!(replica.runs(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rolling_restart_fails_no_call_and_changes_no_list() {
    let (replicas, all) = two();
    let mut changes = all.changes();
    kept(&all, async {
        let over = CancellationToken::new();
        let calling = async {
            let (mut results, mut pace) = (Vec::new(), tokio::time::interval(Duration::from_millis(5)));
            while !over.is_cancelled() {
                pace.tick().await;
                let calls = (0..10).map(|n| result(call(&all, "t", &n.to_string())));
                results.extend(futures::future::join_all(calls).await);
            }
            results
        };
        let rolling = async {
            for replica in &replicas {
                replica.enter(Stage::Draining);
                until(&all, || {
                    standing(&all, replica.peer().address.as_str()) == Some(catalogue::Standing::Leaving)
                })
                .await;
                replica.restart();
                until(&all, || {
                    standing(&all, replica.peer().address.as_str()) == Some(catalogue::Standing::Serving)
                })
                .await;
            }
            over.cancel();
        };
        let (results, ()) = tokio::join!(calling, rolling);
        assert!(results.len() > 40, "{}", results.len());
        assert!(changes.try_recv().is_err(), "nobody was told of any change");
        assert_eq!(replicas[0].runs() + replicas[1].runs(), results.len());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_roll_out_tells_of_each_change_once_and_removed_tools_fail() {
    const NEW: [&str; 2] = [TOOLS[0], r#"{"name":"new"}"#];
    let (replicas, all) = two();
    let mut changes = all.changes();
    kept(&all, async {
        let tools = || all.list(Method::ToolsList, None).unwrap().to_string();
        let (old, new) = (tools(), || all.catalogue().find(Kind::Tools, "new").is_some());
        replicas[0].enter(Stage::Draining);
        until(&all, || standing(&all, "a:1") == Some(catalogue::Standing::Leaving)).await;
        assert_eq!(tools(), old, "the other one offers the same");
        replicas[0].view.send_modify(|view| (view.version, view.tools) = ("2", NEW.to_vec()));
        replicas[0].restart();
        until(&all, new).await;
        assert_eq!(changes.recv().await, Ok(ListKind::Tools));
        let found = result(call(&all, "new", "")).await;
        assert_eq!(found.text("by"), Some(replicas[0].instance()), "it is called where it is");
        replicas[1].gate.send_replace(true);
        assert_eq!(result(call(&all, "slow", "")).await.text("by"), Some(replicas[1].instance()));
        replicas[1].view.send_modify(|view| (view.version, view.tools) = ("2", NEW.to_vec()));
        replicas[1].restart();
        until(&all, || all.catalogue().find(Kind::Tools, "slow").is_none()).await;
        assert_eq!(changes.recv().await, Ok(ListKind::Tools));
        assert!(all.route(Operation::Call, "slow", true).is_err());
        assert!(changes.try_recv().is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_added_process_is_used_and_a_removed_one_finishes_its_calls() {
    let metrics = Metrics::default();
    let all = Registries::new(Vec::new(), 10, Duration::from_secs(5), Observed::new(&metrics));
    let [one, other] = ["a:1", "b:1"].map(Replica::new);
    kept(&all, async {
        all.add(one.peer());
        until(&all, || all.catalogue().find(Kind::Tools, "t").is_some()).await;
        let slow = call(&all, "slow", "");
        let finishes = async {
            while one.runs() < 1 {
                tokio::task::yield_now().await;
            }
            all.add(other.peer());
            until(&all, || standing(&all, "b:1") == Some(catalogue::Standing::Serving)).await;
            assert_eq!(all.announced(), ["a:1", "b:1"]);
            all.remove("a:1");
            for n in 0..20 {
                assert_eq!(result(call(&all, "t", &n.to_string())).await.text("by"), Some(other.instance()));
            }
            one.gate.send_replace(true);
        };
        let (finished, ()) = tokio::join!(result(slow.clone()), finishes);
        assert_eq!(finished.text("by"), Some(one.instance()));
        slow.release();
        one.is_asked("release", 1).await;
        assert!(metrics.text().contains(r#"registry="a:1""#));
        drop(slow);
        one.enter(Stage::Down);
        until(&all, || standing(&all, "a:1").is_none()).await;
        let text = metrics.text();
        assert!(!text.contains(r#"registry="a:1""#) && text.contains(r#"registry="b:1""#), "{text}");
        all.add(one.peer());
        one.enter(Stage::Serving);
        until(&all, || standing(&all, "a:1") == Some(catalogue::Standing::Serving)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_announced_again_is_dialled_at_once() {
    let replica = Replica::new("a:1");
    let all = fleet(Vec::new());
    replica.enter(Stage::Down);
    kept(&all, async {
        all.add(replica.peer());
        // It is tried less and less often.
        let failing = tokio::time::Instant::now() + Duration::from_secs(60);
        tokio::time::timeout_at(failing, std::future::pending::<()>()).await.unwrap_err();
        replica.enter(Stage::Serving);
        let before = tokio::time::Instant::now();
        all.add(replica.peer());
        until(&all, || standing(&all, "a:1") == Some(catalogue::Standing::Serving)).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_configured_stays_when_it_is_no_longer_announced() {
    let replica = Replica::new("a:1");
    let all = fleet(vec![replica.peer()]);
    kept(&all, async {
        all.add(replica.peer());
        all.remove("a:1");
        assert_eq!(standing(&all, "a:1"), Some(catalogue::Standing::Serving));
        assert_eq!(all.links().len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_resource_is_watched_at_every_replica_and_each_update_told_once() {
    let (replicas, all) = two();
    kept(&all, async {
        let heard = Arc::new(AtomicUsize::new(0));
        let counting = heard.clone();
        let listener: Listener = Arc::new(move |_, _| _ = counting.fetch_add(1, Ordering::Relaxed));
        let route = all.route(Operation::Read, "a:1", true).unwrap();
        let subscription = all.subscribe(&route, "a:1", listener).await.unwrap();
        let watches = |replica: &Arc<Replica>, is: bool| {
            let mut watched = replica.watched.subscribe();
            async move { _ = watched.wait_for(|all: &BTreeSet<String>| all.contains("a:1") == is).await.unwrap() }
        };
        for replica in &replicas {
            watches(replica, true).await;
        }
        let told = async |count: usize| {
            while heard.load(Ordering::Relaxed) < count {
                tokio::task::yield_now().await;
            }
        };
        let update = r#"{"uri":"a:1"}"#;
        for (count, first) in [(1, 0), (2, 1), (3, 0)] {
            replicas[first].update(update);
            told(count).await;
            replicas[1 - first].update(update);
        }
        // One that dies is not missed while the other watches; what it may have missed is told when it is back.
        replicas[0].watched.send_replace(BTreeSet::new());
        replicas[0].restart();
        watches(&replicas[0], true).await;
        told(4).await;
        let third = Replica::new("c:1");
        all.add(third.peer());
        watches(&third, true).await;
        assert_eq!(heard.load(Ordering::Relaxed), 4, "a replica that comes has missed nothing");
        drop(subscription);
        for replica in replicas.iter().chain([&third]) {
            watches(replica, false).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn completions_go_to_a_replica_that_serves() {
    let (replicas, all) = two();
    kept(&all, async {
        replicas[0].enter(Stage::Draining);
        let route = all.route(Operation::Call, "t", true).unwrap();
        for n in 0..10 {
            let context = Context { affinity: n.to_string(), ..own_context("r") };
            let asked = route.ask(&context, |registry| {
                let context = context.clone();
                async move { registry.complete(context, Json::empty_object()).await }
            });
            assert_eq!(asked.await.unwrap().unwrap(), Json::empty_object());
        }
        assert_eq!(replicas[1].asked("complete"), 10);
    })
    .await;
}
