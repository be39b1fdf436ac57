//! The caller's half of a link.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use foldhash::fast::RandomState;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
use prost::Message as _;
use tonic::Streaming;

use super::{Down, Driver, MAX_CALLS, Part, Port, Said, Trace, Up, WINDOW, broken, cost, ended};
use crate::error::{Code, Detail, Error};
use crate::wire::MAX_MESSAGE;

/// Calls for which no link is asked for after one that has none has said so.
const UNASKED: u32 = 4096;

/// Where calls are made. Cheap to clone.
pub(crate) struct Caller<P: Port>(Arc<Shared<P>>);

/// Keeps the link.
struct Keeper<P: Port> {
    shared: Arc<Shared<P>>,
    client: P::Client,
}

/// A caller and what keeps its link. Opens nothing yet.
pub(crate) fn pair<P: Port>(client: P::Client) -> (Caller<P>, Driver) {
    let shared = Arc::new(Shared::default());
    let keeper = Keeper { shared: shared.clone(), client };
    (Caller(shared), Driver(keeper.run().boxed()))
}

struct Shared<P: Port>(Mutex<State<P>>);

impl<P: Port> Default for Shared<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

struct State<P: Port> {
    phase: Phase,
    /// Whether a link is wanted though nothing is said yet.
    wanted: bool,
    /// How often no link is asked for, since the callee has said that it has none.
    unasked: u32,
    /// Said, and not yet handed to the connection. Bounded by the calls that are open, and those that were when the
    /// connection stopped taking anything: a request that nobody waits for any more is taken out again.
    queue: VecDeque<Up<P::Request>>,
    /// How many links there were before this one.
    link: u64,
    /// Hashed quickly: the numbers are our own.
    calls: HashMap<u64, Entry<P>, RandomState>,
    last: u64,
    driver: Option<Waker>,
    sender: Option<Waker>,
}

impl<P: Port> Default for State<P> {
    fn default() -> Self {
        Self {
            phase: Phase::default(),
            wanted: false,
            unasked: 0,
            queue: VecDeque::new(),
            link: 0,
            calls: HashMap::default(),
            last: 0,
            driver: None,
            sender: None,
        }
    }
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum Phase {
    /// There is no link; the next call makes one.
    #[default]
    Idle,
    /// It is being made.
    Asked,
    /// There is one.
    Linked,
    /// The callee drains: what is open goes on, nothing begins.
    Draining,
    /// Nobody keeps it any more.
    Ended,
}

/// A call that is open.
struct Entry<P: Port> {
    /// Whether the connection has it. What it never had was provably not executed.
    sent: bool,
    frames: VecDeque<P::Frame>,
    /// The pieces of a large frame so far.
    pieces: BytesMut,
    end: Option<Result<(), Error>>,
    reader: Option<Waker>,
    /// Payload read since credit was granted last.
    read: i64,
}

impl<P: Port> Default for Entry<P> {
    fn default() -> Self {
        Self {
            sent: false,
            frames: VecDeque::new(),
            pieces: BytesMut::new(),
            end: None,
            reader: None,
            read: 0,
        }
    }
}

impl<P: Port> Clone for Caller<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Port> Caller<P> {
    /// Asks, and waits for the first frame: the answer's frames, or the error that came instead of any. Where there is no link,
    /// this makes one.
    pub(crate) async fn ask(
        &self,
        request: P::Request,
        trace: Trace,
    ) -> Result<BoxStream<'static, Result<P::Item, Error>>, Error> {
        self.0.open(request, trace)?.answer().await
    }

    /// Whether there is a link. If not, one is made for later calls, unless the callee has none to offer.
    pub(crate) fn is_linked(&self) -> bool {
        let mut state = self.0.lock();
        if state.phase == Phase::Idle && !state.wanted {
            state.unasked = state.unasked.saturating_sub(1);
            if state.unasked == 0 {
                state.wanted = true;
                state.driver.take().into_iter().for_each(Waker::wake);
            }
        }
        state.phase == Phase::Linked
    }
}

impl<P: Port> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(self: &Arc<Self>, request: P::Request, trace: Trace) -> Result<Call<P>, Error> {
        let mut state = self.lock();
        match state.phase {
            Phase::Draining => return Err(Error::draining()),
            Phase::Ended => {
                let ended = Error::new(Code::Unavailable, "the link is no longer kept");
                return Err(ended.with(Detail::NotReached));
            }
            Phase::Idle | Phase::Asked | Phase::Linked => {}
        }
        if state.calls.len() >= MAX_CALLS {
            let after = std::time::Duration::from_secs(1);
            return Err(Error::overloaded("too many calls are open on this link", after));
        }
        state.last += 1;
        let number = state.last;
        state.calls.insert(number, Entry::default());
        state.say(Up { call: number, said: Said::Request(request, trace) });
        Ok(Call { shared: self.clone(), number, is_over: false })
    }

    /// The callee has answered.
    fn linked(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Asked {
            state.phase = Phase::Linked;
        }
    }

    /// The link is gone, and with it every call.
    fn lose(&self, error: &Error) {
        let mut state = self.lock();
        if state.phase != Phase::Ended {
            state.phase = Phase::Idle;
        }
        if matches!(error.code, Code::Unimplemented | Code::Denied) {
            state.unasked = UNASKED;
        }
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

    fn hear(&self, down: Down<P::Frame>) {
        let mut state = self.lock();
        if down.drain {
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
            state.say(Up { call: down.call, said: Said::Cancel });
        }
        drop(state);
        reader.into_iter().chain(sender).for_each(Waker::wake);
    }
}

