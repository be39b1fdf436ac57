//! A piece of checked JSON text that is passed along unparsed.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::scan::{self, Limits, ScanError};

const NULL: ByteString = ByteString::from_static("null");

/// One JSON value as text, known to be well formed. Cloning and slicing share the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Json(ByteString);

impl Json {
    /// Checks `bytes` against `limits`.
    ///
    /// # Errors
    /// [`ScanError`] if it is not one JSON value within the limits.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, ScanError> {
        let text = scan::text(bytes)?;
        scan::check_text(&text, limits)?;
        Ok(Self(text))
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
        Self(text)
    }

    /// The same for bytes. What is not even text becomes `null`.
    #[must_use]
    pub fn trusted_bytes(bytes: Bytes) -> Self {
        ByteString::try_from(bytes).map_or_else(|_| Self(NULL), Self::trusted)
    }

    /// Writes a value as JSON. A value that cannot be written (a map with keys that are not text) becomes `null`.
    #[must_use]
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        Self(serde_json::to_string(value).map_or(NULL, ByteString::from))
    }

    /// The empty object.
    #[must_use]
    pub fn empty_object() -> Self {
        Self(ByteString::from_static("{}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes, shared.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.0.as_bytes().clone()
    }

    /// A part of this text that was found by [`scan`], sharing the bytes.
    #[must_use]
    pub fn slice(&self, part: &str) -> Self {
        Self(self.0.slice_ref(part))
    }

    /// A member of this object, sharing the bytes.
    #[must_use]
    pub fn member(&self, key: &str) -> Option<Self> {
        scan::member(self.as_str(), key).map(|part| self.slice(part))
    }

    /// Several members of this object, found in one pass.
    #[must_use]
    pub fn fields<const N: usize>(&self, keys: [&str; N]) -> [Option<Self>; N] {
        scan::fields(self.as_str(), keys).map(|part| part.map(|part| self.slice(part)))
    }

    /// The text content of a member that is a string.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        scan::string(scan::member(self.as_str(), key)?).map(|s| s.into_owned())
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
        Ok(Self(ByteString::from(String::from(Box::<str>::from(raw)))))
    }
}
