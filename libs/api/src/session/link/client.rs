//! The gateway's half of a link.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::BytesMut;
use futures::{Stream, StreamExt as _};
use prost::Message as _;

use super::super::{Attach, Close, Delivery, Frames, Request, SessionClient, SessionHost, convert};
use super::{FRAME, LARGE, MAX_CALLS, Trace, WINDOW, broken, cost, ended};
use crate::error::{Code, Detail, Error};
use crate::pb::session as pb;
use crate::pb::session::session_client::SessionClient as Client;
use crate::wire::{MAX_MESSAGE, Wire};

/// A session node at the other end of a link. Cheap to clone.
#[derive(Clone)]
pub struct LinkClient {
    shared: Arc<Shared>,
    /// For what is too large for the link.
    plain: SessionClient,
    /// The trace that a call belongs to.
    trace: fn() -> Trace,
}

/// Keeps the link; whoever made it runs it for as long as the link is wanted.
pub struct Driver {
    shared: Arc<Shared>,
    client: Client<Wire>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    phase: Phase,
    /// Said, and not yet handed to the connection. Bounded by the calls that are open, and those that were when the
    /// connection stopped taking anything: a request that nobody waits for any more is taken out again.
    queue: VecDeque<pb::Up>,
    /// How many links there were before this one.
    link: u64,
    calls: HashMap<u64, Entry>,
    last: u64,
    driver: Option<Waker>,
    sender: Option<Waker>,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum Phase {
    /// There is no link; the next call makes one.
    #[default]
    Idle,
    /// There is one, or it is being made.
    Linked,
    /// The node drains: what is open goes on, nothing begins.
    Draining,
}

/// A call that is open.
#[derive(Default)]
struct Entry {
    /// Whether the connection has it. What it never had was provably not executed.
    sent: bool,
    frames: VecDeque<pb::Frame>,
    /// The pieces of a large frame so far.
    pieces: BytesMut,
    end: Option<Result<(), Error>>,
    reader: Option<Waker>,
    /// Payload read since credit was granted last.
    read: i64,
}

/// A client and what keeps its link. `trace` says which trace a call belongs to. Opens nothing yet.
#[must_use]
pub fn link(wire: Wire, trace: fn() -> Trace) -> (LinkClient, Driver) {
    let client = Client::new(wire.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let shared = Arc::new(Shared::default());
    let plain = SessionClient::new(wire);
    (LinkClient { shared: shared.clone(), plain, trace }, Driver { shared, client })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(self: &Arc<Self>, kind: pb::up::Kind, trace: Trace) -> Result<Call, Error> {
        let mut state = self.lock();
        if state.phase == Phase::Draining {
            return Err(Error::draining());
        }
        if state.calls.len() >= MAX_CALLS {
            let after = std::time::Duration::from_secs(1);
            return Err(Error::overloaded("too many calls are open on this link", after));
        }
        state.last += 1;
        let number = state.last;
        state.calls.insert(number, Entry::default());
        state.say(pb::Up {
            call: number,
            kind: Some(kind),
            traceparent: trace.parent,
            tracestate: trace.state,
        });
        Ok(Call { shared: self.clone(), number, is_over: false })
    }

    /// The link is gone, and with it every call.
    fn lose(&self, error: &Error) {
        let mut state = self.lock();
        state.phase = Phase::Idle;
        state.link += 1;
        state.queue.clear();
        state.sender = None;
        let mut wake = Vec::new();
        for entry in state.calls.values_mut().filter(|entry| entry.end.is_none()) {
            let mut error = error.clone();
            if !entry.sent {
                error.detail = Some(Detail::NotReached);
                error.code = Code::Unavailable;
            }
            entry.end = Some(Err(error));
            wake.extend(entry.reader.take());
        }
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    fn hear(&self, down: pb::Down) {
        let mut state = self.lock();
        if down.drain.is_some() {
            state.phase = Phase::Draining;
            let sender = state.sender.take();
            drop(state);
            sender.into_iter().for_each(Waker::wake);
            return;
        }
        // Nobody waits for what was cancelled.
        let Some(entry) = state.calls.get_mut(&down.call) else { return };
        entry.frames.extend(down.frames);
        let broken = down.part.is_some_and(|part| !entry.take_in(&part));
        if let Some(end) = down.end
            && entry.end.is_none()
        {
            entry.end = Some(ended(end));
        }
        let reader = entry.reader.take();
        // With the last call of a link that drains, our half ends.
        let sender = if state.phase == Phase::Draining { state.sender.take() } else { None };
        if broken {
            // Its reader is told by us, so the node has to be told, too.
            state.say(cancel(down.call));
        }
        drop(state);
        reader.into_iter().chain(sender).for_each(Waker::wake);
    }
}

impl State {
    fn say(&mut self, up: pb::Up) {
        self.queue.push_back(up);
        let waker = if self.phase == Phase::Idle { self.driver.take() } else { self.sender.take() };
        // Waking only puts a task into its runtime's queue.
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Entry {
    /// Takes a piece of a large frame; false if the call has ended because that is none.
    fn take_in(&mut self, part: &pb::Part) -> bool {
        if self.end.is_some() {
            return true;
        }
        if self.pieces.len() + part.data.len() > MAX_MESSAGE {
            self.end = Some(Err(broken("a frame exceeds 8 MiB")));
            return false;
        }
        self.pieces.extend_from_slice(&part.data);
        if part.last {
            match pb::Frame::decode(self.pieces.split().freeze()) {
                Ok(frame) => self.frames.push_back(frame),
                Err(error) => {
                    self.end = Some(Err(broken(format!("a frame in pieces: {error}"))));
                    return false;
                }
            }
        }
        true
    }
}

fn cancel(call: u64) -> pb::Up {
    pb::Up { call, kind: Some(pb::up::Kind::Cancel(pb::Cancel {})), ..pb::Up::default() }
}

fn credit(call: u64, bytes: usize) -> pb::Up {
    let kind = Some(pb::up::Kind::Credit(u32::try_from(bytes).unwrap_or(u32::MAX)));
    pb::Up { call, kind, ..pb::Up::default() }
}

impl Driver {
    /// Makes the link when a call wants one, and again after it was lost.
    pub async fn run(mut self) {
        loop {
            let link = self.wanted().await;
            let sayings = Sayings { shared: self.shared.clone(), link };
            let lost = match self.client.link(sayings).await {
                Ok(response) => self.listen(response.into_inner()).await,
                Err(status) => status.into(),
            };
            self.shared.lose(&lost);
        }
    }

    /// Returns once there is something to say, and the number of the link that is to say it.
    async fn wanted(&self) -> u64 {
        std::future::poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.queue.is_empty() {
                state.driver = Some(cx.waker().clone());
                return Poll::Pending;
            }
            state.phase = Phase::Linked;
            Poll::Ready(state.link)
        })
        .await
    }

    /// Hears what the node says until it has nothing more to say.
    async fn listen(&self, mut downs: tonic::Streaming<pb::Down>) -> Error {
        loop {
            match downs.next().await {
                Some(Ok(down)) => self.shared.hear(down),
                Some(Err(status)) => return status.into(),
                None => {
                    let lost = Detail::OutcomeUnknown { invocation: String::new() };
                    return Error::new(Code::Unavailable, "the link ended").with(lost);
                }
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.lose(&Error::new(Code::Cancelled, "the link is no longer kept"));
    }
}

/// What is said to the node, as the stream that the connection reads.
struct Sayings {
    shared: Arc<Shared>,
    link: u64,
}

impl Stream for Sayings {
    type Item = pb::Up;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::Up>> {
        let mut state = self.shared.lock();
        if state.link != self.link {
            // The connection of a link that was lost may ask once more. What is said by now is for another one.
            return Poll::Ready(None);
        }
        if let Some(up) = state.queue.pop_front() {
            if let Some(entry) = state.calls.get_mut(&up.call) {
                entry.sent = true;
            }
            return Poll::Ready(Some(up));
        }
        if state.phase == Phase::Draining && state.calls.values().all(|entry| entry.end.is_some()) {
            return Poll::Ready(None);
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// One call, as its reader sees it. Dropping it tells the node that nobody waits.
struct Call {
    shared: Arc<Shared>,
    number: u64,
    is_over: bool,
}

impl Call {
    /// The port's answer: frames, or the error that came instead of any.
    async fn answer(mut self) -> Result<Frames, Error> {
        std::future::poll_fn(|cx| self.poll_first(cx)).await?;
        Ok(self.boxed())
    }

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.shared.lock();
        let Some(entry) = state.calls.get_mut(&self.number) else { return Poll::Ready(Ok(())) };
        if !entry.frames.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match entry.end.take() {
            None => {
                entry.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Err(error)) => {
                state.calls.remove(&self.number);
                self.is_over = true;
                Poll::Ready(Err(error))
            }
            Some(Ok(())) => {
                entry.end = Some(Ok(()));
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Stream for Call {
    type Item = Result<super::super::Frame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        let Some(entry) = state.calls.get_mut(&this.number) else { return Poll::Ready(None) };
        if let Some(frame) = entry.frames.pop_front() {
            entry.read += cost(&frame);
            let read = entry.read;
            if read >= WINDOW / 2 && entry.end.is_none() {
                entry.read = 0;
                state.say(credit(this.number, usize::try_from(read).unwrap_or(FRAME)));
            }
            drop(state);
            return Poll::Ready(Some(convert::frame_from(frame)));
        }
        match entry.end.take() {
            None => {
                entry.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(end) => {
                state.calls.remove(&this.number);
                this.is_over = true;
                Poll::Ready(end.err().map(Err))
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.shared.lock();
        let Some(entry) = state.calls.remove(&self.number) else { return };
        if entry.end.is_some() {
            return;
        }
        if entry.sent {
            state.say(cancel(self.number));
        } else if let Some(at) = state.queue.iter().position(|up| up.call == self.number) {
            // The node has never heard of it. A connection that takes nothing must not gather what callers gave up.
            state.queue.remove(at);
        }
    }
}

#[async_trait]
impl SessionHost for LinkClient {
    async fn deliver(&self, delivery: Delivery) -> Result<Frames, Error> {
        let headers: usize =
            delivery.param_headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if delivery.message.as_str().len() + headers > LARGE {
            return self.plain.deliver(delivery).await;
        }
        let kind = pb::up::Kind::Deliver(convert::delivery_to(delivery));
        self.shared.open(kind, (self.trace)())?.answer().await
    }

    async fn attach(&self, attach: Attach) -> Result<Frames, Error> {
        let kind = pb::up::Kind::Attach(convert::attach_to(attach));
        self.shared.open(kind, (self.trace)())?.answer().await
    }

    async fn close(&self, close: Close) -> Result<Frames, Error> {
        let kind = pb::up::Kind::Close(convert::close_to(close));
        self.shared.open(kind, (self.trace)())?.answer().await
    }

    async fn relay(&self, to: &str, request: Request) -> Result<Frames, Error> {
        self.plain.relay(to, request).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn request(shared: &Arc<Shared>) -> Call {
        shared.open(pb::up::Kind::Close(pb::CloseRequest::default()), Trace::default()).ok().unwrap()
    }

    fn said(sayings: &mut Sayings) -> Option<Option<u64>> {
        sayings.next().now_or_never().map(|up| up.map(|up| up.call))
    }

    #[test]
    fn what_is_given_up_before_it_was_sent_leaves_nothing_behind() {
        let shared = Arc::new(Shared::default());
        let kept = request(&shared);
        for _ in 0..1000 {
            drop(request(&shared));
        }
        assert_eq!(shared.lock().queue.len(), 1);
        assert_eq!(shared.lock().calls.len(), 1);
        let mut sayings = Sayings { shared: shared.clone(), link: 0 };
        assert_eq!(said(&mut sayings), Some(Some(kept.number)));
        drop(kept);
        assert_eq!(said(&mut sayings), Some(Some(1)), "its cancellation");
        assert_eq!(said(&mut sayings), None);
    }

    #[test]
    fn a_link_that_was_lost_says_nothing_that_is_meant_for_the_next() {
        let shared = Arc::new(Shared::default());
        let mut old = Sayings { shared: shared.clone(), link: 0 };
        assert!(said(&mut old).is_none());
        shared.lose(&broken("lost"));
        let call = request(&shared);
        assert_eq!(said(&mut old), Some(None));
        assert_eq!(said(&mut Sayings { shared: shared.clone(), link: 1 }), Some(Some(call.number)));
    }

    #[test]
    fn a_frame_that_is_none_ends_the_call_at_both_ends() {
        let shared = Arc::new(Shared::default());
        let mut sayings = Sayings { shared: shared.clone(), link: 0 };
        let mut call = request(&shared);
        assert_eq!(said(&mut sayings), Some(Some(1)));
        let part = Some(pb::Part { data: vec![0xff_u8; 3].into(), last: true });
        shared.hear(pb::Down { call: 1, part, ..pb::Down::default() });
        let up = sayings.next().now_or_never().flatten().unwrap();
        assert!(matches!(up.kind, Some(pb::up::Kind::Cancel(_))), "{up:?}");
        assert!(matches!(call.next().now_or_never(), Some(Some(Err(_)))));
        assert_eq!(call.next().now_or_never(), Some(None));
        drop(call);
        assert_eq!(said(&mut sayings), None);
    }
}
