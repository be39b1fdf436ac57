use std::sync::{Arc, Mutex};

use super::*;

/// Asks to stop as often as it was told to, then never again.
struct Times(u32);

impl Stop for Times {
    async fn next(&mut self) -> &'static str {
        if self.0 == 0 {
            return std::future::pending().await;
        }
        self.0 -= 1;
        "test"
    }
}

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, what: &str) {
    log.lock().unwrap().push(what.to_owned());
}

fn obedient(group: &mut Group, name: &'static str, log: &Log) {
    let log = Arc::clone(log);
    group.start(name, |shutdown| async move {
        shutdown.requested().await;
        note(&log, name);
        Ok(())
    });
}

#[tokio::test(start_paused = true)]
async fn roles_drain_one_after_the_other() {
    let log = Log::default();
    let mut group = Group::new();
    for name in ["gateway", "session", "tools"] {
        obedient(&mut group, name, &log);
    }
    let stopped = group.run_until(&mut Times(1), Duration::from_secs(10)).await;
    assert!(matches!(stopped, Ok(Stopped::Drained)), "{stopped:?}");
    assert_eq!(*log.lock().unwrap(), ["gateway", "session", "tools"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_role_is_cut_short_and_the_next_still_gets_its_turn() {
    let log = Log::default();
    let mut group = Group::new();
    group.start("slow", |shutdown| async move {
        shutdown.expired().await;
        Ok(())
    });
    obedient(&mut group, "tools", &log);
    let begin = Instant::now();
    let stopped = group.run_until(&mut Times(1), Duration::from_secs(10)).await;
    assert!(matches!(&stopped, Ok(Stopped::CutShort(cut)) if cut == &["slow"]), "{stopped:?}");
    assert_eq!(*log.lock().unwrap(), ["tools"]);
    assert_eq!(begin.elapsed(), Duration::from_secs(9), "a tenth of the grace period is kept for the next");
}

#[tokio::test(start_paused = true)]
async fn a_role_that_ignores_everything_does_not_hold_the_process() {
    let mut group = Group::new();
    group.start("deaf", |_shutdown| std::future::pending());
    let begin = Instant::now();
    let stopped = group.run_until(&mut Times(1), Duration::from_secs(10)).await;
    assert!(matches!(stopped, Ok(Stopped::CutShort(_))));
    assert_eq!(begin.elapsed(), Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_the_grace_period() {
    let mut group = Group::new();
    group.start("slow", |_shutdown| std::future::pending());
    let begin = Instant::now();
    let stopped = group.run_until(&mut Times(2), Duration::from_secs(3600)).await;
    assert!(matches!(stopped, Ok(Stopped::Interrupted)));
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_failed_role_takes_the_others_down_in_order() {
    let log = Log::default();
    let mut group = Group::new();
    obedient(&mut group, "gateway", &log);
    group.start("session", |_shutdown| async { Err("the store is gone".into()) });
    let failed = group.run_until(&mut Times(0), Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(failed.to_string(), "session stopped: the store is gone");
    assert_eq!(*log.lock().unwrap(), ["gateway"]);
}

#[tokio::test]
async fn an_address_in_use_names_the_setting() {
    let taken = bind("gateway.listen", "127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = bind("gateway.listen", &address).await.unwrap_err().to_string();
    assert!(refused.contains("gateway.listen") && refused.contains(&address), "{refused}");
}
