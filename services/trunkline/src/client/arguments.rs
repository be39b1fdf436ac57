//! Arguments from a command line, typed by a schema.

use std::borrow::Cow;

use mcp::Json;
use mcp::edit::{self, ObjectEditor};
use mcp::scan::{self, Limits};

/// How far references inside a schema are followed.
const DEPTH: usize = 8;

/// What a schema allows for a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Types {
    names: Vec<String>,
    choices: Vec<String>,
}

impl Types {
    /// For people.
    pub(super) fn shown(&self) -> String {
        if !self.choices.is_empty() {
            return self.choices.join("|");
        }
        if self.names.is_empty() { "any".to_owned() } else { self.names.join("|") }
    }

    pub(super) fn allow(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }
}

/// Arguments of a prompt: all are text.
pub(super) fn texts(args: &[String]) -> Result<Json, String> {
    let mut editor = ObjectEditor::new("{}");
    for text in args {
        let (name, value) = split(text)?;
        if editor.get(name).is_some() {
            return Err(format!("--arg {name} is given twice"));
        }
        editor.set(name, edit::quote(value));
    }
    Ok(editor.finish_json())
}

/// What `--json-args` holds.
pub(super) fn object(text: Option<&str>) -> Result<Json, String> {
    let Some(text) = text else { return Ok(Json::empty_object()) };
    let json = Json::parse(text.trim().to_owned().into(), &Limits::MESSAGE)
        .map_err(|error| format!("--json-args is not JSON: {error}"))?;
    if scan::is_object(json.as_str()) {
        Ok(json)
    } else {
        Err("--json-args: use an object, {\"name\": value, ..}".to_owned())
    }
}

/// `base`, and the arguments of `--arg` as the tool's input schema wants them. Without a schema, what reads as JSON is JSON.
pub(super) fn typed(base: &Json, args: &[String], schema: Option<&Json>) -> Result<Json, String> {
    let any = Json::empty_object();
    let schema = schema.unwrap_or(&any);
    let mut lists: Vec<(String, Vec<String>)> = Vec::new();
    let mut editor = ObjectEditor::new(base.as_str());
    for text in args {
        let (name, value) = split(text)?;
        let property =
            properties(schema).find(|(known, _)| known == name).map_or_else(|| any.clone(), |found| found.1);
        let types = types(schema, &property);
        if types.allow("array") && !value.trim_start().starts_with('[') {
            let items = self::types(schema, &property.member("items").unwrap_or_else(Json::empty_object));
            let item = convert(name, value, &items)?;
            match lists.iter_mut().find(|(known, _)| known == name) {
                Some((_, items)) => items.push(item),
                None => lists.push((name.to_owned(), vec![item])),
            }
            continue;
        }
        if editor.get(name).is_some() {
            return Err(format!("--arg {name} is given twice"));
        }
        editor.set(name, convert(name, value, &types)?);
    }
    for (name, items) in lists {
        if editor.get(&name).is_some() {
            return Err(format!("--arg {name} is given twice"));
        }
        editor.set(name, format!("[{}]", items.join(",")));
    }
    Ok(editor.finish_json())
}

/// The properties of an object schema, in its order.
pub(super) fn properties(schema: &Json) -> impl Iterator<Item = (String, Json)> {
    let properties = schema.member("properties").unwrap_or_else(Json::empty_object);
    let found: Vec<(String, Json)> = scan::members(properties.as_str())
        .map(|member| (member.key.into_owned(), properties.slice(member.value)))
        .collect();
    found.into_iter()
}

/// Whether an object schema requires a property.
pub(super) fn is_required(schema: &Json, name: &str) -> bool {
    let list = schema.member("required").unwrap_or_else(|| Json::trusted("[]"));
    scan::elements(list.as_str()).any(|each| scan::string(each).as_deref() == Some(name))
}

/// What `property` of `schema` may be, as far as its keywords say it plainly.
pub(super) fn types(schema: &Json, property: &Json) -> Types {
    let mut types = Types::default();
    collect(schema, property, DEPTH, &mut types);
    types
}

fn collect(schema: &Json, property: &Json, depth: usize, types: &mut Types) {
    if depth == 0 {
        return;
    }
    if let Some(reference) = property.text("$ref") {
        let target = reference.strip_prefix("#/").and_then(|path| {
            path.split('/')
                .try_fold(schema.clone(), |at, name| at.member(&name.replace("~1", "/").replace("~0", "~")))
        });
        if let Some(target) = target {
            collect(schema, &target, depth - 1, types);
        }
    }
    for keyword in ["anyOf", "oneOf", "allOf"] {
        let branches = property.member(keyword).unwrap_or_else(|| Json::trusted("[]"));
        for branch in scan::elements(branches.as_str()) {
            collect(schema, &branches.slice(branch), depth - 1, types);
        }
    }
    if let Some(kind) = property.member("type") {
        let names = match scan::string(kind.as_str()) {
            Some(name) => vec![name],
            None => scan::elements(kind.as_str()).filter_map(scan::string).collect(),
        };
        for name in names {
            push(&mut types.names, &name);
        }
    }
    let choices = property.member("enum").unwrap_or_else(|| Json::trusted("[]"));
    for choice in scan::elements(choices.as_str()).chain(property.member("const").as_ref().map(Json::as_str))
    {
        push(&mut types.names, type_of(choice));
        push(&mut types.choices, &scan::string(choice).unwrap_or(Cow::Borrowed(choice)));
    }
}

