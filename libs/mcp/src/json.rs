//! A piece of checked JSON text that is passed along unparsed.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::edit;
use crate::outline::{Notes, Outline};
use crate::scan::{self, Limits, ScanError};

const NULL: ByteString = ByteString::from_static("null");

/// One JSON value as text, known to be well formed. Cloning and slicing share the bytes. One that was parsed knows where the
/// members of its outermost objects stand, and so do its slices; as values, only the text counts.
#[derive(Clone)]
pub struct Json {
    text: ByteString,
    outline: Option<Arc<Outline>>,
}

/// A value inside a [`Json`], borrowed from it.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    text: &'a str,
    outline: Option<&'a Outline>,
}

impl<'a> Part<'a> {
    /// The text.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.text
    }

    /// The value of the last member with this name, if this is an object that has it.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Self> {
        let found = match self.noted() {
            Some(members) => members.rev().find(|(name, _)| *name == key).map(|(_, value)| value),
            None => scan::member(self.text, key),
        };
        found.map(|text| Self { text, ..self })
    }

    /// As [`Part::get`] for several names, in one pass.
    #[must_use]
    pub fn fields<const N: usize>(self, keys: [&str; N]) -> [Option<Self>; N] {
        let Some(members) = self.noted() else {
            return scan::fields(self.text, keys).map(|text| text.map(|text| Self { text, ..self }));
        };
        let mut found = [None; N];
        for (name, text) in members {
            if let Some(index) = keys.iter().position(|key| *key == name) {
                found[index] = Some(Self { text, ..self });
            }
        }
        found
    }

    /// The members, in order: names with escapes resolved, and values. None for what is no object.
    pub fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Self)> {
        let noted = self.noted();
        let read = noted.is_none().then(|| scan::members(self.text));
        let noted = noted.into_iter().flatten().map(|(name, value)| (Cow::Borrowed(name), value));
        let read = read.into_iter().flatten().map(|member| (member.key, member.value));
        noted.chain(read).map(move |(name, text)| (name, Self { text, ..self }))
    }

    /// Whether it is known without reading it that no name occurs twice in this object. `false` says nothing.
    pub(crate) fn has_no_twins(self) -> bool {
        self.outline.is_some_and(|outline| outline.has_no_twins(self.text))
    }

    /// Its content, if it is a string.
    #[must_use]
    pub fn string(self) -> Option<Cow<'a, str>> {
        scan::string(self.text)
    }

    fn noted(self) -> Option<impl DoubleEndedIterator<Item = (&'a str, &'a str)>> {
        self.outline?.members(self.text)
    }
}

impl fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Json {}

impl Hash for Json {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for Json {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Json {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Json {
    /// Checks `bytes` against `limits`.
    ///
    /// # Errors
    /// [`ScanError`] if it is not one JSON value within the limits.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, ScanError> {
        let text = scan::text(bytes)?;
        let outline = scan::outline(&text, limits)?.map(Arc::new);
        Ok(Self { text, outline })
    }

    /// Wraps text that was made or checked by this program: editor output, a slice of checked text, a literal.
    ///
    /// In debug builds the claim is checked.
    #[must_use]
    pub fn trusted(text: impl Into<ByteString>) -> Self {
        let text = text.into();
        debug_assert!(
            scan::check_text(
                &text,
                &Limits {
                    depth: 128,
                    values: usize::MAX,
                    key: usize::MAX,
                    string: usize::MAX,
                    number: usize::MAX
                }
            )
            .is_ok(),
            "trusted JSON is not JSON"
        );
        Self::bare(text)
    }

    const fn bare(text: ByteString) -> Self {
        Self { text, outline: None }
    }

    /// The same for bytes. What is not even text becomes `null`.
    #[must_use]
    pub fn trusted_bytes(bytes: Bytes) -> Self {
        ByteString::try_from(bytes).map_or_else(|_| Self::bare(NULL), Self::trusted)
    }

    /// Writes a value as JSON. A value that cannot be written (a map with keys that are not text) becomes `null`.
    #[must_use]
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        Self::bare(serde_json::to_string(value).map_or(NULL, ByteString::from))
    }

    /// An object with these members, whose values are JSON, in their order. Knows where they stand.
    #[must_use]
    pub fn object(members: &[(&str, &str)]) -> Self {
        let bytes = members.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() + 2;
        let mut notes = Notes::of(bytes);
        let mut noted = notes.begin(0, 0);
        let mut text = String::with_capacity(bytes);
        text.push('{');
        for (index, (name, value)) in members.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            let from = text.len() + 1;
            edit::quote_into(&mut text, name);
            let key = (from, text.len() - 1);
            let place = notes.add(&mut noted, key, key.1 - key.0 == name.len());
            text.push(':');
            let from = text.len();
            text.push_str(value.trim_ascii());
            notes.end(place, (from, text.len()));
        }
        text.push('}');
        let json = Self::trusted(text);
        Self { outline: notes.finish(&json.text).map(Arc::new), ..json }
    }

