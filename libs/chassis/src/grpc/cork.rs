//! Collects what is written to a connection in one turn of its runtime, and writes it at once.
//!
//! HTTP/2 flushes after nearly every frame, and each write costs a system call here and wakes the other end. A flush is
//! therefore only noted; when everything that is ready to run has run, and may have had more to say, the connection is
//! woken and writes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are collected at most. What is larger is written as it is.
const FULL: usize = 32 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Cork<S> {
    io: S,
    waiting: BytesMut,
    turn: Option<Arc<Turn>>,
}

/// The end of the present turn.
#[derive(Debug)]
struct Turn {
    is_over: AtomicBool,
    connection: Waker,
}

impl Turn {
    /// Must be called in a runtime, or the turn is over at once.
    fn begin(connection: &Waker) -> Arc<Self> {
        let turn = Arc::new(Self { is_over: AtomicBool::new(false), connection: connection.clone() });
        let waker = Waker::from(turn.clone());
        let mut others = std::pin::pin!(tokio::task::yield_now());
        // The runtime keeps the waker until all others have had their turn.
        let _later = others.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
        turn
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.connection.wake_by_ref();
    }
}

impl<S> Cork<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, waiting: BytesMut::new(), turn: None }
    }

    pub(super) const fn get_ref(&self) -> &S {
        &self.io
    }
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Writes all that waits.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        self.turn = None;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.waiting.len() + buf.len() > FULL {
            ready!(this.poll_empty(cx))?;
            if buf.len() > FULL {
                return Pin::new(&mut this.io).poll_write(cx, buf);
            }
        }
        this.waiting.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.waiting.is_empty() {
            return Pin::new(&mut this.io).poll_flush(cx);
        }
        let turn = this.turn.get_or_insert_with(|| Turn::begin(cx.waker()));
        if !turn.is_over.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_empty(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_empty(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Keeps each write apart.
    #[derive(Default, Clone)]
    struct Writes(Arc<Mutex<Vec<usize>>>);

    impl AsyncWrite for Writes {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.lock().unwrap().push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn writes(cork: &Cork<Writes>) -> Vec<usize> {
        cork.io.0.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn what_is_flushed_in_one_turn_is_one_write() {
        let mut cork = Cork::new(Writes::default());
        for size in [9, 100, 5] {
            cork.write_all(&vec![0; size]).await.unwrap();
            cork.flush().await.unwrap();
            assert_eq!(writes(&cork), [0; 0], "the turn is not over");
        }
        tokio::task::yield_now().await;
        cork.flush().await.unwrap();
        assert_eq!(writes(&cork), [114]);
        cork.flush().await.unwrap();
        assert_eq!(writes(&cork), [114]);
    }

    #[tokio::test]
    async fn the_connection_is_woken_when_the_turn_is_over() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut cork = Cork::new(ours);
        // Like a connection: it flushes whenever it is polled, and otherwise waits for something to read.
        let mut unsent = Some(b"hello".as_slice());
        let connection = std::future::poll_fn(|cx| {
            if let Some(hello) = unsent.take() {
                assert!(Pin::new(&mut cork).poll_write(cx, hello).is_ready());
            }
            assert!(Pin::new(&mut cork).poll_flush(cx).is_ready());
            let mut buffer = [0; 8];
            Pin::new(&mut cork).poll_read(cx, &mut ReadBuf::new(&mut buffer)).map(drop)
        });
        let peer = async {
            let mut heard = [0; 5];
            theirs.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
        };
        let both = async {
            tokio::select! {
                () = connection => {}
                () = peer => {}
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), both).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_large_is_not_collected_and_comes_behind_what_was() {
        let mut cork = Cork::new(Writes::default());
        cork.write_all(&[0; 10]).await.unwrap();
        cork.write_all(&vec![0; FULL + 1]).await.unwrap();
        assert_eq!(writes(&cork), [10, FULL + 1]);
        cork.write_all(&vec![0; FULL]).await.unwrap();
        cork.write_all(&[0; 1]).await.unwrap();
        assert_eq!(writes(&cork), [10, FULL + 1, FULL]);
    }

    #[tokio::test]
    async fn nothing_is_left_behind_at_the_end() {
        let mut cork = Cork::new(Writes::default());
        cork.write_all(&[0; 10]).await.unwrap();
        cork.shutdown().await.unwrap();
        assert_eq!(writes(&cork), [10]);
    }
}
