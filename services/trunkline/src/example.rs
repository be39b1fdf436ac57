//! The annotated example of the configuration, made from the code: doc lines and choices from the schema, values from the
//! defaults, so that it cannot say anything else than what is true.

use std::fmt::Write as _;

use mcp::scan;
use schemars::Schema;
use serde_json::Value;

use crate::config::Config;

/// Where comments are wrapped.
const WIDTH: usize = 118;

const HEAD: &str = "\
# Every setting of Trunkline with its default: what `trunkline config --example` prints. No file is needed to start; keep
# only what you change. All processes read the same file, each its sections.
#
# Later ones win: default < this file < environment < command line (--set section.key=value). `--dump-config` shows what
# is in effect, `--check` what is wrong.
";

/// The file.
///
/// # Errors
/// When the defaults cannot be written as JSON, which a test excludes.
pub(crate) fn example() -> Result<String, serde_json::Error> {
    let defaults = serde_json::to_string(&Config::default())?;
    let schema = Tree(schemars::schema_for!(Config));
    let mut out = HEAD.to_owned();
    for section in scan::members(&defaults) {
        let node = schema.property(schema.0.as_value(), &section.key);
        // Writing to a String cannot fail.
        let _written = writeln!(out).is_ok();
        comment(&mut out, "", schema.doc(node));
        let _written = writeln!(out, "[{}]", section.key).is_ok();
        schema.keys(&mut out, &section.key, node, section.value);
    }
    Ok(out)
}

/// A schema with its definitions.
struct Tree(Schema);

impl Tree {
    fn keys(&self, out: &mut String, section: &str, node: &Value, defaults: &str) {
        let mut names: Vec<String> = scan::members(defaults).map(|member| member.key.into_owned()).collect();
        // What is left out by default comes last.
        names.extend(self.names(node).into_iter().filter(|name| scan::member(defaults, name).is_none()));
        for name in names {
            let key = self.property(node, &name);
            let _written = writeln!(out).is_ok();
            comment(out, "", self.doc(key));
            self.more(out, key, "");
            let environment = format!("{section}__{name}").to_uppercase().replace('-', "_");
            comment(out, "", &format!("Environment: TRUNKLINE_{environment}"));
            let line = match scan::member(defaults, &name) {
                Some(raw) if raw != "null" && !self.is_secret(key) => format!("{name} = {}", toml(raw)),
                Some(_) | None => format!("# {name} ="),
            };
            let _written = writeln!(out, "{line}").is_ok();
        }
    }

    /// Choices of a value, and the keys of a table or of the tables of a list.
    fn more(&self, out: &mut String, key: &Value, indent: &str) {
        let node = self.resolved(key);
        for choice in choices(node) {
            let doc = choice.1.map(|doc| format!(": {doc}")).unwrap_or_default();
            comment(out, &format!("{indent}  "), &format!("\"{}\"{doc}", choice.0));
        }
        let inner = node.get("items").map_or(node, |items| self.resolved(items));
        for choice in choices(inner).into_iter().filter(|_| !std::ptr::eq(inner, node)) {
            let doc = choice.1.map(|doc| format!(": {doc}")).unwrap_or_default();
            comment(out, &format!("{indent}  "), &format!("\"{}\"{doc}", choice.0));
        }
        for name in self.names(inner) {
            let key = self.property(inner, &name);
            let doc = format!("{name}: {}", self.doc(key).replace('\n', " "));
            comment(out, &format!("{indent}  "), &doc);
            self.more(out, key, &format!("{indent}  "));
        }
    }

    /// The doc line of a key: its own, else that of its type.
    fn doc<'a>(&'a self, key: &'a Value) -> &'a str {
        let of = |node: &'a Value| node.get("description").and_then(Value::as_str);
        of(key).or_else(|| of(self.resolved(key))).unwrap_or_default()
    }

    fn is_secret(&self, key: &Value) -> bool {
        self.resolved(key).get("writeOnly").is_some_and(|flag| flag == true)
    }

    fn names(&self, node: &Value) -> Vec<String> {
        let properties = self.resolved(node).get("properties").and_then(Value::as_object);
        properties.map(|properties| properties.keys().cloned().collect()).unwrap_or_default()
    }

    fn property<'a>(&'a self, node: &'a Value, name: &str) -> &'a Value {
        self.resolved(node).get("properties").and_then(|all| all.get(name)).unwrap_or(&Value::Null)
    }

