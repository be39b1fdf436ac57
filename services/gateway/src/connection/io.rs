//! A connection's bytes, with an ear on when they come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pulse::Pulse;

/// How an HTTP/2 connection begins (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Tells [`Pulse`] that something came.
pub(super) struct Heard<I> {
    inner: I,
    pulse: Arc<Pulse>,
    /// How much of [`PREFACE`] has come; `None` once it is known what is spoken.
    preface: Option<usize>,
    /// What was read before, and is to be read again first.
    again: Bytes,
}

impl<I> Heard<I> {
    pub(super) fn new(inner: I, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse, preface: Some(0), again: Bytes::new() }
    }

    /// The same, with this to be read first.
    pub(super) fn after(self, again: Bytes) -> Self {
        Self { again, ..self }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let Some(seen) = self.preface else {
            self.pulse.heard();
            return;
        };
        let next = &PREFACE[seen..];
        let common = next.len().min(bytes.len());
        if next[..common] != bytes[..common] {
            self.preface = None;
            self.pulse.heard();
        } else if common == next.len() {
            self.preface = None;
            self.pulse.speaks_http2();
        } else {
            self.preface = Some(seen + common);
            self.pulse.heard();
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.again.is_empty() {
            let count = self.again.len().min(buf.remaining());
            buf.put_slice(&self.again.split_to(count));
        }
        let before = buf.filled().len();
        // What has come meanwhile belongs into the same buffer.
        if buf.remaining() > 0 {
            match Pin::new(&mut self.inner).poll_read(cx, buf) {
                Poll::Ready(read) => read?,
                Poll::Pending if before > 0 => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        if buf.filled().len() > before {
            self.hear(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pulse.writes(true);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.pulse.writes(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pulse.writes(true);
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
