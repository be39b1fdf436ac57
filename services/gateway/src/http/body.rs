//! Reading a request's body within bounds on its size and its pace.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame};
use mcp::code;
use mcp::rpc::RpcError;
use tokio::time::{Instant, timeout_at};

use super::admit::Refusal;
use super::{quota, reply};
use crate::config::Config;
use crate::limits::Weight;

/// From when on a body must keep a minimum pace.
const GRACE: Duration = Duration::from_secs(5);
/// How long, and how much, a client whose body is too large may go on before it is cut off. Until it has sent what it has,
/// most clients do not read.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 8 << 20;

/// How large and how slow a body may be.
#[derive(Debug)]
pub(crate) struct Bounds {
    bytes: usize,
    all: Weight,
    idle: Duration,
    total: Duration,
    bytes_per_s: u64,
}

/// Why there is no body to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    TooLarge(usize),
    TooSlow,
    NoRoom,
    Broken,
}

impl Bounds {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            bytes: config.max_body_bytes,
            all: Weight::new(config.max_body_bytes_in_all),
            idle: Duration::from_secs(config.body_idle_s.max(1)),
            total: Duration::from_secs(config.body_total_s.max(1)),
            bytes_per_s: config.body_min_bytes_per_s,
        }
    }

    /// Until when more must have come of a body that began at `start` and of which so much is here.
    fn deadline(&self, start: Instant, now: Instant, bytes: usize) -> Instant {
        let end = (start + self.total).min(now + self.idle);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match bytes.saturating_mul(1000).checked_div(self.bytes_per_s) {
            None => end,
            // Till then what is here is as much as the pace asks for.
            Some(millis) => end.min(start + GRACE.max(Duration::from_millis(millis).min(self.total))),
        }
    }
}

/// Reads the body, counting what comes and not what was announced.
pub(super) async fn read(mut body: Body, bounds: &Bounds) -> Result<Bytes, Unread> {
    let mut start = None;
    let mut weighed = None;
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    loop {
        let size = first.len() + more.len();
        // Most bodies are here already: the clock is asked only when one has to be waited for.
        let frame = match ready_frame(&mut body).await {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                // What others have to wait with, while this one is waited for.
                if !weighed.get_or_insert_with(|| bounds.all.nothing()).grow_to(size) {
                    return Err(Unread::NoRoom);
                }
                let now = Instant::now();
                let end = bounds.deadline(*start.get_or_insert(now), now, size);
                timeout_at(end, body.frame()).await.map_err(|_elapsed| Unread::TooSlow)?
            }
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_broken)) => return Err(Unread::Broken),
            None => break,
        };
        let Ok(data) = frame.into_data() else { continue };
        if size + data.len() > bounds.bytes {
            drop((first, more));
            linger(body).await;
            return Err(Unread::TooLarge(bounds.bytes));
        }
        if first.is_empty() {
            first = data;
        } else {
            more.extend_from_slice(&data);
        }
    }
    if more.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + more.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&more);
    Ok(whole.freeze())
}

/// What is there without waiting.
async fn ready_frame(body: &mut Body) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await
}

