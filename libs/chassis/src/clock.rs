//! The real clocks and the real randomness, as functions. Everything else takes them as arguments.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since this process first asked; never goes back.
#[must_use]
pub fn now_millis() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    millis(START.get_or_init(Instant::now).elapsed())
}

/// Milliseconds since the machine started, its sleep included; never goes back. What was promised to others until a moment
/// is counted on this one, because they do not sleep along.
#[must_use]
pub fn boot_millis() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default() * 1000 + nanos.unwrap_or_default() / 1_000_000
}

/// Milliseconds since 1970; 0 on a machine whose clock stands before that.
#[must_use]
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(millis).unwrap_or_default()
}

/// Milliseconds since 1970 as they pass for this process: the date when it first asked, and what has passed since. Unlike the
/// date it never jumps, so that what lasts for a while lasts as long as was meant.
#[must_use]
pub fn dated_millis() -> u64 {
    static START: OnceLock<(u64, u64)> = OnceLock::new();
    let (date, boot) = *START.get_or_init(|| (unix_millis(), boot_millis()));
    date.saturating_add(boot_millis().saturating_sub(boot))
}

/// Nanoseconds since 1970; 0 on a machine whose clock stands before that.
#[must_use]
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes from the operating system's random source.
///
/// # Errors
/// When the operating system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    const { assert!(N <= POOL, "more than the pool holds") };
    UNUSED.with_borrow_mut(|(pool, used)| {
        if *used + N > POOL {
            getrandom::fill(pool.as_mut_slice())?;
            *used = 0;
        }
        let mut bytes = [0; N];
        let taken = &mut pool[*used..*used + N];
        bytes.copy_from_slice(taken);
        // Nothing is given twice, nor found later.
        taken.fill(0);
        *used += N;
        Ok(bytes)
    })
}

/// Bytes that are fetched at a time: every call of a client wants some, and asking the system costs more than drawing them.
const POOL: usize = 1024;

thread_local! {
    static UNUSED: RefCell<([u8; POOL], usize)> = const { RefCell::new(([0; POOL], POOL)) };
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let first = now_millis();
        assert!(now_millis() >= first);
    }

    #[test]
    fn dates_of_this_process_begin_at_the_date() {
        let before = unix_millis();
        let first = dated_millis();
        assert!(first.abs_diff(before) < 60_000 && dated_millis() >= first);
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random::<16>().unwrap(), random::<16>().unwrap());
    }
}
