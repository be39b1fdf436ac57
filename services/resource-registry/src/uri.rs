//! From a URI to the path of a file below a directory, and back.
//!
//! A [`FilePath`] is the only thing the file system is ever asked for, and the only ways to make one check every name in
//! it. It knows nothing of what exists.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Longest path, in bytes as it stands in a URI.
const MAX_PATH: usize = 4096;
/// Longest name of a file or directory, in bytes.
const MAX_NAME: usize = 255;

/// What may stand in a path segment as it is (RFC 3986 `pchar`); everything else is percent-encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Path of a file below a directory: one or more checked names, joined by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FilePath(String);

/// Why a path or a name is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// `a//b`, `a/`, or nothing at all.
    #[error("an empty name")]
    Empty,
    /// `.` or `..`, in whatever spelling.
    #[error("a name of dots")]
    Dots,
    /// Begins with a dot.
    #[error("a hidden name")]
    Hidden,
    /// `/` or `\` inside a name.
    #[error("a separator inside a name")]
    Separator,
    /// NUL, line breaks and the like.
    #[error("a control character")]
    Control,
    /// Not percent-encoded UTF-8, or characters that have no place in a path.
    #[error("not a well formed path")]
    Encoding,
    /// Longer than any file system takes.
    #[error("too long")]
    TooLong,
}

impl FilePath {
    /// Reads what follows a directory's URI.
    ///
    /// Percent-encoding is undone once, name by name, after the path was split: an encoded separator never separates.
    pub(crate) fn decode(rest: &str) -> Result<Self, Refused> {
        if rest.len() > MAX_PATH {
            return Err(Refused::TooLong);
        }
        let mut path = String::with_capacity(rest.len());
        for segment in rest.split('/') {
            let name = decode_segment(segment)?;
            check_name(&name)?;
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&name);
        }
        Ok(Self(path))
    }

    /// A file or directory in `parent`, or in the root if there is none.
    pub(crate) fn child(parent: Option<&Self>, name: &str) -> Result<Self, Refused> {
        check_name(name)?;
        let path = parent.map_or_else(|| name.to_owned(), |parent| format!("{parent}/{name}"));
        if path.len() > MAX_PATH {
            return Err(Refused::TooLong);
        }
        Ok(Self(path))
    }

    /// As it stands in a URI.
    pub(crate) fn encode(&self) -> String {
        let encoded: Vec<String> =
            self.names().map(|name| utf8_percent_encode(name, SEGMENT).to_string()).collect();
        encoded.join("/")
    }

    /// The names, from the root down.
    pub(crate) fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The directories above it, from the root down, and its own name.
    pub(crate) fn split(&self) -> (impl Iterator<Item = &str>, &str) {
        let (parents, name) = self.0.rsplit_once('/').unwrap_or(("", &self.0));
        (parents.split('/').filter(|name| !name.is_empty()), name)
    }

    /// Every directory it lies in, from the root down.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = Self> {
        self.0.match_indices('/').map(|(end, _)| Self(self.0[..end].to_owned()))
    }

    /// The text, with `/` between names.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Undoes percent-encoding, strictly and once.
pub(crate) fn decode_segment(segment: &str) -> Result<String, Refused> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let is_escape = byte == b'%'
            && bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if !is_escape && (byte == b'%' || !stands_for_itself(byte)) {
            return Err(Refused::Encoding);
        }
        at += if is_escape { 3 } else { 1 };
    }
    percent_decode_str(segment).decode_utf8().map(Into::into).map_err(|_| Refused::Encoding)
}

fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

fn check_name(name: &str) -> Result<(), Refused> {
    if name.is_empty() {
        return Err(Refused::Empty);
    }
    if name == "." || name == ".." {
        return Err(Refused::Dots);
    }
    if name.contains(['/', '\\']) {
        return Err(Refused::Separator);
    }
    if name.chars().any(char::is_control) {
        return Err(Refused::Control);
    }
    if name.starts_with('.') {
        return Err(Refused::Hidden);
    }
    if name.len() > MAX_NAME {
        return Err(Refused::TooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_name_survives_the_way_out_and_back() {
        for name in ["a.md", "a b.md", "100%.txt", "what?.md", "x#y", "ü.md", "(1).md", "a+b&c=d", "...md"] {
            let Ok(path) = FilePath::child(None, name) else {
                assert_eq!(name, "...md");
                continue;
            };
            let nested = FilePath::child(Some(&path), "日本.txt").unwrap();
            assert_eq!(FilePath::decode(&nested.encode()), Ok(nested));
        }
        assert_eq!(FilePath::decode("a%20b/%C3%BC.md").unwrap().as_str(), "a b/ü.md");
        assert_eq!(FilePath::child(None, "a (1).md").unwrap().encode(), "a%20(1).md");
    }

    #[test]
    fn other_spellings_of_the_same_name_are_the_same_file() {
        for spelling in ["%61.md", "a%2Emd", "a%2emd", "a.md"] {
            assert_eq!(FilePath::decode(spelling).unwrap().as_str(), "a.md", "{spelling}");
        }
    }

    #[test]
    fn the_directories_above_are_known() {
        let path = FilePath::decode("a/b/c.md").unwrap();
        let (parents, name) = path.split();
        assert_eq!((parents.collect::<Vec<_>>(), name), (vec!["a", "b"], "c.md"));
        let ancestors: Vec<String> = path.ancestors().map(|a| a.to_string()).collect();
        assert_eq!(ancestors, ["a", "a/b"]);
        let flat = FilePath::decode("c.md").unwrap();
        assert_eq!(flat.split().0.count(), 0);
        assert_eq!(flat.ancestors().count(), 0);
    }

    #[test]
    fn nothing_is_decoded_twice() {
        assert_eq!(FilePath::decode("%252e%252e").unwrap().as_str(), "%2e%2e");
    }
}
