//! Judges JSON that a registry hands out: items, results, notifications. Pure.

use api::registry::Kind;
use serde_json::Value;

/// One offence, in words.
pub type Judgement = Result<(), String>;

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

fn needs_text(what: &str, value: &Value, keys: &[&str]) -> Judgement {
    match keys.iter().find(|key| text(value, key).is_none()) {
        Some(key) => Err(format!("{what} has no text {key:?}: {}", short(value))),
        None => Ok(()),
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(120).collect()
}

/// Checks that it is an object.
pub fn object(what: &str, value: &Value) -> Judgement {
    if value.is_object() { Ok(()) } else { Err(format!("{what} is no object: {}", short(value))) }
}

/// The member that identifies an item of a list.
#[must_use]
pub const fn key(kind: Kind) -> &'static str {
    match kind {
        Kind::Tools | Kind::Prompts => "name",
        Kind::Resources => "uri",
        Kind::Templates => "uriTemplate",
    }
}

/// An item of a list.
pub fn item(kind: Kind, value: &Value) -> Judgement {
    object("an item", value)?;
    needs_text("an item", value, &[key(kind), "name"])?;
    match kind {
        Kind::Tools => {
            let schema = value.get("inputSchema").unwrap_or(&Value::Null);
            if text(schema, "type") != Some("object") {
                return Err(format!("the inputSchema of a tool has no type \"object\": {}", short(value)));
            }
            value.get("outputSchema").map_or(Ok(()), |schema| object("an outputSchema", schema))
        }
        Kind::Prompts => match value.get("arguments") {
            None => Ok(()),
            Some(Value::Array(all)) => {
                all.iter().try_for_each(|one| needs_text("an argument of a prompt", one, &["name"]))
            }
            Some(other) => Err(format!("the arguments of a prompt are no array: {}", short(other))),
        },
        Kind::Resources | Kind::Templates => Ok(()),
    }
}

/// The name or URI of an item.
pub fn name(kind: Kind, name: &str) -> Judgement {
    let legal = match kind {
        Kind::Tools => {
            let allowed = |c: u8| c.is_ascii_alphanumeric() || b"_-./".contains(&c);
            (1..=128).contains(&name.len()) && name.bytes().all(allowed)
        }
        Kind::Prompts => !name.is_empty() && !name.chars().any(char::is_control),
        Kind::Resources => scheme(name) && name.chars().all(|c| !c.is_control() && !c.is_whitespace()),
        Kind::Templates => !name.is_empty() && balanced(name),
    };
    if legal { Ok(()) } else { Err(format!("{name:?} is no legal {}", key(kind))) }
}

/// Whether a URI begins with a scheme.
fn scheme(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
            && !rest.is_empty()
    })
}

/// Whether the expressions of a template are closed and not nested.
fn balanced(template: &str) -> bool {
    let mut open = false;
    for c in template.chars() {
        match c {
            '{' if open => return false,
            '{' => open = true,
            '}' if !open => return false,
            '}' => open = false,
            c if c.is_control() || c.is_whitespace() => return false,
            _ => {}
        }
    }
    !open
}

/// The variables of a URI template.
#[must_use]
pub fn variables(template: &str) -> Vec<String> {
    let expressions = template.split('{').skip(1).filter_map(|part| part.split_once('}'));
    expressions
        .flat_map(|(expression, _)| {
            expression.trim_start_matches(['+', '#', '.', '/', ';', '?', '&']).split(',')
        })
        .map(|variable| variable.trim_end_matches('*').split(':').next().unwrap_or_default().to_owned())
        .filter(|variable| !variable.is_empty())
        .collect()
}

/// Whether a tool may be called, or a prompt filled in, without arguments.
#[must_use]
pub fn requires_nothing(kind: Kind, item: &Value) -> bool {
    match kind {
        Kind::Tools => {
            let required = item.get("inputSchema").and_then(|schema| schema.get("required"));
            required.and_then(Value::as_array).is_none_or(Vec::is_empty)
        }
        Kind::Prompts => {
            let arguments = item.get("arguments").and_then(Value::as_array);
            let required = |one: &Value| one.get("required").and_then(Value::as_bool) == Some(true);
            !arguments.is_some_and(|all| all.iter().any(required))
        }
        Kind::Resources => true,
        Kind::Templates => false,
    }
}

fn array<'a>(what: &str, value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value
        .get(key)
        .and_then(Value::as_array)
        .ok_or_else(|| format!("{what} has no array {key:?}: {}", short(value)))
}

/// The result of a tool; `structured` if it has an output schema.
pub fn tool_result(value: &Value, structured: bool) -> Judgement {
    array("a tool's result", value, "content")?.iter().try_for_each(block)?;
    let failed = value.get("isError").and_then(Value::as_bool) == Some(true);
    if structured && !failed && value.get("structuredContent").is_none() {
        return Err("a tool with an outputSchema has no structuredContent".to_owned());
    }
    Ok(())
}

/// The result of reading a resource.
pub fn read_result(value: &Value) -> Judgement {
    array("a read", value, "contents")?.iter().try_for_each(contents)
}

fn contents(value: &Value) -> Judgement {
    needs_text("contents", value, &["uri"])?;
    match (text(value, "text"), text(value, "blob")) {
        (Some(_), None) | (None, Some(_)) => Ok(()),
        (_, _) => Err(format!("contents have not exactly one of text and blob: {}", short(value))),
    }
}

/// The result of filling in a prompt.
pub fn get_result(value: &Value) -> Judgement {
    array("a prompt's result", value, "messages")?.iter().try_for_each(|message| {
        if !matches!(text(message, "role"), Some("user" | "assistant")) {
            return Err(format!("a message has no role: {}", short(message)));
        }
        block(message.get("content").unwrap_or(&Value::Null))
    })
}

