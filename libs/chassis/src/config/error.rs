//! What is wrong with a configuration, said so that it can be put right.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};

use super::layer::{Layer, find};
use super::{Source, source_of};

/// Why a configuration is refused. Never shows a value, which might be a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// Of the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{path}, line {line}: not TOML: {problem}", path = path.display())]
    NotToml {
        /// Of the file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// An argument of `--set` has another form.
    #[error("--set {key}: use --set SECTION.KEY=VALUE, for example --set gateway.listen=127.0.0.1:9000")]
    Override {
        /// The part before `=`.
        key: String,
    },
    /// A variable that nearly is one of ours.
    #[error(
        "environment variable {name} is not read: did you mean {meant}? (two underscores after the section)"
    )]
    Environment {
        /// Of the variable.
        name: String,
        /// The right one.
        meant: String,
    },
    /// A key that does not exist.
    #[error("unknown key {key} in {origin}{hint}")]
    UnknownKey {
        /// In full.
        key: String,
        /// Where it stands.
        origin: Source,
        /// What is accepted there, and the closest to what was written.
        hint: String,
    },
    /// A value that is not accepted.
    #[error("{key} in {origin}: {problem}; accepted: {accepted}")]
    Value {
        /// In full.
        key: String,
        /// Where it was set.
        origin: Source,
        /// What is wrong.
        problem: String,
        /// What would be right.
        accepted: String,
    },
    /// The sources kept changing their meaning while being read: a bug of the loader.
    #[error("the configuration could not be settled")]
    Unsettled,
}

impl ConfigError {
    pub(super) fn from_figment(error: figment::Error, layers: &[Layer], defaults: &Dict) -> Self {
        let path = error.path;
        let (problem, accepted) = match error.kind {
            Kind::UnknownField(name, known) => return unknown(path, &name, known, layers, defaults),
            Kind::UnknownVariant(_, known) => ("no such choice".to_owned(), one_of(known)),
            Kind::InvalidType(actual, wanted) | Kind::InvalidValue(actual, wanted) => {
                (format!("this is {}", type_name(&actual)), wanted)
            }
            Kind::InvalidLength(length, wanted) => (format!("this has {length} items"), wanted),
            Kind::MissingField(field) => (format!("{field} is missing"), format!("a table with {field}")),
            Kind::DuplicateField(field) => (format!("{field} is given twice"), "once".to_owned()),
            Kind::Message(text) => (text, String::new()),
            Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => {
                ("out of range".to_owned(), "a smaller number".to_owned())
            }
            Kind::Unsupported(actual) => (format!("{} cannot be used", type_name(&actual)), String::new()),
            Kind::UnsupportedKey(_, wanted) => ("this cannot be a key".to_owned(), wanted.into_owned()),
        };
        let mut accepted = readable(accepted);
        if let Some(example) = find(defaults, &path).and_then(example) {
            let separator = if accepted.is_empty() { "a value like " } else { ", such as " };
            write!(accepted, "{separator}{example}").unwrap_or_default();
        }
        if accepted.is_empty() {
            accepted.push_str("see the documentation of this key");
        }
        Self::Value { key: path.join("."), origin: source_of(layers, &path), problem, accepted }
    }
}

fn unknown(path: Vec<String>, name: &str, known: &[&str], layers: &[Layer], defaults: &Dict) -> ConfigError {
    let mut full = path.clone();
    if full.last().is_none_or(|last| last != name) {
        full.push(name.to_owned());
    }
    let parent = &full[..full.len() - 1];
    let prefix = if parent.is_empty() { String::new() } else { format!("{}.", parent.join(".")) };
    let mut hint = String::new();
    if let Some(closest) = closest(name, known) {
        write!(hint, ": did you mean {prefix}{closest}?").unwrap_or_default();
    } else if let Some(section) = section_with(name, defaults) {
        write!(hint, ": did you mean {section}.{name}?").unwrap_or_default();
    }
    let what = if parent.is_empty() { "sections" } else { "keys" };
    write!(hint, " (accepted {what}: {})", known.join(", ")).unwrap_or_default();
    ConfigError::UnknownKey { key: full.join("."), origin: source_of(layers, &full), hint }
}

fn section_with<'a>(key: &str, defaults: &'a Dict) -> Option<&'a str> {
    let holds = |value: &Value| value.as_dict().is_some_and(|keys| keys.contains_key(key));
    defaults.iter().find(|(_, value)| holds(value)).map(|(section, _)| section.as_str())
}

/// The known name that is within a third of its length in edits.
fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| (edits(&plain(name), &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, left) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, right) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

fn one_of(known: &[&str]) -> String {
    format!("one of {}", known.join(", "))
}

/// serde's names of types are Rust's; people who write settings know others.
fn readable(wanted: String) -> String {
    match wanted.as_str() {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "text in quotes".to_owned(),
        "a sequence" => "a list [..]".to_owned(),
        _ => wanted.strip_prefix("struct ").map_or(wanted.clone(), |_name| "a table {..}".to_owned()),
    }
}

const fn type_name(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) => "text",
        Actual::Bytes(_) => "bytes",
        Actual::Unit | Actual::Option => "nothing",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        Actual::NewtypeStruct
        | Actual::Enum
        | Actual::UnitVariant
        | Actual::NewtypeVariant
        | Actual::TupleVariant
        | Actual::StructVariant
        | Actual::Other(_) => "something else",
    }
}

/// The default as an example, where it is short and says something.
fn example(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) if !text.is_empty() && text != "***" => Some(format!("{text:?}")),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Num(_, number) => number
            .to_u128()
            .map(|n| n.to_string())
            .or_else(|| number.to_i128().map(|n| n.to_string()))
            .or_else(|| number.to_f64().map(|n| n.to_string())),
        Value::String(..) | Value::Char(..) | Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}
