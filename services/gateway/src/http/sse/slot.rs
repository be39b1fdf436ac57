//! Streams that are open, and those whose reader has stopped reading.
//!
//! A stream that has handed something out is asked for more as soon as that was written. When it is not asked for long, its
//! reader does not read: over HTTP/1.1 the connection is stuck and ends by itself, over HTTP/2 it may be this stream among
//! many. Nothing polls such a stream any more, so [`Stalls`] looks at all of them from outside and takes what they hold.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use api::Error;
use api::session::{Frame, Frames};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use hyper::body::{self, Body};
use tokio::time::{Instant, interval};

use crate::limits::Inside;

/// What is handed out at a time: so much must be read before more is, however large an event is.
pub(in crate::http) const PIECE: usize = 32 << 10;
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
    /// What is being said and was not handed out yet.
    rest: Bytes,
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
    /// Whether the stream waits for news, and may be silent for long.
    pub(crate) fn waits(&self) -> bool {
        self.0.waits
    }

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
        let held = Mutex::new(Some(Contents { frames, rest: Bytes::new(), places: Vec::new() }));
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

    /// Says this next.
    pub(super) fn say(&self, text: Bytes) {
        if let Some(contents) = self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            contents.rest = text;
        }
    }

    /// Hands out a piece of what is being said, to be written.
    pub(super) fn piece(&self) -> Option<Bytes> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = &mut held.as_mut()?.rest;
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        drop(held);
        self.hand_out();
        Some(piece)
    }

    /// Something was handed out to be written.
    fn hand_out(&self) {
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

    /// Nothing more will come: what is being said is the last.
    pub(super) fn finish(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(contents) = held.as_mut() else { return };
        let frames = std::mem::replace(&mut contents.frames, stream::empty().boxed());
        let places = std::mem::take(&mut contents.places);
        drop(held);
        drop((frames, places));
    }

    /// Drops what it holds, outside the lock.
    pub(super) fn let_go(&self) {
        let contents = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(contents);
    }
}

/// A whole answer that is large, as a body: who does not read it is let go like the reader of a stream.
pub(in crate::http) struct Whole {
    slot: Arc<Slot>,
    left: usize,
}

impl Whole {
    pub(in crate::http) fn new(stalls: &Stalls, answer: Bytes) -> Self {
        let (slot, left) = (stalls.open(stream::empty().boxed(), false), answer.len());
        slot.say(answer);
        Self { slot, left }
    }

    /// What keeps places taken until it was written.
    pub(in crate::http) fn open(&self) -> Open {
        Open(self.slot.clone())
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<body::Frame<Bytes>, io::Error>>> {
        self.slot.wait();
        match self.slot.piece() {
            Some(piece) => {
                self.left -= piece.len();
                Poll::Ready(Some(Ok(body::Frame::data(piece))))
            }
            None if self.left == 0 => Poll::Ready(None),
            None => Poll::Ready(Some(Err(io::Error::other("its reader has stopped reading")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> body::SizeHint {
        body::SizeHint::with_exact(self.left as u64)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.slot.let_go();
    }
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
}
