//! The JSON-RPC envelope: which message it is, decided by the members present; `params` and `result` stay raw.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::code;
use crate::edit::{self, ObjectEditor};
use crate::json::{Json, Part};
use crate::scan::{self, Limits, ScanError};

mod twice;

/// Longest id, in bytes as written.
pub const MAX_ID: usize = 258;

/// A request id in the JSON type and form the sender gave it: a string or an integer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(Json);

impl Id {
    /// Reads an id; `None` for anything but a string or an integer, or if it is too long.
    #[must_use]
    pub fn read(raw: &Json) -> Option<Self> {
        let text = raw.as_str();
        let is_string = text.starts_with('"');
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_integer = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
        ((is_string || is_integer) && text.len() <= MAX_ID).then(|| Self(raw.clone()))
    }

    /// An id of ours.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self(Json::of(text))
    }

    /// A numeric id of ours.
    #[must_use]
    pub fn number(number: u64) -> Self {
        Self(Json::of(&number))
    }

    /// As written.
    #[must_use]
    pub fn raw(&self) -> &str {
        self.0.as_str()
    }

    /// As written.
    #[must_use]
    pub fn json(&self) -> &Json {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.raw())
    }
}

/// A JSON-RPC error object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcError {
    /// See [`crate::code`].
    pub code: i32,
    /// For people.
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Json>,
}

impl RpcError {
    /// An error without data.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The same error with data.
    #[must_use]
    pub fn with_data(mut self, data: Json) -> Self {
        self.data = Some(data);
        self
    }

    /// An internal error with `data.reason`, as every refusal that is the server's fault has it.
    #[must_use]
    pub fn reason(message: &str, reason: &str) -> Self {
        Self::new(code::INTERNAL_ERROR, message)
            .with_data(Json::trusted(format!("{{\"reason\":{}}}", edit::quote(reason))))
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Wants an answer.
    Request(Request),
    /// Wants none.
    Notification(Notification),
    /// Answers a request of ours.
    Response(Response),
}

/// See [`Message::Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The sender's id.
    pub id: Id,
    /// The method's name.
    pub method: String,
    /// An object, or absent.
    pub params: Option<Json>,
}

/// See [`Message::Notification`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// The method's name.
    pub method: String,
    /// An object, or absent.
    pub params: Option<Json>,
}

/// See [`Message::Response`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Id of the request it answers.
    pub id: Id,
    /// The result, or the error.
    pub outcome: Result<Json, RpcError>,
}

/// Why a body is not one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// [`code::PARSE_ERROR`] or [`code::INVALID_REQUEST`].
    pub code: i32,
    /// What is wrong, for the sender.
    pub message: &'static str,
    /// The id, where it could be read.
    pub id: Option<Id>,
}

impl Message {
    /// Reads one message. Names of the envelope must not occur twice.
    ///
    /// # Errors
    /// [`Malformed`] with the code and, where it was readable, the id to answer with.
    pub fn parse(body: &Bytes) -> Result<Self, Malformed> {
        Self::parse_within(body, &Limits::MESSAGE)
    }

    /// The same within other limits: what answers our own requests may hold more.
    ///
    /// # Errors
    /// As [`Message::parse`].
    pub fn parse_within(body: &Bytes, limits: &Limits) -> Result<Self, Malformed> {
        match Body::parse_within(body, limits)? {
            Body::One(message) => Ok(message),
            Body::Batch(_) => Err(Malformed::bare()),
        }
    }

    /// The method of a request or notification.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        match self {
            Self::Request(r) => Some(&r.method),
            Self::Notification(n) => Some(&n.method),
            Self::Response(_) => None,
        }
    }
}

/// What one HTTP body may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// One message.
    One(Message),
    /// An array of them, each judged for itself. Legal in sessions of 2025-03-26 alone.
    Batch(Vec<Result<Message, Malformed>>),
}

impl Body {
    /// Reads a message or a batch. The limits apply to the whole body.
    ///
    /// # Errors
    /// [`Malformed`] for what is neither.
    pub fn parse(body: &Bytes) -> Result<Self, Malformed> {
        Self::parse_within(body, &Limits::MESSAGE)
    }

    /// The same, with the whole text.
    ///
    /// # Errors
    /// As [`Body::parse`].
    pub fn parse_whole(body: &Bytes) -> Result<(Json, Self), Malformed> {
        let json = Self::check(body, &Limits::MESSAGE)?;
        Self::of(&json).map(|read| (json, read))
    }

    fn parse_within(body: &Bytes, limits: &Limits) -> Result<Self, Malformed> {
        Self::of(&Self::check(body, limits)?)
    }

    fn check(body: &Bytes, limits: &Limits) -> Result<Json, Malformed> {
        let bad = |code, message| Malformed { code, message, id: None };
        Json::parse(body.clone(), limits).map_err(|e| match e {
            ScanError::Syntax(_) => bad(code::PARSE_ERROR, "the body is not JSON"),
            ScanError::Limit(_) => {
                bad(code::INVALID_REQUEST, "the message exceeds a limit on depth, size or number of values")
            }
        })
    }

