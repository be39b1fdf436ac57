//! Bounds on what an input may cost: memory and processor time in proportion to its length.
//!
//! Processor time of the thread, so that other work on the machine makes no failures.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// More than any length deserves: the first use of tables, and of the allocator's own.
const MEMORY: usize = 1 << 20;
/// Bytes for each byte of input.
const MEMORY_FACTOR: usize = 4;
/// Code under the fuzzer is slower than in production.
const TIME: Duration = Duration::from_millis(50);
const TIME_PER_KIB: Duration = Duration::from_millis(1);

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn grown(by: usize) {
    let now = NOW.fetch_add(by, Ordering::Relaxed) + by;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is the system allocator's; numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Does `work` on an input of `length` bytes.
///
/// # Panics
/// When it took more memory or time than such an input may.
pub fn bounded<T>(length: usize, work: impl FnOnce() -> T) -> T {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let begin = clock_gettime(ClockId::ThreadCPUTime);
    let done = work();
    let end = clock_gettime(ClockId::ThreadCPUTime);
    let memory = PEAK.load(Ordering::Relaxed) - before;
    assert!(memory <= MEMORY_FACTOR * length + MEMORY, "{memory} bytes for {length} bytes");
    let nanoseconds = (end.tv_sec - begin.tv_sec) * 1_000_000_000 + (end.tv_nsec - begin.tv_nsec);
    let took = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    let bound = TIME + TIME_PER_KIB * u32::try_from(length / 1024).unwrap_or(u32::MAX);
    assert!(took <= bound, "{took:?} for {length} bytes");
    done
}