impl<P: Port> State<P> {
    fn say(&mut self, up: Up<P::Request>) {
        self.queue.push_back(up);
        let waker = if self.phase == Phase::Idle { self.driver.take() } else { self.sender.take() };
        // Waking only puts a task into its runtime's queue.
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<P: Port> Entry<P> {
    /// Takes a piece of a large frame; false if the call has ended because that is none.
    fn take_in(&mut self, part: &Part) -> bool {
        if self.end.is_some() {
            return true;
        }
        if self.pieces.len() + part.data.len() > MAX_MESSAGE {
            self.end = Some(Err(broken("a frame exceeds 8 MiB")));
            return false;
        }
        self.pieces.extend_from_slice(&part.data);
        if part.last {
            match P::Frame::decode(self.pieces.split().freeze()) {
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

impl<P: Port> Keeper<P> {
    /// Makes the link when a call wants one, and again after it was lost.
    async fn run(mut self) {
        loop {
            let link = self.wanted().await;
            let sayings = Sayings { shared: self.shared.clone(), link };
            let lost = match P::connect(&mut self.client, sayings).await {
                Ok(response) => {
                    self.shared.linked();
                    self.listen(response.into_inner()).await
                }
                Err(status) => status.into(),
            };
            self.shared.lose(&lost);
        }
    }

    /// Returns once there is something to say, and the number of the link that is to say it.
    async fn wanted(&self) -> u64 {
        std::future::poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.queue.is_empty() && !state.wanted {
                state.driver = Some(cx.waker().clone());
                return Poll::Pending;
            }
            state.phase = Phase::Asked;
            state.wanted = false;
            Poll::Ready(state.link)
        })
        .await
    }

    /// Hears what the callee says until it has nothing more to say.
    async fn listen(&self, mut downs: Streaming<P::Down>) -> Error {
        loop {
            match downs.next().await {
                Some(Ok(down)) => self.shared.hear(P::read_down(down)),
                Some(Err(status)) => return status.into(),
                None => {
                    let lost = Detail::OutcomeUnknown { invocation: String::new() };
                    return Error::new(Code::Unavailable, "the link ended").with(lost);
                }
            }
        }
    }
}

impl<P: Port> Drop for Keeper<P> {
    fn drop(&mut self) {
        let lost = Detail::OutcomeUnknown { invocation: String::new() };
        self.shared.lock().phase = Phase::Ended;
        self.shared.lose(&Error::new(Code::Unavailable, "the link is no longer kept").with(lost));
    }
}

/// What is said to the callee, as the stream that the connection reads.
pub(crate) struct Sayings<P: Port> {
    shared: Arc<Shared<P>>,
    link: u64,
}

impl<P: Port> Stream for Sayings<P> {
    type Item = P::Up;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<P::Up>> {
        let mut state = self.shared.lock();
        if state.link != self.link {
            // The connection of a link that was lost may ask once more. What is said by now is for another one.
            return Poll::Ready(None);
        }
        if let Some(up) = state.queue.pop_front() {
            if let Some(entry) = state.calls.get_mut(&up.call) {
                entry.sent = true;
            }
            return Poll::Ready(Some(P::up(up)));
        }
        if state.phase == Phase::Draining && state.calls.values().all(|entry| entry.end.is_some()) {
            return Poll::Ready(None);
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// One call, as its reader sees it. Dropping it tells the callee that nobody waits.
struct Call<P: Port> {
    shared: Arc<Shared<P>>,
    number: u64,
    is_over: bool,
}

impl<P: Port> Call<P> {
    async fn answer(mut self) -> Result<BoxStream<'static, Result<P::Item, Error>>, Error> {
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

impl<P: Port> Stream for Call<P> {
    type Item = Result<P::Item, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        let Some(entry) = state.calls.get_mut(&this.number) else { return Poll::Ready(None) };
        if let Some(frame) = entry.frames.pop_front() {
            entry.read += cost::<P>(&frame);
            let read = entry.read;
            if read >= WINDOW / 2 && entry.end.is_none() {
                entry.read = 0;
                let said = Said::Credit(u32::try_from(read).unwrap_or(u32::MAX));
                state.say(Up { call: this.number, said });
            }
            drop(state);
            return Poll::Ready(Some(P::read_frame(frame)));
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

impl<P: Port> Drop for Call<P> {
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
            state.say(Up { call: self.number, said: Said::Cancel });
        } else if let Some(at) = state.queue.iter().position(|up| up.call == self.number) {
            // The callee has never heard of it. A connection that takes nothing must not gather what callers gave up.
            state.queue.remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
