//! HTTP as far as the protocol needs it: one address, three verbs, bodies within bounds. Redirects are not followed.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use mcp::rpc::RpcError;
use mcp::scan::{self, Limits as JsonLimits};
use mcp::{Json, header};

use crate::error::{Error, Refusal};
use crate::host::{Host, Runner};
use crate::options::{Limits, Options};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// Most of a refusal's body that is read.
const REFUSAL: usize = 64 * 1024;
/// Most of it that is shown, in characters.
const SHOWN: usize = 300;

/// One MCP endpoint.
pub(crate) struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    headers: HeaderMap,
    pub(crate) limits: Limits,
    pub(crate) host: Arc<dyn Host>,
}

/// An answer whose body is still to come.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// A body within bounds.
pub(crate) struct Body {
    inner: Incoming,
    idle: Duration,
    host: Arc<dyn Host>,
}

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Events,
    Other,
}

impl Wire {
    pub(crate) fn new(options: &Options, host: Arc<dyn Host>) -> Result<Self, Error> {
        let is_https = match options.url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Error::Unreachable(format!("{} is not an http or https URL", options.url))),
        };
        let connector = connector(is_https, options.limits.connect)?;
        let client = Client::builder(Runner(Arc::clone(&host))).build(connector);
        let mut headers = options.headers.clone();
        for reserved in [
            header::SESSION_ID,
            header::PROTOCOL_VERSION,
            header::METHOD,
            header::NAME,
            "accept",
            "content-type",
        ] {
            headers.remove(reserved);
        }
        if let Ok(agent) = HeaderValue::from_str(&format!("{}/{}", options.name, options.version)) {
            headers.entry(USER_AGENT).or_insert(agent);
        }
        Ok(Self { client, url: options.url.clone(), headers, limits: options.limits.clone(), host })
    }

    pub(crate) async fn post(&self, headers: HeaderMap, message: &Json) -> Result<Reply, Error> {
        let accept = HeaderValue::from_static("application/json, text/event-stream");
        self.send(Method::POST, accept, headers, Some(message.bytes())).await
    }

    pub(crate) async fn get(&self, headers: HeaderMap) -> Result<Reply, Error> {
        self.send(Method::GET, HeaderValue::from_static(EVENTS), headers, None).await
    }

    pub(crate) async fn delete(&self, headers: HeaderMap) -> Result<Reply, Error> {
        self.send(Method::DELETE, HeaderValue::from_static(JSON), headers, None).await
    }

    async fn send(
        &self,
        method: Method,
        accept: HeaderValue,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Reply, Error> {
        let has_body = body.is_some();
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().extend(headers);
        request.headers_mut().insert(ACCEPT, accept);
        if has_body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        let response = self.client.request(request).await.map_err(|error| {
            // hyper's own words only say that it was hyper.
            let text = causes(error.source().unwrap_or(&error));
            if error.is_connect() { Error::Unreachable(text) } else { Error::Lost(text) }
        })?;
        let (head, inner) = Response::into_parts(response);
        let body = Body { inner, idle: self.limits.idle, host: Arc::clone(&self.host) };
        let reply = Reply { status: head.status, headers: head.headers, body };
        match reply.redirect() {
            Some(location) => Err(Error::Redirect { status: reply.status.as_u16(), location }),
            None => Ok(reply),
        }
    }

    pub(crate) fn sleep(&self, period: Duration) -> BoxFuture<'static, ()> {
        self.host.sleep(period)
    }
}

impl Reply {
    pub(crate) fn media(&self) -> Media {
        let value = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case(JSON) {
            Media::Json
        } else if essence.eq_ignore_ascii_case(EVENTS) {
            Media::Events
        } else {
            Media::Other
        }
    }

    /// What a status other than 2xx says.
    pub(crate) async fn refusal(mut self) -> Error {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let challenge = self.headers.get(WWW_AUTHENTICATE).map(text);
        let bytes = self.body.whole(REFUSAL).await.unwrap_or_default();
        let error = rpc_error(&bytes);
        let shown = match error {
            Some(_) => String::new(),
            None => String::from_utf8_lossy(&bytes).trim().chars().take(SHOWN).collect(),
        };
        Error::Refused(Box::new(Refusal { status: self.status.as_u16(), error, text: shown, challenge }))
    }

    fn redirect(&self) -> Option<String> {
        let location = self.headers.get(LOCATION).filter(|_| self.status.is_redirection())?;
        Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
    }
}

impl Body {
    /// The next bytes; `None` at the end.
    ///
    /// Cancel-safe.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = tokio::select! {
                frame = self.inner.frame() => frame,
                () = self.host.sleep(self.idle) => return Err(Error::Lost("silence".to_owned())),
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::Lost(causes(&error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of it, up to `max` bytes.
    pub(crate) async fn whole(&mut self, max: usize) -> Result<Bytes, Error> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > max {
                return Err(Error::TooLarge(format!("more than {max} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

/// The error of a body, which may have no id, or one of `null`.
fn rpc_error(bytes: &Bytes) -> Option<RpcError> {
    let json = Json::parse(bytes.clone(), &JsonLimits::RESULT).ok()?;
    scan::is_object(json.as_str()).then(|| json.member("error"))??.read().ok()
}

fn connector(is_https: bool, patience: Duration) -> Result<HttpsConnector<HttpConnector>, Error> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(patience));
    let failed = |error: &dyn std::fmt::Display| Error::Unreachable(error.to_string());
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new();
    // The machine's certificates are read only where they are needed; SSL_CERT_FILE and SSL_CERT_DIR name others.
    let builder = match is_https {
        true => builder.with_provider_and_native_roots(provider).map_err(|error| failed(&error))?,
        false => {
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| failed(&error))?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder.with_tls_config(config)
        }
    };
    Ok(builder.https_or_http().enable_http1().enable_http2().wrap_connector(http))
}

/// An error with everything that led to it, as hyper's own text hides the cause.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
