//! How long gRPC calls take, by service, method and code, at both ends. There are no spans here: the request that makes a call has
//! one, of the same length.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Code;
use tower::{Layer, Service};

use crate::metrics::{Histogram, Metrics, Names, SECONDS};
use crate::telemetry::{Scope, Side, process_metrics};

/// Methods that have series of their own. Only those that exist are counted by name, so this is never reached.
const MOST_METHODS: usize = 64;
const OTHER: &str = "_OTHER";
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

type ByCode = [OnceLock<Histogram>; 17];

/// Measures every call that goes through. Without metrics in this process it only passes on.
#[derive(Debug, Clone)]
pub(crate) struct Measure(Option<Arc<Series>>);

struct Series {
    metrics: Metrics,
    name: &'static str,
    methods: Names<ByCode>,
}

impl Measure {
    /// For the role that this is called in.
    pub(crate) fn here(side: Side) -> Self {
        let name = match side {
            Side::Client => "rpc_client_call_duration_seconds",
            Side::Server | Side::Internal => "rpc_server_call_duration_seconds",
        };
        let role = Scope::current().role();
        let series = process_metrics().map(|metrics| {
            let metrics = if role.is_empty() { metrics } else { metrics.of_role(role) };
            Arc::new(Series { metrics, name, methods: Names::new(MOST_METHODS) })
        });
        Self(series)
    }
}

impl Series {
    fn count(&self, path: &str, code: Code, took: f64) {
        let known = self.methods.find(path).or_else(|| {
            // Who was told that there is no such method may have made it up.
            let name = if code == Code::Unimplemented { OTHER } else { path };
            self.methods.admit(name, || std::array::from_fn(|_| OnceLock::new()))
        });
        let Some(cell) =
            known.and_then(|named| self.methods.of(named)).and_then(|by_code| by_code.get(code as usize))
        else {
            return;
        };
        cell.get_or_init(|| self.make(path, code)).observe(took);
    }

    #[cold]
    fn make(&self, path: &str, code: Code) -> Histogram {
        let named = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let (service, method) = named.filter(|_| code != Code::Unimplemented).unwrap_or((OTHER, OTHER));
        let code = CODES.get(code as usize).copied().unwrap_or(OTHER);
        let labels = [("rpc_service", service), ("rpc_method", method), ("rpc_response_status_code", code)];
        self.metrics.histogram(self.name, "Duration of gRPC calls, streams to their end", SECONDS, &labels)
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One call. Dropped before its end, it was cancelled.
#[derive(Debug)]
struct Call {
    series: Option<Arc<Series>>,
    path: Uri,
    begun: Instant,
}

impl Call {
    fn end(&mut self, code: Code) {
        if let Some(series) = self.series.take() {
            series.count(self.path.path(), code, self.begun.elapsed().as_secs_f64());
        }
    }

    /// Ends with the code that trailers, or headers without a body, carry.
    fn end_with(&mut self, trailers: &HeaderMap) {
        let code =
            trailers.get("grpc-status").map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
        self.end(code);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measured { inner, measure: self.clone() }
    }
}

/// A service whose calls are measured.
#[derive(Debug, Clone)]
pub struct Measured<S> {
    inner: S,
    measure: Measure,
}

impl<S, B, R> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = self.measure.0.as_ref().map(|series| Call {
            series: Some(series.clone()),
            path: request.uri().clone(),
            begun: Instant::now(),
        });
        Answering { inner: self.inner.call(request), call }
    }
}

pin_project! {
    /// A call whose answer has not begun.
    #[derive(Debug)]
    pub struct Answering<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F, R, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    type Output = Result<Response<tonic::body::Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = std::task::ready!(this.inner.poll(cx));
        let mut call = this.call.take();
        Poll::Ready(match answered {
            Err(error) => {
                call.iter_mut().for_each(|call| call.end(Code::Unavailable));
                Err(error)
            }
            Ok(response) => {
                if response.headers().contains_key("grpc-status") {
                    call.iter_mut().for_each(|call| call.end_with(response.headers()));
                    call = None;
                }
                Ok(match call {
                    None => response.map(tonic::body::Body::new),
                    Some(call) => response.map(|body| tonic::body::Body::new(Reading { body, call })),
                })
            }
        })
    }
}

pin_project! {
    /// An answer, up to its trailers.
    struct Reading<B> {
        #[pin]
        body: B,
        call: Call,
    }
}

impl<B: Body<Data = Bytes>> Body for Reading<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.call.end_with(trailers);
                }
            }
            Poll::Ready(Some(Err(_lost))) => this.call.end(Code::Unavailable),
            Poll::Ready(None) => this.call.end(Code::Unknown),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty, Full};
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    fn measured(metrics: &Metrics) -> Measure {
        let name = "rpc_server_call_duration_seconds";
        Measure(Some(Arc::new(Series { metrics: metrics.clone(), name, methods: Names::new(MOST_METHODS) })))
    }

    async fn call(measure: &Measure, path: String, code: &'static str) {
        let service = service_fn(async |_: Request<()>| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            let body = Full::new(Bytes::from_static(b"x")).with_trailers(async move { Some(Ok(trailers)) });
            Ok::<_, std::convert::Infallible>(Response::new(body))
        });
        let request = Request::builder().uri(path).body(()).unwrap();
        let answer = measure.layer(service).oneshot(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }

    #[tokio::test]
    async fn a_call_is_counted_by_how_it_ended() {
        let metrics = Metrics::default();
        let measure = measured(&metrics);
        call(&measure, "/a.B/Call".into(), "0").await;
        call(&measure, "/a.B/Call".into(), "14").await;
        let headers_only = service_fn(async |_: Request<()>| {
            let mut response = Response::new(Empty::<Bytes>::new());
            response.headers_mut().insert("grpc-status", "7".parse().unwrap());
            Ok::<_, std::convert::Infallible>(response)
        });
        let request = Request::builder().uri("/a.B/Call").body(()).unwrap();
        measure.layer(headers_only).oneshot(request).await.unwrap();
        let text = metrics.text();
        for code in ["OK", "UNAVAILABLE", "PERMISSION_DENIED"] {
            let series = format!(
                "_count{{rpc_service=\"a.B\",rpc_method=\"Call\",rpc_response_status_code=\"{code}\"}} 1\n"
            );
            assert!(text.contains(&series), "{text}");
        }
    }

    #[tokio::test]
    async fn made_up_methods_make_no_series() {
        let metrics = Metrics::default();
        let measure = measured(&metrics);
        for number in 0..10_000 {
            call(&measure, format!("/made.up/M{number}"), "12").await;
        }
        assert_eq!(metrics.text().matches("_count{").count(), 1, "{}", metrics.text());
    }
}
