//! How spans are written: OTLP's messages, as far as they are used here, in the encoding of protocol buffers.
//!
//! What is known of a span is written down at once in the form in which it is sent. There is no record in between, and
//! nothing is allocated for an attribute.

use std::borrow::Cow;
use std::sync::Arc;

/// What an attribute may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Any<'a> {
    /// Text.
    Text(&'a str),
    /// A number.
    Int(i64),
    /// A number that is not whole.
    Float(f64),
    /// Yes or no.
    Bool(bool),
}

/// What can be the value of an attribute.
pub trait Value {
    /// It as that.
    fn any(&self) -> Any<'_>;
}

macro_rules! values {
    ($($kind:ty => |$value:ident| $any:expr,)*) => {
        $(impl Value for $kind {
            fn any(&self) -> Any<'_> {
                let $value = self;
                $any
            }
        })*
    };
}

values! {
    &str => |text| Any::Text(text),
    String => |text| Any::Text(text),
    Cow<'_, str> => |text| Any::Text(text),
    Arc<str> => |text| Any::Text(text),
    i64 => |number| Any::Int(*number),
    f64 => |number| Any::Float(*number),
    bool => |is_so| Any::Bool(*is_so),
}

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

/// Bytes of a number of variable length.
pub(super) const fn size(number: u64) -> usize {
    // Seven bits a byte; zero takes one, too.
    ((64 - (number | 1).leading_zeros()) as usize).div_ceil(7)
}

/// Bytes of a field with contents of that length; of those that are numbered below 16.
pub(super) const fn field(length: usize) -> usize {
    1 + size(length as u64) + length
}

pub(super) fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn tag(to: &mut Vec<u8>, number: u32, kind: u32) {
    varint(to, u64::from(number << 3 | kind));
}

/// The beginning of a field whose contents have that length.
pub(super) fn open(to: &mut Vec<u8>, number: u32, length: usize) {
    tag(to, number, LENGTH);
    varint(to, length as u64);
}

pub(super) fn bytes(to: &mut Vec<u8>, number: u32, contents: &[u8]) {
    open(to, number, contents.len());
    to.extend_from_slice(contents);
}

pub(super) fn number(to: &mut Vec<u8>, number: u32, value: u64) {
    tag(to, number, VARINT);
    varint(to, value);
}

pub(super) fn fixed64(to: &mut Vec<u8>, number: u32, value: u64) {
    tag(to, number, FIXED64);
    to.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn fixed32(to: &mut Vec<u8>, number: u32, value: u32) {
    tag(to, number, FIXED32);
    to.extend_from_slice(&value.to_le_bytes());
}

/// A `KeyValue` as the field of that number.
pub(super) fn attribute(to: &mut Vec<u8>, within: u32, key: &str, value: Any<'_>) {
    let any = match value {
        Any::Text(text) => field(text.len()),
        #[allow(clippy::cast_sign_loss, reason = "that is how the encoding has it")]
        Any::Int(value) => 1 + size(value as u64),
        Any::Float(_) => 9,
        Any::Bool(_) => 2,
    };
    open(to, within, field(key.len()) + field(any));
    bytes(to, 1, key.as_bytes());
    open(to, 2, any);
    match value {
        Any::Text(text) => bytes(to, 1, text.as_bytes()),
        Any::Bool(is_so) => number(to, 2, u64::from(is_so)),
        #[allow(clippy::cast_sign_loss, reason = "that is how the encoding has it")]
        Any::Int(value) => number(to, 3, value as u64),
        Any::Float(value) => fixed64(to, 4, value.to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Read;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message as _;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let long = "x".repeat(70_000);
        let rows = [
            ("empty", Any::Text(""), Read::StringValue(String::new())),
            ("text", Any::Text("grün"), Read::StringValue("grün".into())),
            ("long", Any::Text(&long), Read::StringValue(long.clone())),
            ("zero", Any::Int(0), Read::IntValue(0)),
            ("most", Any::Int(i64::MAX), Read::IntValue(i64::MAX)),
            ("least", Any::Int(i64::MIN), Read::IntValue(i64::MIN)),
            ("below", Any::Int(-1), Read::IntValue(-1)),
            ("edge", Any::Int(128), Read::IntValue(128)),
            ("float", Any::Float(-0.25), Read::DoubleValue(-0.25)),
            ("no", Any::Bool(false), Read::BoolValue(false)),
            ("yes", Any::Bool(true), Read::BoolValue(true)),
        ];
        let mut written = Vec::new();
        for (key, value, _) in &rows {
            attribute(&mut written, 1, key, *value);
        }
        let read = Resource::decode(written.as_slice()).unwrap().attributes;
        assert_eq!(read.len(), rows.len());
        for ((key, _, expected), read) in rows.into_iter().zip(read) {
            assert_eq!((read.key.as_str(), read.value.unwrap().value.unwrap()), (key, expected));
        }
    }

    #[test]
    fn sizes_are_what_is_written() {
        for value in (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            let mut written = Vec::new();
            varint(&mut written, value);
            assert_eq!(written.len(), size(value), "{value}");
        }
    }
}
