//! What a revision does not know, put into a form it does.

use std::borrow::Cow;

use crate::edit::{self, ObjectEditor};
use crate::json::Json;
use crate::method::{Method, server_request};
use crate::revision::{Era, Revision};
use crate::scan;

/// A result as a client of `revision` understands it.
///
/// Content of a type the revision does not know becomes text; structured content and output schemas that only the newest
/// revision allows are left out for older ones. Everything else stays byte for byte; a result that needs no change is
/// returned as it is, uncopied.
#[must_use]
pub fn downgrade(method: Method, result: Json, revision: Revision) -> Json {
    if revision.era() == Era::Modern {
        return result;
    }
    let changed = match method {
        Method::ToolsCall => tool_result(&result, revision),
        Method::PromptsGet => map_member(result.as_str(), "messages", &|messages| {
            map_elements(messages, &|message| {
                map_member(message, "content", &|c| blocks(c, revision, Place::Result))
            })
        }),
        Method::ToolsList => map_member(result.as_str(), "tools", &|tools| {
            map_elements(tools, &|tool| without_foreign_schema(tool))
        }),
        Method::Initialize
        | Method::Ping
        | Method::Discover
        | Method::ResourcesList
        | Method::ResourceTemplatesList
        | Method::ResourcesRead
        | Method::ResourcesSubscribe
        | Method::ResourcesUnsubscribe
        | Method::Listen
        | Method::PromptsList
        | Method::Complete
        | Method::SetLevel => None,
    };
    changed.map_or(result, Json::trusted)
}

/// Params of a request to the client as a client of `revision` understands them.
///
/// Sampling messages get content the revision knows, one block per message before 2025-11-25; elicitation loses its `mode`
/// before 2025-11-25, where there is only one.
#[must_use]
pub fn for_client_request(method: &str, params: Json, revision: Revision) -> Json {
    if revision >= Revision::V2025_11_25 {
        return params;
    }
    let changed = match method {
        server_request::SAMPLE => {
            map_member(params.as_str(), "messages", &|messages| sampling_messages(messages, revision))
        }
        server_request::ELICIT => scan::member(params.as_str(), "mode").map(|_| {
            let mut editor = ObjectEditor::new(params.as_str());
            editor.remove("mode");
            editor.finish()
        }),
        _ => None,
    };
    changed.map_or(params, Json::trusted)
}

/// Where content stands; the types that are known differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Result,
    Sampling,
}

fn knows(kind: &str, revision: Revision, place: Place) -> bool {
    match (kind, place) {
        ("text" | "image", _) => true,
        ("audio", _) => revision >= Revision::V2025_03_26,
        ("resource", Place::Result) => true,
        ("resource_link", Place::Result) => revision >= Revision::V2025_06_18,
        ("tool_use" | "tool_result", Place::Sampling) => revision >= Revision::V2025_11_25,
        _ => false,
    }
}

fn tool_result(result: &Json, revision: Revision) -> Option<String> {
    let [structured, content] = result.part().fields(["structuredContent", "content"]);
    let foreign = structured.is_some_and(|s| !scan::is_object(s.as_str()));
    let content = content.and_then(|c| blocks(c.as_str(), revision, Place::Result));
    if !foreign && content.is_none() {
        return None;
    }
    let mut editor = ObjectEditor::new(result.as_str());
    if foreign {
        editor.remove("structuredContent");
    }
    if let Some(content) = content {
        editor.set("content", content);
    }
    Some(editor.finish())
}

/// Older revisions have output schemas of objects only.
fn without_foreign_schema(tool: &str) -> Option<String> {
    let schema = scan::member(tool, "outputSchema")?;
    if scan::member(schema, "type").and_then(scan::string).as_deref() == Some("object") {
        return None;
    }
    let mut editor = ObjectEditor::new(tool);
    editor.remove("outputSchema");
    Some(editor.finish())
}

/// One block or an array of them.
fn blocks(content: &str, revision: Revision, place: Place) -> Option<String> {
    if scan::is_object(content) {
        block(content, revision, place)
    } else {
        map_elements(content, &|item| block(item, revision, place))
    }
}

fn block(item: &str, revision: Revision, place: Place) -> Option<String> {
    let kind = scan::member(item, "type").and_then(scan::string).unwrap_or(Cow::Borrowed(""));
    if knows(&kind, revision, place) {
        return None;
    }
    let text = edit::quote(&in_words(&kind, item));
    let mut editor = ObjectEditor::new("{\"type\":\"text\"}");
    editor.set("text", text);
    for kept in ["annotations", "_meta"] {
        if let Some(value) = scan::member(item, kept) {
            editor.set(kept, value);
        }
    }
    Some(editor.finish())
}

