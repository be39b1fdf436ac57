//! One pass over JSON text: grammar (RFC 8259), limits, and the members of an object.
//!
//! Everything that decides on a message reads it through this module, and the exact bytes that were checked are the bytes
//! that are forwarded, so no second parser can see another message.

mod skip;

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;

pub(crate) use self::skip::plain;
use self::skip::{skip_space, skip_value};
use crate::outline::{NEVER, Notes, Outline};

/// Bounds on one JSON text.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Nesting of arrays and objects.
    pub depth: usize,
    /// Number of values of any kind.
    pub values: usize,
    /// Bytes of a member's name, as written.
    pub key: usize,
    /// Bytes of a string, as written.
    pub string: usize,
    /// Characters of a number.
    pub number: usize,
}

impl Limits {
    /// What is accepted from a client or a registry.
    pub const MESSAGE: Self = Self { depth: 64, values: 100_000, key: 1024, string: 1 << 20, number: 64 };

    /// What is accepted as a result: the same, but a string may fill the message (binary resources are base64 text).
    pub const RESULT: Self = Self { depth: 64, values: 100_000, key: 1024, string: 8 << 20, number: 64 };
}

/// Why a text is not acceptable JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not JSON: grammar, encoding, or an escaped half of a surrogate pair.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// JSON, but beyond one of the [`Limits`].
    #[error("a JSON limit is exceeded at byte {0}")]
    Limit(usize),
}

/// Checks that `bytes` is exactly one JSON value within the limits.
///
/// # Errors
/// [`ScanError`] with the offset of the first offence.
pub fn check<'a>(bytes: &'a [u8], limits: &Limits) -> Result<&'a str, ScanError> {
    let text = std::str::from_utf8(bytes).map_err(|e| ScanError::Syntax(e.valid_up_to()))?;
    check_text(text, limits).map(|()| text)
}

/// Bytes as text, checked once for all that comes after.
pub(crate) fn text(bytes: Bytes) -> Result<ByteString, ScanError> {
    ByteString::try_from(bytes).map_err(|e| ScanError::Syntax(e.valid_up_to()))
}

/// As [`check`], for what is known to be text.
pub(crate) fn check_text(text: &str, limits: &Limits) -> Result<(), ScanError> {
    checked(text, limits, Notes::none()).map(drop)
}

/// The same; notes where members stand.
pub(crate) fn outline(text: &str, limits: &Limits) -> Result<Option<Outline>, ScanError> {
    checked(text, limits, Notes::of(text.len())).map(|notes| notes.finish(text))
}

fn checked(text: &str, limits: &Limits, notes: Notes) -> Result<Notes, ScanError> {
    let bytes = text.as_bytes();
    let mut checker = Checker { bytes, at: 0, values: 0, limits, notes };
    checker.space();
    checker.value(0, 0)?;
    checker.space();
    if checker.at == bytes.len() { Ok(checker.notes) } else { Err(ScanError::Syntax(checker.at)) }
}

struct Checker<'a> {
    bytes: &'a [u8],
    at: usize,
    values: usize,
    limits: &'a Limits,
    notes: Notes,
}

impl Checker<'_> {
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    fn syntax<T>(&self) -> Result<T, ScanError> {
        Err(ScanError::Syntax(self.at))
    }

    /// `level` counts the objects around it, as far as their members are noted.
    fn value(&mut self, depth: usize, level: u8) -> Result<(), ScanError> {
        self.values += 1;
        if self.values > self.limits.values {
            return Err(ScanError::Limit(self.at));
        }
        match self.peek() {
            b'{' => self.object(depth + 1, level),
            b'[' => self.array(depth + 1),
            b'"' => self.string(self.limits.string).map(drop),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), ScanError> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            self.syntax()
        }
    }

    fn object(&mut self, depth: usize, level: u8) -> Result<(), ScanError> {
        let mut noted = self.notes.begin(self.at, level);
        self.open(depth)?;
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != b'"' {
                return self.syntax();
            }
            let key = self.at + 1;
            let is_plain = self.string(self.limits.key)?;
            let place = self.notes.add(&mut noted, (key, self.at - 1), is_plain);
            self.space();
            if self.peek() != b':' {
                return self.syntax();
            }
            self.at += 1;
            self.space();
            let value = self.at;
            self.value(depth, noted.inside())?;
            self.notes.end(place, (value, self.at));
            if !self.next_or_close(b'}')? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), ScanError> {
        self.open(depth)?;
        if self.peek() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            self.value(depth, NEVER)?;
            if !self.next_or_close(b']')? {
                return Ok(());
            }
        }
    }

    fn open(&mut self, depth: usize) -> Result<(), ScanError> {
        if depth > self.limits.depth {
            return Err(ScanError::Limit(self.at));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// True after a comma, false after the closing bracket.
    fn next_or_close(&mut self, close: u8) -> Result<bool, ScanError> {
        self.space();
        let found = self.peek();
        if found != b',' && found != close {
            return self.syntax();
        }
        self.at += 1;
        Ok(found == b',')
    }

    /// Whether it has no escapes.
    fn string(&mut self, limit: usize) -> Result<bool, ScanError> {
        let start = self.at;
        let mut is_plain = true;
        self.at += 1;
        loop {
            self.at = plain(self.bytes, self.at);
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(_) | None => return self.syntax(),
            }
            is_plain = false;
        }
        self.at += 1;
        if self.at - start - 2 > limit { Err(ScanError::Limit(start)) } else { Ok(is_plain) }
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let first = self.hex4(self.at + 2)?;
                self.at += 6;
                if (0xDC00..0xE000).contains(&first) {
                    return self.syntax();
                }
                if (0xD800..0xDC00).contains(&first) {
                    if !self.bytes[self.at..].starts_with(b"\\u") {
                        return self.syntax();
                    }
                    let second = self.hex4(self.at + 2)?;
                    if !(0xDC00..0xE000).contains(&second) {
                        return self.syntax();
                    }
                    self.at += 6;
                }
                Ok(())
            }
            _ => self.syntax(),
        }
    }

    fn hex4(&self, at: usize) -> Result<u32, ScanError> {
        let digits = self.bytes.get(at..at + 4).ok_or(ScanError::Syntax(at))?;
        digits.iter().try_fold(0_u32, |sum, c| {
            let digit = char::from(*c).to_digit(16).ok_or(ScanError::Syntax(at))?;
            Ok(sum * 16 + digit)
        })
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        if !self.peek().is_ascii_digit() {
            return self.syntax();
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        if self.at - start > self.limits.number { Err(ScanError::Limit(start)) } else { Ok(()) }
    }
}

