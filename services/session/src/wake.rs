//! Waiting for the moment a machine wants to be woken at.

use std::pin::Pin;
use std::time::Duration;

use machines::Millis;
use tokio::time::Sleep;

/// Ends when that moment has come; never without one. Safe to use in `select!`.
pub(crate) async fn reached(moment: Option<Millis>) {
    match moment {
        Some(at) => sleep(chassis::clock::dated_millis(), at).await,
        None => std::future::pending().await,
    }
}

/// The same for what waits again and again, mostly for the same moment: its timer stays where it is.
#[derive(Default)]
pub(crate) struct Timer(Option<(Millis, Pin<Box<Sleep>>)>);

impl Timer {
    /// See [`reached`].
    pub(crate) async fn reached(&mut self, moment: Option<Millis>) {
        let Some(at) = moment else { return std::future::pending().await };
        let now = chassis::clock::dated_millis();
        // A machine that was suspended has lost time which its timers do not know of.
        if at <= now {
            return;
        }
        let (_, timer) = match self.0.take_if(|(armed, _)| *armed == at) {
            Some(armed) => self.0.insert(armed),
            None => self.0.insert((at, Box::pin(sleep(now, at)))),
        };
        timer.await;
    }
}

fn sleep(now: Millis, until: Millis) -> Sleep {
    tokio::time::sleep(Duration::from_millis(until.saturating_sub(now)))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_goes_with_the_moment_that_is_waited_for() {
        let (mut timer, now) = (Timer::default(), chassis::clock::dated_millis());
        assert!(timer.reached(None).now_or_never().is_none());
        let ends_within = async |timer: &mut Timer, at, ms| {
            tokio::time::timeout(Duration::from_millis(ms), timer.reached(Some(at))).await.is_ok()
        };
        assert!(!ends_within(&mut timer, now + 60_000, 1_000).await);
        assert!(ends_within(&mut timer, now + 500, 1_000).await, "an earlier one");
        assert!(!ends_within(&mut timer, now + 60_000, 30_000).await, "a later one");
        assert!(ends_within(&mut timer, now + 60_000, 40_000).await, "and the same, which goes on");
    }
}
