use std::net::TcpListener;

use schemars::JsonSchema;

use super::*;

fn input(text: &str) -> Result<Schema, SchemaError> {
    Schema::input(&Json::trusted(text.to_owned()))
}

fn checks(schema: &str, value: &str) -> Result<(), String> {
    input(schema).unwrap().check(value)
}

#[test]
fn a_refusal_names_the_place() {
    let schema = r#"{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"object","properties":{"c":{"enum":["x"]}}}},"required":["a"]}"#;
    assert_eq!(checks(schema, r#"{"a":1}"#), Ok(()));
    assert_eq!(checks(schema, "{}"), Err("at the top: \"a\" is a required property".into()));
    assert_eq!(checks(schema, r#"{"a":"1"}"#), Err("/a: it is not of type \"number\"".into()));
    assert_eq!(checks(schema, r#"{"a":1,"b":{"c":"y"}}"#), Err("/b/c: it is not one of \"x\"".into()));
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(5000));
    assert!(checks(schema, &long).unwrap_err().chars().count() <= MAX_PROBLEM);
}

#[test]
fn numbers_beyond_a_float_are_numbers() {
    let schema = r#"{"type":"object","properties":{"a":{"type":"number"}}}"#;
    for number in ["1e400", "-1e400", "-0", "1.0", "9223372036854775808"] {
        assert_eq!(checks(schema, &format!(r#"{{"a":{number}}}"#)), Ok(()), "{number}");
    }
}

#[test]
fn what_leads_outside_is_refused_and_nothing_is_fetched() {
    let canary = TcpListener::bind("127.0.0.1:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let address = canary.local_addr().unwrap();
    for reference in [
        format!("http://{address}/schema.json"),
        format!("https://{address}/schema.json"),
        "file:///etc/hostname".to_owned(),
        "other.json".to_owned(),
        "#/$defs/missing".to_owned(),
    ] {
        for keyword in ["$ref", "$dynamicRef"] {
            let schema = format!(r#"{{"type":"object","properties":{{"a":{{"{keyword}":"{reference}"}}}}}}"#);
            assert!(matches!(input(&schema), Err(SchemaError::Unusable(_))), "{schema}");
        }
    }
    assert!(canary.accept().is_err(), "nobody may connect");
}

#[test]
fn references_inside_are_followed() {
    let schema = r##"{"type":"object","$defs":{"n":{"$anchor":"num","type":"number"},"t":{"$id":"urn:t","type":"string"}},
        "properties":{"a":{"$ref":"#/$defs/n"},"b":{"$ref":"#num"},"c":{"$ref":"urn:t"}}}"##;
    assert_eq!(checks(schema, r#"{"a":1,"b":2,"c":"x"}"#), Ok(()));
    for bad in [r#"{"a":"x"}"#, r#"{"b":"x"}"#, r#"{"c":1}"#] {
        assert!(checks(schema, bad).is_err(), "{bad}");
    }
}

#[test]
fn large_schemas_are_refused() {
    let nested = |levels: usize| {
        let mut text = "{}".to_owned();
        for _ in 0..levels {
            text = format!(r#"{{"not":{text}}}"#);
        }
        format!(r#"{{"type":"object","not":{text}}}"#)
    };
    assert!(input(&nested(MAX_DEPTH - 3)).is_ok());
    assert_eq!(
        input(&nested(MAX_DEPTH)).unwrap_err(),
        SchemaError::TooLarge { what: "levels", limit: MAX_DEPTH }
    );
    let wide = |n: usize| format!(r#"{{"type":"object","allOf":[{}]}}"#, vec!["{}"; n].join(","));
    assert!(input(&wide(MAX_SUBSCHEMAS - 2)).is_ok());
    assert!(matches!(input(&wide(MAX_SUBSCHEMAS)), Err(SchemaError::TooLarge { what: "subschemas", .. })));
    let heavy = format!(r#"{{"type":"object","enum":["{}"]}}"#, "x".repeat(MAX_BYTES));
    assert!(matches!(input(&heavy), Err(SchemaError::TooLarge { what: "bytes", .. })));
}

#[test]
fn other_refusals() {
    assert_eq!(input("{}").unwrap_err(), SchemaError::NotAnObject);
    assert_eq!(input("true").unwrap_err(), SchemaError::NotAnObject);
    assert!(matches!(input(r#"{"type":"object","$schema":"https://x/y"}"#), Err(SchemaError::Dialect(_))));
    assert!(matches!(input(r#"{"type":"object","properties":7}"#), Err(SchemaError::Unusable(_))));
    // Only what runs in linear time is a pattern.
    assert!(matches!(
        input(r#"{"type":"object","properties":{"a":{"pattern":"(?=a)b"}}}"#),
        Err(SchemaError::Unusable(_))
    ));
    assert!(Schema::output(&Json::trusted("true")).is_ok());
}

#[test]
fn catastrophic_patterns_take_no_time() {
    let schema = r#"{"type":"object","properties":{"a":{"pattern":"^(a+)+$"}}}"#;
    let value = format!(r#"{{"a":"{}!"}}"#, "a".repeat(50_000));
    assert!(checks(schema, &value).is_err());
}

#[test]
fn exponential_work_is_refused_before_it_is_done() {
    // Thirty definitions, each asking twice for the next: 2^30 evaluations at one place.
    let mut definitions: Vec<String> = (0..30)
        .map(|n| {
            let next = n + 1;
            format!(r##""d{n}":{{"allOf":[{{"$ref":"#/$defs/d{next}"}},{{"$ref":"#/$defs/d{next}"}}]}}"##)
        })
        .collect();
    definitions.push(r#""d30":{"not":{"const":7}}"#.to_owned());
    let wide = format!(r##"{{"type":"object","$defs":{{{}}},"$ref":"#/$defs/d0"}}"##, definitions.join(","));
    assert!(checks(&wide, "{}").unwrap_err().contains("too deeply"));
    // Two ways down at each level: 2^depth.
    let deep = r##"{"type":"object","anyOf":[{"properties":{"a":{"$ref":"#"},"x":{"const":1}},"required":["x"]},{"properties":{"a":{"$ref":"#"},"y":{"const":1}},"required":["y"]}]}"##;
    let mut value = r#"{"z":1}"#.to_owned();
    for _ in 0..60 {
        value = format!(r#"{{"a":{value}}}"#);
    }
    assert!(checks(deep, &value).unwrap_err().contains("too deeply"));
    assert_eq!(checks(deep, r#"{"a":{"a":{"x":1},"x":1},"y":1}"#), Ok(()));
}

#[test]
fn a_recursive_schema_of_an_ordinary_kind_is_used() {
    let tree = r##"{"type":"object","properties":{"children":{"type":"array","items":{"$ref":"#"}},"name":{"type":"string"}},"required":["name"]}"##;
    assert_eq!(checks(tree, r#"{"name":"a","children":[{"name":"b"},{"name":"c","children":[]}]}"#), Ok(()));
    assert!(
        checks(tree, r#"{"name":"a","children":[{"children":[]}]}"#)
            .unwrap_err()
            .starts_with("/children/0: ")
    );
    let endless = r##"{"type":"object","$ref":"#"}"##;
    assert_eq!(checks(endless, "{}"), Ok(()));
}

#[derive(serde::Deserialize, serde::Serialize, JsonSchema)]
struct Add {
    /// First operand
    a: f64,
    b: Option<f64>,
}

#[test]
fn schemas_follow_from_types() {
    let schema = of_input::<Add>();
    assert!(schema.as_str().contains(r#""required":["a"]"#), "{schema}");
    assert!(schema.as_str().contains("First operand"), "{schema}");
    assert!(!schema.as_str().contains("$schema") && !schema.as_str().contains("\"title\""), "{schema}");
    let compiled = Schema::input(&schema).unwrap();
    assert_eq!(compiled.check(r#"{"a":1}"#), Ok(()));
    assert!(compiled.check(r#"{"b":1}"#).is_err());
}
