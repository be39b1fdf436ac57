//! Processes that are killed, paused and restarted.

use anyhow::Result;
use history::line::Span;

use crate::cluster::Role;
use crate::run::Run;

/// Longest that any session may be out when its owner dies, in milliseconds: the lease, and what follows.
const BOUND: u64 = 6_500;
/// Longest that a session may be out when a gateway dies.
const GATEWAY: u64 = 5_000;
/// A slot is taken from a suspect every 30 s at most; sooner than that, its lease has to end. What follows a kill lasts 12 s.
const APART: f64 = 20.0;

pub(super) async fn killed_owner(run: &mut Run, times: usize) -> Result<()> {
    for number in 0..times {
        if number > 0 {
            run.wait(APART).await;
        }
        run.burst(200, 4, 1_500).await;
        let victim = run.busiest().await?;
        let window = run.begin(Span::Fault, Some(BOUND));
        run.injected(format!("kill -9 {victim}"));
        run.cluster.kill(&victim).await?;
        run.wait(8.0).await;
        run.cluster.restart(&victim).await?;
        run.wait(4.0).await;
        run.over(&window);
    }
    Ok(())
}

/// Pauses the owner. Where nothing may be felt but the pause itself, there is no `limit`.
pub(super) async fn paused_owner(
    run: &mut Run,
    times: usize,
    seconds: f64,
    limit: Option<u64>,
) -> Result<()> {
    for _ in 0..times {
        if limit.is_some() {
            // Their registries go on talking to whoever is paused, who wakes up with something to write.
            run.burst(40, 12, 1_200).await;
        }
        let victim = run.busiest().await?;
        let window = run.begin(Span::Fault, limit);
        run.injected(format!("pause {victim} for {seconds} s"));
        run.cluster.pause(&victim)?;
        run.wait(seconds).await;
        run.cluster.resume(&victim)?;
        run.wait(5.0).await;
        run.over(&window);
    }
    Ok(())
}

/// Pauses it for longer than its lease lasts, and gives it time to find out what happened.
async fn paused(run: &mut Run, victim: &str, window: &str) -> Result<()> {
    run.cluster.pause(victim)?;
    run.wait(8.0).await;
    run.cluster.resume(victim)?;
    run.wait(4.0).await;
    run.over(window);
    Ok(())
}

pub(super) async fn paused_owner_at_random(run: &mut Run, times: usize) -> Result<()> {
    for _ in 0..times {
        let micros = run.draw.below(2_000_000);
        run.wait(micros as f64 / 1e6).await;
        let victim = run.busiest().await?;
        let window = run.begin(Span::Fault, Some(BOUND));
        run.injected(format!("pause {victim} at +{micros} us"));
        paused(run, &victim, &window).await?;
    }
    Ok(())
}

/// Sessions call together, and the owner of some is paused while their calls are written down and sent on.
pub(super) async fn paused_owner_at_dispatches(run: &mut Run, times: usize) -> Result<()> {
    for _ in 0..times {
        let go = run.together(10, 8).await;
        let (victim, micros) = (run.busiest().await?, run.draw.below(50_000));
        let window = run.begin(Span::Fault, Some(BOUND));
        go.send_replace(true);
        run.wait(micros as f64 / 1e6).await;
        run.injected(format!("pause {victim} {micros} us after 80 calls were made"));
        paused(run, &victim, &window).await?;
    }
    Ok(())
}

pub(super) async fn killed_gateway(run: &mut Run) -> Result<()> {
    // A quick run may be one of a busy machine. Their 16 s are less than what a call may take here.
    run.burst(if run.quick { 200 } else { 1_000 }, 4, 4_000).await;
    let window = run.begin(Span::Fault, Some(GATEWAY));
    run.injected("kill -9 gateway-1");
    run.cluster.kill("gateway-1").await?;
    run.wait(4.0).await;
    run.cluster.restart("gateway-1").await?;
    run.wait(8.0).await;
    run.over(&window);
    Ok(())
}

pub(super) async fn killed_gateway_and_owner(run: &mut Run, times: usize) -> Result<()> {
    for number in 0..times {
        if number > 0 {
            run.wait(APART).await;
        }
        run.burst(200, 4, 1_500).await;
        let victim = run.busiest().await?;
        let window = run.begin(Span::Fault, Some(BOUND));
        run.injected(format!("kill -9 gateway-2 and {victim}"));
        run.cluster.kill("gateway-2").await?;
        run.cluster.kill(&victim).await?;
        run.wait(8.0).await;
        run.cluster.restart("gateway-2").await?;
        run.cluster.restart(&victim).await?;
        run.wait(4.0).await;
        run.over(&window);
    }
    Ok(())
}

/// One process of each role is replaced by one of this version, they work side by side, and then the rest is.
pub(super) async fn upgraded(run: &mut Run) -> Result<()> {
    let window = run.begin(Span::Planned, None);
    run.cluster.upgrade()?;
    let order = [Role::Session, Role::Gateway, Role::Ledger, Role::Tools, Role::Resources, Role::Prompts];
    for is_first in [true, false] {
        for role in order {
            let names = run.names(role);
            let (first, rest) = names.split_at(1);
            for name in if is_first { first } else { rest } {
                run.injected(format!("replace {name}"));
                run.cluster.stop(name).await?;
                run.cluster.restart(name).await?;
                run.wait(2.0).await;
            }
        }
        if is_first {
            run.wait(if run.quick { 20.0 } else { 240.0 }).await;
        }
    }
    run.over(&window);
    Ok(())
}

/// Every process of the mesh, one after the other, as an upgrade would.
pub(super) async fn rolled(run: &mut Run) -> Result<()> {
    let window = run.begin(Span::Planned, None);
    let order = [Role::Session, Role::Gateway, Role::Ledger, Role::Tools, Role::Resources, Role::Prompts];
    for role in order {
        for name in run.names(role) {
            run.injected(format!("restart {name}"));
            run.cluster.stop(&name).await?;
            run.cluster.restart(&name).await?;
            // As long as an orchestrator waits for readiness.
            run.wait(2.0).await;
        }
    }
    run.over(&window);
    Ok(())
}

/// Session nodes leave in good order, and come back.
pub(super) async fn drained(run: &mut Run, times: usize) -> Result<()> {
    let window = run.begin(Span::Planned, None);
    for name in run.names(Role::Session).into_iter().cycle().take(times) {
        run.injected(format!("restart {name}"));
        run.cluster.stop(&name).await?;
        run.cluster.restart(&name).await?;
        run.wait(5.0).await;
    }
    run.over(&window);
    Ok(())
}

pub(super) async fn killed_registry(run: &mut Run, times: usize) -> Result<()> {
    for number in 0..times {
        run.burst(100, 4, 1_000).await;
        let victim = format!("ledger-registry-{}", number % 2 + 1);
        let window = run.begin(Span::Fault, Some(BOUND));
        run.injected(format!("kill -9 {victim}"));
        run.cluster.kill(&victim).await?;
        run.wait(5.0).await;
        run.cluster.restart(&victim).await?;
        run.wait(3.0).await;
        run.over(&window);
    }
    Ok(())
}
