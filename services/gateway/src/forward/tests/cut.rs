//! Whom only this gateway does not hear.

use super::*;

const NEVER: u64 = 3_600_000;

/// What is given up within ten seconds where `a` answers us and others from then on.
async fn given_up(nodes: &[&str], us: u64, others: u64) -> Vec<(String, u128)> {
    let nodes: Vec<_> = nodes.iter().map(|name| (*name, answered())).collect();
    let mesh = Mesh::new(&nodes, None);
    mesh.answers_at.lock().unwrap().insert("a".into(), [us, others]);
    let forward = mesh.forward();
    let watched = tokio::time::timeout(Duration::from_secs(10), forward.watch_lines()).await;
    assert!(watched.is_err(), "it runs until it is dropped");
    mesh.given_up.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_others_hear_is_given_up_within_two_seconds_and_whenever_it_is_asked_again() {
    let given_up = given_up(&["a", "b", "c"], NEVER, 0).await;
    assert!(given_up.iter().all(|(node, _)| node == "a"), "{given_up:?}");
    assert!(given_up.first().is_some_and(|(_, at)| *at <= 2_000), "{given_up:?}");
    // Nodes that were missed lately are the last that others ask.
    assert!(given_up.len() >= 4, "{given_up:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_hears_is_waited_for() {
    for pause in [3_000, NEVER] {
        assert_eq!(given_up(&["a", "b", "c"], pause, pause).await, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_back_for_others_a_moment_sooner_is_waited_for() {
    assert_eq!(given_up(&["a", "b"], 1_400, 1_200).await, []);
}

#[tokio::test(start_paused = true)]
async fn nobody_else_can_tell_of_the_only_node() {
    assert_eq!(given_up(&["a"], NEVER, 0).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_answers_again_is_in_doubt_no_longer() {
    let mesh = Mesh::new(&[("a", answered()), ("b", answered())], None);
    mesh.answers_at.lock().unwrap().insert("a".into(), [4_000, 0]);
    let forward = mesh.forward();
    let mut watching = pin!(forward.watch_lines());
    assert!(tokio::time::timeout(Duration::from_secs(3), watching.as_mut()).await.is_err());
    assert!(forward.reach.since(&peer("a")).is_some());
    assert!(tokio::time::timeout(Duration::from_secs(3), watching).await.is_err());
    assert!(forward.reach.since(&peer("a")).is_none());
}
