//! One source of configuration as a tree of values.

use std::fmt;
use std::path::Path;

use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Provider};

use super::{ConfigError, Source};

const PREFIX: &str = "TRUNKLINE_";

/// What one source sets.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) source: Source,
    tree: Dict,
    /// Of a source that sets a single key: its path and the text it was given as.
    single: Option<(Vec<String>, String)>,
}

impl Layer {
    pub(super) fn file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| {
            // The error's own rendering quotes the line, which may hold a secret.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            ConfigError::NotToml {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                problem: error.message().to_owned(),
            }
        })?;
        Ok(Self { source: Source::File(path.to_owned()), tree: dict(table), single: None })
    }

    /// The layer of one environment variable; `None` if it is not ours.
    pub(super) fn environment(name: &str, value: &str, defaults: &Dict) -> Result<Option<Self>, ConfigError> {
        let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(None) };
        let Some((section, keys)) = rest.split_once("__") else {
            // Container platforms set variables such as TRUNKLINE_GATEWAY_PORT by themselves; a near miss is ours all the same.
            return match meant(rest, defaults) {
                Some((section, key)) => Err(ConfigError::Environment {
                    name: name.to_owned(),
                    meant: format!("{PREFIX}{}__{}", upper(&section), upper(&key)),
                }),
                None => Ok(None),
            };
        };
        let mut path = vec![section.to_lowercase().replace('_', "-")];
        path.extend(keys.split("__").map(str::to_lowercase));
        Ok(Some(Self::single(Source::Environment(name.to_owned()), path, value.to_owned())))
    }

    pub(super) fn single(source: Source, path: Vec<String>, text: String) -> Self {
        let value = toml::from_str::<toml::Table>(&format!("value = {text}"))
            .ok()
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"));
        let value = value.map_or_else(|| Value::from(text.clone()), convert);
        Self { source, tree: nest(&path, value), single: Some((path, text)) }
    }

    /// Reads the value at `path` as plain text instead. `false` if that is not possible or was done before.
    pub(super) fn reread_as_text(&mut self, path: &[String]) -> bool {
        let Some((at, text)) = &self.single else { return false };
        if at != path || matches!(self.find(path), Some(Value::String(..))) {
            return false;
        }
        self.tree = nest(at, Value::from(text.clone()));
        true
    }

    pub(super) fn find(&self, path: &[String]) -> Option<&Value> {
        find(&self.tree, path)
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.to_string())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.tree.clone()))
    }
}

/// The value at `path`, through tables and arrays.
pub(super) fn find<'a>(tree: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut value = tree.get(first)?;
    for part in rest {
        value = match value {
            Value::Dict(_, dict) => dict.get(part)?,
            Value::Array(_, items) => items.get(part.parse::<usize>().ok()?)?,
            Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) => {
                return None;
            }
        };
    }
    Some(value)
}

/// The section and key that `rest` would name with two underscores in the right place.
fn meant(rest: &str, defaults: &Dict) -> Option<(String, String)> {
    let sections = defaults.iter().filter_map(|(section, value)| Some((section, value.as_dict()?)));
    for (section, keys) in sections {
        let Some(key) = rest.strip_prefix(&upper(section)).and_then(|key| key.strip_prefix('_')) else {
            continue;
        };
        if let Some(key) = keys.keys().find(|known| upper(known) == key) {
            return Some((section.clone(), key.clone()));
        }
    }
    None
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn nest(path: &[String], value: Value) -> Dict {
    let Some((last, parents)) = path.split_last() else { return Dict::new() };
    parents.iter().rev().fold(Dict::from([(last.clone(), value)]), |inner, part| {
        Dict::from([(part.clone(), Value::from(inner))])
    })
}

fn dict(table: toml::Table) -> Dict {
    table.into_iter().map(|(key, value)| (key, convert(value))).collect()
}

fn convert(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::from(text),
        toml::Value::Integer(number) => {
            u64::try_from(number).map_or_else(|_negative| Value::from(number), Value::from)
        }
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(flag) => Value::from(flag),
        // No setting is a date; the text form is what an error can show.
        toml::Value::Datetime(date) => Value::from(date.to_string()),
        toml::Value::Array(items) => Value::Array(Tag::Default, items.into_iter().map(convert).collect()),
        toml::Value::Table(table) => Value::from(dict(table)),
    }
}