/// What is said instead of content that cannot be shown. Content of a type this build does not know is shown as JSON.
fn in_words(kind: &str, item: &str) -> String {
    let text = |key: &str| scan::member(item, key).and_then(scan::string);
    match kind {
        "audio" => format!("[audio: {}]", text("mimeType").unwrap_or(Cow::Borrowed("unknown type"))),
        "resource_link" => {
            let uri = text("uri").unwrap_or_default();
            match text("title").or_else(|| text("name")) {
                Some(name) if name != uri => format!("[resource: {name} <{uri}>]"),
                _ => format!("[resource: <{uri}>]"),
            }
        }
        _ => item.to_owned(),
    }
}

/// Messages with known content; a message with several blocks becomes several messages of the same role.
fn sampling_messages(messages: &str, revision: Revision) -> Option<String> {
    let mut changed = false;
    let mut out = Vec::new();
    for message in scan::elements(messages) {
        let Some(content) = scan::member(message, "content") else {
            out.push(Cow::Borrowed(message));
            continue;
        };
        let single = scan::is_object(content);
        let items: Vec<&str> = if single { vec![content] } else { scan::elements(content).collect() };
        for item in items {
            let replaced = block(item, revision, Place::Sampling);
            if single && replaced.is_none() {
                out.push(Cow::Borrowed(message));
                continue;
            }
            changed = true;
            let mut editor = ObjectEditor::new(message);
            editor.set("content", replaced.map_or(Cow::Borrowed(item), Cow::Owned));
            out.push(Cow::Owned(editor.finish()));
        }
        changed |= !single;
    }
    changed.then(|| format!("[{}]", out.join(",")))
}

/// The object with one member changed; `None` if the member is missing or stays as it is.
fn map_member(object: &str, key: &str, change: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let value = change(scan::member(object, key)?)?;
    let mut editor = ObjectEditor::new(object);
    editor.set(key, value);
    Some(editor.finish())
}