    /// Reads what is known to be JSON within the limits, since whoever took it in has checked it.
    ///
    /// # Errors
    /// As [`Body::parse`].
    pub fn of(json: &Json) -> Result<Self, Malformed> {
        if json.as_str().trim_ascii_start().starts_with('[') {
            return Ok(Self::Batch(
                scan::elements(json.as_str()).map(|raw| member(&json.slice(raw))).collect(),
            ));
        }
        if !scan::is_object(json.as_str()) {
            return Err(Malformed::bare());
        }
        Envelope::read(json)?.message(json).map(Self::One)
    }
}

fn member(json: &Json) -> Result<Message, Malformed> {
    if !scan::is_object(json.as_str()) {
        return Err(Malformed {
            message: "a member of a batch must be a JSON-RPC message",
            ..Malformed::bare()
        });
    }
    Envelope::read(json)?.message(json)
}

impl Malformed {
    /// No message at all.
    #[must_use]
    pub const fn bare() -> Self {
        let message = "the body must be a single JSON-RPC message, not an array or a bare value";
        Self { code: code::INVALID_REQUEST, message, id: None }
    }
}

struct Envelope<'a> {
    version: Option<Part<'a>>,
    id: Option<Part<'a>>,
    method: Option<Part<'a>>,
    params: Option<Part<'a>>,
    result: Option<Part<'a>>,
    error: Option<Part<'a>>,
}

impl<'a> Envelope<'a> {
    fn read(json: &'a Json) -> Result<Self, Malformed> {
        let mut found =
            Self { version: None, id: None, method: None, params: None, result: None, error: None };
        let (mut repeated, mut two_ids) = (false, false);
        json.part().members().for_each(|(key, value)| {
            let place = match key.as_ref() {
                "jsonrpc" => &mut found.version,
                "id" => &mut found.id,
                "method" => &mut found.method,
                "params" => &mut found.params,
                "result" => &mut found.result,
                "error" => &mut found.error,
                _ => return,
            };
            let again = place.replace(value).is_some();
            repeated |= again;
            two_ids |= again && key == "id";
        });
        if two_ids {
            // Neither is the one to answer with.
            found.id = None;
        }
        if repeated {
            return Err(found.malformed(json, "a member of the envelope occurs twice"));
        }
        Ok(found)
    }

    fn readable_id(&self, json: &Json) -> Option<Id> {
        self.id.and_then(|raw| Id::read(&json.slice(raw.as_str())))
    }

    fn malformed(&self, json: &Json, message: &'static str) -> Malformed {
        Malformed { code: code::INVALID_REQUEST, message, id: self.readable_id(json) }
    }

    fn message(&self, json: &Json) -> Result<Message, Malformed> {
        let fail = |message| Err(self.malformed(json, message));
        if self.version.and_then(Part::string).as_deref() != Some("2.0") {
            return fail("`jsonrpc` must be \"2.0\"");
        }
        let id = self.readable_id(json);
        if self.id.is_some() && id.is_none() {
            return fail("`id` must be a string or an integer of at most 256 characters");
        }
        if let Some(method) = self.method {
            let Some(method) = method.string() else {
                return fail("`method` must be a string");
            };
            if self.result.is_some() || self.error.is_some() {
                return fail("a message has either `method` or `result` or `error`");
            }
            let params = match self.params {
                Some(raw) if !scan::is_object(raw.as_str()) => return fail("`params` must be an object"),
                Some(raw) if twice::decides(raw) => return fail("a member of `params` occurs twice"),
                other => other.map(|raw| json.slice(raw.as_str())),
            };
            let method = method.into_owned();
            return Ok(match id {
                Some(id) => Message::Request(Request { id, method, params }),
                None => Message::Notification(Notification { method, params }),
            });
        }
        let Some(id) = id else {
            return fail("a message needs a `method`, or an `id` with `result` or `error`");
        };
        let outcome = match (self.result, self.error) {
            (Some(result), None) => Ok(json.slice(result.as_str())),
            (None, Some(error)) => match json.slice(error.as_str()).read::<RpcError>() {
                Ok(error) => Err(error),
                Err(_) => return fail("`error` must have an integer `code` and a `message`"),
            },
            _ => return fail("a response has either `result` or `error`"),
        };
        Ok(Message::Response(Response { id, outcome }))
    }
}

/// Text of a request.
#[must_use]
pub fn request(id: &Id, method: &str, params: Option<&Json>) -> Json {
    with_params(
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":{}", id.raw(), edit::quote(method)),
        params,
    )
}

/// Text of a notification.
#[must_use]
pub fn notification(method: &str, params: Option<&Json>) -> Json {
    with_params(format!("{{\"jsonrpc\":\"2.0\",\"method\":{}", edit::quote(method)), params)
}

