//! Dialling: a channel that connects when it is first used and comes back by itself.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Authority;
use http::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::{Layer as _, Service};

use super::cork::Cork;
use super::greet::{Greeted, greet};
use super::measure::{Measure, Measured};
use super::server::MAX_HEADER_LIST;
use super::stream::Stream;
use crate::clock;
use crate::telemetry::Side;
use crate::telemetry::propagate::Inject;
use crate::tls::{Connector, Dialler, PlainTextError};
use crate::workers::PerWorker;

/// A channel whose requests carry the trace and are measured.
pub type Traced = Inject<Measured<Dealt>>;

/// How soon it is noticed that a peer is gone.
#[derive(Debug, Clone, Copy)]
struct Watchfulness {
    connect: Duration,
    ping: Duration,
    answer: Duration,
}

/// Peers of any make: some close the connections of who pings them more often.
const ORDINARY: Watchfulness = Watchfulness {
    connect: Duration::from_secs(3),
    ping: Duration::from_secs(20),
    answer: Duration::from_secs(10),
};
/// Peers of ours whose place another one takes: silence is noticed within two seconds, so that another way is found within
/// three.
const CLOSE: Watchfulness = Watchfulness {
    connect: Duration::from_secs(2),
    ping: Duration::from_millis(500),
    answer: Duration::from_millis(1500),
};
/// The same peers, where it matters more that none is taken for lost.
const PATIENT: Watchfulness = Watchfulness {
    connect: Duration::from_secs(2),
    ping: Duration::from_secs(1),
    answer: Duration::from_secs(4),
};
/// What an answer may send that nobody has read yet.
const STREAM_WINDOW: u32 = 128 << 10;
/// What all answers of a connection may send that nobody has read yet: the most that HTTP/2 allows, which is the windows of
/// 16,383 streams. With less, a few clients that stop reading would use it up and silence everybody else's calls.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// An address that cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is none.
    #[error("{0:?} is not an address; use HOST:PORT")]
    Form(String),
    /// It is, and may be another machine, and there is no TLS.
    #[error(transparent)]
    PlainText(#[from] PlainTextError),
}

/// A channel to `address` (HOST:PORT) on this machine, without TLS: [`dial_with`] otherwise.
///
/// # Errors
/// [`AddressError`] for anything but HOST:PORT, and for other machines.
pub fn dial(address: &str) -> Result<Traced, AddressError> {
    dial_with(&Dialler::default(), address)
}

/// A channel to `address` (HOST:PORT). Opens nothing yet: the first request connects, and so does the first one after the
/// connection was lost. While the peer cannot be reached, requests fail at once instead of dialling again, for a pause that
/// grows from 20 ms to half a second.
///
/// # Errors
/// [`AddressError`] for anything but HOST:PORT, and without TLS for other machines.
pub fn dial_with(dialler: &Dialler, address: &str) -> Result<Traced, AddressError> {
    dial_as(dialler, address, ORDINARY)
}

/// Like [`dial_with`] for a session node, whose silence must be noticed soon: it is pinged twice a second, and lost when it
/// has not answered for a second and a half.
///
/// # Errors
/// As [`dial_with`].
pub fn dial_closely(dialler: &Dialler, address: &str) -> Result<Traced, AddressError> {
    dial_as(dialler, address, CLOSE)
}

/// Like [`dial_closely`] for what has no second chance when the node is taken for lost: one that merely pauses for a few
/// seconds is not.
///
/// # Errors
/// As [`dial_with`].
pub fn dial_patiently(dialler: &Dialler, address: &str) -> Result<Traced, AddressError> {
    dial_as(dialler, address, PATIENT)
}

