//! The one ordered list of checks between a request and the rest of the mesh.
//!
//! [`head`] is what can be told without the body, [`post`], [`get`] and [`delete`] the rest; nobody checks again later. Pure:
//! a request in, what was asked or a refusal out. Must not know: session nodes, connections.

mod batch;
pub(crate) mod http_sse;
mod media;
mod modern;
mod older;

use api::{KeyRing, SessionId, Slot};
use axum::http::{HeaderMap, HeaderName, Method as Verbatim, StatusCode};
use bytes::Bytes;
use mcp::rpc::{self, Body, Id, Message, RpcError};
use mcp::{Era, Json, Method, Revision, code, header as names, meta};

pub(crate) use self::batch::Batch;
use self::media::{Accepted, accepts, is_json};

/// Names of headers that are looked for in every request.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static(names::PROTOCOL_VERSION);
const METHOD: HeaderName = HeaderName::from_static(names::METHOD);
const NAME: HeaderName = HeaderName::from_static(names::NAME);
const SESSION_ID: HeaderName = HeaderName::from_static(names::SESSION_ID);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static(names::LAST_EVENT_ID);

/// What may be done at the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Post,
    Get,
    Delete,
}

/// A request that is answered here and goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) allow: Option<&'static str>,
    pub(crate) body: Option<Json>,
}

/// A message that passed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Admitted {
    /// Goes to a session node.
    Message(Box<Letter>),
    /// Several at once, for a session.
    Batch(Box<Batch>),
    /// A modern notification: none means anything to a server, so it goes nowhere.
    Noted,
}

/// A message and what its request says about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Letter {
    pub(crate) era: Era,
    /// `None` for `initialize` and for modern requests.
    pub(crate) session: Option<SessionId>,
    /// The version header.
    pub(crate) revision: Option<String>,
    /// As the client sent it.
    pub(crate) raw: Json,
    /// The same, read.
    pub(crate) message: Message,
    /// Which method it is, where it is one this mesh serves.
    pub(crate) method: Option<Method>,
    /// The `Mcp-Param-*` headers, repeats kept. Whoever knows the schema checks them.
    pub(crate) param_headers: Vec<(String, Bytes)>,
}

/// A session that a request without a body is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) session: SessionId,
    /// The version header.
    pub(crate) revision: Option<String>,
    /// Where to continue a stream.
    pub(crate) last_event_id: Option<String>,
}

impl Letter {
    /// Id to answer with.
    pub(crate) fn id(&self) -> Option<&Id> {
        request_id(&self.message)
    }

    /// The slot its session lives in.
    pub(crate) fn slot(&self) -> Option<Slot> {
        self.session.as_ref().map(SessionId::slot)
    }
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, id: Option<&Id>, error: &RpcError) -> Self {
        Self { status, allow: None, body: Some(rpc::error(id, error)) }
    }

    pub(crate) fn invalid(status: StatusCode, id: Option<&Id>, message: &str) -> Self {
        Self::new(status, id, &RpcError::new(code::INVALID_REQUEST, message))
    }

    fn not_allowed(allow: &'static str) -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, allow: Some(allow), body: None }
    }

    /// Unknown, ended, expired or somebody else's session: one answer for all of them, wherever it is found out.
    pub(crate) fn no_session() -> Self {
        Self::invalid(StatusCode::NOT_FOUND, None, "Session not found")
    }
}

/// What can be told before the body is read.
pub(crate) fn head(method: &Verbatim, headers: &HeaderMap) -> Result<Verb, Refusal> {
    let verb = match *method {
        Verbatim::POST => Verb::Post,
        Verbatim::GET => Verb::Get,
        Verbatim::DELETE => Verb::Delete,
        _ => return Err(Refusal::not_allowed("GET, POST, DELETE")),
    };
    match verb {
        Verb::Post => {
            let (json, events) =
                (accepts(headers, "application", "json"), accepts(headers, "text", "event-stream"));
            if json == Accepted::No || events == Accepted::No {
                let message = "`Accept` must allow both application/json and text/event-stream";
                return Err(Refusal::invalid(StatusCode::NOT_ACCEPTABLE, None, message));
            }
            if !is_json(headers) {
                let message = "the body must be application/json in UTF-8, not compressed";
                return Err(Refusal::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, message));
            }
        }
        Verb::Get | Verb::Delete => {
            if names_modern(headers) {
                return Err(Refusal::not_allowed("POST"));
            }
            if verb == Verb::Get && accepts(headers, "text", "event-stream") != Accepted::Yes {
                let message = "`Accept` must allow text/event-stream";
                return Err(Refusal::invalid(StatusCode::NOT_ACCEPTABLE, None, message));
            }
        }
    }
    Ok(verb)
}