/// One member of an object in checked JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name with escapes resolved.
    pub key: Cow<'a, str>,
    /// The value as written, without surrounding white space.
    pub value: &'a str,
    /// Where the member's text stands, white space up to the neighbouring comma or bracket included.
    pub span: std::ops::Range<usize>,
    /// Where the value stands.
    pub value_span: std::ops::Range<usize>,
}

/// The members of an object, in order. Empty for any other value.
///
/// `text` must have passed [`check`]; on other text the iterator ends early, without panicking.
pub fn members(text: &str) -> Members<'_> {
    let start = text.len() - text.trim_ascii_start().len();
    let open = text.as_bytes().get(start) == Some(&b'{');
    Members { text, at: if open { start + 1 } else { text.len() } }
}

/// See [`members`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    text: &'a str,
    at: usize,
}

/// Where a member stands.
struct Place {
    span: std::ops::Range<usize>,
    key: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

impl Members<'_> {
    /// The next one, unread.
    fn step(&mut self) -> Option<Place> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let key_at = skip_space(bytes, start);
        if bytes.get(key_at) != Some(&b'"') {
            self.at = bytes.len();
            return None;
        }
        let key_end = skip_value(bytes, key_at);
        let colon = skip_space(bytes, key_end);
        let value_at = skip_space(bytes, colon + 1);
        let value_end = skip_value(bytes, value_at);
        let end = skip_space(bytes, value_end);
        self.at = if bytes.get(end) == Some(&b',') { end + 1 } else { bytes.len() };
        Some(Place { span: start..end, key: key_at..key_end, value: value_at..value_end })
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let place = self.step()?;
        Some(Member {
            key: string(self.text.get(place.key)?)?,
            value: self.text.get(place.value.clone())?,
            span: place.span,
            value_span: place.value,
        })
    }
}

/// The elements of an array, as written. Empty for any other value. `text` must have passed [`check`].
pub fn elements(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let open = skip_space(bytes, 0);
    let mut at = if bytes.get(open) == Some(&b'[') { open + 1 } else { bytes.len() };
    std::iter::from_fn(move || {
        let start = skip_space(bytes, at);
        if start >= bytes.len() || bytes[start] == b']' {
            return None;
        }
        let end = skip_value(bytes, start);
        let after = skip_space(bytes, end);
        at = if bytes.get(after) == Some(&b',') { after + 1 } else { bytes.len() };
        text.get(start..end)
    })
}

/// The value of the last member with this name (the one every other parser would see), if `text` is an object that has it.
#[must_use]
pub fn member<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut members = members(text);
    let mut last = None;
    while let Some(place) = members.step() {
        let raw = text.as_bytes().get(place.key.start + 1..place.key.end - 1)?;
        // A name with an escape is longer than what it says.
        let is_it = match raw.len() == key.len() {
            true => raw == key.as_bytes(),
            false => raw.len() > key.len() && raw.contains(&b'\\') && string(text.get(place.key)?)? == key,
        };
        if is_it {
            last = Some(place.value);
        }
    }
    text.get(last?)
}

/// As [`member`] for several names, in one pass.
#[must_use]
pub fn fields<'a, const N: usize>(text: &'a str, keys: [&str; N]) -> [Option<&'a str>; N] {
    let mut members = members(text);
    let mut last = [None; N];
    while let Some(place) = members.step() {
        let Some(raw) = text.as_bytes().get(place.key.start + 1..place.key.end - 1) else { break };
        let place_of = |name: &[u8]| keys.iter().position(|key| key.as_bytes() == name);
        let index = if raw.contains(&b'\\') {
            text.get(place.key).and_then(string).and_then(|name| place_of(name.as_bytes()))
        } else {
            place_of(raw)
        };
        if let Some(index) = index {
            last[index] = text.get(place.value);
        }
    }
    last
}

/// Follows names from object to object.
#[must_use]
pub fn path<'a>(text: &'a str, keys: &[&str]) -> Option<&'a str> {
    keys.iter().try_fold(text, |value, key| member(value, key))
}

/// The content of a JSON string, escapes resolved; `None` if `raw` is not a string.
#[must_use]
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.trim_ascii().strip_prefix('"')?.strip_suffix('"')?;
    if plain(inner.as_bytes(), 0) < inner.len() {
        serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Whether a value is an object.
#[must_use]
pub fn is_object(raw: &str) -> bool {
    raw.trim_ascii_start().starts_with('{')
}

#[cfg(test)]
mod tests;
