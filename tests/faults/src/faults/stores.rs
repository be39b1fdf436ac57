//! etcd and Redis that die, come back, and forget.

use anyhow::Result;
use history::line::Span;

use crate::run::Run;

/// How long a fail-over of Redis takes until it is decided, in seconds.
const DECIDE: f64 = 1.0;
/// How much longer than that a session may be out, in milliseconds.
const AFTER: u64 = 2_000;

/// What goes with a primary of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    Nothing,
    Tail,
    TailAndOwner,
}

pub(super) async fn etcd_leader(run: &mut Run, times: usize) -> Result<()> {
    let window = run.begin(Span::Fault, None);
    for _ in 0..times {
        let leader = run.cluster.etcd.leader().await?;
        run.injected(format!("kill -9 the leader of etcd, member {leader}"));
        run.cluster.etcd.kill(leader).await?;
        run.wait(5.0).await;
        run.cluster.etcd.start_member(leader)?;
        run.cluster.etcd.healthy().await?;
        run.wait(5.0).await;
    }
    run.over(&window);
    Ok(())
}

pub(super) async fn etcd_down(run: &mut Run) -> Result<()> {
    let window = run.begin(Span::Fault, None);
    run.injected("etcd is down");
    down(run, true).await?;
    run.wait(if run.quick { 20.0 } else { 300.0 }).await;
    run.over(&window);
    down(run, false).await?;
    run.wait(5.0).await;
    Ok(())
}

async fn down(run: &mut Run, is_down: bool) -> Result<()> {
    for member in 0..run.cluster.etcd.len() {
        if is_down {
            run.cluster.etcd.kill(member).await?;
        } else {
            run.cluster.etcd.start_member(member)?;
        }
    }
    if !is_down {
        run.cluster.etcd.healthy().await?;
    }
    Ok(())
}

pub(super) async fn redis_failover(run: &mut Run, loss: Loss) -> Result<()> {
    let old = run.cluster.redis.primary();
    if loss == Loss::Nothing {
        run.cluster.redis.replicates().await?;
    } else {
        run.cluster.redis.lose_replication().await?;
        run.wait(1.0).await;
    }
    let limit = (DECIDE * 1000.0) as u64 + AFTER + if loss == Loss::TailAndOwner { 6_500 } else { 0 };
    let window = run.begin(Span::Fault, Some(limit));
    run.injected(format!("kill -9 redis-{}", old + 1));
    run.cluster.redis.kill(old).await?;
    let victim = match loss {
        Loss::TailAndOwner => {
            let victim = run.busiest().await?;
            run.injected(format!("kill -9 {victim}"));
            run.cluster.kill(&victim).await?;
            Some(victim)
        }
        Loss::Nothing | Loss::Tail => None,
    };
    run.wait(DECIDE).await;
    run.cluster.redis.promote().await?;
    run.cluster.redis.start_node(old).await?;
    run.wait(8.0).await;
    if let Some(victim) = victim {
        run.cluster.restart(&victim).await?;
        run.wait(3.0).await;
    }
    run.over(&window);
    run.cluster.redis.replicates().await
}

/// For the mesh Redis is down; what it knows it keeps.
fn redis(run: &Run, is_down: bool) {
    for proxy in run.cluster.redis.proxies() {
        proxy.listen(!is_down);
    }
}

pub(super) async fn redis_down(run: &mut Run) -> Result<()> {
    let window = run.begin(Span::Fault, None);
    run.injected("Redis is down");
    redis(run, true);
    run.wait(if run.quick { 15.0 } else { 60.0 }).await;
    redis(run, false);
    run.over(&window);
    let recovery = run.begin(Span::Fault, Some(5_000));
    run.wait(8.0).await;
    run.over(&recovery);
    Ok(())
}

pub(super) async fn both_down(run: &mut Run) -> Result<()> {
    run.injected("etcd is down");
    down(run, true).await?;
    run.injected("Redis is down");
    redis(run, true);
    let window = run.begin(Span::NoStores, None);
    // Enough calls for one in a thousand to mean something.
    run.wait(if run.quick { 12.0 } else { 40.0 }).await;
    run.over(&window);
    redis(run, false);
    down(run, false).await?;
    run.wait(8.0).await;
    Ok(())
}

pub(super) async fn scripts_forgotten(run: &mut Run, times: usize) -> Result<()> {
    let window = run.begin(Span::Fault, None);
    for _ in 0..times {
        run.injected("SCRIPT FLUSH");
        run.cluster.redis.ask(run.cluster.redis.primary(), &["script", "flush"]).await?;
        run.wait(2.0).await;
    }
    run.over(&window);
    Ok(())
}
