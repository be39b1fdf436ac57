//! The node's half of a link.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::SelectAll;
use futures::task::AtomicWaker;
use futures::{FutureExt as _, Stream, StreamExt as _};
use prost::Message as _;
use tonic::{Status, Streaming};

use super::super::{Frames, SessionHost, convert};
use super::{LARGE, MAX_CALLS, Trace, WINDOW, broken, cost, end};
use crate::error::Error;
use crate::pb::session as pb;

/// Messages taken from the gateway before calls are looked at again.
const BURST: usize = 64;
/// Payload after which what is ready is sent.
const ENOUGH: i64 = 32 << 10;

/// What the node does for one call, until its frames are there.
pub type Opening = BoxFuture<'static, Result<Frames, Error>>;

/// What a link needs from its surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// Makes the beginning of a call part of the caller's trace.
    pub within: fn(&Trace, Opening) -> Opening,
    /// Resolves when the node begins to drain; one for each link.
    pub draining: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Surroundings {
    /// No traces, and no end.
    #[must_use]
    pub fn none() -> Self {
        Self { within: |_, opening| opening, draining: Arc::new(|| futures::future::pending().boxed()) }
    }
}

/// Everything that is open on one link, as the stream of what is said to the gateway.
pub(in super::super) struct Calls {
    host: Arc<dyn SessionHost>,
    within: fn(&Trace, Opening) -> Opening,
    draining: Option<BoxFuture<'static, ()>>,
    inbound: Option<Streaming<pb::Up>>,
    calls: SelectAll<Call>,
    controls: HashMap<u64, Arc<Control>>,
    unsent: VecDeque<pb::Down>,
}

/// What the gateway says about a call that is open.
#[derive(Default)]
struct Control {
    credit: AtomicI64,
    cancelled: AtomicBool,
    waker: AtomicWaker,
}

impl Calls {
    pub(in super::super) fn new(
        host: Arc<dyn SessionHost>,
        surroundings: &Surroundings,
        inbound: Streaming<pb::Up>,
    ) -> Self {
        Self {
            host,
            within: surroundings.within,
            draining: Some((surroundings.draining)()),
            inbound: Some(inbound),
            calls: SelectAll::new(),
            controls: HashMap::new(),
            unsent: VecDeque::new(),
        }
    }

    fn hear(&mut self, up: pb::Up) {
        use pb::up::Kind as K;
        let trace = Trace { parent: up.traceparent, state: up.tracestate };
        match up.kind {
            Some(K::Credit(more)) => {
                if let Some(control) = self.controls.get(&up.call) {
                    control.credit.fetch_add(i64::from(more), Ordering::Relaxed);
                    control.waker.wake();
                }
            }
            Some(K::Cancel(_)) => {
                if let Some(control) = self.controls.remove(&up.call) {
                    control.cancelled.store(true, Ordering::Relaxed);
                    control.waker.wake();
                }
            }
            Some(K::Deliver(request)) => self.open(up.call, &trace, |host| {
                async move { host.deliver(convert::delivery_from(request)?).await }.boxed()
            }),
            Some(K::Attach(request)) => self.open(up.call, &trace, |host| {
                async move { host.attach(convert::attach_from(request)).await }.boxed()
            }),
            Some(K::Close(request)) => self.open(up.call, &trace, |host| {
                async move { host.close(convert::close_from(request)).await }.boxed()
            }),
            None => {}
        }
    }

    fn open(&mut self, number: u64, trace: &Trace, begin: impl FnOnce(Arc<dyn SessionHost>) -> Opening) {
        let refused = if self.controls.len() >= MAX_CALLS {
            let after = std::time::Duration::from_secs(1);
            Some(Error::overloaded("too many calls are open on this link", after))
        } else if self.controls.contains_key(&number) {
            Some(broken("a number of a link was used twice"))
        } else {
            None
        };
        if let Some(error) = refused {
            let end = Some(end(Some(error)));
            self.unsent.push_back(pb::Down { call: number, end, ..pb::Down::default() });
            return;
        }
        let control = Arc::new(Control { credit: AtomicI64::new(WINDOW), ..Control::default() });
        self.controls.insert(number, control.clone());
        let opening = (self.within)(trace, begin(self.host.clone()));
        self.calls.push(Call { number, control, step: Step::Opening(opening), pieces: VecDeque::new() });
    }

    /// Hears what the gateway has said; whether there may be more.
    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..BURST {
            let Some(inbound) = &mut self.inbound else { return false };
            match inbound.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(up))) => self.hear(up),
                // The gateway is gone, and with it everybody who waits.
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

impl Stream for Calls {
    type Item = Result<pb::Down, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.draining.as_mut().is_some_and(|draining| draining.poll_unpin(cx).is_ready()) {
            this.draining = None;
            this.unsent.push_back(pb::Down { drain: Some(pb::Drain {}), ..pb::Down::default() });
        }
        if this.listen(cx) {
            cx.waker().wake_by_ref();
        }
        if let Some(down) = this.unsent.pop_front() {
            return Poll::Ready(Some(Ok(down)));
        }
        match this.calls.poll_next_unpin(cx) {
            Poll::Ready(Some(down)) => {
                if down.end.is_some() {
                    this.controls.remove(&down.call);
                }
                Poll::Ready(Some(Ok(down)))
            }
            Poll::Ready(None) if this.inbound.is_none() => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// One call.
struct Call {
    number: u64,
    control: Arc<Control>,
    step: Step,
    /// What is left of a large frame.
    pieces: VecDeque<Bytes>,
}

enum Step {
    Opening(Opening),
    Frames(Frames),
    Done,
}

impl Call {
    /// The next frame, or how the call ended. A defect ends this call and no other.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<pb::Frame, Option<Error>>> {
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
                    Some(Ok(frame)) => Ok(Some(convert::frame_to(frame))),
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
    fn piece(&mut self) -> Option<pb::Part> {
        let data = self.pieces.pop_front()?;
        Some(pb::Part { data, last: self.pieces.is_empty() })
    }

    fn spend(&self, cost: i64) {
        self.control.credit.fetch_sub(cost, Ordering::Relaxed);
    }

    fn cut(&mut self, frame: &pb::Frame) {
        let mut whole = Bytes::from(frame.encode_to_vec());
        while !whole.is_empty() {
            self.pieces.push_back(whole.split_to(whole.len().min(LARGE)));
        }
    }
}

impl Stream for Call {
    type Item = pb::Down;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::Down>> {
        let this = &mut *self;
        let mut down = pb::Down { call: this.number, ..pb::Down::default() };
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
                    let cost = cost(&frame);
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
