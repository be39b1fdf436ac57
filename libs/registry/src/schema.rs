//! JSON Schema 2020-12 for inputs and outputs: checked and compiled when a tool is registered, applied at each call.
//!
//! Nothing is ever fetched: a reference that leads outside the schema refuses the tool. Regular expressions run in linear
//! time. Schemas and the work of one validation are bounded.

mod cost;
mod value;

use jsonschema::{Draft, PatternOptions, Retrieve, Uri, Validator};
use mcp::Json;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use self::cost::Cost;

/// Nesting of a schema.
pub(crate) const MAX_DEPTH: usize = 32;
/// Objects and arrays in a schema.
pub(crate) const MAX_SUBSCHEMAS: usize = 2_000;
/// Bytes of a schema.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// Memory of one compiled regular expression.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Most problems that one refusal names.
const MAX_PROBLEMS: usize = 5;
/// Longest text of one problem, in characters.
const MAX_PROBLEM: usize = 300;

/// Why a schema is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Larger than one of the limits.
    #[error("the schema exceeds the limit of {limit} {what}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// Not `type: object` at the root, where that is demanded.
    #[error("an input schema must have `\"type\": \"object\"` at its root")]
    NotAnObject,
    /// `$schema` names a dialect that is not known.
    #[error(
        "the dialect {0} is not supported; use https://json-schema.org/draft/2020-12/schema or leave `$schema` out"
    )]
    Dialect(String),
    /// Not a schema, or it refers to something outside itself.
    #[error("the schema cannot be used: {0}")]
    Unusable(String),
}

/// A compiled schema.
#[derive(Debug)]
pub(crate) struct Schema {
    validator: Validator,
    cost: Cost,
}

impl Schema {
    /// Compiles the schema of a tool's input.
    pub(crate) fn input(raw: &Json) -> Result<Self, SchemaError> {
        let value = read(raw)?;
        if value.get("type").and_then(Value::as_str) != Some("object") {
            return Err(SchemaError::NotAnObject);
        }
        Self::compile(value)
    }

    /// Compiles the schema of a tool's output.
    pub(crate) fn output(raw: &Json) -> Result<Self, SchemaError> {
        Self::compile(read(raw)?)
    }

    fn compile(schema: Value) -> Result<Self, SchemaError> {
        let validator = jsonschema::options()
            .with_draft(dialect(&schema)?)
            .with_retriever(Nothing)
            .with_pattern_options(
                PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES),
            )
            .build(&schema)
            .map_err(|error| SchemaError::Unusable(shorten(&error.to_string())))?;
        Ok(Self { validator, cost: Cost::of(schema) })
    }

    /// Checks a value; the text of a refusal names the places and what is wrong with them. It quotes nothing of the value, which
    /// may be secret: texts of refusals end up in logs.
    pub(crate) fn check(&self, raw: &str) -> Result<(), String> {
        let value = value::lenient(raw);
        if !self.cost.is_bearable(&value) {
            return Err("it is nested too deeply to be checked against the schema".to_owned());
        }
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        let problems: Vec<String> = self
            .validator
            .iter_errors(&value)
            .take(MAX_PROBLEMS)
            .map(|error| {
                let path = error.instance_path().as_str();
                let place = if path.is_empty() { "at the top" } else { path };
                shorten(&format!("{place}: {}", error.masked_with("it")))
            })
            .collect();
        Err(problems.join("; "))
    }
}

/// Answers every reference to the outside with a refusal.
struct Nothing;

impl Retrieve for Nothing {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("references outside the schema are not followed: {uri}").into())
    }
}

fn read(raw: &Json) -> Result<Value, SchemaError> {
    if raw.as_str().len() > MAX_BYTES {
        return Err(SchemaError::TooLarge { what: "bytes", limit: MAX_BYTES });
    }
    let value = value::lenient(raw.as_str());
    let mut nodes = 0;
    measure(&value, 0, &mut nodes)?;
    Ok(value)
}

fn measure(value: &Value, depth: usize, nodes: &mut usize) -> Result<(), SchemaError> {
    let children: Vec<&Value> = match value {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Ok(()),
    };
    *nodes += 1;
    if *nodes > MAX_SUBSCHEMAS {
        return Err(SchemaError::TooLarge { what: "subschemas", limit: MAX_SUBSCHEMAS });
    }
    if depth >= MAX_DEPTH {
        return Err(SchemaError::TooLarge { what: "levels", limit: MAX_DEPTH });
    }
    children.into_iter().try_for_each(|child| measure(child, depth + 1, nodes))
}

fn dialect(schema: &Value) -> Result<Draft, SchemaError> {
    let Some(named) = schema.get("$schema") else { return Ok(Draft::Draft202012) };
    let text = named.as_str().unwrap_or_default().trim_end_matches('#');
    match text {
        "https://json-schema.org/draft/2020-12/schema" => Ok(Draft::Draft202012),
        "https://json-schema.org/draft/2019-09/schema" => Ok(Draft::Draft201909),
        "http://json-schema.org/draft-07/schema" => Ok(Draft::Draft7),
        "http://json-schema.org/draft-06/schema" => Ok(Draft::Draft6),
        "http://json-schema.org/draft-04/schema" => Ok(Draft::Draft4),
        _ => Err(SchemaError::Dialect(shorten(&named.to_string()))),
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_PROBLEM {
        return text.to_owned();
    }
    let kept: String = text.chars().take(MAX_PROBLEM - 1).collect();
    format!("{kept}…")
}

/// The schema of what is read as `T`.
pub(crate) fn of_input<T: JsonSchema>() -> Json {
    derived::<T>(SchemaSettings::draft2020_12().for_deserialize())
}

/// The schema of what is written from `T`.
pub(crate) fn of_output<T: JsonSchema>() -> Json {
    derived::<T>(SchemaSettings::draft2020_12().for_serialize())
}

/// Without the dialect, which is the default, and without the Rust name of the type.
fn derived<T: JsonSchema>(settings: SchemaSettings) -> Json {
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("$schema");
    schema.remove("title");
    Json::of(&schema)
}

#[cfg(test)]
mod tests;
