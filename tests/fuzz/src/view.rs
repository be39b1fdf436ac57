//! How serde_json reads a message: the reader that registries and other servers may have.

use std::collections::BTreeMap;

use mcp::rpc::{Message, Request};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The members of an envelope. A name that occurs twice is an error here.
#[derive(Debug, Deserialize)]
pub struct View<'a> {
    pub jsonrpc: String,
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    pub method: Option<String>,
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

/// What decides where a request goes. A name that occurs twice is an error here.
#[derive(Debug, Deserialize)]
pub struct Target<'a> {
    #[serde(borrow)]
    pub name: Option<&'a RawValue>,
    #[serde(borrow)]
    pub uri: Option<&'a RawValue>,
    #[serde(borrow)]
    pub arguments: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    pub meta: Option<&'a RawValue>,
}

/// Reads any JSON text as nothing: whether it is JSON.
#[must_use]
pub fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

/// A member of an object by serde_json, as raw text.
#[must_use]
pub fn member(object: &str, key: &str) -> Option<String> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(object).ok()?;
    members.get(key).map(|raw| raw.get().to_owned())
}

/// A string as serde_json reads it.
#[must_use]
pub fn string(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// Checks that serde_json reads from `raw` what we read from it.
///
/// # Panics
/// When it does not.
pub fn agrees(raw: &str, message: &Message) {
    let view: View<'_> = serde_json::from_str(raw).expect("what we accept is a message to others too");
    assert_eq!(view.jsonrpc, "2.0");
    let id = view.id.map(RawValue::get);
    match message {
        Message::Request(request) => {
            assert_eq!(id, Some(request.id.raw()));
            assert_eq!(view.method.as_deref(), Some(request.method.as_str()));
            assert_eq!(view.params.map(RawValue::get), request.params.as_ref().map(|p| p.as_str()));
            same_target(request);
        }
        Message::Notification(notification) => {
            assert!(view.id.is_none());
            assert_eq!(view.method.as_deref(), Some(notification.method.as_str()));
            assert_eq!(view.params.map(RawValue::get), notification.params.as_ref().map(|p| p.as_str()));
        }
        Message::Response(response) => {
            assert_eq!(id, Some(response.id.raw()));
            assert!(view.method.is_none());
            match &response.outcome {
                Ok(result) => assert_eq!(member(raw, "result").as_deref(), Some(result.as_str())),
                Err(error) => {
                    let object = view.error.expect("an error").get();
                    assert_eq!(member(object, "code"), Some(error.code.to_string()));
                    let message = member(object, "message").and_then(|raw| string(&raw));
                    assert_eq!(message.as_deref(), Some(error.message.as_str()));
                }
            }
        }
    }
}

fn same_target(request: &Request) {
    let Some(params) = &request.params else { return };
    let target: Target<'_> = serde_json::from_str(params.as_str()).expect("names that decide occur once");
    let both =
        [("name", target.name), ("uri", target.uri), ("arguments", target.arguments), ("_meta", target.meta)];
    for (key, theirs) in both {
        // serde takes null for absence.
        let ours = mcp::scan::member(params.as_str(), key).filter(|raw| *raw != "null");
        assert_eq!(theirs.map(RawValue::get), ours, "{key}");
    }
    for key in ["name", "uri"] {
        let theirs = member(params.as_str(), key).and_then(|raw| string(&raw));
        assert_eq!(params.text(key), theirs, "{key}");
    }
}
