//! Media types of requests, parsed (RFC 9110, sections 8.3 and 12.5.1).

use axum::http::{HeaderMap, header};

/// What nearly every client sends, and what need not be parsed.
const USUAL: [&str; 2] = ["application/json, text/event-stream", "text/event-stream, application/json"];

/// What the `Accept` headers say about one media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepted {
    /// There is no such header, so anything goes.
    Anything,
    /// It may be sent.
    Yes,
    /// It may not be sent.
    No,
}

/// Whether `kind/sub` may be sent. Of the ranges that match, the most specific one decides; of equals, the most willing.
pub(super) fn accepts(headers: &HeaderMap, kind: &str, sub: &str) -> Accepted {
    let mut values = headers.get_all(header::ACCEPT).iter();
    if let (Some(only), None) = (values.next(), values.next())
        && USUAL.iter().any(|usual| only.as_bytes() == usual.as_bytes())
        && matches!((kind, sub), ("application", "json") | ("text", "event-stream"))
    {
        return Accepted::Yes;
    }
    let mut best: Option<(u8, bool)> = None;
    let mut present = false;
    for value in headers.get_all(header::ACCEPT) {
        present = true;
        // Bytes that are not text cannot be a range.
        let Ok(text) = value.to_str() else { continue };
        for range in split(text, ',').filter_map(Range::parse) {
            if let Some(specific) = range.matches(kind, sub) {
                best = best.max(Some((specific, range.wanted)));
            }
        }
    }
    match best {
        Some((_, true)) => Accepted::Yes,
        Some((_, false)) => Accepted::No,
        None if present => Accepted::No,
        None => Accepted::Anything,
    }
}

/// Whether the body is said to be JSON, in UTF-8 and not compressed.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else { return false };
    let plain = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    plain && (value.as_bytes() == b"application/json" || value.to_str().is_ok_and(is_json_type))
}

fn is_json_type(text: &str) -> bool {
    let mut parts = split(text, ';');
    let essence = parts.next().unwrap_or_default();
    essence.eq_ignore_ascii_case("application/json")
        && parts.filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            Some((name, value)) => is_token(name) && !value.is_empty(),
            None => false,
        })
}

struct Range<'a> {
    kind: &'a str,
    sub: &'a str,
    wanted: bool,
}

impl<'a> Range<'a> {
    /// `None` for what is not a media range; such a part says nothing.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = split(text, ';');
        let (kind, sub) = parts.next()?.split_once('/')?;
        if !is_token(kind) || !is_token(sub) || (kind == "*" && sub != "*") {
            return None;
        }
        let mut wanted = true;
        for part in parts {
            if let Some((name, value)) = part.split_once('=')
                && name.eq_ignore_ascii_case("q")
            {
                wanted = quality(value)?;
            }
        }
        Some(Self { kind, sub, wanted })
    }

    /// How closely it names the type; `None` if it does not.
    fn matches(&self, kind: &str, sub: &str) -> Option<u8> {
        match (self.kind, self.sub) {
            ("*", "*") => Some(0),
            (k, "*") if k.eq_ignore_ascii_case(kind) => Some(1),
            (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(sub) => Some(2),
            _ => None,
        }
    }
}

/// Whether a weight is above zero; `None` if it is not a weight.
fn quality(text: &str) -> Option<bool> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|c| c.is_ascii_digit());
    let zeros = fraction.bytes().all(|c| c == b'0');
    match whole {
        "0" if digits => Some(!zeros),
        "1" if digits && zeros => Some(true),
        _ => None,
    }
}

/// Parts between separators that stand outside quotes, without the white space around them.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let ends = c == separator && !quoted;
        if escaped {
            escaped = false;
        } else if c == '\\' && quoted {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        }
        ends
    })
    .map(|part| part.trim_matches([' ', '\t']))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_table() {
        let table = [
            ("application/json, text/event-stream", true, true),
            ("application/json,text/event-stream", true, true),
            ("text/event-stream ;q=0.5 ,\tAPPLICATION/JSON", true, true),
            ("*/*", true, true),
            ("text/*, application/*", true, true),
            ("application/json", true, false),
            ("text/event-stream", false, true),
            ("application/*", true, false),
            ("text/html, application/xhtml+xml, */*;q=0.8", true, true),
            ("*/*, text/event-stream;q=0", true, false),
            ("text/event-stream;q=0, */*", true, false),
            ("*/*;q=0, application/json", true, false),
            ("text/*;q=0, text/event-stream", false, true),
            ("application/json;q=0.0, text/event-stream;Q=0.001", false, true),
            ("application/json;q=0.000, application/json;q=1.000", true, false),
            ("application/json;q=1.001, text/event-stream", false, true),
            ("application/json;q=2, text/event-stream;q=x", false, false),
            ("application/json;q=0.0000", false, false),
            ("application/json;charset=\"a,b;q=0\", text/event-stream", true, true),
            ("application/json;p=\"\\\",*/*", true, false),
            ("application/jsonx, xtext/event-stream", false, false),
            ("application/json-patch+json", false, false),
            ("text/event-streams", false, false),
            ("applicationjson", false, false),
            ("*/json", false, false),
            ("*", false, false),
            ("application/ json", false, false),
            (",,application/json,", true, false),
            ("", false, false),
        ];
        for (text, json, events) in table {
            let headers = HeaderMap::from_iter([(header::ACCEPT, text.parse().unwrap())]);
            let verdict = |yes| if yes { Accepted::Yes } else { Accepted::No };
            assert_eq!(accepts(&headers, "application", "json"), verdict(json), "{text}");
            assert_eq!(accepts(&headers, "text", "event-stream"), verdict(events), "{text}");
        }
        assert_eq!(accepts(&HeaderMap::new(), "application", "json"), Accepted::Anything);
        let mut two = HeaderMap::new();
        two.append(header::ACCEPT, "application/json".parse().unwrap());
        two.append(header::ACCEPT, "text/event-stream".parse().unwrap());
        assert_eq!(accepts(&two, "application", "json"), Accepted::Yes);
        assert_eq!(accepts(&two, "text", "event-stream"), Accepted::Yes);
    }

    #[test]
    fn content_type_table() {
        let table = [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/json;charset=\"UTF-8\"", true),
            ("application/json ; charset=UTF-8 ; v=1", true),
            ("application/json;", true),
            ("application/json; charset=latin1", false),
            ("application/json; charset", false),
            ("application/json, application/json", false),
            ("application/json-seq", false),
            ("application/json+x", false),
            ("application/vnd.api+json", false),
            ("xapplication/json", false),
            ("text/json", false),
            ("text/plain", false),
            ("text/plain; application/json", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=application/json", false),
            ("application", false),
            ("*/*", false),
            ("", false),
        ];
        for (text, json) in table {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]);
            assert_eq!(is_json(&headers), json, "{text}");
        }
        let mut twice = HeaderMap::new();
        assert!(!is_json(&twice));
        twice.append(header::CONTENT_TYPE, "application/json".parse().unwrap());
        for (coding, json) in
            [("identity", true), ("Identity", true), ("gzip", false), ("identity, gzip", false)]
        {
            twice.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
            assert_eq!(is_json(&twice), json, "{coding}");
        }
        twice.remove(header::CONTENT_ENCODING);
        twice.append(header::CONTENT_TYPE, "application/json".parse().unwrap());
        assert!(!is_json(&twice));
    }
}
