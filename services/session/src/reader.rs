//! The queue between a session and whoever reads one of its streams: bounded in frames and in bytes.
//!
//! A reader that falls further behind is let go: what it has missed is in the session's log, not in memory. Small frames are
//! bounded by their number alone, so that they cost nothing to weigh.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use api::Error;
use api::session::Frame;
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Frames that may wait.
const FRAMES: usize = 1024;
/// Bytes of frames that are not light; of one alone, there may be more.
const BYTES: usize = 16 << 20;
/// A frame up to here is light.
const LIGHT: usize = 4 << 10;

/// Where the frames of an answer go.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    /// Boxed, because a queue has room for many from its first one on.
    frames: mpsc::Sender<Box<Waiting>>,
    /// Room for bytes, once there was a frame that is not light.
    room: Option<Arc<Semaphore>>,
}

/// The frames of an answer, for whoever reads them.
#[derive(Debug)]
pub(crate) struct Queue(mpsc::Receiver<Box<Waiting>>);

#[derive(Debug)]
struct Waiting {
    frame: Result<Frame, Error>,
    _room: Option<OwnedSemaphorePermit>,
}

/// A queue and its two ends.
pub(crate) fn queue() -> (Reader, Queue) {
    let (frames, waiting) = mpsc::channel(FRAMES);
    (Reader { frames, room: None }, Queue(waiting))
}

impl Reader {
    /// Hands over a frame. False if there is no room or nobody reads.
    pub(crate) fn send(&mut self, frame: Frame) -> bool {
        let weight = weight(&frame);
        let room = if weight <= LIGHT {
            None
        } else {
            let room = self.room.get_or_insert_with(|| Arc::new(Semaphore::new(BYTES)));
            let bytes = u32::try_from(weight.min(BYTES)).unwrap_or(u32::MAX);
            match room.clone().try_acquire_many_owned(bytes) {
                Ok(permit) => Some(permit),
                Err(_full) => return false,
            }
        };
        self.frames.try_send(Box::new(Waiting { frame: Ok(frame), _room: room })).is_ok()
    }

    /// Says the one thing there is to say. False if nobody reads.
    pub(crate) fn say(&self, frame: Result<Frame, Error>) -> bool {
        self.frames.try_send(Box::new(Waiting { frame, _room: None })).is_ok()
    }

    /// Whether most of the room is taken.
    pub(crate) fn is_behind(&self) -> bool {
        let is_heavy = self.room.as_ref().is_some_and(|room| room.available_permits() < BYTES / 2);
        is_heavy || self.frames.capacity() < FRAMES / 4
    }

    /// Frames and bytes that there is room for. Whoever reads anything makes it more, while nothing is sent.
    pub(crate) fn free(&self) -> (usize, usize) {
        (self.frames.capacity(), self.room.as_ref().map_or(BYTES, |room| room.available_permits()))
    }

    /// Waits until there is room again. Safe to use in `select!`.
    pub(crate) async fn catches_up(&self) {
        let frames = self.frames.reserve_many(FRAMES / 2);
        let bytes = async {
            if let Some(room) = &self.room {
                let half = u32::try_from(BYTES / 2).unwrap_or(u32::MAX);
                drop(room.acquire_many(half).await);
            }
        };
        drop(futures::future::join(frames, bytes).await);
    }

    /// Waits until nobody reads any more.
    pub(crate) async fn closed(&self) {
        self.frames.closed().await;
    }
}

impl Queue {
    /// The next frame.
    pub(crate) async fn recv(&mut self) -> Option<Result<Frame, Error>> {
        self.0.recv().await.map(|waiting| waiting.frame)
    }
}

/// A queue whose frames come behind word that the message was accepted. Said together with the first one, which is there within
/// half a second: alone it would cost a message, and wake a gateway that has nothing to do yet.
pub(crate) struct Announced {
    queue: Queue,
    /// What was held back behind that word.
    held: Option<Result<Frame, Error>>,
    begun: bool,
}

impl Queue {
    /// See [`Announced`].
    pub(crate) const fn announced(self) -> Announced {
        Announced { queue: self, held: None, begun: false }
    }
}

