//! A POST: lines `name: value`, an empty line, the body. `{session}` in a value stands for the id of a session.
//!
//! What passes the checks in front of the mesh says the same in its headers and in its body, whoever reads them; what does not
//! pass is answered with a status and a message of the protocol.

#![no_main]

use std::sync::LazyLock;

use api::{KeyRing, SessionId, Slot};
use bytes::Bytes;
use fuzz::{bounds::bounded, view};
use gateway::fuzz::{Verdict, post};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mcp::rpc::{Body, Message, Request};
use mcp::{Era, Json, header as names};

static KEYS: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::single("k", [7; 32]));
static SESSION: LazyLock<SessionId> =
    LazyLock::new(|| SessionId::mint(&KEYS, Slot::new(5).expect("a slot"), [9; 16]));

const VERSION: &str = "2026-07-28";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

fuzz_target!(|data: &[u8]| {
    let (head, body) = split(data);
    let headers = read(head);
    let body = Bytes::copy_from_slice(body);
    let verdict = bounded(data.len(), || post(&KEYS, &headers, &body));
    assert_eq!(post(&KEYS, &headers, &body), verdict, "the same twice");
    match verdict {
        Verdict::Refused { status, allow, body: answer } => refused(&body, status, allow, answer.as_ref()),
        Verdict::Message { era, session, message, raw, param_headers } => {
            assert_eq!(raw.bytes(), body, "what was checked is what is forwarded");
            view::agrees(raw.as_str().trim_ascii(), &message);
            assert_eq!(param_headers.len(), given(&headers));
            match (era, message) {
                (Era::Modern, Message::Request(request)) => {
                    assert_eq!(session, None);
                    modern(&headers, &request);
                }
                (Era::Modern, other) => panic!("{other:?} goes nowhere"),
                (Era::Older, message) => older(&headers, session.as_deref(), &message),
            }
        }
        Verdict::Batch { session, members, malformed } => {
            assert_eq!(session, SESSION.as_str());
            let Ok(Body::Batch(all)) = Body::parse(&body) else { panic!("no batch") };
            assert!((1..=50).contains(&all.len()) && all.len() == members.len() + malformed.len());
            for (message, raw) in members {
                assert_eq!(Message::parse(&raw.bytes()), Ok(message));
            }
        }
        Verdict::Noted => {
            let Ok(Body::One(Message::Notification(_))) = Body::parse(&body) else {
                panic!("no notification")
            };
        }
    }
});

fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    end.map_or((data, &[]), |end| (&data[..end], &data[end + 2..]))
}

/// Lines that cannot be headers are left out, as a server of HTTP does by refusing them earlier.
fn read(head: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], names::trim(&line[colon + 1..]));
        let value = if value == b"{session}" { SESSION.as_str().as_bytes() } else { value };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

fn given(headers: &HeaderMap) -> usize {
    headers
        .keys()
        .map(|name| (name, headers.get_all(name).iter().count()))
        .filter(|(name, _)| name.as_str().starts_with("mcp-param-"))
        .map(|(_, count)| count)
        .sum()
}

/// The one value of a header, without space around it.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> &'a [u8] {
    let values: Vec<_> = headers.get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{name}");
    values[0].as_bytes().trim_ascii()
}

fn modern(headers: &HeaderMap, request: &Request) {
    assert_eq!(only(headers, "mcp-protocol-version"), VERSION.as_bytes());
    assert_eq!(only(headers, "mcp-method"), request.method.as_bytes());
    let params = request.params.as_ref().expect("`_meta` is mandatory").as_str();
    let meta = view::member(params, "_meta").expect("`_meta` is mandatory");
    let version = view::member(&meta, META_VERSION).and_then(|raw| view::string(&raw));
    assert_eq!(version.as_deref(), Some(VERSION));
    assert!(view::member(&meta, META_CAPABILITIES).is_some_and(|raw| raw.starts_with('{')));
    let target = match request.method.as_str() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return,
    };
    let value = view::member(params, target).and_then(|raw| view::string(&raw)).expect("a target");
    let named = names::decode(only(headers, "mcp-name")).expect("a header of the protocol");
    assert_eq!(named, value);
}

fn older(headers: &HeaderMap, session: Option<&str>, message: &Message) {
    for version in headers.get_all("mcp-protocol-version") {
        assert_ne!(version.as_bytes().trim_ascii(), VERSION.as_bytes());
    }
    // Whoever says in the body that a request stands alone is not taken for a member of a session.
    let params = match message {
        Message::Request(request) => request.params.as_ref(),
        Message::Notification(notification) => notification.params.as_ref(),
        Message::Response(_) => None,
    };
    let meta = params.and_then(|params| view::member(params.as_str(), "_meta"));
    assert_eq!(meta.and_then(|meta| view::member(&meta, META_VERSION)), None);
    match session {
        // Nobody can make up an id.
        Some(session) => {
            assert_eq!(session, SESSION.as_str());
            assert_eq!(only(headers, "mcp-session-id"), session.as_bytes());
        }
        None => assert!(matches!(message, Message::Request(request) if request.method == "initialize")),
    }
}

fn refused(body: &Bytes, status: u16, allow: Option<&str>, answer: Option<&Json>) {
    assert_eq!(allow, None, "a POST is always allowed");
    let answer = answer.expect("a refused POST is told why");
    assert!(!answer.as_str().contains(['\r', '\n']));
    let Ok(Body::One(Message::Response(_))) = Body::parse(&answer.bytes()) else {
        // Without an id it is no response to anything.
        let error = view::member(answer.as_str(), "error").expect("an error");
        assert_eq!(view::member(answer.as_str(), "id"), None);
        return told(status, &error);
    };
    let id = view::member(answer.as_str(), "id").expect("an id");
    assert_eq!(view::member(std::str::from_utf8(body).expect("text").trim_ascii(), "id"), Some(id));
    told(status, &view::member(answer.as_str(), "error").expect("an error"));
}

fn told(status: u16, error: &str) {
    let code = view::member(error, "code").expect("a code");
    let known = match status {
        400 => ["-32700", "-32600", "-32602", "-32020", "-32021", "-32022"].contains(&code.as_str()),
        404 => code == "-32601" || code == "-32600",
        406 | 415 => code == "-32600",
        _ => false,
    };
    assert!(known, "{status} {error}");
    assert!(view::member(error, "message").is_some());
}
