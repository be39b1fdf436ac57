//! What clients see of a file: its entry in the list, and its content.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mcp::Json;
use registry::ResourceContents;
use serde::Serialize;

use crate::config::Template;
use crate::folder::Meta;
use crate::uri::FilePath;

/// First second of the year 10000, which the date format does not know.
const END_OF_DATES: u64 = 253_402_300_800;

/// Extensions that stand for program text far more often than for what is registered under them.
const PROGRAM_TEXT: [(&str, &str); 4] =
    [("ts", "text/typescript"), ("mts", "text/typescript"), ("cts", "text/typescript"), ("tsx", "text/tsx")];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    uri: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'a str>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Annotations {
    last_modified: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceTemplate<'a> {
    uri_template: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'a str>,
}

/// A file as an entry of `resources/list`.
pub(crate) fn resource(uri: &str, path: &FilePath, meta: &Meta) -> Json {
    let annotations = date(meta.modified).map(|last_modified| Annotations { last_modified });
    let mime_type = type_by_name(path);
    Json::of(&Resource { uri, name: path.as_str(), mime_type, size: meta.size, annotations })
}

/// An entry of `resources/templates/list`.
pub(crate) fn template(template: &Template) -> Json {
    Json::of(&ResourceTemplate {
        uri_template: &template.uri,
        name: &template.name,
        title: template.title.as_deref(),
        description: template.description.as_deref(),
        mime_type: template.mime_type.as_deref(),
    })
}

/// The content of a file: text if it is UTF-8 without NUL, else base64.
pub(crate) fn contents(uri: &str, path: &FilePath, content: &[u8]) -> ResourceContents {
    let mime_type = type_by_name(path);
    match std::str::from_utf8(content) {
        Ok(text) if !text.contains('\0') => {
            ResourceContents::text(uri, mime_type.unwrap_or("text/plain"), text)
        }
        Ok(_) | Err(_) => {
            ResourceContents::blob(uri, mime_type.unwrap_or("application/octet-stream"), content)
        }
    }
}

fn type_by_name(path: &FilePath) -> Option<&'static str> {
    let (_, name) = path.split();
    let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
    let program = PROGRAM_TEXT.iter().find(|(known, _)| *known == extension).map(|(_, mime)| *mime);
    program.or_else(|| mime_guess::from_ext(&extension).first_raw())
}

/// ISO 8601, as `annotations.lastModified` is written.
fn date(nanoseconds: i128) -> Option<String> {
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).ok().filter(|s| *s < END_OF_DATES)?;
    let time: SystemTime = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    Some(humantime::format_rfc3339_seconds(time).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FilePath {
        FilePath::decode(text).unwrap()
    }

    #[test]
    fn dates_are_written_where_they_can_be() {
        assert_eq!(date(1_785_240_000_999_999_999).as_deref(), Some("2026-07-28T12:00:00Z"));
        assert_eq!(date(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(date(-2_000_000_000), None);
        assert_eq!(date(i128::from(END_OF_DATES) * 1_000_000_000), None);
    }

    #[test]
    fn types_follow_the_extension() {
        for (name, expected) in [
            ("a.md", Some("text/markdown")),
            ("a.MD", Some("text/markdown")),
            ("a.json", Some("application/json")),
            ("a.png", Some("image/png")),
            ("a.ts", Some("text/typescript")),
            ("README", None),
            ("a.unheard-of", None),
        ] {
            assert_eq!(type_by_name(&path(name)), expected, "{name}");
        }
    }

    #[test]
    fn content_is_text_where_it_can_be() {
        let read =
            |name: &str, content: &[u8]| Json::from(contents("f:///x", &path(name), content)).to_string();
        assert_eq!(
            read("a.md", "grüß\n\"x\"".as_bytes()),
            r#"{"uri":"f:///x","mimeType":"text/markdown","text":"grüß\n\"x\""}"#
        );
        assert_eq!(read("README", b"x"), r#"{"uri":"f:///x","mimeType":"text/plain","text":"x"}"#);
        assert_eq!(read("a.png", b"\x89PNG"), r#"{"uri":"f:///x","mimeType":"image/png","blob":"iVBORw=="}"#);
        assert_eq!(
            read("x", b"a\0"),
            r#"{"uri":"f:///x","mimeType":"application/octet-stream","blob":"YQA="}"#
        );
        assert_eq!(read("x", b""), r#"{"uri":"f:///x","mimeType":"text/plain","text":""}"#);
    }
}
