//! One keep-alive connection, one request at a time.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// Path of the endpoint.
    pub path: Uri,
    host: HeaderValue,
}

impl Target {
    /// Reads `http://HOST:PORT/path`; the host is an address.
    ///
    /// # Errors
    /// When it is nothing of the kind.
    pub fn parse(url: &str) -> Result<Self> {
        let uri: Uri = url.parse()?;
        let authority = uri.authority().context("a URL with a host")?.as_str();
        let address = authority.parse().context("a host that is an address with a port")?;
        Ok(Self { address, path: uri.path().parse()?, host: HeaderValue::from_str(authority)? })
    }

    /// A request to it.
    #[must_use]
    pub fn request(&self, method: Method, headers: &HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        request.uri_mut().clone_from(&self.path);
        request.headers_mut().clone_from(headers);
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }

    /// Opens a plain connection, from a given address of this machine if there is one.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(&self, source: Option<IpAddr>) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.set_nodelay(true)?;
        Ok(socket.connect(self.address).await?)
    }
}

/// An open connection; it closes when it is dropped.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn open(target: &Target) -> Result<Self> {
        Self::open_from(target, None).await
    }

    /// Connects from a given address of this machine.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn open_from(target: &Target, source: Option<IpAddr>) -> Result<Self> {
        let stream = target.connect(source).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Whoever has sent a request is told of the error by its answer.
            let _reported = connection.await.is_err();
        });
        Ok(Self { sender, _driver: driver })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        let (head, body) = self.begin(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// Sends a request and returns what comes back, its body still to be read.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn begin(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }
}

/// Whether an answer is of this media type.
#[must_use]
pub fn is_of<T>(answer: &Response<T>, media_type: &str) -> bool {
    let given = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.and_then(|value| value.split(';').next()) == Some(media_type)
}

/// The JSON-RPC response in an answer, which is JSON or the last event of a stream.
///
/// # Errors
/// When it is neither.
pub fn response_in(answer: &Response<Bytes>) -> Result<Bytes> {
    if is_of(answer, "application/json") {
        return Ok(answer.body().clone());
    }
    ensure!(is_of(answer, "text/event-stream"), "{}: neither JSON nor events", answer.status());
    let text = std::str::from_utf8(answer.body())?;
    let data = text.lines().rev().find_map(|line| line.strip_prefix("data:"));
    let data = data.context("a stream without data")?.trim_start();
    Ok(answer.body().slice_ref(data.as_bytes()))
}