impl Stream for Announced {
    type Item = Result<Frame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(Some(held));
        }
        let next = ready!(Pin::new(&mut self.queue).poll_next(cx));
        if std::mem::replace(&mut self.begun, true) {
            return Poll::Ready(next);
        }
        match &next {
            // Nothing of it was seen, and whether it was begun is in the journal.
            Some(Err(_) | Ok(Frame::Refused(_))) => Poll::Ready(next),
            Some(Ok(_)) | None => {
                self.held = next;
                Poll::Ready(Some(Ok(Frame::Accepted { session: None })))
            }
        }
    }
}

impl Stream for Queue {
    type Item = Result<Frame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|next| next.map(|waiting| waiting.frame))
    }
}

fn weight(frame: &Frame) -> usize {
    match frame {
        Frame::Event(event) => event.message.as_ref().map_or(0, |message| message.as_str().len()),
        Frame::Answer(answer) | Frame::Refused(answer) => {
            answer.body.as_ref().map_or(0, |body| body.as_str().len())
        }
        Frame::Accepted { .. } | Frame::Open => 0,
    }
}

#[cfg(test)]
mod tests {
    use api::session::Event;
    use futures::FutureExt as _;
    use mcp::Json;

    use super::*;

    fn event(bytes: usize) -> Frame {
        let message = Some(Json::trusted(format!("\"{}\"", "x".repeat(bytes - 2))));
        Frame::Event(Event { message, ..Event::default() })
    }

    #[tokio::test]
    async fn small_frames_are_bounded_by_their_number() {
        let (mut reader, mut queue) = queue();
        assert!((0..FRAMES).all(|_| reader.send(event(100))));
        assert!(!reader.send(event(100)) && reader.is_behind());
        assert!(queue.recv().await.is_some());
        assert!(reader.send(event(100)));
        drop(queue);
        reader.closed().await;
        assert!(!reader.send(event(100)));
    }

    #[tokio::test]
    async fn word_of_acceptance_comes_with_the_first_frame() {
        use futures::StreamExt as _;

        let accepted = Frame::Accepted { session: None };
        let (mut reader, frames) = queue();
        let mut frames = frames.announced();
        assert!(frames.next().now_or_never().is_none());
        assert!(reader.send(Frame::Open) && reader.send(event(100)));
        drop(reader);
        let said: Vec<Frame> = frames.map(Result::unwrap).collect().await;
        assert_eq!(said, [accepted.clone(), Frame::Open, event(100)]);

        let (mut reader, frames) = queue();
        let refused = Frame::Refused(api::session::Answer::new(404, None));
        assert!(reader.send(refused.clone()));
        drop(reader);
        let said: Vec<Frame> = frames.announced().map(Result::unwrap).collect().await;
        assert_eq!(said, [refused]);

        let (reader, frames) = queue();
        drop(reader);
        let said: Vec<Frame> = frames.announced().map(Result::unwrap).collect().await;
        assert_eq!(said, [accepted]);
    }

    #[tokio::test]
    async fn whoever_takes_something_is_seen_to() {
        for bytes in [100, 40 << 10] {
            let (mut reader, mut queue) = queue();
            while reader.send(event(bytes)) {}
            let before = reader.free();
            assert!(reader.is_behind() && reader.catches_up().now_or_never().is_none());
            assert_eq!(
                reader.free(),
                before,
                "nothing is set aside for a reader that is not waited for any more"
            );
            assert!(queue.recv().await.is_some());
            assert!(reader.free().0 > before.0 || reader.free().1 > before.1);
            drop(queue);
            assert!(reader.catches_up().now_or_never().is_some(), "there is nobody to wait for");
        }
    }

    #[tokio::test]
    async fn large_frames_are_bounded_by_their_bytes() {
        let (mut reader, mut queue) = queue();
        assert!(reader.send(event(6 << 20)) && !reader.is_behind());
        assert!(reader.send(event(6 << 20)) && reader.is_behind());
        assert!(!reader.send(event(6 << 20)), "16 MiB");
        assert!(reader.send(event(100)), "there is room for small ones");
        let catching_up = async {
            reader.catches_up().await;
            reader.clone()
        };
        let (mut reader, ()) = tokio::join!(catching_up, async { drop(queue.recv().await) });
        assert!(!reader.is_behind() && reader.send(event(6 << 20)));
        // One that is larger than all of the room passes alone.
        while let Ok(frame) = tokio::time::timeout(std::time::Duration::ZERO, queue.recv()).await {
            assert!(frame.is_some());
        }
        assert!(reader.send(event(20 << 20)));
        assert!(!reader.send(event(5 << 10)));
    }
}
