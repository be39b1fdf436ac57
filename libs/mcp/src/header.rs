//! HTTP header names of the protocol and the rules of 2026-07-28 for their values.
//!
//! Owns: the names, the codec of values that do not fit a header field, and what makes two values the same; [`param`] owns
//! the headers that repeat arguments. Must not know: HTTP types. Values are bytes, as they came.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

pub mod param;

pub use self::param::{IllegalHeader, ParamHeader, ParamKind, check_params, param_headers};

/// Session id of an older client.
pub const SESSION_ID: &str = "mcp-session-id";
/// Revision of a request.
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// Method of a modern request.
pub const METHOD: &str = "mcp-method";
/// Target of a modern request.
pub const NAME: &str = "mcp-name";
/// Prefix of headers that repeat arguments.
pub const PARAM_PREFIX: &str = "mcp-param-";
/// Where a client wants to continue a stream.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// Opens an encoded value; lower case only.
const SENTINEL_OPEN: &str = "=?base64?";
/// Closes an encoded value.
const SENTINEL_CLOSE: &str = "?=";

/// Why a header cannot be taken to say what the body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMismatch {
    /// The header's name, lower case.
    pub header: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// See [`HeaderMismatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Problem {
    /// The body has a value and the header is not there.
    Missing,
    /// The header is there and the body has no value.
    Unexpected,
    /// The header is there more than once.
    Repeated,
    /// The header's bytes are not a value.
    Undecodable,
    /// Header and body say different things, or the body says something a header cannot.
    Different,
}

impl HeaderMismatch {
    /// A problem with a header.
    #[must_use]
    pub fn new(header: impl Into<String>, problem: Problem) -> Self {
        Self { header: header.into(), problem }
    }
}

impl fmt::Display for HeaderMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.problem {
            Problem::Missing => "is missing",
            Problem::Unexpected => "is present, but the body has no such value",
            Problem::Repeated => "occurs more than once",
            Problem::Undecodable => "cannot be decoded",
            Problem::Different => "differs from the body",
        };
        write!(f, "header mismatch: {} {problem}", self.header)
    }
}

impl std::error::Error for HeaderMismatch {}

/// The bytes are not a header value of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the header value cannot be decoded")]
pub struct Undecodable;

/// Without the optional white space (RFC 9110, section 5.6.3) around a value.
#[must_use]
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The text of a header value: `=?base64?...?=` decoded, anything else as it stands.
///
/// # Errors
/// [`Undecodable`] for a byte that is not visible ASCII, space or tab, for bad base64, and for base64 of bytes that are not UTF-8.
pub fn decode(value: &[u8]) -> Result<Cow<'_, str>, Undecodable> {
    let value = trim(value);
    if !value.iter().all(|c| matches!(c, b'\t' | b' '..=b'~')) {
        return Err(Undecodable);
    }
    let text = std::str::from_utf8(value).map_err(|_| Undecodable)?;
    let Some(encoded) = text.strip_prefix(SENTINEL_OPEN).and_then(|t| t.strip_suffix(SENTINEL_CLOSE)) else {
        return Ok(Cow::Borrowed(text));
    };
    let bytes = BASE64.decode(encoded).map_err(|_| Undecodable)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Undecodable)
}

/// A text as a header value. The result is visible ASCII with spaces and tabs inside, whatever the text.
#[must_use]
pub fn encode(text: &str) -> Cow<'_, str> {
    let safe = text.bytes().all(|c| matches!(c, b'\t' | b' '..=b'~'))
        && !text.is_empty()
        && trim(text.as_bytes()).len() == text.len()
        && !(text.starts_with(SENTINEL_OPEN) && text.ends_with(SENTINEL_CLOSE));
    if safe {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("{SENTINEL_OPEN}{}{SENTINEL_CLOSE}", BASE64.encode(text)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &[u8]) -> Result<String, Undecodable> {
        decode(value).map(Cow::into_owned)
    }

    #[test]
    fn values_are_encoded_only_where_needed() {
        let table = [
            ("us-west1", "us-west1"),
            ("a b\tc", "a b\tc"),
            ("", "=?base64??="),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("=?base64?=", "=?base64?PT9iYXNlNjQ/PQ==?="),
            ("=?BASE64?x?=", "=?BASE64?x?="),
            ("\u{7f}", "=?base64?fw==?="),
        ];
        for (text, value) in table {
            assert_eq!(encode(text), value);
            assert_eq!(read(value.as_bytes()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn markers_and_base64_are_read_strictly() {
        let table: [(&[u8], Result<&str, Undecodable>); 18] = [
            (b"=?base64?SGVsbG8=?=", Ok("Hello")),
            (b" \t =?base64?SGVsbG8=?= \t", Ok("Hello")),
            (b"=?base64?SGVsbG8?=", Err(Undecodable)),
            (b"=?base64?SGVsbG8==?=", Err(Undecodable)),
            (b"=?base64?SGVs!G8=?=", Err(Undecodable)),
            (b"=?base64?SGVs bG8=?=", Err(Undecodable)),
            (b"=?base64?SGVsbG9=?=", Err(Undecodable)),
            (b"=?base64?_-8=?=", Err(Undecodable)),
            (b"=?base64?/w==?=", Err(Undecodable)),
            (b"=?base64?SGVsbG8=", Ok("=?base64?SGVsbG8=")),
            (b"SGVsbG8=?=", Ok("SGVsbG8=?=")),
            (b"=?BASE64?SGVsbG8=?=", Ok("=?BASE64?SGVsbG8=?=")),
            (b"=?Base64?SGVsbG8=?=", Ok("=?Base64?SGVsbG8=?=")),
            (b"=?base64?=", Ok("=?base64?=")),
            (b"=?base64??=", Ok("")),
            (b"", Ok("")),
            (b"caf\xc3\xa9", Err(Undecodable)),
            (b"a\x00b", Err(Undecodable)),
        ];
        for (value, text) in table {
            assert_eq!(read(value), text.map(str::to_owned), "{}", value.escape_ascii());
        }
        // Decoding happens once: what comes out is not looked at again.
        let nested = encode("=?base64?SGVsbG8=?=").into_owned();
        assert_eq!(read(nested.as_bytes()), Ok("=?base64?SGVsbG8=?=".to_owned()));
    }

    #[test]
    fn only_optional_white_space_is_trimmed() {
        assert_eq!(trim(b" \t a b \t"), b"a b");
        assert_eq!(trim(b" \t "), b"");
        assert_eq!(trim(b"\x0ba\n"), b"\x0ba\n");
    }

    proptest! {
        #[test]
        fn every_text_survives(text in any::<String>()) {
            let value = encode(&text);
            prop_assert!(value.bytes().all(|c| matches!(c, b'\t' | b' '..=b'~')), "{}", value.escape_debug());
            prop_assert_eq!(trim(value.as_bytes()).len(), value.len());
            prop_assert_eq!(read(value.as_bytes()), Ok(text.clone()));
        }

        #[test]
        fn texts_like_encoded_ones_survive(inner in "[A-Za-z0-9+/=?]{0,12}", tail in "[?=]{0,3}") {
            let text = format!("=?base64?{inner}{tail}");
            prop_assert_eq!(read(encode(&text).as_bytes()), Ok(text.clone()));
        }

        #[test]
        fn any_bytes_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = read(&bytes) {
                prop_assert_eq!(read(encode(&text).as_bytes()), Ok(text.clone()));
            }
        }
    }
}
