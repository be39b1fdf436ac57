//! Results for people.

use mcp::{Json, scan};

use super::plain;

/// Of a tool call.
pub(super) fn call(result: &Json) -> String {
    let structured = result.member("structuredContent").filter(|value| value.as_str() != "null");
    let mut parts = Vec::new();
    for block in blocks(result, "content") {
        // Tools say structured content again as text, for clients that know only that.
        let is_copy = structured.as_ref().is_some_and(|value| says_the_same(&block, value));
        if !is_copy {
            parts.push(content(&block));
        }
    }
    if let Some(structured) = structured {
        parts.push(plain::json(structured.as_str()));
    }
    joined(&parts, "(no content)")
}

/// Of a read.
pub(super) fn contents(result: &Json) -> String {
    let all: Vec<Json> = blocks(result, "contents").collect();
    let is_single = all.len() == 1;
    let parts: Vec<String> = all
        .iter()
        .map(|part| match is_single {
            true => resource(part),
            false => {
                format!("--- {}\n{}", plain::line(&part.text("uri").unwrap_or_default()), resource(part))
            }
        })
        .collect();
    joined(&parts, "(no content)")
}

/// Of a prompt.
pub(super) fn messages(result: &Json) -> String {
    let message = |message: Json| {
        let role = message.text("role").unwrap_or_default();
        let body = message.member("content").map(|block| content(&block)).unwrap_or_default();
        format!("{}:\n{}", plain::line(&role), plain::indented(&body, "  ").trim_end())
    };
    joined(&blocks(result, "messages").map(message).collect::<Vec<_>>(), "(no messages)")
}

fn content(block: &Json) -> String {
    match block.text("type").as_deref() {
        Some("text") => plain::text(&block.text("text").unwrap_or_default()),
        Some(kind @ ("image" | "audio")) => note(kind, block, "data"),
        Some("resource") => block.member("resource").map(|part| resource(&part)).unwrap_or_default(),
        Some("resource_link") => {
            let name = block.text("title").or_else(|| block.text("name")).unwrap_or_default();
            format!(
                "[link to {}: {}]",
                plain::line(&name),
                plain::line(&block.text("uri").unwrap_or_default())
            )
        }
        Some(_) | None => plain::json(block.as_str()),
    }
}

fn resource(part: &Json) -> String {
    match part.text("text") {
        Some(text) => plain::text(&text),
        None => note("data", part, "blob"),
    }
}

/// Instead of what a terminal cannot show.
fn note(kind: &str, part: &Json, member: &str) -> String {
    let media = part.text("mimeType").unwrap_or_else(|| "of unknown type".to_owned());
    let data = part.text(member).unwrap_or_default();
    format!(
        "[{kind}, {}, {}; --json prints it as base64]",
        plain::line(&media),
        plain::size(plain::decoded(&data))
    )
}

fn blocks(result: &Json, member: &str) -> impl Iterator<Item = Json> {
    let list = result.member(member).unwrap_or_else(|| Json::trusted("[]"));
    let found: Vec<Json> = scan::elements(list.as_str()).map(|part| list.slice(part)).collect();
    found.into_iter()
}

fn says_the_same(block: &Json, structured: &Json) -> bool {
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    let said = block.text("text").and_then(|text| read(&text));
    said.is_some() && said == read(structured.as_str())
}

fn joined(parts: &[String], nothing: &str) -> String {
    if parts.is_empty() { nothing.to_owned() } else { parts.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_shows_each_kind_of_content() {
        let result = Json::trusted(
            r#"{"content":[
            {"type":"text","text":"one\ntwo\u001b[31m"},
            {"type":"text","text":"{\"a\": 1}"},
            {"type":"image","mimeType":"image/png","data":"aGVsbG8="},
            {"type":"resource_link","name":"n","uri":"file:///x"},
            {"type":"resource","resource":{"uri":"file:///y","text":"inside"}},
            {"type":"new","x":1}],
            "structuredContent":{"a":1.0}}"#,
        );
        let shown = "one\ntwo\u{fffd}[31m\n{\"a\": 1}\n[image, image/png, 5 B; --json prints it as base64]\n[link to n: file:///x]\n\
                     inside\n{\"type\": \"new\", \"x\": 1}\n{\"a\": 1.0}";
        assert_eq!(call(&result), shown);
        let same =
            Json::trusted(r#"{"content":[{"type":"text","text":"{\"a\":1}"}],"structuredContent":{"a":1}}"#);
        assert_eq!(call(&same), "{\"a\": 1}");
        assert_eq!(call(&Json::trusted(r#"{"content":[]}"#)), "(no content)");
    }

    #[test]
    fn a_read_and_a_prompt() {
        let one = Json::trusted(r##"{"contents":[{"uri":"a:b","text":"# Hi\n"}]}"##);
        assert_eq!(contents(&one), "# Hi\n");
        let two = Json::trusted(
            r#"{"contents":[{"uri":"a:b","text":"x"},{"uri":"a:c","mimeType":"image/png","blob":"aGVsbG8="}]}"#,
        );
        assert_eq!(contents(&two), "--- a:b\nx\n--- a:c\n[data, image/png, 5 B; --json prints it as base64]");
        let prompt = Json::trusted(
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"a\n\nb"}},{"role":"assistant","content":{"type":"text","text":"c"}}]}"#,
        );
        assert_eq!(messages(&prompt), "user:\n  a\n\n  b\nassistant:\n  c");
    }
}