    /// Behind references, and behind the choice between something and nothing.
    fn resolved<'a>(&'a self, node: &'a Value) -> &'a Value {
        let one_of_two = node.get("anyOf").and_then(Value::as_array);
        if let Some(something) = one_of_two
            .and_then(|all| all.iter().find(|each| each.get("type").is_none_or(|kind| kind != "null")))
        {
            return self.resolved(something);
        }
        let Some(reference) = node.get("$ref").and_then(Value::as_str) else { return node };
        let pointer = reference.strip_prefix('#').unwrap_or(reference);
        self.0.as_value().pointer(pointer).map_or(node, |target| self.resolved(target))
    }
}

/// The words a value may be, with what they mean.
fn choices(node: &Value) -> Vec<(&str, Option<&str>)> {
    let words = node.get("enum").and_then(Value::as_array).into_iter().flatten();
    let plain = words.filter_map(|word| Some((word.as_str()?, None)));
    let explained = node.get("oneOf").and_then(Value::as_array).into_iter().flatten().filter_map(|branch| {
        let word = branch.get("const").and_then(Value::as_str)?;
        Some((word, branch.get("description").and_then(Value::as_str)))
    });
    plain.chain(explained).collect()
}

/// Text as a comment, wrapped between words.
fn comment(out: &mut String, indent: &str, text: &str) {
    let mut line = String::new();
    let flush = |line: &mut String, out: &mut String| {
        if !line.is_empty() {
            let _written = writeln!(out, "# {indent}{line}").is_ok();
            line.clear();
        }
    };
    for word in text.split_whitespace() {
        if line.len() + word.len() + indent.len() + 3 > WIDTH {
            flush(&mut line, out);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    flush(&mut line, out);
}

/// JSON as TOML, on one line. JSON's strings and numbers are TOML's too.
fn toml(raw: &str) -> String {
    let raw = raw.trim();
    if scan::is_object(raw) {
        let members: Vec<String> = scan::members(raw)
            .filter(|member| member.value != "null")
            .map(|member| format!("{} = {}", key(&member.key), toml(member.value)))
            .collect();
        return if members.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", members.join(", ")) };
    }
    if raw.starts_with('[') {
        return format!("[{}]", scan::elements(raw).map(toml).collect::<Vec<_>>().join(", "));
    }
    raw.to_owned()
}

fn key(name: &str) -> String {
    let is_bare =
        !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
    if is_bare { name.to_owned() } else { mcp::edit::quote(name) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use chassis::config;

    use super::*;

    #[test]
    fn the_committed_file_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../trunkline.example.toml");
        let committed = std::fs::read_to_string(&path).unwrap();
        let now = example().unwrap();
        let differs = committed.lines().zip(now.lines()).find(|(old, new)| old != new);
        assert!(
            committed == now,
            "trunkline.example.toml is out of date at {differs:?}: trunkline config --example > trunkline.example.toml"
        );
    }

    #[test]
    fn it_loads_as_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("example.toml");
        std::fs::write(&path, example().unwrap()).unwrap();
        let loaded = config::load::<Config>(Some(&path), &BTreeMap::new(), Vec::new()).unwrap();
        assert_eq!(config::dump(&loaded.config).unwrap(), config::dump(&Config::default()).unwrap());
    }

    #[test]
    fn no_key_is_without_a_doc_line() {
        let tree = Tree(schemars::schema_for!(Config));
        let mut missing = Vec::new();
        let root = tree.0.as_value();
        for section in tree.names(root) {
            undocumented(&tree, &section, tree.property(root, &section), &mut missing);
        }
        assert_eq!(missing, Vec::<String>::new());
    }

    fn undocumented(tree: &Tree, path: &str, key: &Value, missing: &mut Vec<String>) {
        if tree.doc(key).is_empty() {
            missing.push(path.to_owned());
        }
        let node = tree.resolved(key);
        let inner = node.get("items").map_or(node, |items| tree.resolved(items));
        for name in tree.names(inner) {
            undocumented(tree, &format!("{path}.{name}"), tree.property(inner, &name), missing);
        }
    }

    #[test]
    fn json_becomes_toml() {
        assert_eq!(
            toml(r#"[{"a":1,"b c":"x\"y","d":[],"e":{}, "f":null}]"#),
            r#"[{ a = 1, "b c" = "x\"y", d = [], e = {} }]"#
        );
    }
}
