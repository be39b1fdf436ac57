//! The readers of a session's streams, and when one of them is gone.
//!
//! Mostly there is one at a time: it is looked at itself. Those beside it are watched in a set.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{self, AbortHandle, Abortable, Aborted, BoxFuture};
use futures::stream::FuturesUnordered;
use machines::StreamId;
use tokio::time::Instant;

use crate::reader::Reader;

/// How long a reader that is behind may read nothing. A machine with much to do reads in bursts: what is on the way is read first.
const PATIENCE: Duration = Duration::from_secs(5);

/// A reader of one stream.
pub(crate) struct Reading {
    pub(crate) reader: Reader,
    /// Told from an earlier reader of the same stream.
    number: u64,
    /// Whether it has been given anything.
    pub(crate) begun: bool,
    /// `None` if it is the one that is looked at itself.
    watch: Option<AbortHandle>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

/// A reader that is gone: of which stream, and which one of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) stream: StreamId,
    number: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Readers {
    all: BTreeMap<StreamId, Reading>,
    last: u64,
    /// The one that is looked at itself.
    near: Option<StreamId>,
    others: Option<FuturesUnordered<BoxFuture<'static, Result<Gone, Aborted>>>>,
    lag: Option<Lag>,
}

/// A reader that is behind, and what is known of it.
struct Lag {
    stream: StreamId,
    number: u64,
    /// The room it had when it was seen to read something.
    free: (usize, usize),
    /// Until when it may read nothing.
    until: Instant,
}

/// A reader to wait for.
pub(crate) struct Behind {
    stream: StreamId,
    reader: Reader,
    until: Instant,
}

impl Behind {
    /// Waits until it has caught up, or at least read something when its time is up; the stream of one that has not. Safe to use in
    /// `select!`.
    pub(crate) async fn pace(&self) -> Result<(), StreamId> {
        let before = self.reader.free();
        let in_time = tokio::time::timeout_at(self.until, self.reader.catches_up()).await.is_ok();
        if in_time || has_more(self.reader.free(), before) { Ok(()) } else { Err(self.stream) }
    }
}

/// Whether there is more room for either, frames or bytes.
const fn has_more(now: (usize, usize), before: (usize, usize)) -> bool {
    now.0 > before.0 || now.1 > before.1
}

impl Readers {
    /// From now on this one reads the stream.
    pub(crate) fn insert(&mut self, stream: StreamId, reader: Reader) {
        self.last += 1;
        let number = self.last;
        let watch = if self.near.is_none_or(|near| near == stream || !self.all.contains_key(&near)) {
            self.near = Some(stream);
            None
        } else {
            let (watch, registration) = AbortHandle::new_pair();
            let watched = reader.clone();
            let closed = async move {
                watched.closed().await;
                Gone { stream, number }
            };
            let gone = Box::pin(Abortable::new(closed, registration));
            self.others.get_or_insert_default().push(gone);
            Some(watch)
        };
        self.all.insert(stream, Reading { reader, number, begun: false, watch });
    }

    /// Waits until a reader is gone; `None` if one was let go of meanwhile. Safe to use in `select!`.
    pub(crate) async fn gone(&mut self) -> Option<Gone> {
        if self.others.as_ref().is_some_and(FuturesUnordered::is_empty) {
            self.others = None;
        }
        let near = self.near.and_then(|stream| self.all.get_key_value(&stream));
        let near = async {
            let Some((stream, reading)) = near else { return future::pending().await };
            reading.reader.closed().await;
            Some(Gone { stream: *stream, number: reading.number })
        };
        let Some(others) = &mut self.others else { return near.await };
        let others = async { others.next().await.and_then(Result::ok) };
        future::select(pin!(near), pin!(others)).await.factor_first().0
    }

    /// Lets go of one that is gone; false if another one reads its stream by now, or none.
    pub(crate) fn lose(&mut self, gone: Gone) -> bool {
        let is_there = self.all.get(&gone.stream).is_some_and(|reading| reading.number == gone.number);
        is_there && self.all.remove(&gone.stream).is_some()
    }

    /// Lets go of the reader of a stream.
    pub(crate) fn remove(&mut self, stream: &StreamId) -> Option<Reading> {
        self.all.remove(stream)
    }

    pub(crate) fn get(&self, stream: &StreamId) -> Option<&Reading> {
        self.all.get(stream)
    }

    pub(crate) fn get_mut(&mut self, stream: &StreamId) -> Option<&mut Reading> {
        self.all.get_mut(stream)
    }