/// A content block. Types that this check does not know are let pass.
fn block(value: &Value) -> Judgement {
    match text(value, "type") {
        Some("text") => needs_text("a text", value, &["text"]),
        Some(kind @ ("image" | "audio")) => needs_text(kind, value, &["data", "mimeType"]),
        Some("resource_link") => needs_text("a link", value, &["uri", "name"]),
        Some("resource") => contents(value.get("resource").unwrap_or(&Value::Null)),
        Some(_) => Ok(()),
        None => Err(format!("content without type: {}", short(value))),
    }
}

/// Params of a progress notification.
pub fn progress(value: &Value) -> Judgement {
    if value.get("progressToken").is_some() {
        return Err("progress carries a progressToken".to_owned());
    }
    let number = value.get("progress").is_some_and(Value::is_number);
    if number { Ok(()) } else { Err(format!("progress without number: {}", short(value))) }
}

/// Params of a log message.
pub fn log(value: &Value) -> Judgement {
    let level = text(value, "level").and_then(mcp::log::Level::parse);
    if level.is_some() && value.get("data").is_some() {
        Ok(())
    } else {
        Err(format!("a log message without level or data: {}", short(value)))
    }
}

/// What a client is asked.
pub fn input_requests(value: &Value) -> Judgement {
    object("input requests", value)?;
    let all = value.as_object().into_iter().flatten();
    all.map(|(_, request)| request)
        .try_for_each(|request| needs_text("an input request", request, &["method"]))
}

/// The result of a completion.
pub fn completion(value: &Value) -> Judgement {
    let completion = value.get("completion").unwrap_or(&Value::Null);
    let values = array("a completion", completion, "values")?;
    if values.len() > 100 || !values.iter().all(Value::is_string) {
        return Err(format!("values are more than 100, or not texts: {}", short(completion)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_need_the_members_of_their_kind() {
        let tool = json!({"name": "a", "inputSchema": {"type": "object"}});
        for (kind, good) in [
            (Kind::Tools, tool.clone()),
            (Kind::Resources, json!({"uri": "a:b", "name": "n"})),
            (Kind::Templates, json!({"uriTemplate": "a:{b}", "name": "n"})),
            (Kind::Prompts, json!({"name": "p", "arguments": [{"name": "a"}]})),
        ] {
            assert_eq!(item(kind, &good), Ok(()));
            for member in good.as_object().unwrap().keys().filter(|key| *key != "arguments") {
                let mut bad = good.clone();
                bad.as_object_mut().unwrap().remove(member);
                assert!(item(kind, &bad).is_err(), "{bad}");
            }
            assert!(item(kind, &json!([good])).is_err());
        }
        assert!(item(Kind::Prompts, &json!({"name": "p", "arguments": {}})).is_err());
        assert!(item(Kind::Prompts, &json!({"name": "p", "arguments": [{}]})).is_err());
    }

    #[test]
    fn names_are_legal_or_not() {
        for (kind, text, good) in [
            (Kind::Tools, "a_b-c.d/e", true),
            (Kind::Tools, "a b", false),
            (Kind::Tools, "", false),
            (Kind::Prompts, "Ein Gruß", true),
            (Kind::Prompts, "a\nb", false),
            (Kind::Resources, "file:///a", true),
            (Kind::Resources, "no scheme", false),
            (Kind::Resources, "a: b", false),
            (Kind::Templates, "a:{b}/{+c}", true),
            (Kind::Templates, "a:{b", false),
            (Kind::Templates, "a:b}", false),
        ] {
            assert_eq!(name(kind, text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn results_need_their_arrays() {
        let block = json!({"type": "text", "text": "x"});
        let contents = json!({"uri": "a:b", "text": "x"});
        assert_eq!(tool_result(&json!({"content": [block]}), false), Ok(()));
        assert!(tool_result(&json!({"content": [block]}), true).is_err());
        assert_eq!(tool_result(&json!({"content": [], "isError": true}), true), Ok(()));
        assert!(tool_result(&json!({"content": [{"type": "text"}]}), false).is_err());
        assert_eq!(read_result(&json!({"contents": [contents]})), Ok(()));
        assert!(read_result(&json!({"contents": [{"uri": "a:b"}]})).is_err());
        assert_eq!(get_result(&json!({"messages": [{"role": "user", "content": block}]})), Ok(()));
        assert!(get_result(&json!({"messages": [{"role": "god", "content": block}]})).is_err());
        for check in [read_result, get_result, completion] {
            assert!(check(&json!({})).is_err());
        }
        assert_eq!(completion(&json!({"completion": {"values": ["a"]}})), Ok(()));
        assert!(completion(&json!({"completion": {"values": [1]}})).is_err());
    }

    #[test]
    fn variables_of_a_template_are_found() {
        assert_eq!(variables("a:{b}/{+c,d*}{?e:3}"), ["b", "c", "d", "e"]);
        assert_eq!(variables("a:b"), [""; 0]);
    }

    #[test]
    fn only_required_arguments_are_required() {
        let required = json!({"inputSchema": {"required": ["a"]}});
        assert!(!requires_nothing(Kind::Tools, &required));
        assert!(requires_nothing(Kind::Tools, &json!({"inputSchema": {"required": []}})));
        assert!(!requires_nothing(Kind::Prompts, &json!({"arguments": [{"name": "a", "required": true}]})));
        assert!(requires_nothing(Kind::Prompts, &json!({"arguments": [{"name": "a"}]})));
    }
}
