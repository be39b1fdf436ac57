use std::time::Duration;

use api::registry::{Context, Start};
use api::{Epoch, Slot};
use chassis::telemetry::Trace;
use mcp::Json;

use super::super::fake::fleet;
use super::super::fake::replica::{Replica, Stage};
use super::super::link::own_context;
use super::super::tests::{kept, two, until};
use super::*;

/// A call of an owner before, of which the acceptance was heard if the instance is known.
fn taken(all: &Arc<Registries>, instance: Option<String>) -> Arc<Call> {
    taken_by(all, instance, 2, Duration::from_secs(60))
}

fn taken_by(all: &Arc<Registries>, instance: Option<String>, epoch: u64, patience: Duration) -> Arc<Call> {
    let route = all.route_taken(Operation::Call, "slow");
    let target = route.entry.own.clone();
    let begin =
        Start { operation: Operation::Call, target, params: Json::empty_object(), continuation: None };
    let context = Context {
        invocation: "i".into(),
        owner: Some((Slot::new(1).unwrap(), Epoch(epoch))),
        deadline: Some((Instant::now() + patience).into_std()),
        ..own_context(&route.entry.source.registry)
    };
    let heard = u64::from(instance.is_some());
    Call::taken_over(all.observed(), route, begin, context, instance, heard)
}

async fn heard(call: &Arc<Call>) -> Vec<Reattached> {
    call.clone().reattach().collect().await
}

