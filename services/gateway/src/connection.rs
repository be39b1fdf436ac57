//! One connection: how long it may take for what, and which protocol it speaks.
//!
//! Owns: the TLS handshake, the bounds of HTTP/1.1 and HTTP/2 as protocols, and the watch over a client that dribbles or
//! says nothing. Must not know: what is asked.

mod conversation;
mod io;
mod long;
mod pulse;

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{self, IpAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Version, header};
use chassis::drain::Shutdown;
use chassis::tls::Acceptor;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;

use self::conversation::Conversation;
use self::io::Heard;
use self::long::{Handed, Shown};
use self::pulse::{Pulse, Verdict, Watch};
use crate::config::Config;
use crate::http::Stack;
use crate::http::peer::Peer;
use crate::limits::Admission;

/// More than the header limit, so that a request beyond that is answered and not cut off.
const READ_BUFFER: usize = 64 << 10;
/// Bytes of a response that wait for a reader of HTTP/2, beyond the event or answer being written.
const SEND_BUFFER: usize = 64 << 10;
/// What hyper has room for without asking the allocator.
const HEADERS_ON_STACK: usize = 100;

/// How long a connection may take for what, and how much of it there may be.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    header: Duration,
    idle: Duration,
    write_stall: Duration,
    max_header_bytes: usize,
    max_headers: usize,
    read_buffer: usize,
    streams: u32,
    pending_resets: usize,
    ping: Duration,
}

impl Patience {
    pub(crate) fn new(config: &Config) -> Self {
        let seconds = |count: u64| Duration::from_secs(count.max(1));
        Self {
            header: seconds(config.header_timeout_s),
            idle: seconds(config.idle_timeout_s),
            write_stall: seconds(config.write_stall_s),
            max_header_bytes: config.max_header_bytes,
            max_headers: config.max_headers,
            read_buffer: READ_BUFFER.max(2 * (config.max_header_bytes + config.max_target_bytes)),
            streams: config.http2_max_streams.max(1),
            pending_resets: config.http2_max_pending_resets,
            ping: seconds(config.http2_ping_s),
        }
    }

    fn http1(&self) -> http1::Builder {
        let mut server = http1::Builder::new();
        // Idle connections and dribbled heads are watched here: hyper has one time-out for both.
        server.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(self.read_buffer);
        if self.max_headers > HEADERS_ON_STACK {
            server.max_headers(self.max_headers);
        }
        server
    }

    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server
            .timer(TokioTimer::new())
            .keep_alive_interval(self.ping)
            .max_concurrent_streams(self.streams)
            .max_header_list_size(u32::try_from(self.max_header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(self.pending_resets)
            .max_send_buf_size(SEND_BUFFER);
        server
    }
}

/// What a connection needs.
pub(crate) struct Terms<S> {
    pub(crate) patience: Arc<Patience>,
    pub(crate) tls: Option<Acceptor>,
    pub(crate) stack: S,
    pub(crate) shutdown: Shutdown,
}

/// Serves one connection until it ends, on the runtime this is called in.
pub(crate) async fn serve<S>(stream: net::TcpStream, ip: IpAddr, admission: Admission, terms: Terms<S>)
where
    S: Stack,
{
    // From here on it belongs to this runtime.
    let stream = match stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream)) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "connection lost at once");
            return;
        }
    };
    let peer = Peer::new(ip, terms.tls.is_some(), admission);
    match &terms.tls {
        None => speak(stream, peer, &terms).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => speak(stream, peer, &terms).await,
            Err(error) => tracing::debug!(%error, "no TLS was agreed on"),
        },
    }
}

/// How long a connection stays open for another request, or the first one, when the gateway drains.
const LAST_WORDS: Duration = Duration::from_secs(1);

async fn speak<I, S>(stream: I, peer: Peer, terms: &Terms<S>)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
    S: Stack,
{
    let patience = &terms.patience;
    let pulse = Arc::new(Pulse::new());
    // A reader that stops reading must not hold what is meant for it for ever.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(patience.write_stall));
    let io = Heard::new(Box::pin(stream), pulse.clone());
    let stack = RefCell::new(terms.stack.clone());
    let requests = Requests { stack, peer, pulse: pulse.clone(), handed: Handed::default() };
    let mut serving = Conversation::new(io, requests, patience.clone(), pulse.clone());
    let mut watch = pin!(Watch::new(pulse.clone(), patience.header, patience.idle));
    let mut leaving = pin!(async {
        terms.shutdown.requested().await;
        // A request may be on its way: closed now, its client could not know whether it was read. The next answer says that
        // it is the last one, or there is none for a while.
        if !pulse.is_busy() {
            tokio::time::sleep(LAST_WORDS).await;
        }
    });
    let (mut asked, mut listens) = (false, false);
    let ended = std::future::poll_fn(|cx| {
        // Listened to once, it wakes this task; from then on there is nothing to hear before it is requested.
        let hears = !std::mem::replace(&mut listens, true) || terms.shutdown.is_requested();
        if hears && !asked && leaving.as_mut().poll(cx).is_ready() {
            asked = true;
            serving.graceful_shutdown();
        }
        if let Poll::Ready(ended) = serving.poll(cx) {
            return Poll::Ready(ended);
        }
        if !asked && terms.shutdown.is_requested() && pulse.is_busy() {
            asked = true;
            serving.graceful_shutdown();
            if let Poll::Ready(ended) = serving.poll(cx) {
                return Poll::Ready(ended);
            }
        }
        // Behind what has just happened on the connection.
        while let Poll::Ready(verdict) = watch.as_mut().poll(cx) {
            match verdict {
                Verdict::Close => return Poll::Ready(Ok(())),
                Verdict::Finish => {
                    serving.graceful_shutdown();
                    if let Poll::Ready(ended) = serving.poll(cx) {
                        return Poll::Ready(ended);
                    }
                }
            }
        }
        Poll::Pending
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// The requests of one connection.
#[derive(Clone)]
struct Requests<S> {
    /// Borrowed by one call at a time: a connection is served by one task. A clone for each request would count references that
    /// all threads share.
    stack: RefCell<S>,
    peer: Peer,
    pulse: Arc<Pulse>,
    handed: Handed,
}

impl<S> hyper::service::Service<hyper::Request<Incoming>> for Requests<S>
where
    S: Stack,
{
    type Response = hyper::Response<Shown>;
    type Error = Infallible;
    type Future = pulse::Answering<S::Future>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.peer.clone());
        let under_way = self.pulse.begin();
        let handed = may_be_handed(&request).then(|| self.handed.clone());
        let mut stack = self.stack.borrow_mut();
        debug_assert!(
            stack.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready(),
            "a layer makes others wait"
        );
        pulse::Answering::new(stack.call(request), under_way, handed)
    }
}

/// Whether the answer may be written by ourselves: it is in chunks then, and the connection goes on behind it.
fn may_be_handed(request: &Request) -> bool {
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
        && request.headers().get_all(header::CONNECTION).iter().all(|value| {
            // Anything else is about more than this answer.
            value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
        })
}
