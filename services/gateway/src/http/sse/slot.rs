//! Streams that are open, and those whose reader has stopped reading.
//!
//! A stream that has handed something out is asked for more as soon as that was written. When it is not asked for long, its
//! reader does not read: over HTTP/1.1 the connection is stuck and ends by itself, over HTTP/2 it may be this stream among
//! many. Nothing polls such a stream any more, so [`Stalls`] looks at all of them from outside and takes what they hold.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use api::Error;
use api::session::{Frame, Frames};
use futures::StreamExt as _;
use tokio::time::{Instant, interval};

use crate::limits::Inside;

/// How often streams are looked at while one may stall.
const LOOKS: u32 = 4;

/// All streams of one gateway.
#[derive(Debug)]
pub(crate) struct Stalls {
    start: Instant,
    open: Mutex<Vec<Weak<Slot>>>,
}

/// What an open stream holds. Dropping that tells the session node that the client has gone.
#[derive(Debug)]
pub(super) struct Slot {
    held: Mutex<Option<Contents>>,
    /// Since when it has not been asked for more, in milliseconds of [`Stalls::start`] plus one; 0 = it is waiting.
    handed: AtomicU64,
    /// Whether it waits for news.
    waits: bool,
    start: Instant,
}

struct Contents {
    frames: Frames,
    places: Vec<Inside>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

/// In the extensions of a response that is a stream: what keeps places taken as long as it is open.
#[derive(Debug, Clone)]
pub(crate) struct Open(pub(super) Arc<Slot>);

impl Open {
    /// Keeps a place of a request that is under way. A stream that waits for news is no such request.
    pub(crate) fn keep(&self, place: Inside) {
        if !self.0.waits {
            self.0.keep(place);
        }
    }
}

impl Stalls {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), open: Mutex::default() })
    }

    /// A stream begins.
    pub(super) fn open(&self, frames: Frames, waits: bool) -> Arc<Slot> {
        let held = Mutex::new(Some(Contents { frames, places: Vec::new() }));
        let slot = Slot { held, handed: AtomicU64::new(0), waits, start: self.start };
        slot.hand_out();
        let slot = Arc::new(slot);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&slot));
        slot
    }

    /// Lets go of streams whose readers have not read for so long. Runs as long as it is polled.
    pub(crate) async fn watch(&self, patience: Duration) {
        let mut looks = interval((patience / LOOKS).max(Duration::from_millis(100)));
        loop {
            looks.tick().await;
            self.look(patience);
        }
    }

    fn look(&self, patience: Duration) {
        let mut open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        let now = millis(self.start);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        open.retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            let handed = slot.handed.load(Ordering::Relaxed);
            if handed == 0 || now.saturating_sub(handed - 1) < patience {
                return true;
            }
            slot.let_go();
            tracing::debug!("a reader has stopped reading its stream");
            false
        });
        // Others may have come meanwhile.
        self.open.lock().unwrap_or_else(PoisonError::into_inner).append(&mut open);
    }
}

impl Slot {
    /// The next frame. `None` also when it was let go.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(contents) => contents.frames.poll_next_unpin(cx),
            None => Poll::Ready(None),
        }
    }

    /// Something was handed out to be written.
    pub(super) fn hand_out(&self) {
        self.handed.store(millis(self.start) + 1, Ordering::Relaxed);
    }

    /// Everything handed out was written.
    pub(super) fn wait(&self) {
        self.handed.store(0, Ordering::Relaxed);
    }

    pub(super) fn keep(&self, place: Inside) {
        if let Some(contents) = self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            contents.places.push(place);
        }
    }

    /// Drops what it holds, outside the lock.
    pub(super) fn let_go(&self) {
        let contents = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(contents);
    }
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
}
