//! Text of others, made fit for a terminal.

use std::fmt::Write as _;

use mcp::scan;

/// Longest JSON that stays on one line.
const SHORT: usize = 76;

/// Keeps lines and tabs; anything else that could steer the terminal is shown instead of obeyed.
pub(super) fn text(text: &str) -> String {
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| if (c.is_control() && c != '\n' && c != '\t') || is_reordering(c) { '\u{fffd}' } else { c })
        .collect()
}

/// On one line.
pub(super) fn line(text: &str) -> String {
    self::text(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every line after this.
pub(super) fn indented(text: &str, by: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = format!("{by}{line}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A number of bytes, for people.
pub(super) fn size(bytes: usize) -> String {
    let kib = bytes as f64 / 1024.0;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{kib:.1} KiB"),
        _ => format!("{:.1} MiB", kib / 1024.0),
    }
}

/// Bytes that base64 text stands for.
pub(super) fn decoded(base64: &str) -> usize {
    let letters = base64
        .bytes()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'-' | b'_'))
        .count();
    letters * 3 / 4
}

/// JSON laid out to be read: in the order and number forms in which it came.
pub(super) fn json(raw: &str) -> String {
    let mut out = String::new();
    lay_out(raw.trim(), 0, &mut out);
    text(&out)
}

fn lay_out(raw: &str, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth + 1);
    let short = one_line(raw);
    if short.len() + depth * 2 <= SHORT {
        out.push_str(&short);
        return;
    }
    let (open, close) = if scan::is_object(raw) {
        ('{', '}')
    } else if raw.starts_with('[') {
        ('[', ']')
    } else {
        out.push_str(raw);
        return;
    };
    out.push(open);
    let mut first = true;
    let mut separate = |out: &mut String| {
        out.push_str(if std::mem::take(&mut first) { "\n" } else { ",\n" });
        out.push_str(&pad);
    };
    if open == '{' {
        for member in scan::members(raw) {
            separate(out);
            out.push_str(&mcp::edit::quote(&member.key));
            out.push_str(": ");
            lay_out(member.value.trim(), depth + 1, out);
        }
    } else {
        for element in scan::elements(raw) {
            separate(out);
            lay_out(element.trim(), depth + 1, out);
        }
    }
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
    out.push(close);
}

fn one_line(raw: &str) -> String {
    let mut out = String::new();
    if scan::is_object(raw) {
        for member in scan::members(raw) {
            let separator = if out.is_empty() { "" } else { ", " };
            let key = mcp::edit::quote(&member.key);
            // Writing to a String cannot fail.
            let _written = write!(out, "{separator}{key}: {}", one_line(member.value.trim())).is_ok();
        }
        return format!("{{{out}}}");
    }
    if raw.starts_with('[') {
        let elements: Vec<String> = scan::elements(raw).map(|element| one_line(element.trim())).collect();
        return format!("[{}]", elements.join(", "));
    }
    raw.to_owned()
}

/// Marks that make text read in another order than it is.
const fn is_reordering(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown() {
        assert_eq!(text("a\tb\r\nc\u{1b}[2Jd\u{202e}e\u{7}"), "a\tb\nc\u{fffd}[2Jd\u{fffd}e\u{fffd}");
        assert_eq!(line(" a\n\n b\u{1b} "), "a b\u{fffd}");
    }

    #[test]
    fn json_is_laid_out_as_it_came() {
        assert_eq!(json(r#"{"b":1.0,"a":[1,2]}"#), r#"{"b": 1.0, "a": [1, 2]}"#);
        let long = format!(r#"{{"b":10000000000000000000001,"a":["{}",[]]}}"#, "x".repeat(70));
        let laid = format!(
            "{{\n  \"b\": 10000000000000000000001,\n  \"a\": [\n    \"{}\",\n    []\n  ]\n}}",
            "x".repeat(70)
        );
        assert_eq!(json(&long), laid);
    }

    #[test]
    fn sizes() {
        assert_eq!([size(7), size(2048), size(3 << 20)], ["7 B", "2.0 KiB", "3.0 MiB"]);
        assert_eq!([decoded("aGVsbG8="), decoded("")], [5, 0]);
    }
}
