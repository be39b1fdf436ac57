//! The checker against registries that keep the contract, and against some that don't.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod kit;
mod model;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use tests::registry_check::{Options, Report, Rule, check};

use model::{Fault, Model};

async fn judge(fault: Option<Fault>) -> Report {
    let served = Model::serve(fault).await;
    let mut options = Options::new(served.address.to_string());
    options.patience = Duration::from_millis(2_500);
    options.silence = Duration::from_millis(250);
    options.changing = Some("add".to_owned());
    let model = served.model.clone();
    options.drain = Some(Box::new(move || {
        model.drain();
        Ok(())
    }));
    check(options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_keeps_the_contract_is_seen_to_keep_every_rule() {
    let report = judge(None).await;
    assert_eq!((report.failed(), report.skipped()), (vec![], vec![]), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_convicted_by_the_rule_it_breaks() {
    let judged = futures::stream::iter(Fault::ALL).map(|fault| async move {
        let report = judge(Some(*fault)).await;
        (*fault, report)
    });
    let escaped: Vec<String> = judged
        .buffer_unordered(24)
        .filter_map(|(fault, report)| async move {
            let convicted = report.failed().contains(&fault.breaks());
            (!convicted).then(|| format!("{fault:?} escaped {:?}:\n{report}", fault.breaks()))
        })
        .collect()
        .await;
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
}

#[test]
fn there_is_a_fault_for_every_rule() {
    let convicting: BTreeSet<Rule> = Fault::ALL.iter().map(|fault| fault.breaks()).collect();
    let idle: Vec<&Rule> = Rule::ALL.iter().filter(|rule| !convicting.contains(rule)).collect();
    assert!(idle.is_empty(), "{idle:?}");
}

#[tokio::test]
async fn a_check_of_nobody_ends_and_fails() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = Options::new(listener.local_addr().unwrap().to_string());
    options.patience = Duration::from_millis(100);
    let report = check(options).await;
    assert_eq!(report.failed(), [Rule::Instance]);
}
