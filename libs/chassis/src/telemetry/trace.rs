//! Where a request stands in its trace, as it crosses processes: the W3C trace context. Baggage is not carried.

use std::cell::Cell;
use std::sync::Arc;

use crate::clock;

/// Bytes of a `tracestate` that are carried; entries beyond it are left out.
const MAX_STATE: usize = 512;
/// Bytes of a `traceparent`.
const LENGTH: usize = 55;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    span: u64,
    sampled: bool,
    state: Option<Arc<str>>,
}

impl Trace {
    /// A trace that nobody records, so that log lines and error answers have an id in common.
    #[must_use]
    pub fn fresh() -> Self {
        let id = (u128::from(draw()) << 64) | u128::from(draw());
        Self { id: id.max(1), span: draw().max(1), sampled: false, state: None }
    }

    /// Reads `traceparent` and `tracestate`. `None` for a parent that is not valid; a state that is not is left out.
    #[must_use]
    pub fn read(parent: &str, state: &str) -> Option<Self> {
        let bytes = parent.as_bytes();
        let head = bytes.get(..LENGTH)?;
        let hex = |from: usize, to: usize| {
            head.get(from..to)?.iter().try_fold(0_u128, |number, digit| {
                let digit = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some((number << 4) | u128::from(digit))
            })
        };
        if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        // Version 00 ends here; what a later one adds stands behind a dash.
        match hex(0, 2)? {
            0xff => return None,
            0 if bytes.len() != LENGTH => return None,
            _ if bytes.len() > LENGTH && bytes[LENGTH] != b'-' => return None,
            _ => {}
        }
        let (id, span, flags) = (hex(3, 35)?, hex(36, 52)?, hex(53, 55)?);
        let span = u64::try_from(span).ok()?;
        (id != 0 && span != 0).then(|| Self { id, span, sampled: flags & 1 == 1, state: bounded(state) })
    }

    /// A span that is recorded, below this one.
    pub(super) fn below(&self) -> Self {
        self.below_as(draw())
    }

    /// The same under an id of somebody's choice.
    pub(super) fn below_as(&self, span: u64) -> Self {
        Self { id: self.id, span: span.max(1), sampled: true, state: self.state.clone() }
    }

    /// A span that is recorded and begins a trace.
    pub(super) fn begun() -> Self {
        Self { sampled: true, ..Self::fresh() }
    }

    /// The same place, not recorded.
    #[must_use]
    pub fn unsampled(self) -> Self {
        Self { sampled: false, ..self }
    }

    /// Whether whoever wrote it records.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// `traceparent`.
    #[must_use]
    pub fn parent(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let mut write = |at: usize, bytes: &[u8]| {
            for (i, byte) in bytes.iter().enumerate() {
                text[at + 2 * i] = DIGITS[usize::from(byte >> 4)];
                text[at + 2 * i + 1] = DIGITS[usize::from(byte & 15)];
            }
        };
        write(3, &self.id.to_be_bytes());
        write(36, &self.span.to_be_bytes());
        write(53, &[u8::from(self.sampled)]);
        String::from_utf8(text.to_vec()).unwrap_or_default()
    }

    /// `tracestate`; empty = none.
    #[must_use]
    pub fn state(&self) -> &str {
        self.state.as_deref().unwrap_or_default()
    }

    /// The id of the trace, as 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// The id of the trace, as it is sent.
    pub(super) const fn id_bytes(&self) -> [u8; 16] {
        self.id.to_be_bytes()
    }

    /// The id of the span.
    pub(super) const fn span(&self) -> u64 {
        self.span
    }

    /// The id of the span, as it is sent.
    pub(super) const fn span_bytes(&self) -> [u8; 8] {
        self.span.to_be_bytes()
    }
}

/// As many whole entries as are carried, if all of it is what a state may be.
fn bounded(state: &str) -> Option<Arc<str>> {
    let state = state.trim_matches([' ', '\t']);
    if state.is_empty() || !state.bytes().all(|c| matches!(c, b' '..=b'~')) {
        return None;
    }
    let end = match state.get(..=MAX_STATE) {
        None => state.len(),
        Some(head) => head.rfind(',')?,
    };
    let kept = &state[..end];
    kept.split(',').all(is_entry).then(|| kept.into())
}

/// Whether it is a key and a value, as <https://www.w3.org/TR/trace-context/#list> has them.
fn is_entry(entry: &str) -> bool {
    let is_key = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-*/@".contains(&c);
    entry.trim_matches([' ', '\t']).split_once('=').is_some_and(|(key, value)| {
        !key.is_empty() && key.bytes().all(is_key) && !value.is_empty() && !value.contains('=')
    })
}

/// Random enough for ids that are no secret; seeded by the operating system, once for each thread.
pub(super) fn draw() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(
            clock::random().map(u64::from_le_bytes).unwrap_or_else(|_none| clock::unix_millis())
        );
    }
    // splitmix64
    let mut z = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(z);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_written() {
        let trace = Trace::read(GOOD, "a=1,b=2").unwrap();
        assert_eq!((trace.parent().as_str(), trace.state(), trace.is_sampled()), (GOOD, "a=1,b=2", true));
        assert_eq!(trace.id(), "0af7651916cd43dd8448eb211c80319c");
        assert!(trace.unsampled().parent().ends_with("-00"));
        assert!(Trace::read(&format!("01{}-more", &GOOD[2..]), "").is_some(), "a later version may add");
    }

    #[test]
    fn what_is_not_valid_is_no_parent() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let bad = [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &format!("{GOOD}-more"),
            &format!("01{}more", &GOOD[2..]),
            &format!("ff{}", &GOOD[2..]),
            &format!("0g{}", &GOOD[2..]),
            &format!("+0{}", &GOOD[2..]),
            &GOOD.replace('c', "ç"),
            &zero_trace,
            &zero_span,
            &GOOD[..54],
        ];
        for text in bad {
            assert_eq!(Trace::read(text, ""), None, "{text}");
        }
    }

    #[test]
    fn a_state_is_bounded_by_whole_entries() {
        let entry = |i: usize| format!("k{i}={}", "v".repeat(95));
        let long: Vec<String> = (0..10).map(entry).collect();
        let trace = Trace::read(GOOD, &long.join(",")).unwrap();
        assert_eq!(trace.state(), long[..5].join(","));
        for state in ["a=\u{7f}", "a=ü", "no entry", &"x".repeat(600)] {
            assert_eq!(Trace::read(GOOD, state).unwrap().state(), "", "{state}");
        }
    }

    #[test]
    fn fresh_ones_differ_and_are_not_recorded() {
        let (one, other) = (Trace::fresh(), Trace::fresh());
        assert_ne!(one.id(), other.id());
        assert!(!one.is_sampled() && Trace::read(&one.parent(), "").as_ref() == Some(&one));
    }
}