/// The instance that answered.
fn answered(heard: &[Reattached]) -> String {
    match heard.last() {
        Some(Reattached::Heard(Heard::Frame(CallFrame::Result(result)))) => result.text("by").unwrap(),
        other => panic!("no result: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_come_back_to_where_it_was_taken_on_and_nowhere_else() {
    let ([one, other], all) = two();
    one.take_on("i");
    kept(&all, async {
        let call = taken(&all, Some(one.instance()));
        let opens = async {
            one.is_asked("attach", 1).await;
            one.gate.send_replace(true);
        };
        let (heard, ()) = tokio::join!(heard(&call), opens);
        assert_eq!(answered(&heard), one.instance());
        assert_eq!(heard.len(), 1, "what was heard before is not heard again");
        assert_eq!((one.runs(), other.runs(), other.asked("attach")), (0, 0, 0));
        call.release();
        one.is_asked("release", 1).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_instance_and_one_no_longer_announced_are_come_back_to() {
    let ([one, _], all) = two();
    let third = Replica::new("c:1");
    for replica in [&one, &third] {
        replica.take_on("i");
        replica.gate.send_replace(true);
    }
    kept(&all, async {
        all.add(third.peer());
        until(&all, || all.holder(&third.instance(), "").is_some()).await;
        all.remove("c:1");
        one.enter(Stage::Draining);
        for replica in [&one, &third] {
            let heard = heard(&taken(&all, Some(replica.instance()))).await;
            assert_eq!(answered(&heard), replica.instance());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_it_was_taken_on_is_found_out_by_asking_every_replica() {
    let ([one, other], all) = two();
    other.take_on("i");
    other.gate.send_replace(true);
    kept(&all, async {
        for instance in [None, Some("of a run that is over".to_owned())] {
            let heard = heard(&taken(&all, instance)).await;
            assert_eq!(answered(&heard), other.instance());
        }
        assert_eq!((one.runs(), other.runs()), (0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_is_not_known_and_its_old_owner_is_refused_from_then_on() {
    let ([one, other], all) = two();
    kept(&all, async {
        for instance in [None, Some(one.instance()), Some("another".to_owned())] {
            assert_eq!(heard(&taken(&all, instance)).await, [Reattached::NotKnown]);
        }
        // The old owner wakes up and sends what it had written down.
        let zombie = taken_by(&all, None, 1, Duration::from_secs(60));
        for replica in [&one, &other] {
            zombie.put(all.links().values().find(|l| l.address() == replica.peer().address).unwrap());
            let start = zombie.place().unwrap().port.start(zombie.context(), zombie.again(round())).await;
            assert!(matches!(start.err().unwrap().detail, Some(Detail::StaleEpoch { highest: 2 })));
        }
        assert_eq!((one.runs(), other.runs()), (0, 0));
        let heard = heard(&zombie_of(&all)).await;
        let changed = CallFrame::Lost { reason: "owner_changed", not_executed: false };
        assert_eq!(heard, [Reattached::Heard(Heard::Frame(changed))]);
    })
    .await;
}

fn zombie_of(all: &Arc<Registries>) -> Arc<Call> {
    taken_by(all, None, 1, Duration::from_secs(60))
}

fn round() -> api::registry::Round {
    api::registry::Round { state: bytes::Bytes::new(), round: 0, responses: Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn a_replica_out_of_reach_is_asked_again_until_the_deadline() {
    let ([one, other], all) = two();
    kept(&all, async {
        one.enter(Stage::Down);
        let begun = Instant::now();
        let patience = Duration::from_secs(60);
        assert_eq!(heard(&taken(&all, Some(one.instance()))).await, [Reattached::OutOfReach]);
        assert!(begun.elapsed() <= patience && begun.elapsed() > patience / 2, "{:?}", begun.elapsed());
        assert_eq!(heard(&taken(&all, None)).await, [Reattached::OutOfReach]);
        assert!(other.asked("attach") < 200, "less and less often: {}", other.asked("attach"));
        // It comes back with what it had: it was only out of reach.
        one.take_on("i");
        one.gate.send_replace(true);
        let returns = async {
            let before = other.asked("attach");
            other.is_asked("attach", before + 3).await;
            one.enter(Stage::Serving);
        };
        let call = taken(&all, None);
        let (heard, ()) = tokio::join!(heard(&call), returns);
        assert_eq!(answered(&heard), one.instance());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_never_reached_may_know_it() {
    let [one, never] = ["a:1", "b:1"].map(Replica::new);
    never.enter(Stage::Down);
    let all = fleet([&one, &never].map(Replica::peer).into());
    kept(&all, async {
        assert_eq!(heard(&taken(&all, None)).await, [Reattached::OutOfReach]);
        never.enter(Stage::Serving);
        assert_eq!(heard(&taken(&all, None)).await, [Reattached::NotKnown]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_altogether_is_waited_for() {
    let replica = Replica::new("a:1");
    replica.enter(Stage::Down);
    let all = fleet(vec![replica.peer()]);
    kept(&all, async {
        replica.take_on("i");
        replica.gate.send_replace(true);
        // Nobody lists what it is about, either.
        let call = taken(&all, None);
        let returns = async {
            tokio::task::yield_now().await;
            replica.enter(Stage::Serving);
        };
        let (heard, ()) = tokio::join!(heard(&call), returns);
        assert_eq!(answered(&heard), replica.instance());
        assert_eq!(call.context().registry, "r");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_and_cancellations_reach_the_right_instance() {
    for instance in [true, false] {
        let ([one, other], all) = two();
        one.take_on("i");
        one.gate.send_replace(true);
        kept(&all, async {
            let instance = instance.then(|| one.instance());
            let resumed: Vec<_> = taken(&all, instance.clone()).resume(1, Vec::new()).collect().await;
            assert!(matches!(resumed.last(), Some(Heard::Frame(CallFrame::Result(_)))), "{resumed:?}");
            assert_eq!(other.asked("resume"), 0);
            let call = taken(&all, instance);
            // Before it is known where it is.
            call.cancel("enough".into());
            one.is_asked("cancel", 1).await;
            assert!(!heard(&call).await.is_empty());
            call.cancel("enough".into());
            one.is_asked("cancel", 2).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_picked_up_ends_with_an_unknown_outcome_where_nobody_has_it() {
    let ([one, _], all) = two();
    kept(&all, async {
        let lost = |reason| [Heard::Frame(CallFrame::Lost { reason, not_executed: false })];
        let picked: Vec<_> = taken(&all, None).pick_up().collect().await;
        assert_eq!(picked, lost("owner_failover"));
        let resumed: Vec<_> = taken(&all, None).resume(1, Vec::new()).collect().await;
        assert_eq!(resumed, lost("registry_lost"));
        one.enter(Stage::Down);
        let picked: Vec<_> = taken(&all, Some(one.instance())).pick_up().collect().await;
        assert_eq!(picked, lost("registry_lost"));
        assert_eq!(one.runs(), 0, "nothing was begun");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_hangs_does_not_keep_others_from_answering() {
    let ([one, other], all) = two();
    other.take_on("i");
    other.gate.send_replace(true);
    kept(&all, async {
        one.enter(Stage::Silent);
        assert_eq!(answered(&heard(&taken(&all, None)).await), other.instance());
        assert_eq!(heard(&taken(&all, Some(one.instance()))).await, [Reattached::OutOfReach]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_is_asked_in_the_trace_of_whoever_asks_for_the_call_again() {
    let ([one, _], all) = two();
    one.take_on("i");
    one.gate.send_replace(true);
    kept(&all, async {
        for (instance, frames) in [(Some(one.instance()), 1), (None, 2)] {
            let call = taken(&all, instance);
            // Begun before anybody asks, as when a session is loaded.
            let heard = call.clone().pick_up();
            let hop = Scope::of_caller("session", None);
            call.show(&hop, "key");
            assert_eq!(heard.count().await, frames);
            let asked = one.traces.lock().unwrap().pop();
            assert_eq!(asked, hop.trace().map(Trace::id));
            assert!(Scope::current().trace().is_none(), "nothing is left behind");
        }
    })
    .await;
}