/// The array with some elements changed, all else byte for byte; `None` if no element changes.
fn map_elements(array: &str, change: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::new();
    let mut copied = 0;
    for item in scan::elements(array) {
        let Some(new) = change(item) else { continue };
        let start = item.as_ptr().addr() - array.as_ptr().addr();
        out.push_str(&array[copied..start]);
        out.push_str(&new);
        copied = start + item.len();
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&array[copied..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLDER: [Revision; 4] =
        [Revision::V2024_11_05, Revision::V2025_03_26, Revision::V2025_06_18, Revision::V2025_11_25];

    fn call(result: &str, revision: Revision) -> String {
        downgrade(Method::ToolsCall, Json::trusted(result.to_owned()), revision).to_string()
    }

    #[test]
    fn each_type_appears_with_its_revision() {
        let types =
            [("text", 0), ("image", 0), ("resource", 0), ("audio", 1), ("resource_link", 2), ("hologram", 4)];
        for (kind, since) in types {
            let result = format!(r#"{{"content":[{{"type":"{kind}","x":1.0}}]}}"#);
            for (at, revision) in OLDER.into_iter().enumerate() {
                let kept = call(&result, revision) == result;
                assert_eq!(kept, at >= since, "{kind} in {revision}");
            }
            assert_eq!(call(&result, Revision::V2026_07_28), result);
        }
    }

    #[test]
    fn unknown_content_says_what_it_was_and_leaves_its_neighbours_alone() {
        let result = r#"{ "content" : [ {"type":"text","text":"a","n":1.0} , {"type":"audio","data":"AAAA","mimeType":"audio/wav","annotations":{"priority":1.0}} , {"type":"resource_link","uri":"file:///a","name":"a","_meta":{"k":1}}, {"type":"x\u0022y","v":[1e400]} ],"isError":false , "extra":-0}"#;
        assert_eq!(
            call(result, Revision::V2024_11_05),
            r#"{ "content" : [ {"type":"text","text":"a","n":1.0} , {"type":"text","text":"[audio: audio/wav]","annotations":{"priority":1.0}} , {"type":"text","text":"[resource: a <file:///a>]","_meta":{"k":1}}, {"type":"text","text":"{\"type\":\"x\\u0022y\",\"v\":[1e400]}"} ],"isError":false , "extra":-0}"#
        );
    }

    #[test]
    fn a_result_that_needs_nothing_is_not_copied() {
        let text = r#"{"content":[{"type":"text","text":"[\"]"}],"structuredContent":{"a":1.0}}"#;
        for revision in Revision::ALL {
            let json = Json::trusted(text);
            let before = json.bytes();
            let after = downgrade(Method::ToolsCall, json, revision).bytes();
            assert_eq!(before.as_ptr(), after.as_ptr());
        }
    }

    #[test]
    fn structured_content_of_older_revisions_is_an_object() {
        for raw in ["1", "[1]", "null", "\"x\""] {
            let result = format!(r#"{{"content":[],"structuredContent":{raw}}}"#);
            assert_eq!(call(&result, Revision::V2025_11_25), r#"{"content":[]}"#);
            assert_eq!(call(&result, Revision::V2026_07_28), result);
        }
        let kept = r#"{"content":[],"structuredContent":{}}"#;
        assert_eq!(call(kept, Revision::V2024_11_05), kept);
    }

    #[test]
    fn output_schemas_of_older_revisions_are_of_objects() {
        let list = r#"{"tools":[{"name":"a","outputSchema":{"type":"object"}},{"name":"b","outputSchema":{"type":"string"},"x":1}, {"name":"c","outputSchema":{"anyOf":[]}}]}"#;
        let older = downgrade(Method::ToolsList, Json::trusted(list), Revision::V2025_11_25);
        assert_eq!(
            older.as_str(),
            r#"{"tools":[{"name":"a","outputSchema":{"type":"object"}},{"name":"b","x":1}, {"name":"c"}]}"#
        );
        assert_eq!(downgrade(Method::ToolsList, Json::trusted(list), Revision::V2026_07_28).as_str(), list);
    }

    #[test]
    fn prompt_messages_are_covered() {
        let prompt = r#"{"messages":[{"role":"user","content":{"type":"audio","mimeType":"audio/mp3","data":""}},{"role":"user","content":{"type":"text","text":"t"}}]}"#;
        let get = |revision| downgrade(Method::PromptsGet, Json::trusted(prompt), revision).to_string();
        assert_eq!(
            get(Revision::V2024_11_05),
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"[audio: audio/mp3]"}},{"role":"user","content":{"type":"text","text":"t"}}]}"#
        );
        assert_eq!(get(Revision::V2025_03_26), prompt);
    }

    #[test]
    fn odd_shapes_pass_unharmed() {
        for odd in [
            "null",
            "[]",
            "{}",
            r#"{"content":null}"#,
            r#"{"content":{}}"#,
            r#"{"content":[1,null]}"#,
            r#"{"messages":[1]}"#,
        ] {
            for method in Method::ALL {
                let out = downgrade(method, Json::trusted(odd), Revision::V2024_11_05);
                assert!(scan::check(out.as_str().as_bytes(), &scan::Limits::RESULT).is_ok(), "{odd}");
            }
        }
    }

    #[test]
    fn sampling_messages_have_one_known_block_each_before_arrays_came() {
        let params = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"audio","mimeType":"m"}],"k":1},{"role":"assistant","content":{"type":"tool_use","id":"1"}}],"maxTokens":5.0}"#;
        let ask = |revision| {
            for_client_request(server_request::SAMPLE, Json::trusted(params), revision).to_string()
        };
        assert_eq!(ask(Revision::V2025_11_25), params);
        assert_eq!(
            ask(Revision::V2024_11_05),
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"a"},"k":1},{"role":"user","content":{"type":"text","text":"[audio: m]"},"k":1},{"role":"assistant","content":{"type":"text","text":"{\"type\":\"tool_use\",\"id\":\"1\"}"}}],"maxTokens":5.0}"#
        );
        let plain = r#"{"messages":[{"role":"user","content":{"type":"text","text":"a"}}]}"#;
        assert_eq!(
            for_client_request(server_request::SAMPLE, Json::trusted(plain), Revision::V2024_11_05).as_str(),
            plain
        );
    }

    #[test]
    fn elicitation_has_no_mode_before_there_were_two() {
        let params = r#"{"mode":"form","message":"m","requestedSchema":{}}"#;
        let ask = |revision| {
            for_client_request(server_request::ELICIT, Json::trusted(params), revision).to_string()
        };
        assert_eq!(ask(Revision::V2025_06_18), r#"{"message":"m","requestedSchema":{}}"#);
        assert_eq!(ask(Revision::V2025_11_25), params);
    }
}
