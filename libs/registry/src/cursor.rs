//! Cursors of lists: opaque to callers, bound to the digest of the list they were made for.

use api::{Code, Error};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

/// A cursor for the entry with this place in the list with this digest.
pub(crate) fn make(digest: &str, place: usize) -> String {
    BASE64.encode(format!("{digest}:{place}"))
}

/// The place a cursor stands for.
pub(crate) fn read(cursor: &str, digest: &str, length: usize) -> Result<usize, Error> {
    let bytes = BASE64.decode(cursor).map_err(|_malformed| unknown())?;
    let text = std::str::from_utf8(&bytes).map_err(|_malformed| unknown())?;
    let (made_for, place) = text.rsplit_once(':').ok_or_else(unknown)?;
    if made_for != digest {
        return Err(unknown());
    }
    place.parse().ok().filter(|place| (1..length).contains(place)).ok_or_else(unknown)
}

fn unknown() -> Error {
    Error::new(Code::InvalidRequest, "unknown or outdated cursor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cursors_of_this_very_list_are_read() {
        let cursor = make("abc", 5);
        assert_eq!(read(&cursor, "abc", 6).unwrap(), 5);
        for (cursor, digest, length) in [
            (cursor.as_str(), "abd", 6),
            (cursor.as_str(), "abc", 5),
            ("", "abc", 6),
            ("x", "abc", 6),
            ("!!", "abc", 6),
            (&make("abc", 0), "abc", 6),
            (&BASE64.encode("abc:x"), "abc", 6),
            (&BASE64.encode([0xff, 0xfe]), "abc", 6),
        ] {
            assert_eq!(read(cursor, digest, length).unwrap_err().code, Code::InvalidRequest, "{cursor}");
        }
    }
}
