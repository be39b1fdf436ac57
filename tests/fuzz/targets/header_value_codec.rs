//! A header value and, after a byte that no header has, JSON: a value to compare it with, or a schema that asks for headers.

#![no_main]

use bytes::Bytes;
use fuzz::{bounds::bounded, view};
use libfuzzer_sys::fuzz_target;
use mcp::header::{self, ParamHeader, ParamKind, Problem, decode, encode, trim};
use mcp::scan::{self, Limits};

/// Stands between the value and the JSON.
const BORDER: u8 = 0xff;

fuzz_target!(|data: &[u8]| {
    let border = data.iter().position(|byte| *byte == BORDER).unwrap_or(data.len());
    let (value, json) = (&data[..border], data.get(border + 1..).unwrap_or_default());
    let decoded = bounded(data.len(), || decode(value).map(std::borrow::Cow::into_owned)).ok();
    assert_eq!(decoded, reference(value), "{}", value.escape_ascii());
    if let Some(text) = &decoded {
        survives(text);
    }
    if let Ok(text) = std::str::from_utf8(value) {
        survives(text);
    }
    if let Ok(json) = scan::check(json, &Limits::MESSAGE) {
        compared(value, decoded.as_deref(), json);
        asked(json);
    }
});

/// Any text can be a header, which cannot end the line it stands in.
fn survives(text: &str) {
    let value = bounded(text.len(), || encode(text));
    assert!(value.bytes().all(|c| c == b'\t' || (b' '..=b'~').contains(&c)), "{}", value.escape_debug());
    assert_eq!(trim(value.as_bytes()), value.as_bytes());
    assert!(http::HeaderValue::from_str(&value).is_ok());
    assert_eq!(decode(value.as_bytes()).as_deref(), Ok(text));
}

/// The rules once more, letter by letter.
fn reference(value: &[u8]) -> Option<String> {
    let space = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let from = value.iter().position(|byte| !space(byte)).unwrap_or(value.len());
    let to = value.iter().rposition(|byte| !space(byte)).map_or(from, |last| last + 1);
    let text = std::str::from_utf8(&value[from..to]).ok()?;
    if text.bytes().any(|byte| byte != b'\t' && !(0x20..0x7f).contains(&byte)) {
        return None;
    }
    if text.len() < 11 || !text.starts_with("=?base64?") || !text.ends_with("?=") {
        return Some(text.to_owned());
    }
    String::from_utf8(base64(&text.as_bytes()[9..text.len() - 2])?).ok()
}

/// RFC 4648, section 4, with padding, and without bits that mean nothing.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let letters = &text[..text.len() - padding];
    let (mut bits, mut held, mut out) = (0_u32, 0_u32, Vec::new());
    for letter in letters {
        let sextet = ALPHABET.iter().position(|known| known == letter)?;
        bits = (bits << 6 | u32::try_from(sextet).ok()?) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    (bits & ((1 << held) - 1) == 0).then_some(out)
}

/// A header that is said to repeat `json` does.
fn compared(value: &[u8], decoded: Option<&str>, json: &str) {
    let param = ParamHeader { header: "mcp-param-x".into(), path: vec!["x".into()], kind: ParamKind::String };
    let given = vec![("Mcp-Param-X".to_owned(), Bytes::copy_from_slice(value))];
    let arguments = format!("{{\"x\":{json}}}");
    let check = |headers: &[(String, Bytes)]| {
        let checked = bounded(value.len() + json.len(), || {
            header::check_params(headers, Some(&arguments), std::slice::from_ref(&param))
        });
        checked.map_err(|mismatch| mismatch.problem)
    };
    let json = json.trim_ascii();
    let absent = json == "null";
    assert_eq!(check(&[]), if absent { Ok(()) } else { Err(Problem::Missing) });
    assert_eq!(check(&[given[0].clone(), given[0].clone()]), Err(Problem::Repeated));
    let verdict = check(&given);
    if absent {
        return assert_eq!(verdict, Err(Problem::Unexpected));
    }
    let Some(text) = decoded else { return assert_eq!(verdict, Err(Problem::Undecodable)) };
    let same = verdict.is_ok();
    if let Some(string) = view::string(json) {
        assert_eq!(same, string == text);
    } else if let Ok(truth) = json.parse::<bool>() {
        assert_eq!(same, text == if truth { "true" } else { "false" });
    } else if json.starts_with(['[', '{']) {
        assert!(!same);
    } else if same {
        let (ours, theirs): (f64, f64) = (json.parse().expect("a number"), text.parse().expect("a number"));
        assert_eq!(ours, theirs);
        assert!(view::is_json(text.as_bytes()), "only a number of JSON repeats a number");
    } else if let (Ok(ours), Ok(theirs)) = (json.parse::<i64>(), text.parse::<i64>()) {
        // Integers that are the same and are safe in every language are accepted, however plain.
        let plain = view::is_json(text.as_bytes());
        assert!(ours != theirs || ours.unsigned_abs() >= 1 << 53 || !plain, "{ours}");
    }
}

/// Headers that a schema asks for can be sent.
fn asked(schema: &str) {
    let Ok(headers) = bounded(schema.len(), || header::param_headers(schema)) else { return };
    for (place, param) in headers.iter().enumerate() {
        assert!(param.header.starts_with(header::PARAM_PREFIX));
        assert!(
            http::HeaderName::from_bytes(param.header.as_bytes()).is_ok_and(|name| name == param.header.as_str())
        );
        assert!(!param.path.is_empty());
        assert!(headers[..place].iter().all(|other| other.header != param.header));
    }
}
