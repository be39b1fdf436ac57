//! The balancer is a test instrument, so it is tested itself: turns, streaming both ways, and clients that go away.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tests::proxy::{COUNTS_PATH, Proxy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

type Answer = Response<StreamBody<Chunks>>;
type Chunks = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// One request as an upstream got it. It is answered once `answer` has sent a response.
struct Received {
    upstream: usize,
    request: Request<Incoming>,
    answer: oneshot::Sender<Answer>,
}

impl Received {
    fn reply(self, response: Answer) {
        reply(self.answer, response);
    }
}

fn reply(answer: oneshot::Sender<Answer>, response: Answer) {
    assert!(answer.send(response).is_ok(), "the client is still there");
}

struct Bench {
    proxy: Arc<Proxy>,
    address: SocketAddr,
    received: mpsc::Receiver<Received>,
    tasks: JoinSet<()>,
}

impl Bench {
    /// Starts a balancer in front of `count` upstreams whose requests arrive in `received`.
    async fn start(count: usize) -> Self {
        let mut tasks = JoinSet::new();
        let (sender, received) = mpsc::channel(16);
        let mut upstreams = Vec::new();
        for upstream in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            upstreams.push(listener.local_addr().unwrap());
            tasks.spawn(run_upstream(listener, upstream, sender.clone()));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy::new(upstreams);
        let serving = Arc::clone(&proxy);
        tasks.spawn(async move { serving.serve(listener, pending()).await.unwrap() });
        Self { proxy, address, received, tasks }
    }

    async fn connect<B>(&mut self) -> client::SendRequest<B>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = client::handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(async move { drop(connection.await) });
        sender
    }

    async fn next(&mut self) -> Received {
        soon(self.received.recv()).await.expect("the upstreams are running")
    }
}

async fn run_upstream(listener: TcpListener, upstream: usize, received: mpsc::Sender<Received>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let received = received.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let received = received.clone();
                async move {
                    let (answer, answered) = oneshot::channel();
                    received.send(Received { upstream, request, answer }).await.unwrap();
                    answered.await
                }
            });
            drop(server::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("it happens in time")
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::builder().uri(path).header("host", "mesh.example").body(Empty::new()).unwrap()
}

fn text(text: &'static str) -> Answer {
    let chunk = Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    Response::new(StreamBody::new(Box::pin(stream::iter([chunk]))))
}

/// A body whose chunks are sent one by one, and which tells when it is dropped.
fn scripted() -> (mpsc::Sender<&'static str>, Chunks, oneshot::Receiver<Infallible>) {
    let (chunks, receiver) = mpsc::channel(1);
    let (alive, dropped) = oneshot::channel();
    let body = stream::unfold((receiver, alive), |(mut receiver, alive)| async move {
        let chunk: &'static str = receiver.recv().await?;
        Some((Ok(Frame::data(Bytes::from_static(chunk.as_bytes()))), (receiver, alive)))
    });
    (chunks, Box::pin(body), dropped)
}

/// Reads one chunk of a body, or nothing at its end.
async fn chunk(body: &mut Incoming) -> Option<Bytes> {
    let frame = soon(body.frame()).await?;
    Some(frame.unwrap().into_data().unwrap())
}

#[tokio::test]
async fn requests_of_one_connection_take_turns() {
    let mut bench = Bench::start(3).await;
    let mut connection = bench.connect().await;
    let mut turns = Vec::new();
    for _ in 0..6 {
        let sent = connection.send_request(get("/mcp?a=b"));
        let (response, upstream) = tokio::join!(sent, async {
            let received = bench.next().await;
            assert_eq!(received.request.uri(), "/mcp?a=b");
            assert_eq!(received.request.headers()["host"], "mesh.example");
            let upstream = received.upstream;
            received.reply(text("fine"));
            upstream
        });
        assert_eq!(response.unwrap().into_body().collect().await.unwrap().to_bytes(), "fine");
        turns.push(upstream);
    }
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    assert!(bench.proxy.counts().all(|(_, requests)| requests == 2));
}

