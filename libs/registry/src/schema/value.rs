//! Reads checked JSON for a validator. Unlike `serde_json` it takes every number: one that no float can hold counts as the
//! largest one. Of a repeated name the last counts. What is read here is looked at and thrown away, never sent on.

use mcp::scan;
use serde_json::{Map, Number, Value};

/// The value of checked JSON text.
pub(super) fn lenient(raw: &str) -> Value {
    let raw = raw.trim_ascii();
    match raw.as_bytes().first() {
        Some(b'{') => {
            // One by one: most objects are small, and sorting them first costs more.
            let mut members = Map::new();
            for member in scan::members(raw) {
                members.insert(member.key.into_owned(), lenient(member.value));
            }
            Value::Object(members)
        }
        Some(b'[') => Value::Array(scan::elements(raw).map(lenient).collect()),
        Some(b'"') => Value::String(scan::string(raw).map(std::borrow::Cow::into_owned).unwrap_or_default()),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') | None => Value::Null,
        Some(_) => number(raw),
    }
}

fn number(raw: &str) -> Value {
    if let Ok(whole) = raw.parse::<i64>() {
        // "-0" is a float for serde_json; as a whole number it validates alike.
        return Value::Number(whole.into());
    }
    if let Ok(whole) = raw.parse::<u64>() {
        return Value::Number(whole.into());
    }
    let float = raw.parse::<f64>().unwrap_or_default().clamp(f64::MIN, f64::MAX);
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_number_has_a_value() {
        assert_eq!(lenient(r#"{"a":[1, -0, 1.5, true, null, "\u0061"],"a":{}}"#), json!({"a": {}}));
        assert_eq!(lenient(" [1,1.0,9223372036854775808] "), json!([1, 1.0, 9_223_372_036_854_775_808_u64]));
        assert_eq!(lenient("1e400"), json!(f64::MAX));
        assert_eq!(lenient("-1e400"), json!(f64::MIN));
        assert_eq!(lenient("1e-400"), json!(0.0));
    }
}