fn push(list: &mut Vec<String>, name: &str) {
    if !list.iter().any(|known| known == name) {
        list.push(name.to_owned());
    }
}

/// One value as JSON text.
pub(super) fn convert(name: &str, value: &str, types: &Types) -> Result<String, String> {
    let trimmed = value.trim();
    let raw = Json::parse(trimmed.to_owned().into(), &Limits::MESSAGE).ok();
    let kind = raw.as_ref().map(|json| type_of(json.as_str()));
    let fits = match kind {
        Some("integer") => types.allow("integer") || types.allow("number"),
        Some("string") | None => false,
        Some(kind) => types.allow(kind),
    };
    if fits {
        return Ok(trimmed.to_owned());
    }
    if types.allow("string") {
        return Ok(edit::quote(value));
    }
    if types.names.is_empty() {
        return Ok(raw.map_or_else(|| edit::quote(value), |json| json.as_str().to_owned()));
    }
    let example = match types.names.first().map(String::as_str) {
        Some("boolean") => " (true or false)",
        Some("object") => " ({\"key\": value})",
        Some("array") => " ([value, ..])",
        Some(_) | None => "",
    };
    Err(format!("--arg {name}={value}: this is to be {}{example}", types.shown()))
}

fn type_of(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "string",
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        Some(_) | None if raw.bytes().all(|c| c.is_ascii_digit() || c == b'-') => "integer",
        Some(_) | None => "number",
    }
}

fn split(text: &str) -> Result<(&str, &str), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("--arg {text}: use --arg NAME=VALUE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r##"{"type":"object","properties":{
        "text":{"type":"string"},"n":{"type":"number"},"i":{"type":"integer"},"flag":{"type":"boolean"},
        "list":{"type":"array","items":{"type":"integer"}},"map":{"type":"object"},
        "maybe":{"anyOf":[{"type":"integer"},{"type":"null"}]},"either":{"type":["string","number"]},
        "op":{"$ref":"#/$defs/Op"},"free":{}},"$defs":{"Op":{"enum":["add","5"]}}}"##;

    fn given(args: &[&str]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        typed(&Json::empty_object(), &args, Some(&Json::trusted(SCHEMA))).map(|json| json.as_str().to_owned())
    }

    #[test]
    fn the_schema_types_the_arguments() {
        let table = [
            ("text=5", r#"{"text":"5"}"#),
            ("text= a=b ", r#"{"text":" a=b "}"#),
            ("n=5", r#"{"n":5}"#),
            ("n=-1.5e3", r#"{"n":-1.5e3}"#),
            ("i=10000000000000000000001", r#"{"i":10000000000000000000001}"#),
            ("flag=true", r#"{"flag":true}"#),
            ("list=[1,2]", r#"{"list":[1,2]}"#),
            ("list=7", r#"{"list":[7]}"#),
            (r#"map={"a":[1]}"#, r#"{"map":{"a":[1]}}"#),
            ("maybe=null", r#"{"maybe":null}"#),
            ("either=5", r#"{"either":5}"#),
            ("either=five", r#"{"either":"five"}"#),
            ("op=5", r#"{"op":"5"}"#),
            ("free=5", r#"{"free":5}"#),
            ("free=five", r#"{"free":"five"}"#),
            ("unknown=true", r#"{"unknown":true}"#),
        ];
        for (arg, json) in table {
            assert_eq!(given(&[arg]).as_deref(), Ok(json), "{arg}");
        }
        assert_eq!(given(&["list=1", "text=x", "list=2"]).as_deref(), Ok(r#"{"text":"x","list":[1,2]}"#));
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        let table = [
            ("n=five", "--arg n=five: this is to be number"),
            ("i=1.5", "--arg i=1.5: this is to be integer"),
            ("flag=yes", "--arg flag=yes: this is to be boolean (true or false)"),
            ("map=x", "--arg map=x: this is to be object ({\"key\": value})"),
            ("text", "--arg text: use --arg NAME=VALUE"),
        ];
        for (arg, words) in table {
            assert_eq!(given(&[arg]), Err(words.to_owned()));
        }
        assert_eq!(given(&["n=1", "n=2"]), Err("--arg n is given twice".to_owned()));
    }

    #[test]
    fn json_arguments_are_an_object() {
        assert_eq!(object(None).map(|json| json.as_str().to_owned()).as_deref(), Ok("{}"));
        assert!(object(Some("[1]")).unwrap_err().contains("use an object"));
        assert!(object(Some("{")).unwrap_err().contains("not JSON"));
        let base = object(Some(r#" {"b":1} "#)).unwrap();
        assert_eq!(typed(&base, &["a=2".to_owned()], None).unwrap().as_str(), r#"{"b":1,"a":2}"#);
    }
}