async fn linger(mut body: Body) {
    let end = Instant::now() + LINGER;
    let mut left = LINGER_BYTES;
    while let Ok(Some(Ok(frame))) = timeout_at(end, body.frame()).await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The answer to a request whose body could not be read.
pub(super) fn refuse(unread: Unread) -> Response {
    let mut response = refusal(unread);
    // What is left of the body must not be taken for the next request.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn refusal(unread: Unread) -> Response {
    let (status, code, message) = match unread {
        Unread::TooLarge(most) => {
            let text = format!("the body exceeds {most} bytes");
            (StatusCode::PAYLOAD_TOO_LARGE, code::INVALID_REQUEST, text)
        }
        Unread::TooSlow => {
            let text = "the body did not arrive in time".to_owned();
            (StatusCode::REQUEST_TIMEOUT, code::INVALID_REQUEST, text)
        }
        Unread::NoRoom => return quota::overloaded(),
        Unread::Broken => (StatusCode::BAD_REQUEST, code::PARSE_ERROR, "the body is incomplete".to_owned()),
    };
    reply::refusal(Refusal::new(status, None, &RpcError::new(code, message)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt as _, stream};
    use tokio::time::sleep_until;

    use super::*;

    /// Reads a body that comes in these pieces, at these milliseconds; what came of it, and when.
    async fn reading(pieces: &[(u64, usize)], ends: bool) -> (Result<usize, Unread>, u64) {
        let start = Instant::now();
        let pieces = pieces.to_vec();
        let coming = stream::iter(pieces).then(move |(at, size)| async move {
            sleep_until(start + Duration::from_millis(at)).await;
            Ok::<_, Infallible>(Bytes::from(vec![b' '; size]))
        });
        let body = if ends { coming.boxed() } else { coming.chain(stream::pending()).boxed() };
        let bounds = Bounds::new(&Config { max_body_bytes: 100_000, ..Config::default() });
        let read = read(Body::from_stream(body), &bounds).await;
        let took = u64::try_from(start.elapsed().as_millis()).unwrap();
        (read.map(|bytes| bytes.len()), took)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_a_pace() {
        let each = |pause: u64, size: usize, count: u64| -> Vec<_> {
            (0..count).map(|n| (n * pause, size)).collect()
        };
        let slow = |at| (Err(Unread::TooSlow), at);
        let table = [
            ("at once", vec![(0, 5)], true, (Ok(5), 0)),
            ("nothing", vec![], false, slow(5000)),
            ("little, late", vec![(4900, 100)], true, (Ok(100), 4900)),
            ("a pause that pace allows", vec![(0, 20_000), (9900, 1)], true, (Ok(20_001), 9900)),
            ("a pause that is too long", vec![(0, 20_000)], false, slow(10_000)),
            ("a byte a second", each(1000, 1, 60), true, slow(5000)),
            ("less than 1 KiB a second", each(1000, 1000, 60), true, slow(5859)),
            ("2 KiB a second", each(1000, 2048, 20), true, (Ok(40_960), 19_000)),
            ("2 KiB a second, for ever", each(1000, 2048, 60), true, slow(30_000)),
        ];
        for (name, pieces, ends, expected) in table {
            assert_eq!(reading(&pieces, ends).await, expected, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_that_are_waited_for_have_a_size() {
        let bounds = Bounds::new(&Config { max_body_bytes_in_all: 10_000, ..Config::default() });
        let slow = |size: usize| {
            let begins = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b' '; size]))]);
            let ends = stream::once(async {
                sleep_until(Instant::now() + Duration::from_secs(2)).await;
                Ok(Bytes::from_static(b" "))
            });
            Body::from_stream(begins.chain(ends))
        };
        let (one, two, three) =
            tokio::join!(read(slow(6000), &bounds), read(slow(6000), &bounds), read(slow(4000), &bounds));
        assert_eq!(one.map(|body| body.len()), Ok(6001));
        assert_eq!(two, Err(Unread::NoRoom));
        assert_eq!(three.map(|body| body.len()), Ok(4001));
        assert_eq!(read(slow(9000), &bounds).await.map(|body| body.len()), Ok(9001), "all left");
        let at_once = Body::from(vec![b' '; 20_000]);
        assert_eq!(read(at_once, &bounds).await.map(|body| body.len()), Ok(20_000), "nobody waits for it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_a_size() {
        assert_eq!(reading(&[(0, 50_000), (1, 50_000)], true).await.0, Ok(100_000));
        let (read, took) = reading(&[(0, 50_000), (1, 50_001)], false).await;
        assert_eq!(read, Err(Unread::TooLarge(100_000)));
        assert!(took <= 501, "{took}");
    }
}
