//! The callee's half of a link.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, SelectAll};
use futures::task::AtomicWaker;
use futures::{FutureExt as _, Stream, StreamExt as _};
use prost::Message as _;
use tonic::{Status, Streaming};

use super::{Down, LARGE, MAX_CALLS, Part, Port, Said, Trace, Up, WINDOW, broken, cost, end};
use crate::error::Error;

/// Messages taken from the caller before calls are looked at again.
const BURST: usize = 64;
/// Payload after which what is ready is sent.
const ENOUGH: i64 = 32 << 10;

type Items<T> = BoxStream<'static, Result<T, Error>>;

/// What is done for one call, until its frames are there.
pub(crate) type Opening<T> = BoxFuture<'static, Result<Items<T>, Error>>;

/// Puts the beginning of a call into a trace.
pub(crate) type Within<T> = Arc<dyn Fn(&Trace, Opening<T>) -> Opening<T> + Send + Sync>;

/// What a link needs from its surroundings.
pub struct Surroundings<T> {
    /// Makes the beginning of a call part of the caller's trace.
    pub within: Within<T>,
    /// Resolves when the process begins to drain; one for each link.
    pub draining: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl<T> Clone for Surroundings<T> {
    fn clone(&self) -> Self {
        Self { within: self.within.clone(), draining: self.draining.clone() }
    }
}

impl<T> Surroundings<T> {
    /// No traces, and no end.
    #[must_use]
    pub fn none() -> Self {
        Self {
            within: Arc::new(|_, opening| opening),
            draining: Arc::new(|| futures::future::pending().boxed()),
        }
    }
}

/// Everything that is open on one link, as the stream of what is said to the caller.
pub(crate) struct Calls<P: Port> {
    host: Arc<P::Host>,
    within: Within<P::Item>,
    draining: Option<BoxFuture<'static, ()>>,
    inbound: Option<Streaming<P::Up>>,
    calls: SelectAll<Call<P>>,
    /// Hashed quickly: the numbers are those of another process of the mesh.
    controls: HashMap<u64, Arc<Control>, RandomState>,
    unsent: VecDeque<Down<P::Frame>>,
}

/// What the caller says about a call that is open.
#[derive(Default)]
struct Control {
    credit: AtomicI64,
    cancelled: AtomicBool,
    waker: AtomicWaker,
}

impl<P: Port> Calls<P> {
    pub(crate) fn new(
        host: Arc<P::Host>,
        surroundings: &Surroundings<P::Item>,
        inbound: Streaming<P::Up>,
    ) -> Self {
        Self {
            host,
            within: surroundings.within.clone(),
            draining: Some((surroundings.draining)()),
            inbound: Some(inbound),
            calls: SelectAll::new(),
            controls: HashMap::default(),
            unsent: VecDeque::new(),
        }
    }

    fn hear(&mut self, up: Up<P::Request>) {
        match up.said {
            Said::Credit(more) => {
                if let Some(control) = self.controls.get(&up.call) {
                    control.credit.fetch_add(i64::from(more), Ordering::Relaxed);
                    control.waker.wake();
                }
            }
            Said::Cancel => {
                if let Some(control) = self.controls.remove(&up.call) {
                    control.cancelled.store(true, Ordering::Relaxed);
                    control.waker.wake();
                }
            }
            Said::Request(request, trace) => self.open(up.call, &trace, request),
            Said::Unknown => {}
        }
    }

    fn open(&mut self, number: u64, trace: &Trace, request: P::Request) {
        let refused = if self.controls.len() >= MAX_CALLS {
            let after = std::time::Duration::from_secs(1);
            Some(Error::overloaded("too many calls are open on this link", after))
        } else if self.controls.contains_key(&number) {
            Some(broken("a number of a link was used twice"))
        } else {
            None
        };
        if let Some(error) = refused {
            self.unsent.push_back(Down { end: Some(end(Some(error))), ..Down::of(number) });
            return;
        }
        let control = Arc::new(Control { credit: AtomicI64::new(WINDOW), ..Control::default() });
        self.controls.insert(number, control.clone());
        let opening = (self.within)(trace, P::open(self.host.clone(), request));
        self.calls.push(Call { number, control, step: Step::Opening(opening), pieces: VecDeque::new() });
    }

    /// Hears what the caller has said; whether there may be more.
    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..BURST {
            let Some(inbound) = &mut self.inbound else { return false };
            match inbound.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(up))) => self.hear(P::read_up(up)),
                // The caller is gone, and with it everybody who waits.
                Poll::Ready(Some(Err(_))) => {
                    self.inbound = None;
                    self.calls = SelectAll::new();
                    self.controls.clear();
                }
                // It begins nothing more.
                Poll::Ready(None) => self.inbound = None,
                Poll::Pending => return false,
            }
        }
        true
    }
}

