//! A piece of checked JSON text that is passed along unparsed.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::scan::{self, Limits, ScanError};

/// One JSON value as text, known to be well formed. Cloning and slicing share the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Json(Bytes);

impl Json {
    /// Checks `bytes` against `limits`.
    ///
    /// # Errors
    /// [`ScanError`] if it is not one JSON value within the limits.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, ScanError> {
        scan::check(&bytes, limits)?;
        Ok(Self(bytes))
    }

    /// Wraps text that was made or checked by this program: editor output, a slice of checked text, a literal.
    ///
    /// In debug builds the claim is checked.
    #[must_use]
    pub fn trusted(text: impl Into<Bytes>) -> Self {
        let bytes = text.into();
        debug_assert!(
            scan::check(
                &bytes,
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
        Self(bytes)
    }

    /// Writes a value as JSON. A value that cannot be written (a map with keys that are not text) becomes `null`.
    #[must_use]
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        Self(serde_json::to_vec(value).map_or_else(|_| Bytes::from_static(b"null"), Bytes::from))
    }

    /// The empty object.
    #[must_use]
    pub fn empty_object() -> Self {
        Self(Bytes::from_static(b"{}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked on the way in; the fallback cannot be reached.
        std::str::from_utf8(&self.0).unwrap_or("null")
    }

    /// The bytes, shared.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// A part of this text that was found by [`scan`], sharing the bytes.
    #[must_use]
    pub fn slice(&self, part: &str) -> Self {
        Self(self.0.slice_ref(part.as_bytes()))
    }

    /// A member of this object, sharing the bytes.
    #[must_use]
    pub fn member(&self, key: &str) -> Option<Self> {
        scan::member(self.as_str(), key).map(|part| self.slice(part))
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
        Ok(Self(Bytes::from(String::from(Box::<str>::from(raw)))))
    }
}
