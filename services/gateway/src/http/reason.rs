//! Why a request was refused, as one word out of a closed set: for counting, never for clients.
//!
//! Whoever answers a request at the edge with a refusal puts a [`Reason`] into the extensions of the response.

use axum::http::StatusCode;
use mcp::code;

/// A word. Its set is closed, so it may be a label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reason(&'static str);

impl Reason {
    /// Host or Origin are not allowed.
    pub(crate) const ORIGIN: Self = Self("origin");
    /// A preflight asks for what is not offered to pages.
    pub(crate) const PREFLIGHT: Self = Self("preflight");
    /// No endpoint has this path.
    pub(crate) const PATH: Self = Self("path");
    /// The endpoint does not have this HTTP method.
    pub(crate) const VERB: Self = Self("verb");
    /// The request target is too long.
    pub(crate) const TARGET_SIZE: Self = Self("target_size");
    /// The header fields are too many or too large.
    pub(crate) const HEADER_SIZE: Self = Self("header_size");
    /// The body is too large.
    pub(crate) const BODY_SIZE: Self = Self("body_size");
    /// The body came too slowly.
    pub(crate) const BODY_SLOW: Self = Self("body_slow");
    /// `Accept` allows no answer of ours.
    pub(crate) const ACCEPT: Self = Self("accept");
    /// The body is not JSON by its own account.
    pub(crate) const MEDIA_TYPE: Self = Self("media_type");
    /// The body is not JSON.
    pub(crate) const NOT_JSON: Self = Self("not_json");
    /// It is JSON, and not a message that may be sent here and now.
    pub(crate) const INVALID: Self = Self("invalid");
    /// Something in the parameters or the metadata is missing or wrong.
    pub(crate) const PARAMS: Self = Self("params");
    /// Headers do not say what the body says.
    pub(crate) const HEADER_MISMATCH: Self = Self("header_mismatch");
    /// A version that is not spoken here.
    pub(crate) const VERSION: Self = Self("version");
    /// The client did not declare what is needed.
    pub(crate) const CAPABILITY: Self = Self("capability");
    /// No such method.
    pub(crate) const METHOD: Self = Self("method");
    /// No such session, or somebody else's.
    pub(crate) const SESSION: Self = Self("session");
    /// Nobody in particular asks, and somebody has to.
    pub(crate) const UNAUTHENTICATED: Self = Self("unauthenticated");
    /// Whoever asks may not do this.
    pub(crate) const FORBIDDEN: Self = Self("forbidden");
    /// Too many requests in too short a time.
    pub(crate) const RATE: Self = Self("rate");
    /// Too much under way for one caller.
    pub(crate) const QUOTA: Self = Self("quota");
    /// Too much under way in all.
    pub(crate) const OVERLOAD: Self = Self("overload");
    /// No session node takes it on.
    pub(crate) const UNAVAILABLE: Self = Self("unavailable");
    /// A defect of ours.
    pub(crate) const INTERNAL: Self = Self("internal");
    /// Anything else.
    pub(crate) const OTHER: Self = Self("other");

    /// All words there are.
    pub(crate) const ALL: [Self; 26] = [
        Self::ORIGIN,
        Self::PREFLIGHT,
        Self::PATH,
        Self::VERB,
        Self::TARGET_SIZE,
        Self::HEADER_SIZE,
        Self::BODY_SIZE,
        Self::BODY_SLOW,
        Self::ACCEPT,
        Self::MEDIA_TYPE,
        Self::NOT_JSON,
        Self::INVALID,
        Self::PARAMS,
        Self::HEADER_MISMATCH,
        Self::VERSION,
        Self::CAPABILITY,
        Self::METHOD,
        Self::SESSION,
        Self::UNAUTHENTICATED,
        Self::FORBIDDEN,
        Self::RATE,
        Self::QUOTA,
        Self::OVERLOAD,
        Self::UNAVAILABLE,
        Self::INTERNAL,
        Self::OTHER,
    ];

    /// The word.
    pub(crate) const fn word(self) -> &'static str {
        self.0
    }

    /// The word for a status and, where the body has one, the code of its error.
    pub(crate) fn of(status: StatusCode, error: Option<i32>) -> Self {
        match error {
            Some(code::PARSE_ERROR) => return Self::NOT_JSON,
            Some(code::HEADER_MISMATCH) => return Self::HEADER_MISMATCH,
            Some(code::UNSUPPORTED_VERSION) => return Self::VERSION,
            Some(code::MISSING_CAPABILITY) => return Self::CAPABILITY,
            Some(code::METHOD_NOT_FOUND) => return Self::METHOD,
            Some(code::INVALID_PARAMS) => return Self::PARAMS,
            Some(_) | None => {}
        }
        match status {
            StatusCode::BAD_REQUEST => Self::INVALID,
            StatusCode::UNAUTHORIZED => Self::UNAUTHENTICATED,
            StatusCode::FORBIDDEN => Self::FORBIDDEN,
            StatusCode::NOT_FOUND => Self::SESSION,
            StatusCode::METHOD_NOT_ALLOWED => Self::VERB,
            StatusCode::NOT_ACCEPTABLE => Self::ACCEPT,
            StatusCode::REQUEST_TIMEOUT => Self::BODY_SLOW,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BODY_SIZE,
            StatusCode::URI_TOO_LONG => Self::TARGET_SIZE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::MEDIA_TYPE,
            StatusCode::TOO_MANY_REQUESTS => Self::RATE,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::HEADER_SIZE,
            StatusCode::INTERNAL_SERVER_ERROR => Self::INTERNAL,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Self::UNAVAILABLE
            }
            _ => Self::OTHER,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_word_is_one_word_and_there_once() {
        let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')));
    }

    #[test]
    fn every_status_has_a_word_of_the_set() {
        for status in 400..600 {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(Reason::ALL.contains(&Reason::of(status, None)), "{status}");
        }
        assert_eq!(Reason::of(StatusCode::BAD_REQUEST, Some(code::HEADER_MISMATCH)), Reason::HEADER_MISMATCH);
        assert_eq!(Reason::of(StatusCode::NOT_FOUND, Some(code::METHOD_NOT_FOUND)), Reason::METHOD);
        assert_eq!(Reason::of(StatusCode::NOT_FOUND, Some(code::INVALID_REQUEST)), Reason::SESSION);
        assert_eq!(Reason::of(StatusCode::IM_A_TEAPOT, None), Reason::OTHER);
    }
}
