//! Where values end. Strings are most of a message: they are looked through many bytes at a time.

use memchr::memchr2;

pub(super) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// End of the value that starts at `at`, in checked text.
pub(super) fn skip_value(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at) {
        Some(b'"') => skip_string(bytes, at),
        Some(b'{' | b'[') => {
            let mut depth = 0_usize;
            let mut i = at;
            while i < bytes.len() {
                match bytes[i] {
                    b'"' => {
                        i = skip_string(bytes, i);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return i + 1;
                        }
                    }
                    _ => {}
                }
                i += 1;
            }
            bytes.len()
        }
        _ => {
            let mut i = at;
            while i < bytes.len() && !matches!(bytes[i], b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r') {
                i += 1;
            }
            i
        }
    }
}

fn skip_string(bytes: &[u8], at: usize) -> usize {
    let mut i = plain(bytes, at + 1);
    while let Some(found) = bytes.get(i) {
        match found {
            b'"' => return i + 1,
            b'\\' => i = plain(bytes, i + 2),
            // Not in checked text.
            _ => i = plain(bytes, i + 1),
        }
    }
    bytes.len()
}

/// Bytes that are looked at in a row. Most strings are shorter; for what is longer it pays to ask a function made for it.
const SHORT: usize = 128;

/// Where plain text of a string ends: at a quote, a backslash or a control character, else at the end of `bytes`.
pub(crate) fn plain(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    // Most strings are names and words.
    while at - from < 16 {
        let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else { break };
        let found = stops(u64::from_le_bytes(*eight));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    // Without a branch for each byte, so that it is done for all of them at a time.
    while let Some(some) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        if some.iter().fold(false, |found, c| found | (*c < 0x20) | (*c == b'"') | (*c == b'\\')) {
            break;
        }
        at += 16;
        if at - from >= SHORT {
            let rest = &bytes[at..];
            let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            if rest[..end].iter().fold(false, |found, c| found | (*c < 0x20)) {
                return at + rest.iter().position(|c| *c < 0x20).unwrap_or(end);
            }
            return at + end;
        }
    }
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let found = stops(u64::from_le_bytes(*eight));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let end = rest.iter().position(|c| matches!(c, 0..0x20 | b'"' | b'\\'));
    at.min(bytes.len()) + end.unwrap_or(rest.len())
}

/// The top bit of the first byte at which plain text ends, and perhaps of others behind it.
const fn stops(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x8080_8080_8080_8080;
    const fn below(word: u64, bound: u64) -> u64 {
        word.wrapping_sub(EACH * bound) & !word & TOP
    }
    below(word, 0x20) | below(word ^ (EACH * 0x22), 1) | below(word ^ (EACH * 0x5c), 1)
}

#[cfg(test)]
mod tests {
    use super::plain;

    /// Whatever stands where, and however long it is: the same as byte by byte.
    #[test]
    fn plain_text_ends_at_the_first_byte_that_is_none() {
        let stops = [b'"', b'\\', 0x00, 0x1f];
        let others = [0x20, 0x21, 0x23, b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff];
        for length in 0..180_usize {
            for at in 0..=length {
                for (turn, stop) in stops.iter().enumerate() {
                    let mut bytes: Vec<u8> =
                        (0..length).map(|i| others[(i * 7 + at + turn) % others.len()]).collect();
                    if let Some(place) = bytes.get_mut(at) {
                        *place = *stop;
                    }
                    // What follows must not matter.
                    if at + 1 < length {
                        bytes[at + 1] = stops[(at + turn) % stops.len()];
                    }
                    for from in [0, at / 2, at] {
                        assert_eq!(plain(&bytes, from), at.min(length), "{bytes:?} from {from}");
                    }
                }
            }
        }
        assert_eq!(plain(b"abc", 7), 3);
    }
}
