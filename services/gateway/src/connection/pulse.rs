//! What a connection is doing, and how long it may go on doing that.
//!
//! A client may be silent between requests for a long time, but not within the head of one, and not before the first. What
//! happens is noted in flags; the time is looked at once whenever the connection has been worked on, and one timer is moved
//! only when it would fire too late: a busy connection costs no timer of its own for each request.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::Response;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::long::{Handed, Shown};
use crate::http::sse::Open;

/// How long a connection may take to end once it was asked to because it was idle.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is noted while the connection is worked on.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Requests under way, until the last byte of their answers was taken.
    under_way: AtomicUsize,
    /// Requests so far.
    begun: AtomicU64,
    /// Part of a head has come. True at first: a new connection has to say something.
    speaking: AtomicBool,
    http2: AtomicBool,
    /// Something was written and not all of it flushed.
    writing: AtomicBool,
}

/// What the connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Speaking,
    Busy,
    Idle,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Pulse>);

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            under_way: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            speaking: AtomicBool::new(true),
            http2: AtomicBool::new(false),
            writing: AtomicBool::new(false),
        }
    }

    /// Whether a request is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Bytes have come.
    pub(super) fn heard(&self) {
        if self.under_way.load(Ordering::Relaxed) == 0 && !self.http2.load(Ordering::Relaxed) {
            self.speaking.store(true, Ordering::Relaxed);
        }
    }

    /// From now on bytes may be anything. A dribbled head ends with its connection: as one that is idle.
    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
        self.speaking.store(false, Ordering::Relaxed);
    }

    /// Something is written, or everything was.
    pub(super) fn writes(&self, is_writing: bool) {
        self.writing.store(is_writing, Ordering::Relaxed);
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    /// A whole head has come.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.speaking.store(false, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    fn phase(&self) -> Phase {
        if self.under_way.load(Ordering::Relaxed) > 0 {
            Phase::Busy
        } else if self.speaking.load(Ordering::Relaxed) {
            Phase::Speaking
        } else {
            Phase::Idle
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What to do about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its time is over.
    Close,
    /// It is asked to end; shortly after, its time is over.
    Finish,
}

pin_project! {
    /// Polled whenever the connection has been worked on.
    pub(super) struct Watch {
        pulse: Arc<Pulse>,
        header: Duration,
        idle: Duration,
        // What was seen last: the phase, and how many requests there had been.
        seen: (Phase, u64),
        // Since when.
        since: Instant,
        asked: Option<Instant>,
        armed: Instant,
        #[pin]
        timer: Sleep,
    }
}

impl Watch {
    pub(super) fn new(pulse: Arc<Pulse>, header: Duration, idle: Duration) -> Self {
        let now = Instant::now();
        let armed = now + header;
        let seen = (Phase::Speaking, 0);
        Self { pulse, header, idle, seen, since: now, asked: None, armed, timer: sleep_until(armed) }
    }
}

impl Watch {
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Verdict> {
        let mut this = self.project();
        loop {
            let seen = (this.pulse.phase(), this.pulse.begun.load(Ordering::Relaxed));
            if seen != *this.seen {
                *this.seen = seen;
                *this.since = Instant::now();
            }
            let end = match (seen.0, *this.asked) {
                (Phase::Speaking, None) => *this.since + *this.header,
                (Phase::Idle, None) => *this.since + *this.idle,
                (Phase::Speaking | Phase::Idle, Some(asked)) => asked + FAREWELL,
                // Looked at again then, should its end go unnoticed.
                (Phase::Busy, _) => *this.armed.max(this.since) + *this.idle,
            };
            if end < *this.armed {
                *this.armed = end;
                this.timer.as_mut().reset(end);
            }
            ready!(this.timer.as_mut().poll(cx));
            let now = Instant::now();
            if seen.0 != Phase::Busy && end <= now {
                if this.asked.is_none() && seen.0 == Phase::Idle {
                    *this.asked = Some(now);
                    *this.armed = now + FAREWELL;
                    this.timer.as_mut().reset(*this.armed);
                    return Poll::Ready(Verdict::Finish);
                }
                return Poll::Ready(Verdict::Close);
            }
            *this.armed = if seen.0 == Phase::Busy { now + *this.idle } else { end };
            this.timer.as_mut().reset(*this.armed);
        }
    }
}

pin_project! {
    /// A response on its way to its first byte.
    pub(super) struct Answering<F> {
        #[pin]
        inner: F,
        under_way: Option<UnderWay>,
        // Where its body is offered, should it go on for long.
        handed: Option<Handed>,
    }
}

impl<F> Answering<F> {
    pub(super) fn new(inner: F, under_way: UnderWay, handed: Option<Handed>) -> Self {
        Self { inner, under_way: Some(under_way), handed }
    }
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<axum::body::Body>, E>>,
{
    type Output = Result<Response<Shown>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let under_way = this.under_way.take();
        let waits = response.extensions().get::<Open>().is_some_and(Open::waits);
        let handed = this.handed.take().filter(|_| waits);
        Poll::Ready(Ok(response.map(|inner| {
            let body = Tracked { inner, _under_way: under_way };
            match handed {
                Some(handed) => handed.offer(body),
                None => Shown::Own(body),
            }
        })))
    }
}

pin_project! {
    /// A response's body, which is under way until it is dropped.
    pub(super) struct Tracked<B> {
        #[pin]
        inner: B,
        _under_way: Option<UnderWay>,
    }
}

impl<B: Body> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    type Happens = fn(&Arc<Pulse>, &mut Vec<UnderWay>);

    /// When, and with which verdict, a connection is judged on which this happens, second by second.
    async fn judged(events: &[(u64, Happens)]) -> (u64, Verdict) {
        let pulse = Arc::new(Pulse::new());
        let mut watch = std::pin::pin!(Watch::new(pulse.clone(), HEADER, IDLE));
        let start = Instant::now();
        let mut under_way = Vec::new();
        for (at, happens) in events {
            tokio::select! {
                verdict = std::future::poll_fn(|cx| watch.as_mut().poll(cx)) => {
                    return (start.elapsed().as_secs(), verdict);
                }
                () = sleep_until(start + Duration::from_secs(*at)) => happens(&pulse, &mut under_way),
            }
        }
        let verdict = std::future::poll_fn(|cx| watch.as_mut().poll(cx)).await;
        (start.elapsed().as_secs(), verdict)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_judged_by_what_it_interrupts() {
        let hears: Happens = |pulse, _| pulse.heard();
        let begins: Happens = |pulse, under_way| under_way.push(pulse.begin());
        let ends: Happens = |_, under_way| drop(under_way.pop());
        let preface: Happens = |pulse, _| pulse.speaks_http2();
        let (close, finish) = (Verdict::Close, Verdict::Finish);
        type Row<'a> = (&'a str, &'a [(u64, Happens)], (u64, Verdict));
        let table: [Row<'_>; 10] = [
            ("says nothing", &[], (10, close)),
            ("dribbles", &[(3, hears), (6, hears), (9, hears)], (10, close)),
            ("one request, then silence", &[(1, hears), (2, begins), (3, ends)], (78, finish)),
            ("a long answer", &[(1, begins), (500, ends)], (575, finish)),
            ("dribbles later", &[(1, begins), (2, ends), (60, hears), (65, hears)], (70, close)),
            ("in time", &[(1, begins), (2, ends), (70, hears), (71, begins), (72, ends)], (147, finish)),
            ("bytes of a body", &[(1, begins), (5, hears), (100, ends)], (175, finish)),
            ("two at a time", &[(1, begins), (2, begins), (3, ends), (4, hears), (100, ends)], (175, finish)),
            ("HTTP/2 without a request", &[(1, preface), (2, hears), (20, hears)], (76, finish)),
            ("HTTP/2 later", &[(1, preface), (2, begins), (50, ends), (60, hears)], (125, finish)),
        ];
        for (name, events, expected) in table {
            assert_eq!(judged(events).await, expected, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_asked_to_end_gets_a_moment() {
        let pulse = Arc::new(Pulse::new());
        drop(pulse.begin());
        let mut watch = std::pin::pin!(Watch::new(pulse, HEADER, IDLE));
        let start = Instant::now();
        let first = std::future::poll_fn(|cx| watch.as_mut().poll(cx)).await;
        let second = std::future::poll_fn(|cx| watch.as_mut().poll(cx)).await;
        assert_eq!((first, second, start.elapsed()), (Verdict::Finish, Verdict::Close, IDLE + FAREWELL));
    }
}
