//! Reads checked JSON for a validator. Unlike `serde_json` it takes every number: one that no float can hold counts as the
//! largest one. Of a repeated name the last counts. What is read here is looked at and thrown away, never sent on.

use std::fmt;

use mcp::scan;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The value of checked JSON text.
pub(super) fn lenient(raw: &str) -> Value {
    serde_json::from_str(raw).map_or_else(|_refused| slowly(raw), |Quick(value)| value)
}

/// A value as `serde_json` reads it, which is quicker and takes nearly everything. Its own [`Value`] would take an object with a
/// certain name for the text of another value.
struct Quick(Value);

impl<'de> Deserialize<'de> for Quick {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Quickly).map(Self)
    }
}

struct Quickly;

impl<'de> Visitor<'de> for Quickly {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Quick(value)) = from.next_element()? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Quick(value))) = from.next_entry::<String, Quick>()? {
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

fn slowly(raw: &str) -> Value {
    let raw = raw.trim_ascii();
    match raw.as_bytes().first() {
        Some(b'{') => {
            // One by one: most objects are small, and sorting them first costs more.
            let mut members = Map::new();
            for member in scan::members(raw) {
                members.insert(member.key.into_owned(), slowly(member.value));
            }
            Value::Object(members)
        }
        Some(b'[') => Value::Array(scan::elements(raw).map(slowly).collect()),
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
    fn both_ways_lead_to_the_same() {
        let raw_value = r#"{"a": {"$serde_json::private::RawValue": "{\"b\": 1}"}}"#;
        for (raw, expected) in [
            (raw_value, json!({"a": {"$serde_json::private::RawValue": "{\"b\": 1}"}})),
            (
                r#" {"a": [1, 2.5, -3, true, false, null], "b": {"a": ""}, "a": 7} "#,
                json!({"a": 7, "b": {"a": ""}}),
            ),
            ("[[], {}, \"\\u00e4 \\ud83d\\ude00 \\\"\"]", json!([[], {}, "\u{e4} \u{1f600} \""])),
            ("18446744073709551615", json!(u64::MAX)),
            ("18446744073709551616", json!(18_446_744_073_709_551_616.0)),
            ("-9223372036854775809", json!(-9_223_372_036_854_775_809.0)),
            ("1e300", json!(1e300)),
            ("0.1", json!(0.1)),
        ] {
            assert_eq!(slowly(raw), expected, "{raw}");
            let Quick(quick) = serde_json::from_str(raw).unwrap();
            assert_eq!(quick, expected, "{raw}");
        }
    }

    #[test]
    fn every_number_has_a_value() {
        assert_eq!(lenient(r#"{"a":[1, -0, 1.5, true, null, "\u0061"],"a":{}}"#), json!({"a": {}}));
        assert_eq!(lenient(" [1,1.0,9223372036854775808] "), json!([1, 1.0, 9_223_372_036_854_775_808_u64]));
        assert_eq!(lenient("1e400"), json!(f64::MAX));
        assert_eq!(lenient("-1e400"), json!(f64::MIN));
        assert_eq!(lenient("1e-400"), json!(0.0));
    }
}