#[tokio::test]
async fn status_headers_and_body_pass_both_ways() {
    let mut bench = Bench::start(1).await;
    let mut connection = bench.connect().await;
    let mut request = Request::new(Full::new(Bytes::from_static(b"question")));
    *request.method_mut() = Method::DELETE;
    request.headers_mut().insert("mcp-session-id", "s1".parse().unwrap());
    request.headers_mut().insert("connection", "x-of-this-hop".parse().unwrap());
    request.headers_mut().insert("x-of-this-hop", "1".parse().unwrap());
    let (response, ()) = tokio::join!(connection.send_request(request), async {
        let received = bench.next().await;
        assert_eq!(received.request.method(), Method::DELETE);
        assert_eq!(received.request.headers()["mcp-session-id"], "s1");
        assert!(!received.request.headers().contains_key("x-of-this-hop"));
        let body = received.request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "question");
        let mut response = text("answer");
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().insert("mcp-session-id", "s2".parse().unwrap());
        reply(received.answer, response);
    });
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers()["mcp-session-id"], "s2");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "answer");
}

#[tokio::test]
async fn each_chunk_of_an_answer_arrives_before_the_next_is_written() {
    let mut bench = Bench::start(1).await;
    let mut connection = bench.connect().await;
    let (chunks, body, _dropped) = scripted();
    let (response, ()) = tokio::join!(connection.send_request(get("/mcp")), async {
        bench.next().await.reply(Response::new(StreamBody::new(body)));
    });
    let mut body = response.unwrap().into_body();
    for event in [": hello\n\n", "data: 1\n\n", "data: 2\n\n"] {
        chunks.send(event).await.unwrap();
        assert_eq!(chunk(&mut body).await.unwrap(), event);
    }
    drop(chunks);
    assert_eq!(chunk(&mut body).await, None);
}

#[tokio::test]
async fn each_chunk_of_a_request_arrives_before_the_next_is_written() {
    let mut bench = Bench::start(1).await;
    let mut connection = bench.connect().await;
    let (chunks, body, _dropped) = scripted();
    let request = Request::post("/mcp").body(StreamBody::new(body)).unwrap();
    let (response, ()) = tokio::join!(connection.send_request(request), async {
        chunks.send("first").await.unwrap();
        let mut received = bench.next().await;
        assert_eq!(chunk(received.request.body_mut()).await.unwrap(), "first");
        chunks.send("second").await.unwrap();
        assert_eq!(chunk(received.request.body_mut()).await.unwrap(), "second");
        drop(chunks);
        assert_eq!(chunk(received.request.body_mut()).await, None);
        received.reply(text("both"));
    });
    assert_eq!(response.unwrap().into_body().collect().await.unwrap().to_bytes(), "both");
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_ends_it_upstream() {
    let mut bench = Bench::start(1).await;
    let mut connection = bench.connect().await;
    let (chunks, body, dropped) = scripted();
    let (response, ()) = tokio::join!(connection.send_request(get("/mcp")), async {
        bench.next().await.reply(Response::new(StreamBody::new(body)));
        chunks.send("data: 1\n\n").await.unwrap();
    });
    let mut body = response.unwrap().into_body();
    chunk(&mut body).await.unwrap();
    drop((body, connection));
    assert!(soon(dropped).await.is_err(), "the upstream stops writing");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_ends_the_request_upstream() {
    let mut bench = Bench::start(1).await;
    let mut connection = bench.connect().await;
    let mut sent = Box::pin(connection.send_request(get("/mcp")));
    let mut received = tokio::select! {
        received = bench.next() => received,
        _ = &mut sent => panic!("answered without an answer"),
    };
    drop((sent, connection));
    soon(received.answer.closed()).await;
}

#[tokio::test]
async fn counts_are_read_over_http_and_are_no_request() {
    let mut bench = Bench::start(2).await;
    let mut connection = bench.connect().await;
    let (response, ()) = tokio::join!(connection.send_request(get("/mcp")), async {
        bench.next().await.reply(text("fine"));
    });
    drop(response.unwrap().into_body().collect().await.unwrap());
    let response = soon(connection.send_request(get(COUNTS_PATH))).await.unwrap();
    let counts = response.into_body().collect().await.unwrap().to_bytes();
    let addresses: Vec<SocketAddr> = bench.proxy.counts().map(|(address, _)| address).collect();
    assert_eq!(counts, format!("count {} 1\ncount {} 0\n", addresses[0], addresses[1]));
}

#[tokio::test]
async fn an_upstream_that_is_down_is_a_bad_gateway() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut tasks = JoinSet::new();
    let proxy = Proxy::new([closed]);
    tasks.spawn(async move { proxy.serve(listener, pending()).await.unwrap() });
    let (mut connection, driver) = client::handshake(TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(driver.await) });
    let response = soon(connection.send_request(get("/mcp"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}
