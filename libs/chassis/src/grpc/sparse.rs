//! Saying something seldom that others could make happen often.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(1);

/// Lets one through each second.
#[derive(Debug, Default)]
pub(super) struct Sparse(Mutex<Option<Instant>>);

impl Sparse {
    /// Whether it is time to say something again.
    pub(super) fn is_time(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last.is_none_or(|last| last.elapsed() >= PAUSE);
        if is_time {
            *last = Some(Instant::now());
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_is_let_through_each_second() {
        let sparse = Sparse::default();
        assert_eq!([sparse.is_time(), sparse.is_time()], [true, false]);
        tokio::time::advance(PAUSE).await;
        assert_eq!([sparse.is_time(), sparse.is_time()], [true, false]);
    }
}