impl<P: Port> Stream for Calls<P> {
    type Item = Result<P::Down, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.draining.as_mut().is_some_and(|draining| draining.poll_unpin(cx).is_ready()) {
            this.draining = None;
            this.unsent.push_back(Down { drain: true, ..Down::of(0) });
        }
        if this.listen(cx) {
            cx.waker().wake_by_ref();
        }
        if let Some(down) = this.unsent.pop_front() {
            return Poll::Ready(Some(Ok(P::down(down))));
        }
        match this.calls.poll_next_unpin(cx) {
            Poll::Ready(Some(down)) => {
                if down.end.is_some() {
                    this.controls.remove(&down.call);
                }
                Poll::Ready(Some(Ok(P::down(down))))
            }
            Poll::Ready(None) if this.inbound.is_none() => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// One call.
struct Call<P: Port> {
    number: u64,
    control: Arc<Control>,
    step: Step<P::Item>,
    /// What is left of a large frame.
    pieces: VecDeque<Bytes>,
}

enum Step<T> {
    Opening(Opening<T>),
    Frames(Items<T>),
    Done,
}

impl<P: Port> Call<P> {
    /// The next frame, or how the call ended. A defect ends this call and no other.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<P::Frame, Option<Error>>> {
        loop {
            let step = &mut self.step;
            let turn = catch_unwind(AssertUnwindSafe(|| match step {
                Step::Opening(opening) => opening.poll_unpin(cx).map(|opened| match opened {
                    Ok(frames) => {
                        *step = Step::Frames(frames);
                        Ok(None)
                    }
                    Err(error) => Err(Some(error)),
                }),
                Step::Frames(frames) => frames.poll_next_unpin(cx).map(|next| match next {
                    Some(Ok(frame)) => Ok(Some(P::frame(frame))),
                    Some(Err(error)) => Err(Some(error)),
                    None => Err(None),
                }),
                Step::Done => Poll::Ready(Err(None)),
            }));
            match turn.unwrap_or_else(|_panic| Poll::Ready(Err(Some(broken("a call panicked"))))) {
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(frame))) => return Poll::Ready(Ok(frame)),
                Poll::Ready(Err(error)) => {
                    self.step = Step::Done;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn has_credit(&self, cx: &mut Context<'_>) -> bool {
        self.control.waker.register(cx.waker());
        self.control.credit.load(Ordering::Relaxed) > 0
    }

    /// The next piece of a large frame.
    fn piece(&mut self) -> Option<Part> {
        let data = self.pieces.pop_front()?;
        Some(Part { data, last: self.pieces.is_empty() })
    }

    fn spend(&self, cost: i64) {
        self.control.credit.fetch_sub(cost, Ordering::Relaxed);
    }

    fn cut(&mut self, frame: &P::Frame) {
        let mut whole = Bytes::from(frame.encode_to_vec());
        while !whole.is_empty() {
            self.pieces.push_back(whole.split_to(whole.len().min(LARGE)));
        }
    }
}

impl<P: Port> Stream for Call<P> {
    type Item = Down<P::Frame>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut down = Down::of(this.number);
        let mut sent = 0;
        loop {
            // A frame that has begun is sent whatever it takes, since a part of it cannot be read; it is paid for as a whole.
            let may_send = this.has_credit(cx) || !this.pieces.is_empty();
            if matches!(this.step, Step::Done) || this.control.cancelled.load(Ordering::Relaxed) {
                return Poll::Ready(None);
            }
            if !may_send {
                break;
            }
            if !this.pieces.is_empty() {
                // Frames before it go first.
                if down.frames.is_empty() {
                    down.part = this.piece();
                }
                break;
            }
            match this.advance(cx) {
                Poll::Ready(Ok(frame)) => {
                    let cost = cost::<P>(&frame);
                    this.spend(cost);
                    if cost > LARGE as i64 {
                        this.cut(&frame);
                        continue;
                    }
                    sent += cost;
                    down.frames.push(frame);
                    if sent >= ENOUGH {
                        break;
                    }
                }
                Poll::Ready(Err(error)) => {
                    down.end = Some(end(error));
                    break;
                }
                Poll::Pending => break,
            }
        }
        if down.frames.is_empty() && down.part.is_none() && down.end.is_none() {
            return Poll::Pending;
        }
        Poll::Ready(Some(down))
    }
}
