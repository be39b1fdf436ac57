//! A response that goes on for long, written by ourselves: it needs no more than the next piece.
//!
//! The head and what there was to say at once were written by hyper, in chunks because no length is known; the rest follows in
//! the same way (RFC 9112, section 7.1).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::{self, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pulse::{Pulse, Tracked};

/// Bytes of further requests that are read while a stream is open. With some there it is not noticed when the client goes,
/// until something is written.
const EARLY: usize = 512;

/// Where a connection finds the body that it may write itself.
#[derive(Clone, Default)]
pub(super) struct Handed(Arc<Offer>);

#[derive(Default)]
struct Offer {
    body: Mutex<Option<Arc<Shared>>>,
    /// Whether there is one: looked at for each request, nearly always in vain.
    is_there: AtomicBool,
}

pub(super) struct Shared {
    body: Mutex<Option<Tracked<Body>>>,
    /// Everything there was to say was said.
    is_waiting: AtomicBool,
}

impl Handed {
    /// Offers a body.
    pub(super) fn offer(&self, body: Tracked<Body>) -> Shown {
        let shared = Arc::new(Shared { body: Mutex::new(Some(body)), is_waiting: AtomicBool::new(false) });
        *self.0.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(shared.clone());
        self.0.is_there.store(true, Ordering::Release);
        Shown::Offered(Offered(shared))
    }

    /// The body that was offered, once it waits and everything so far is written.
    pub(super) fn ready(&self, pulse: &Pulse) -> Option<Tracked<Body>> {
        if !self.0.is_there.load(Ordering::Acquire) {
            return None;
        }
        let mut offered = self.0.body.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = offered.as_ref()?;
        if !shared.is_waiting.load(Ordering::Relaxed) || pulse.is_writing() {
            return None;
        }
        let body = shared.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        *offered = None;
        self.0.is_there.store(false, Ordering::Release);
        body
    }
}

/// The body as hyper sees it.
pub(super) enum Shown {
    Own(Tracked<Body>),
    Offered(Offered),
}

/// A body that may be taken over, as long as hyper has use for it.
pub(super) struct Offered(Arc<Shared>);

impl Drop for Offered {
    fn drop(&mut self) {
        // Nobody takes it over any more: whatever it holds is let go, outside the lock.
        let body = self.0.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(body);
    }
}

impl body::Body for Shown {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx),
            Self::Offered(Offered(shared)) => {
                let mut body = shared.body.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(body) = body.as_mut() else { return Poll::Pending };
                let polled = Pin::new(body).poll_frame(cx);
                shared.is_waiting.store(polled.is_pending(), Ordering::Relaxed);
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Offered(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Offered(_) => SizeHint::default(),
        }
    }
}

/// See the module.
pub(super) struct Streaming<I, B> {
    io: I,
    body: B,
    /// What is being written.
    rest: BytesMut,
    is_flushed: bool,
    is_over: bool,
    /// What the client said that is for later.
    early: BytesMut,
}

impl<I, B> Streaming<I, B>
where
    I: AsyncRead + AsyncWrite + Unpin,
    B: body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub(super) fn new(io: I, body: B, early: Bytes) -> Self {
        let early = BytesMut::from(early.as_ref());
        Self { io, body, rest: BytesMut::new(), is_flushed: true, is_over: false, early }
    }

    pub(super) fn into_io(self) -> I {
        self.io
    }

    /// Ends with what the client said early; with nothing if it has gone.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        while self.early.len() < EARLY {
            let mut buffer = [0; EARLY];
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.io).poll_read(cx, &mut read)? {
                Poll::Ready(()) if read.filled().is_empty() => return Poll::Ready(Ok(None)),
                Poll::Ready(()) => self.early.extend_from_slice(read.filled()),
                Poll::Pending => break,
            }
        }
        loop {
            while !self.rest.is_empty() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.is_flushed = false;
                self.rest.advance(written);
            }
            // What was a large piece is not kept.
            self.rest = BytesMut::new();
            if !self.is_flushed {
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                self.is_flushed = true;
            }
            if self.is_over {
                return Poll::Ready(Ok(Some(std::mem::take(&mut self.early).freeze())));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                        self.rest.extend_from_slice(format!("{:X}\r\n", data.len()).as_bytes());
                        self.rest.extend_from_slice(data);
                        self.rest.extend_from_slice(b"\r\n");
                    }
                }
                // Without the last chunk the client knows that something is missing.
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error.to_string()))),
                None => {
                    self.rest.extend_from_slice(b"0\r\n\r\n");
                    self.is_over = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn pieces_are_chunks_and_what_came_early_is_kept() {
        let (server, mut client) = duplex(64);
        let (say, mut said) = mpsc::channel::<&'static str>(4);
        let pieces = futures::stream::poll_fn(move |cx| {
            said.poll_recv(cx)
                .map(|piece| piece.map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text)))))
        });
        let mut streaming = Streaming::new(server, StreamBody::new(pieces), Bytes::from_static(b"GE"));
        let talk = async {
            let mut heard = vec![0; 13];
            say.send("12345678").await.unwrap();
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, b"8\r\n12345678\r\n");
            client.write_all(b"T /").await.unwrap();
            say.send("0123456789").await.unwrap();
            drop(say);
            let mut heard = vec![0; 20];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, b"A\r\n0123456789\r\n0\r\n\r\n");
            client
        };
        let written = std::future::poll_fn(|cx| streaming.poll(cx));
        let (early, _client) = tokio::join!(written, talk);
        assert_eq!(early.unwrap().unwrap(), "GET /");
    }

    #[tokio::test]
    async fn it_is_noticed_when_the_client_goes() {
        let (server, client) = duplex(64);
        let pieces = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let mut streaming = Streaming::new(server, StreamBody::new(pieces), Bytes::new());
        drop(client);
        assert!(std::future::poll_fn(|cx| streaming.poll(cx)).await.unwrap().is_none());
    }
}