fn dial_as(dialler: &Dialler, address: &str, watch: Watchfulness) -> Result<Traced, AddressError> {
    let refused = || AddressError::Form(address.to_owned());
    let authority: Authority = address.parse().map_err(|_invalid| refused())?;
    if authority.port_u16().is_none() || authority.as_str().contains('@') {
        return Err(refused());
    }
    dialler.check(authority.host())?;
    let scheme = if dialler.connector().is_some() { "https" } else { "http" };
    let origin = Uri::try_from(format!("{scheme}://{authority}")).map_err(|_invalid| refused())?;
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|_invalid| refused())?
        // What the server is told. The handshake is the connector's.
        .origin(origin)
        .connect_timeout(watch.connect)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_keep_alive_interval(watch.ping)
        .keep_alive_timeout(watch.answer)
        .keep_alive_while_idle(true)
        // Letting go of an answer resets its stream. What the peer still sends on it is no error of the peer's.
        .http2_max_local_error_reset_streams(None);
    let patient = Patient { authority, tls: dialler.connector().cloned(), pause: Arc::default() };
    let channels = PerWorker::new(|| endpoint.connect_with_connector_lazy(patient.clone()));
    let measure = Measure::here(Side::Client);
    Ok(Inject::new(measure.layer(Dealt { channels, ready: None })))
}

/// A channel for each runtime; a request goes through that of the runtime it is made in.
#[derive(Debug, Clone)]
pub struct Dealt {
    channels: PerWorker<Channel>,
    /// The one that has said it is ready.
    ready: Option<Channel>,
}

impl Service<Request<Body>> for Dealt {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready.get_or_insert_with(|| self.channels.get().clone()).poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.ready.take().unwrap_or_else(|| self.channels.get().clone()).call(request)
    }
}

/// Connects, and after a failure lets a pause pass before it tries again.
#[derive(Clone)]
struct Patient {
    authority: Authority,
    tls: Option<Connector>,
    pause: Arc<Mutex<Pause>>,
}

#[derive(Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
}

impl Pause {
    fn left(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Grows to twice its length; the time waited is between half of it and all of it, so that many callers spread out.
    fn grow(&mut self, now: Instant, draw: u8) {
        self.length = (self.length * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.until = Some(now + self.length / 2 + self.length / 2 * u32::from(draw) / 255);
    }
}

impl Service<Uri> for Patient {
    type Response = TokioIo<Cork<Greeted<Stream>>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _target: Uri) -> Self::Future {
        let Self { authority, tls, pause } = self.clone();
        Box::pin(async move {
            if let Some(left) = lock(&pause).left(Instant::now()) {
                let text = format!("{authority} could not be reached; next try in {} ms", left.as_millis());
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
            }
            match connect(&authority, tls.as_ref()).await {
                Ok(stream) => {
                    *lock(&pause) = Pause::default();
                    Ok(TokioIo::new(Cork::new(stream)))
                }
                Err(error) => {
                    let [draw] = clock::random::<1>().unwrap_or([255]);
                    lock(&pause).grow(Instant::now(), draw);
                    Err(io::Error::new(error.kind(), format!("cannot reach {authority}: {error}")))
                }
            }
        })
    }
}

fn lock(pause: &Mutex<Pause>) -> std::sync::MutexGuard<'_, Pause> {
    pause.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connect(authority: &Authority, tls: Option<&Connector>) -> io::Result<Greeted<Stream>> {
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => Stream::Tls(Box::new(tls.connect(authority.host(), stream).await?.into())),
    };
    greet(stream).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Mesh;

    #[test]
    fn only_host_and_port_is_an_address() {
        let dialler = Mesh::Plain { beyond_loopback: true }.dialler(&[]).unwrap();
        for good in ["127.0.0.1:7101", "session-1.mesh.svc:7101", "[::1]:7101"] {
            // A channel needs a runtime to be made.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            assert!(dial_with(&dialler, good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1", "http://127.0.0.1:7101", "me@host:1", "a b:1", "host:port"] {
            assert!(matches!(dial_with(&dialler, bad), Err(AddressError::Form(_))), "{bad}");
        }
    }

    #[test]
    fn without_tls_only_this_machine_is_dialled() {
        assert!(matches!(dial("session-1.mesh.svc:7101"), Err(AddressError::PlainText(_))));
        assert!(matches!(dial("10.0.0.1:7101"), Err(AddressError::PlainText(_))));
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_ends() {
        let now = Instant::now();
        let mut pause = Pause::default();
        assert_eq!(pause.left(now), None);
        let lengths: Vec<u128> = (0..7)
            .map(|_| {
                pause.grow(now, 255);
                pause.left(now).unwrap().as_millis()
            })
            .collect();
        assert_eq!(lengths, [20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(pause.left(now + LONGEST_PAUSE), None);
        pause.grow(now, 0);
        assert_eq!(pause.left(now).unwrap().as_millis(), 250);
    }
}