    /// The empty object.
    #[must_use]
    pub fn empty_object() -> Self {
        Self::bare(ByteString::from_static("{}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, to look into.
    #[must_use]
    pub fn part(&self) -> Part<'_> {
        Part { text: &self.text, outline: self.outline.as_deref() }
    }

    /// The bytes, shared.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.text.as_bytes().clone()
    }

    /// A part of this text that was found by [`scan`], sharing the bytes.
    #[must_use]
    pub fn slice(&self, part: &str) -> Self {
        let outline = self.outline.as_ref().filter(|_| part.starts_with('{')).cloned();
        Self { text: self.text.slice_ref(part), outline }
    }

    /// A member of this object, sharing the bytes.
    #[must_use]
    pub fn member(&self, key: &str) -> Option<Self> {
        self.part().get(key).map(|part| self.slice(part.text))
    }

    /// Several members of this object, found in one pass.
    #[must_use]
    pub fn fields<const N: usize>(&self, keys: [&str; N]) -> [Option<Self>; N] {
        self.part().fields(keys).map(|part| part.map(|part| self.slice(part.text)))
    }

    /// The text content of a member that is a string.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.part().get(key)?.string().map(Cow::into_owned)
    }

    /// Reads it into a typed value.
    ///
    /// # Errors
    /// Where the text does not have the shape of `T`.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &serde_json::value::RawValue =
            serde_json::from_str(self.as_str()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        Ok(Self::bare(ByteString::from(String::from(Box::<str>::from(raw)))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Json {
        Json::parse(Bytes::from(text.to_owned()), &Limits::MESSAGE).unwrap()
    }

    /// What is found in what was parsed is what is found by reading, at every level and whatever it is.
    fn same(noted: &Json, read: &Json, keys: &[String]) {
        assert_eq!(noted, read);
        let pairs = |json: &Json| -> Vec<(String, String)> {
            json.part().members().map(|(name, part)| (name.into_owned(), part.as_str().to_owned())).collect()
        };
        assert_eq!(pairs(noted), pairs(read), "{read}");
        for key in keys {
            let (one, other) = (noted.member(key), read.member(key));
            assert_eq!(one, other, "{read} {key}");
            let [same_one] = noted.fields([key]);
            assert_eq!(same_one, other, "{read} {key}");
            assert_eq!(noted.text(key), read.text(key), "{read} {key}");
            if let (Some(one), Some(other)) = (one, other) {
                same(&one, &other, keys);
            }
        }
    }

    #[test]
    fn what_is_noted_is_what_is_read() {
        let keys: Vec<String> = ["a", "b", "c", "", "n7", "n31"].map(str::to_owned).to_vec();
        let many = |count: usize| -> String {
            let all: Vec<String> = (0..count).map(|n| format!("\"n{n}\":{{\"a\":{n}}}")).collect();
            format!("{{\"a\":{{\"b\":1}},\"b\":{{{}}},\"c\":{{\"a\":{{\"b\":{{\"a\":2}}}}}}}}", all.join(","))
        };
        let texts = [
            "{}",
            " { \"a\" : { \"b\" : [ { \"a\" : 1 } ] } , \"a\" : 2 } ",
            "{\"a\":{},\"b\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}",
            "{\"a\":\"}\\\"{\",\"b\":{\"c\":\"\\u0061\"}}",
            "{\"\\u0061\":1,\"b\":{\"a\":2}}",
            "{\"b\":{\"\\u0061\":{\"a\":3}},\"c\":{\"a\":4}}",
            "{\"\":{\"\":{\"\":{}}}}",
            "[{\"a\":1}]",
            "7",
        ];
        let made = [0, 1, 7, 11, 12, 13, 31, 32, 33, 100].map(many);
        for text in texts.iter().copied().chain(made.iter().map(String::as_str)) {
            same(&parsed(text), &Json::trusted(text.to_owned()), &keys);
        }
    }

    #[test]
    fn what_is_made_of_members_is_what_is_read() {
        let keys: Vec<String> = ["a", "b", "c\"", ""].map(str::to_owned).to_vec();
        for members in [
            &[][..],
            &[("a", "1")],
            &[("a", "{\"b\":{\"a\":2}}"), ("", "\"x\""), ("b", " [1] "), ("a", "3")],
            &[("a", "1"), ("c\"", "{\"a\":1}")],
        ] {
            let made = Json::object(members);
            let pairs: Vec<(String, String)> =
                made.part().members().map(|(n, v)| (n.into_owned(), v.as_str().trim().to_owned())).collect();
            let given: Vec<(String, String)> =
                members.iter().map(|(n, v)| ((*n).to_owned(), v.trim().to_owned())).collect();
            assert_eq!(pairs, given);
            let read = Json::trusted(made.as_str().to_owned());
            for key in &keys {
                let trimmed = |json: &Json| json.member(key).map(|value| value.as_str().trim().to_owned());
                assert_eq!(trimmed(&made), trimmed(&read), "{read} {key}");
            }
        }
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![Just("1".to_owned()), Just("\"x\\\"}\"".to_owned()), Just("[]".to_owned())];
        leaf.prop_recursive(5, 60, 8, |inner| {
            let member =
                ("[abc]|\\\\u0061", inner.clone()).prop_map(|(name, value)| format!("\"{name}\" :{value}"));
            prop_oneof![
                proptest::collection::vec(member, 0..8).prop_map(|all| format!("{{{}}}", all.join(", "))),
                proptest::collection::vec(inner, 0..3).prop_map(|all| format!("[{}]", all.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_it_is(text in value()) {
            let keys: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
            same(&parsed(&text), &Json::trusted(text.clone()), &keys);
        }
    }
}
