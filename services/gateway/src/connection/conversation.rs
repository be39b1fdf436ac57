//! What is spoken on a connection: found out by its first bytes, and then one request after the other.
//!
//! Owns: the choice between HTTP/1.1 and HTTP/2, and the change between requests and a stream that is open for long. What
//! HTTP/1.1 keeps ready for the next request, some tens of kilobytes, is given back as long as such a stream is open.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::{Heard, PREFACE};
use super::long::Streaming;
use super::pulse::{Pulse, Tracked};
use super::{Patience, Requests};
use crate::http::Stack;

type Http1<I, S> = http1::Connection<TokioIo<Heard<I>>, Requests<S>>;
type Http2<I, S> = http2::Connection<TokioIo<Heard<I>>, Requests<S>, TokioExecutor>;

/// See the module.
pub(super) struct Conversation<I, S: Stack> {
    phase: Phase<I, S>,
    requests: Requests<S>,
    patience: Arc<Patience>,
    pulse: Arc<Pulse>,
    /// Nothing further is begun.
    is_leaving: bool,
}

enum Phase<I, S: Stack> {
    /// Nothing is known yet.
    New {
        io: Heard<I>,
        seen: BytesMut,
    },
    Http1(Box<Http1<I, S>>),
    Http2(Pin<Box<Http2<I, S>>>),
    Long(Box<Streaming<Heard<I>, Tracked<Body>>>),
    /// Nothing more is said.
    Closing(Heard<I>),
    Over,
}

impl<I, S> Conversation<I, S>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Stack,
{
    pub(super) fn new(
        io: Heard<I>,
        requests: Requests<S>,
        patience: Arc<Patience>,
        pulse: Arc<Pulse>,
    ) -> Self {
        let phase = Phase::New { io, seen: BytesMut::new() };
        Self { phase, requests, patience, pulse, is_leaving: false }
    }

    /// Lets what is under way end, and the connection with it.
    pub(super) fn graceful_shutdown(&mut self) {
        self.is_leaving = true;
        match &mut self.phase {
            Phase::New { .. } => self.phase = Phase::Over,
            Phase::Http1(connection) => Pin::new(connection.as_mut()).graceful_shutdown(),
            Phase::Http2(connection) => connection.as_mut().graceful_shutdown(),
            Phase::Long(_) | Phase::Closing(_) | Phase::Over => {}
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        loop {
            match &mut self.phase {
                Phase::New { io, seen } => {
                    let Some(is_http2) =
                        ready!(poll_first(io, seen, cx)).map_err(|error| error.to_string())?
                    else {
                        return Poll::Ready(Ok(()));
                    };
                    let seen = std::mem::take(seen).freeze();
                    self.begin(seen, is_http2);
                }
                Phase::Http1(connection) => {
                    let polled = Pin::new(connection.as_mut()).poll(cx);
                    if let Poll::Ready(ended) = polled {
                        return Poll::Ready(ended.map_err(|error| error.to_string()));
                    }
                    match self.requests.handed.ready(&self.pulse) {
                        Some(body) => self.lengthen(body),
                        None => return Poll::Pending,
                    }
                }
                Phase::Http2(connection) => {
                    return connection.as_mut().poll(cx).map_err(|error| error.to_string());
                }
                Phase::Long(streaming) => {
                    let early = ready!(streaming.poll(cx)).map_err(|error| error.to_string())?;
                    match early {
                        Some(early) if !self.is_leaving => self.begin(early, false),
                        Some(_) => self.close(),
                        None => return Poll::Ready(Ok(())),
                    }
                }
                Phase::Closing(io) => {
                    return Pin::new(io).poll_shutdown(cx).map_err(|error| error.to_string());
                }
                Phase::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Requests come from now on; `seen` is what has come of the first one.
    fn begin(&mut self, seen: Bytes, is_http2: bool) {
        let io = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::New { io, .. } => io,
            Phase::Long(streaming) => streaming.into_io(),
            Phase::Http1(_) | Phase::Http2(_) | Phase::Closing(_) | Phase::Over => return,
        };
        let (io, requests) = (TokioIo::new(io.after(seen)), self.requests.clone());
        self.phase = match is_http2 {
            true => Phase::Http2(Box::pin(self.patience.http2().serve_connection(io, requests))),
            false => Phase::Http1(Box::new(self.patience.http1().serve_connection(io, requests))),
        };
    }

    fn close(&mut self) {
        if let Phase::Long(streaming) = std::mem::replace(&mut self.phase, Phase::Over) {
            self.phase = Phase::Closing(streaming.into_io());
        }
    }

    /// A response goes on for long: everything that is ready for other requests is let go.
    fn lengthen(&mut self, body: Tracked<Body>) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Http1(connection) => {
                let parts = connection.into_parts();
                let early = Bytes::copy_from_slice(&parts.read_buf);
                self.phase = Phase::Long(Box::new(Streaming::new(parts.io.into_inner(), body, early)));
            }
            other @ (Phase::New { .. }
            | Phase::Http2(_)
            | Phase::Long(_)
            | Phase::Closing(_)
            | Phase::Over) => self.phase = other,
        }
    }
}

/// Reads until it is clear whether this is HTTP/2. `None` if the client says nothing and goes.
fn poll_first<I: AsyncRead + Unpin>(
    io: &mut Heard<I>,
    seen: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<bool>>> {
    loop {
        let common = seen.iter().zip(PREFACE).take_while(|(byte, expected)| byte == expected).count();
        if common == PREFACE.len() {
            return Poll::Ready(Ok(Some(true)));
        }
        if common < seen.len() {
            return Poll::Ready(Ok(Some(false)));
        }
        // No more than the preface, so that what follows is read into the buffer where it stays.
        let mut buffer = [0; PREFACE.len()];
        let mut read = ReadBuf::new(&mut buffer[seen.len()..]);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Ok((!seen.is_empty()).then_some(false)));
        }
        seen.extend_from_slice(read.filled());
    }
}