/// The rest of the checks of a POST.
pub(crate) fn post(keys: &KeyRing, headers: &HeaderMap, body: &Bytes) -> Result<Admitted, Refusal> {
    let (raw, message) = match Body::parse_whole(body) {
        Ok((raw, Body::One(message))) => (raw, message),
        Ok((raw, Body::Batch(members))) => {
            return batch::check(keys, headers, raw, members).map(|b| Admitted::Batch(Box::new(b)));
        }
        Err(bad) => {
            let error = RpcError::new(bad.code, bad.message);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, bad.id.as_ref(), &error));
        }
    };
    let version = One::of(headers, &PROTOCOL_VERSION);
    let era = classify(headers, claim(&message));
    let session = match era {
        Era::Modern => match modern::check(headers, &version, &message)? {
            modern::Verdict::Serve => None,
            modern::Verdict::Note => return Ok(Admitted::Noted),
        },
        Era::Older => older::check(keys, headers, &version, &message)?,
    };
    Ok(Admitted::Message(Box::new(Letter {
        era,
        session,
        revision: version.text(),
        raw,
        method: message.method().and_then(Method::parse),
        message,
        param_headers: param_headers(headers),
    })))
}

/// The rest of the checks of a GET.
pub(crate) fn get(keys: &KeyRing, headers: &HeaderMap) -> Result<Visit, Refusal> {
    let mut visit = delete(keys, headers)?;
    visit.last_event_id = match One::of(headers, &LAST_EVENT_ID) {
        One::None => None,
        One::Value(value) => Some(String::from_utf8_lossy(value).into_owned()),
        One::Many => {
            return Err(Refusal::invalid(
                StatusCode::BAD_REQUEST,
                None,
                "`Last-Event-ID` occurs more than once",
            ));
        }
    };
    Ok(visit)
}

/// The rest of the checks of a DELETE.
pub(crate) fn delete(keys: &KeyRing, headers: &HeaderMap) -> Result<Visit, Refusal> {
    let version = One::of(headers, &PROTOCOL_VERSION);
    let session = older::session(keys, headers, None)?;
    older::version(&version, None)?;
    Ok(Visit { session, revision: version.text(), last_event_id: None })
}

/// Modern is who says so, in the header or in `_meta`, and who names a version nobody knows.
fn classify(headers: &HeaderMap, claim: Option<&str>) -> Era {
    let mut versions = headers.get_all(&PROTOCOL_VERSION).iter();
    let older = versions.all(|value| is_older(names::trim(value.as_bytes())));
    if older && claim.is_none() { Era::Older } else { Era::Modern }
}

fn is_older(value: &[u8]) -> bool {
    let revision = std::str::from_utf8(value).ok().and_then(Revision::parse);
    revision.is_some_and(|revision| revision.era() == Era::Older)
}

fn names_modern(headers: &HeaderMap) -> bool {
    let modern = Revision::V2026_07_28.as_str().as_bytes();
    headers.get_all(&PROTOCOL_VERSION).iter().any(|value| names::trim(value.as_bytes()) == modern)
}

/// The raw value of the version in `_meta`.
fn claim(message: &Message) -> Option<&str> {
    let params = match message {
        Message::Request(request) => request.params.as_ref(),
        Message::Notification(notification) => notification.params.as_ref(),
        Message::Response(_) => None,
    };
    Some(params?.part().get(meta::META)?.get(meta::PROTOCOL_VERSION)?.as_str())
}

/// The id of a request. That of a response names a request of ours: an error must not carry it back.
fn request_id(message: &Message) -> Option<&Id> {
    match message {
        Message::Request(request) => Some(&request.id),
        Message::Notification(_) | Message::Response(_) => None,
    }
}

fn param_headers(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with(names::PARAM_PREFIX));
    ours.map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

/// A header that may occur once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum One<'a> {
    None,
    /// Without white space around it.
    Value(&'a [u8]),
    Many,
}

impl<'a> One<'a> {
    fn of(headers: &'a HeaderMap, name: &HeaderName) -> Self {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(value), None) => Self::Value(names::trim(value.as_bytes())),
            (Some(_), Some(_)) => Self::Many,
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Self::Value(value) => std::str::from_utf8(value).ok().map(str::to_owned),
            Self::None | Self::Many => None,
        }
    }
}

#[cfg(test)]
mod tests;
