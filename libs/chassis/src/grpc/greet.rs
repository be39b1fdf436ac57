//! A connection counts once its peer has answered the first words of HTTP/2.
//!
//! The operating system takes connections for a process that may be stopping and never serve them. A request that goes out
//! on such a one is lost, and nobody can prove that it was not executed. So nothing is said but the preface until the server,
//! which sends its settings behind that, is heard; what fails before is a connection that could not be made.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

/// What every client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The head of the server's first frame.
const HEAD: usize = 9;
/// How long a server has to say something. One that waits for more is believed to be there.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module. The preface is said; whoever writes says it again, and that is left out.
#[derive(Debug)]
pub(super) struct Greeted<S> {
    io: S,
    /// Bytes of the preface that are still to be left out.
    skip: usize,
    heard: [u8; HEAD],
    /// The part of them that nobody has read yet.
    unread: std::ops::Range<usize>,
}

/// Greets the server at the other end.
///
/// # Errors
/// When it closes the connection instead.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) -> io::Result<Greeted<S>> {
    io.write_all(PREFACE).await?;
    io.flush().await?;
    let mut heard = [0; HEAD];
    let length = match timeout(PATIENCE, io.read(&mut heard)).await {
        Ok(Ok(0)) => {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "closed before it was served"));
        }
        Ok(length) => length?,
        Err(_elapsed) => 0,
    };
    Ok(Greeted { io, skip: PREFACE.len(), heard, unread: 0..length })
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let length = this.unread.len().min(buf.remaining());
        let end = this.unread.start + length;
        buf.put_slice(this.heard.get(this.unread.start..end).unwrap_or_default());
        this.unread.start = end;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.skip == 0 {
            return Pin::new(&mut this.io).poll_write(cx, buf);
        }
        let length = this.skip.min(buf.len());
        let said = PREFACE.get(PREFACE.len() - this.skip..).unwrap_or_default();
        if !said.starts_with(buf.get(..length).unwrap_or_default()) {
            return Poll::Ready(Err(io::Error::other("a client of HTTP/2 begins with its preface")));
        }
        this.skip -= length;
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.skip == 0 {
            return Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &**buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_closed_unserved_was_no_connection() {
        let (client, server) = tokio::io::duplex(64);
        let (greeted, ()) = tokio::join!(greet(client), async { drop(server) });
        assert!(greeted.is_err());
    }

    #[tokio::test]
    async fn the_preface_is_said_once_and_nothing_heard_is_lost() {
        let (client, mut server) = tokio::io::duplex(64);
        let serving = async {
            let mut preface = [0; PREFACE.len()];
            server.read_exact(&mut preface).await.unwrap();
            assert_eq!(preface, PREFACE);
            server.write_all(b"settings and more").await.unwrap();
        };
        let (greeted, ()) = tokio::join!(greet(client), serving);
        let mut greeted = greeted.unwrap();
        let mut heard = [0; 17];
        greeted.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"settings and more");
        greeted.write_all(&[PREFACE, b"mine"].concat()).await.unwrap();
        let mut mine = [0; 4];
        server.read_exact(&mut mine).await.unwrap();
        assert_eq!(&mine, b"mine");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_waits_for_more_is_believed_to_be_there() {
        let (client, _server) = tokio::io::duplex(64);
        assert!(greet(client).await.is_ok());
    }
}
