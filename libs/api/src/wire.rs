//! The connection a gRPC adapter speaks through, and what both sides agree on about it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use http::{Request, Response};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt as _};

/// A channel with whatever layers the process has put around it: trace, metrics, limits.
pub type Wire = BoxCloneSyncService<Request<Body>, Response<Body>, WireError>;

/// A connection failed. The source says how; gRPC callers see it as a status.
#[derive(Debug, thiserror::Error)]
#[error("connection: {0}")]
pub struct WireError(#[source] BoxError);

/// Makes a [`Wire`] of a channel, or of a channel in layers.
pub fn wire<S>(channel: S) -> Wire
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(channel.map_err(|e| WireError(e.into())))
}

/// The messages of an answer, read past the last one.
///
/// Readers let go of an answer at its ending. What follows on the wire, the trailers, would then find no stream: HTTP/2 resets
/// it, which costs a frame each time and, where it is counted, at last the connection. They are nearly always there already.
pub(crate) struct ToTheEnd<T> {
    messages: Streaming<T>,
    is_ending: fn(&T) -> bool,
}

impl<T> ToTheEnd<T> {
    pub(crate) fn new(response: tonic::Response<Streaming<T>>, is_ending: fn(&T) -> bool) -> Self {
        Self { messages: response.into_inner(), is_ending }
    }
}

impl<T> Stream for ToTheEnd<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.messages.poll_next_unpin(cx);
        if let Poll::Ready(Some(Ok(message))) = &next
            && (self.is_ending)(message)
        {
            // Nothing is to come; if it has not, so be it.
            let _trailers = self.messages.poll_next_unpin(cx).is_ready();
        }
        next
    }
}

/// Largest gRPC message, in bytes, either way.
pub const MAX_MESSAGE: usize = 8 << 20;

/// How long is left of the deadline a caller sent in `grpc-timeout`.
pub(crate) fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    Some(Instant::now() + parse_timeout(text)?)
}

/// Sends the deadline along.
pub(crate) fn with_deadline<T>(message: T, deadline: Option<Instant>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    request
}

/// `TimeoutValue TimeoutUnit` of the gRPC over HTTP/2 specification.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        for (text, expected) in [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("4m", Some(4_000_000)),
            ("5u", Some(5_000)),
            ("99999999n", Some(99_999_999)),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("123456789S", None),
            ("1x", None),
        ] {
            assert_eq!(parse_timeout(text).map(|d| d.as_nanos()), expected, "{text}");
        }
    }
}