fn with_params(mut text: String, params: Option<&Json>) -> Json {
    if let Some(params) = params {
        text.push_str(",\"params\":");
        text.push_str(params.as_str());
    }
    text.push('}');
    Json::trusted(text)
}

/// Text of a successful response.
#[must_use]
pub fn result(id: &Id, result: &Json) -> Json {
    let mut text = String::with_capacity(result.as_str().len() + id.raw().len() + 40);
    text.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
    text.push_str(id.raw());
    text.push_str(",\"result\":");
    text.push_str(result.as_str());
    text.push('}');
    Json::trusted(text)
}

/// Text of an error response. Without an id the member is left out: the newest schemas forbid `null`.
#[must_use]
pub fn error(id: Option<&Id>, error: &RpcError) -> Json {
    let mut editor = ObjectEditor::new("{\"jsonrpc\":\"2.0\"}");
    if let Some(id) = id {
        editor.set("id", id.raw());
    }
    let body = Json::of(error);
    editor.set("error", body.as_str());
    Json::trusted(editor.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Result<Message, Malformed> {
        Message::parse(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn members_present_decide_the_kind() {
        let Ok(Message::Request(r)) = parse(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1.0}}"#)
        else {
            panic!("not a request");
        };
        assert_eq!(
            (r.id.raw(), r.method.as_str(), r.params.map(|p| p.to_string())),
            ("1", "ping", Some("{\"a\":1.0}".into()))
        );
        assert!(matches!(parse(r#"{"jsonrpc":"2.0","method":"x"}"#), Ok(Message::Notification(_))));
        assert!(matches!(parse(r#"{"jsonrpc":"2.0","id":"a","result":null}"#), Ok(Message::Response(_))));
        assert!(matches!(
            parse(r#"{"jsonrpc":"2.0","id":"a","error":{"code":-1,"message":"no","extra":1}}"#),
            Ok(Message::Response(Response { outcome: Err(_), .. }))
        ));
    }

    #[test]
    fn refusals_carry_code_and_readable_id() {
        let table: [(&str, i32, Option<&str>); 19] = [
            ("", -32700, None),
            ("{", -32700, None),
            ("\u{feff}{}", -32700, None),
            ("[]", -32600, None),
            ("1", -32600, None),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600, None),
            (r#"{"id":1,"method":"ping"}"#, -32600, Some("1")),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600, Some("1")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600, None),
            (r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#, -32600, None),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, -32600, None),
            (r#"{"jsonrpc":"2.0","id":7,"method":7}"#, -32600, Some("7")),
            (r#"{"jsonrpc":"2.0","id":7,"method":"x","params":[]}"#, -32600, Some("7")),
            (r#"{"jsonrpc":"2.0","id":7,"method":"x","params":null}"#, -32600, Some("7")),
            (r#"{"jsonrpc":"2.0","id":7,"method":"x","result":{}}"#, -32600, Some("7")),
            (r#"{"jsonrpc":"2.0","id":7}"#, -32600, Some("7")),
            (r#"{"jsonrpc":"2.0","id":7,"method":"x","m\u0065thod":"y"}"#, -32600, Some("7")),
            (r#"{"jsonrpc":"2.0","id":7,"method":"x","params":{"name":"a","name":"b"}}"#, -32600, Some("7")),
            (r#"{"jsonrpc":"2.0","id":7,"method":"x","params":{"_meta":{"a":1,"a":2}}}"#, -32600, Some("7")),
        ];
        for (text, code, id) in table {
            let Err(found) = parse(text) else { panic!("accepted: {text}") };
            assert_eq!((found.code, found.id.as_ref().map(Id::raw)), (code, id), "{text}");
        }
    }

    #[test]
    fn of_two_ids_neither_is_answered() {
        let id = |text: &'static str| Message::parse(&Bytes::from_static(text.as_bytes())).unwrap_err().id;
        assert_eq!(id(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#), None);
        let read = id(r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"x"}"#);
        assert_eq!(read.as_ref().map(Id::raw), Some("1"));
    }

    #[test]
    fn duplicate_keys_deep_in_arguments_are_the_callers_business() {
        assert!(
            parse(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"a":1,"a":2}}}"#).is_ok()
        );
    }

    #[test]
    fn ids_keep_their_form() {
        for raw in ["0", "-1", "9223372036854775808", "\"\\u0061\"", "\"\""] {
            let id = Id::read(&Json::trusted(raw.to_owned())).unwrap();
            assert_eq!(
                result(&id, &Json::empty_object()).as_str(),
                format!("{{\"jsonrpc\":\"2.0\",\"id\":{raw},\"result\":{{}}}}")
            );
        }
    }

    #[test]
    fn errors_without_id_leave_it_out() {
        let e = RpcError::new(code::PARSE_ERROR, "no");
        assert_eq!(error(None, &e).as_str(), r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"no"}}"#);
    }
}
