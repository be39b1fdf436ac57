//! Checks of 2026-07-28, in order. Each line of [`request`] is one rung.

use std::borrow::Cow;

use axum::http::{HeaderMap, StatusCode};
use mcp::header::{self as names, HeaderMismatch, Problem, decode};
use mcp::json::Part;
use mcp::method::Target;
use mcp::rpc::{Message, Request, RpcError};
use mcp::{Json, Method, Revision, code, edit, meta, scan};

use super::{METHOD, NAME, One, Refusal};

/// What becomes of a message that passed.
pub(super) enum Verdict {
    /// A request.
    Serve,
    /// A notification.
    Note,
}

pub(super) fn check(headers: &HeaderMap, version: &One<'_>, message: &Message) -> Result<Verdict, Refusal> {
    match message {
        Message::Response(_) => {
            let text = "a client of this revision sends requests and notifications, no responses";
            Err(Refusal::invalid(StatusCode::BAD_REQUEST, None, text))
        }
        Message::Notification(_) => Ok(Verdict::Note),
        Message::Request(request) => rungs(headers, version, request)
            .map(|()| Verdict::Serve)
            .map_err(|rung| Refusal::new(rung.0, Some(&request.id), &rung.1)),
    }
}

struct Rung(StatusCode, RpcError);

impl From<HeaderMismatch> for Rung {
    fn from(mismatch: HeaderMismatch) -> Self {
        Self(StatusCode::BAD_REQUEST, RpcError::new(code::HEADER_MISMATCH, mismatch.to_string()))
    }
}

fn rungs(headers: &HeaderMap, version: &One<'_>, request: &Request) -> Result<(), Rung> {
    let header = the(names::PROTOCOL_VERSION, version)?;
    let claimed = metadata(request)?;
    same_version(header, &claimed)?;
    supported(&claimed)?;
    same_method(headers, request)?;
    let target = Method::parse(&request.method).map_or(Target::None, Method::target);
    same_target(headers, request, target)?;
    served(request)
}

/// The value of a header that must occur once.
fn the<'a>(name: &str, value: &One<'a>) -> Result<&'a [u8], HeaderMismatch> {
    match *value {
        One::Value(value) => Ok(value),
        One::None => Err(HeaderMismatch::new(name, Problem::Missing)),
        One::Many => Err(HeaderMismatch::new(name, Problem::Repeated)),
    }
}

/// Checks that `_meta` has what every request must have; the version it names.
fn metadata(request: &Request) -> Result<Cow<'_, str>, Rung> {
    let missing = |key: &str| {
        let text = format!("invalid params: `_meta` must have `{key}`");
        Rung(StatusCode::BAD_REQUEST, RpcError::new(code::INVALID_PARAMS, text))
    };
    let keys = [meta::PROTOCOL_VERSION, meta::CLIENT_CAPABILITIES];
    let metadata = request.params.as_ref().and_then(|params| params.part().get(meta::META));
    let [version, capabilities] = metadata.map_or([None; 2], |metadata| metadata.fields(keys));
    let version = version.and_then(Part::string).ok_or_else(|| missing(meta::PROTOCOL_VERSION))?;
    if !capabilities.is_some_and(|capabilities| scan::is_object(capabilities.as_str())) {
        return Err(missing(meta::CLIENT_CAPABILITIES));
    }
    Ok(version)
}

fn same_version(header: &[u8], claimed: &str) -> Result<(), HeaderMismatch> {
    let fail = |problem| Err(HeaderMismatch::new(names::PROTOCOL_VERSION, problem));
    if !header.iter().all(u8::is_ascii_graphic) {
        return fail(Problem::Undecodable);
    }
    if header == claimed.as_bytes() { Ok(()) } else { fail(Problem::Different) }
}

fn supported(claimed: &str) -> Result<(), Rung> {
    if Revision::parse(claimed) == Some(Revision::V2026_07_28) {
        return Ok(());
    }
    let supported = edit::quote(Revision::V2026_07_28.as_str());
    let data = format!("{{\"supported\":[{supported}],\"requested\":{}}}", edit::quote(claimed));
    let error = RpcError::new(code::UNSUPPORTED_VERSION, "unsupported protocol version");
    Err(Rung(StatusCode::BAD_REQUEST, error.with_data(Json::trusted(data))))
}

fn same_method(headers: &HeaderMap, request: &Request) -> Result<(), HeaderMismatch> {
    let header = the(names::METHOD, &One::of(headers, &METHOD))?;
    if header == request.method.as_bytes() {
        Ok(())
    } else {
        Err(HeaderMismatch::new(names::METHOD, Problem::Different))
    }
}

fn same_target(headers: &HeaderMap, request: &Request, target: Target) -> Result<(), HeaderMismatch> {
    let fail = |problem| Err(HeaderMismatch::new(names::NAME, problem));
    let key = match target {
        Target::Name => "name",
        Target::Uri => "uri",
        // Says nothing about such a request; but two of them are never right.
        Target::None if One::of(headers, &NAME) == One::Many => return fail(Problem::Repeated),
        Target::None => return Ok(()),
    };
    let header = the(names::NAME, &One::of(headers, &NAME))?;
    let value = request.params.as_ref().and_then(|params| params.part().get(key)).and_then(Part::string);
    let Some(value) = value else {
        return fail(Problem::Unexpected);
    };
    match decode(header) {
        Err(_) => fail(Problem::Undecodable),
        Ok(text) if text == value => Ok(()),
        Ok(_) => fail(Problem::Different),
    }
}

fn served(request: &Request) -> Result<(), Rung> {
    if Method::parse(&request.method).is_some_and(|method| method.exists_in(Revision::V2026_07_28)) {
        return Ok(());
    }
    Err(Rung(StatusCode::NOT_FOUND, RpcError::new(code::METHOD_NOT_FOUND, "method not found")))
}