    pub(crate) fn contains_key(&self, stream: &StreamId) -> bool {
        self.all.contains_key(stream)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Reader> {
        self.all.values().map(|reading| &reading.reader)
    }

    /// One that has fallen behind, if any has.
    pub(crate) fn behind(&mut self) -> Option<Behind> {
        let behind = self.all.iter().find(|(_, reading)| reading.reader.is_behind());
        let Some((stream, Reading { reader, number, .. })) = behind else {
            self.lag = None;
            return None;
        };
        let (free, number) = (reader.free(), *number);
        let known = self.lag.take().filter(|lag| (lag.stream, lag.number) == (*stream, number));
        let lag = known.filter(|lag| !has_more(free, lag.free));
        // What it is sent leaves less, which is not its doing.
        let lag = lag.map(|lag| Lag { free: (free.0.min(lag.free.0), free.1.min(lag.free.1)), ..lag });
        let begun = || Lag { stream: *stream, number, free, until: Instant::now() + PATIENCE };
        let lag = self.lag.insert(lag.unwrap_or_else(begun));
        Some(Behind { stream: *stream, reader: reader.clone(), until: lag.until })
    }
}

#[cfg(test)]
mod tests {
    use api::session::Frame;
    use futures::FutureExt as _;

    use super::*;
    use crate::reader::{Queue, queue};

    fn reads(readers: &mut Readers, stream: u64) -> Queue {
        let (reader, queue) = queue();
        readers.insert(StreamId(stream), reader);
        queue
    }

    /// Those that are gone now, in the order in which it is noticed.
    fn gone(readers: &mut Readers) -> Vec<u64> {
        let mut all = Vec::new();
        // Word of one that was let go of comes between.
        for _ in 0..10 {
            let Some(Some(gone)) = readers.gone().now_or_never() else { continue };
            assert!(readers.lose(gone) && !readers.lose(gone));
            all.push(gone.stream.0);
        }
        all
    }

    #[tokio::test]
    async fn whoever_leaves_is_noticed_whichever_it_is() {
        for leaving in 1..=3 {
            let mut readers = Readers::default();
            let mut queues: Vec<Queue> = (1..=3).map(|stream| reads(&mut readers, stream)).collect();
            assert!(gone(&mut readers).is_empty());
            drop(queues.remove(leaving - 1));
            assert_eq!(gone(&mut readers), [leaving as u64]);
            let another = reads(&mut readers, 4);
            assert!(gone(&mut readers).is_empty());
            drop((queues, another));
            assert_eq!(gone(&mut readers).len(), 3);
            assert!(readers.is_empty());
        }
    }

    #[tokio::test]
    async fn a_reader_that_was_followed_by_another_is_not_missed() {
        for stream in 1..=2 {
            let mut readers = Readers::default();
            let (first, second) = (reads(&mut readers, 1), reads(&mut readers, 2));
            let another = reads(&mut readers, stream);
            drop(if stream == 1 { first } else { second });
            assert!(gone(&mut readers).is_empty(), "it was none any more");
            drop(another);
            assert_eq!(gone(&mut readers), [stream]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_behind_has_to_read_something_in_time() {
        let mut readers = Readers::default();
        let mut queue = reads(&mut readers, 7);
        assert!(readers.behind().is_none());
        while readers.get_mut(&StreamId(7)).unwrap().reader.send(Frame::Open) {}
        // Slow, but there.
        for _ in 0..3 {
            let behind = readers.behind().unwrap();
            assert!(
                tokio::time::timeout(PATIENCE / 2, behind.pace()).await.is_err(),
                "it may have more time"
            );
            assert!(queue.recv().await.is_some());
            assert!(readers.behind().is_some());
        }
        // Whatever else happens, and however often it is looked at, its time goes on.
        let begun = Instant::now();
        for _ in 0..4 {
            let behind = readers.behind().unwrap();
            assert!(tokio::time::timeout(PATIENCE / 5, behind.pace()).await.is_err());
        }
        assert_eq!(readers.behind().unwrap().pace().await, Err(StreamId(7)));
        assert!(begun.elapsed() <= PATIENCE + Duration::from_millis(2));
        // It reads just before its time is up.
        let another = reads(&mut readers, 7);
        drop(std::mem::replace(&mut queue, another));
        while readers.get_mut(&StreamId(7)).unwrap().reader.send(Frame::Open) {}
        let behind = readers.behind().unwrap();
        let late = async {
            tokio::time::sleep(PATIENCE - Duration::from_millis(2)).await;
            queue.recv().await.is_some()
        };
        assert_eq!(tokio::join!(behind.pace(), late), (Ok(()), true));
    }

    #[tokio::test]
    async fn the_queue_of_one_that_is_let_go_of_ends() {
        let mut readers = Readers::default();
        let (mut near, mut other) = (reads(&mut readers, 1), reads(&mut readers, 2));
        drop((readers.remove(&StreamId(1)), readers.remove(&StreamId(2))));
        assert!(gone(&mut readers).is_empty());
        assert!(near.recv().await.is_none() && other.recv().await.is_none());
    }
}
