//! Lists for people, and as JSON.

use std::fmt::Write as _;

use mcp::{Json, Method, scan};
use upstream::Server;

use super::{arguments, plain};
use crate::cli::requests::Kind;

pub(super) const fn method(kind: Kind) -> Method {
    match kind {
        Kind::Tools => Method::ToolsList,
        Kind::Resources => Method::ResourcesList,
        Kind::Templates => Method::ResourceTemplatesList,
        Kind::Prompts => Method::PromptsList,
    }
}

/// The entries as one JSON array.
pub(super) fn raw(entries: &[Json]) -> String {
    format!("[{}]", entries.iter().map(Json::as_str).collect::<Vec<_>>().join(","))
}

/// All lists as one JSON object.
pub(super) fn raw_by_kind(lists: &[(Kind, Vec<Json>)]) -> String {
    let members: Vec<String> = lists
        .iter()
        .map(|(kind, entries)| {
            let name = match kind {
                Kind::Tools => "tools",
                Kind::Resources => "resources",
                Kind::Templates => "resourceTemplates",
                Kind::Prompts => "prompts",
            };
            format!("\"{name}\":{}", raw(entries))
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

/// Who answers.
pub(super) fn server(server: &Server) -> String {
    let of = |key| server.info.as_ref().and_then(|info| info.text(key)).map(|text| plain::line(&text));
    let name = of("title").or_else(|| of("name")).unwrap_or_else(|| "a server without a name".to_owned());
    let version = of("version").map(|version| format!(" {version}")).unwrap_or_default();
    format!("{name}{version}, protocol {}", server.revision)
}

/// A paragraph for each entry, a heading for each list if there are several.
pub(super) fn readable(lists: &[(Kind, Vec<Json>)]) -> String {
    let mut out = String::new();
    for (kind, entries) in lists {
        let name = match kind {
            Kind::Tools => "tools",
            Kind::Resources => "resources",
            Kind::Templates => "templates",
            Kind::Prompts => "prompts",
        };
        if lists.len() > 1 {
            // Writing to a String cannot fail.
            let _written = writeln!(out, "{}{name}", if out.is_empty() { "" } else { "\n" }).is_ok();
        }
        if entries.is_empty() {
            out.push_str(&plain::indented(&format!("no {name}"), if lists.len() > 1 { "  " } else { "" }));
        }
        for entry in entries {
            let text = match kind {
                Kind::Tools => tool(entry),
                Kind::Resources => resource(entry, "uri"),
                Kind::Templates => resource(entry, "uriTemplate"),
                Kind::Prompts => prompt(entry),
            };
            out.push_str(&plain::indented(&text, if lists.len() > 1 { "  " } else { "" }));
        }
    }
    out
}

fn tool(entry: &Json) -> String {
    let mut out = heading(entry, "name");
    let schema = entry.member("inputSchema").unwrap_or_else(Json::empty_object);
    for (name, property) in arguments::properties(&schema) {
        let required = arguments::is_required(&schema, &name);
        let types = arguments::types(&schema, &property);
        argument(&mut out, &name, &types.shown(), required, property.text("description"));
    }
    out
}

fn prompt(entry: &Json) -> String {
    let mut out = heading(entry, "name");
    let arguments = entry.member("arguments").unwrap_or_else(|| Json::trusted("[]"));
    for each in scan::elements(arguments.as_str()) {
        let each = arguments.slice(each);
        let required = each.member("required").is_some_and(|flag| flag.as_str() == "true");
        argument(
            &mut out,
            &each.text("name").unwrap_or_default(),
            "text",
            required,
            each.text("description"),
        );
    }
    out
}

fn resource(entry: &Json, address: &str) -> String {
    let mut out = heading(entry, address);
    let name = entry.text("title").or_else(|| entry.text("name"));
    let size = entry.member("size").and_then(|size| size.as_str().parse().ok()).map(plain::size);
    let facts: Vec<String> =
        [name, entry.text("mimeType"), size].into_iter().flatten().map(|fact| plain::line(&fact)).collect();
    if !facts.is_empty() {
        out.push_str(&plain::indented(&facts.join(", "), "    "));
    }
    out
}

fn heading(entry: &Json, key: &str) -> String {
    let mut out = format!("{}\n", plain::line(&entry.text(key).unwrap_or_default()));
    if let Some(description) = entry.text("description").or_else(|| entry.text("title")) {
        out.push_str(&plain::indented(plain::text(&description).trim(), "    "));
    }
    out
}

fn argument(out: &mut String, name: &str, kind: &str, is_required: bool, description: Option<String>) {
    let required = if is_required { ", required" } else { "" };
    let description = description.map(|text| format!(": {}", plain::line(&text))).unwrap_or_default();
    let line = format!("--arg {}=<{}>{required}{description}", plain::line(name), plain::line(kind));
    out.push_str(&plain::indented(&line, "      "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_reads_well() {
        let tool = Json::trusted(
            r##"{"name":"add","title":"Addition","description":"Adds.\nTwice.","inputSchema":{"type":"object",
            "properties":{"op":{"$ref":"#/$defs/Op"},"n":{"type":"integer","description":"How often"},"tags":{"type":"array"}},
            "required":["op"],"$defs":{"Op":{"enum":["a","b"]}}}}"##,
        );
        let resource = Json::trusted(r#"{"uri":"file:///a","name":"a","mimeType":"text/plain","size":2048}"#);
        let prompt = Json::trusted(r#"{"name":"greet","arguments":[{"name":"who","required":true}]}"#);
        let lists = [
            (Kind::Tools, vec![tool]),
            (Kind::Resources, vec![resource]),
            (Kind::Prompts, vec![prompt]),
            (Kind::Templates, vec![]),
        ];
        let shown = "\
tools
  add
      Adds.
      Twice.
        --arg op=<a|b>, required
        --arg n=<integer>: How often
        --arg tags=<array>

resources
  file:///a
      a, text/plain, 2.0 KiB

prompts
  greet
        --arg who=<text>, required

templates
  no templates
";
        assert_eq!(readable(&lists), shown);
        assert_eq!(
            raw_by_kind(&[(Kind::Prompts, vec![Json::trusted("{}"), Json::trusted("{}")])]),
            r#"{"prompts":[{},{}]}"#
        );
    }
}
