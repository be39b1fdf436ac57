//! Links that are slow, silent or broken while the processes at both ends are well.

use std::time::Duration;

use anyhow::Result;
use history::line::Span;

use crate::proxy::Rules;
use crate::run::Run;

/// Longest that a session may be out when its owner is cut off from etcd, in milliseconds: its lease, and what follows.
const WITHOUT_ETCD: u64 = 6_500;
/// The same where it is cut off from Redis, and gives way to those who are not.
const WITHOUT_REDIS: u64 = 5_000;
/// The same when only one gateway is cut off from it: the other reaches it.
const ONE_GATEWAY: u64 = 3_000;

pub(super) async fn etcd_slow(run: &mut Run) -> Result<()> {
    let window = run.begin(Span::Fault, None);
    run.injected("everything to and from etcd takes 2 s");
    for proxy in run.cluster.etcd.proxies() {
        proxy.set_all(Rules::slow(Duration::from_secs(2)));
    }
    run.wait(if run.quick { 15.0 } else { 30.0 }).await;
    for proxy in run.cluster.etcd.proxies() {
        proxy.set_all(Rules::default());
    }
    run.wait(4.0).await;
    run.over(&window);
    Ok(())
}

pub(super) async fn redis_slow(run: &mut Run) -> Result<()> {
    let window = run.begin(Span::Fault, None);
    run.injected("everything to and from Redis takes 500 ms");
    for proxy in run.cluster.redis.proxies() {
        proxy.set_all(Rules::slow(Duration::from_millis(500)));
    }
    run.wait(if run.quick { 10.0 } else { 20.0 }).await;
    for proxy in run.cluster.redis.proxies() {
        proxy.set_all(Rules::default());
    }
    run.wait(4.0).await;
    run.over(&window);
    Ok(())
}

pub(super) async fn gateway_from_owner(run: &mut Run, times: usize) -> Result<()> {
    for number in 0..times {
        let owner = run.busiest().await?;
        let gateway = format!("gateway-{}", number % 2 + 1);
        let window = run.begin(Span::Fault, Some(ONE_GATEWAY));
        run.injected(format!("{gateway} and {owner} do not hear each other"));
        run.cluster.unit(&owner)?.proxy.set(&gateway, Rules::silent());
        run.wait(15.0).await;
        run.cluster.unit(&owner)?.proxy.set(&gateway, Rules::default());
        run.wait(4.0).await;
        run.over(&window);
    }
    Ok(())
}

pub(super) async fn owner_from_stores(run: &mut Run) -> Result<()> {
    let cuts = [
        ("etcd", true, Rules::silent(), "does not hear etcd, nor etcd it"),
        ("etcd", true, Rules::half_open(), "does not hear etcd"),
        ("redis", false, Rules::silent(), "does not hear Redis, nor Redis it"),
        ("redis", false, Rules::half_open(), "does not hear Redis"),
    ];
    for (_, is_etcd, rules, what) in cuts {
        let owner = run.busiest().await?;
        let limit = if is_etcd { WITHOUT_ETCD } else { WITHOUT_REDIS };
        let window = run.begin(Span::Fault, Some(limit));
        run.injected(format!("{owner} {what}"));
        cut(run, is_etcd, &owner, rules);
        run.wait(12.0).await;
        cut(run, is_etcd, &owner, Rules::default());
        run.wait(5.0).await;
        run.over(&window);
    }
    Ok(())
}

fn cut(run: &Run, is_etcd: bool, owner: &str, rules: Rules) {
    if is_etcd {
        run.cluster.etcd.proxies().for_each(|proxy| proxy.set(owner, rules));
    } else {
        run.cluster.redis.proxies().for_each(|proxy| proxy.set(owner, rules));
    }
}

/// What is done to the collector, in turn.
pub(crate) const HURTS: usize = 4;
/// How long each of these lasts, and then nothing, in seconds: in one and the same run the one is compared with the other.
const SLICE: f64 = 2.0;
/// Longer than it takes for as many spans to wait as may.
const LONG_SILENCE: f64 = 40.0;

pub(super) async fn collector(run: &mut Run, times: usize) -> Result<()> {
    for number in 0..times {
        let is_last = !run.quick && number + 1 == times;
        let window = run.begin(Span::Fault, None);
        let slow = Rules::slow(Duration::from_secs(2));
        match number % HURTS {
            _ if is_last => {
                run.injected("the collector says nothing for a long time");
                run.cluster.sink_proxy.set_all(Rules::silent());
                run.wait(LONG_SILENCE - SLICE).await;
            }
            0 => {
                run.injected("the collector is down");
                run.cluster.sink_proxy.listen(false);
            }
            1 => {
                run.injected("the collector is slow");
                run.cluster.sink_proxy.set_all(slow);
            }
            2 => {
                run.injected("the collector breaks every connection");
                run.cluster.sink_proxy.set_all(Rules { refused: true, ..Rules::default() });
                run.cluster.sink_proxy.reset_all();
            }
            _ => {
                run.injected("the collector answers with errors");
                run.cluster.sink.refuse(true);
            }
        }
        run.wait(SLICE).await;
        run.cluster.sink.refuse(false);
        run.cluster.sink_proxy.set_all(Rules::default());
        run.cluster.sink_proxy.listen(true);
        run.over(&window);
        run.wait(SLICE).await;
    }
    Ok(())
}
