//! What the fields of a stored session are called, wherever it is stored.

use machines::{CallId, StreamId};

/// Form of the fields.
pub(super) const SCHEMA: &str = "v";
/// Number of commits.
pub(super) const VERSION: &str = "ver";
/// Who committed last.
pub(super) const BY: &str = "by";
/// The principal.
pub(super) const WHO: &str = "who";
/// The way it was begun in.
pub(super) const TRANSPORT: &str = "transport";
/// Handshake, level, end.
pub(super) const HEAD: &str = "head";
/// The numbers that only rise.
pub(super) const NUMBERS: &str = "num";
/// In front of a call.
pub(super) const CALL: &str = "j:";
/// In front of a stream.
pub(super) const STREAM: &str = "t:";
/// In front of a watched resource.
pub(super) const WATCHED: &str = "sub:";

pub(super) fn call(call: CallId) -> String {
    [CALL, &call.0.to_string()].concat()
}

pub(super) fn stream(stream: StreamId) -> String {
    format!("{STREAM}{}", stream.0)
}

pub(super) fn watched(uri: &str) -> String {
    format!("{WATCHED}{uri}")
}
