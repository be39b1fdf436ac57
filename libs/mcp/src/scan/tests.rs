use proptest::prelude::*;

use super::*;

fn ok(text: &str) -> bool {
    check(text.as_bytes(), &Limits::MESSAGE).is_ok()
}

#[test]
fn several_members_at_once_are_those_that_are_found_one_by_one() {
    let text = r#" { "a" : 1, "b":{"a":2}, "\u0063": "x", "a":[3] ,"dd":null } "#;
    assert_eq!(fields(text, ["a", "c", "dd", "e"]), [Some("[3]"), Some("\"x\""), Some("null"), None]);
    for text in [text, "{}", "[1]", "7"] {
        for key in ["a", "b", "c", "dd", "e"] {
            assert_eq!(fields(text, [key]), [member(text, key)], "{text} {key}");
        }
    }
}

#[test]
fn grammar_table() {
    for good in [
        "0",
        "-0",
        "1.0",
        "1e400",
        "-1.5E-3",
        "9223372036854775808",
        "\"\"",
        "\"\\ud83d\\ude00\"",
        "null",
        " true\n",
        "[]",
        "[ ]",
        "[1,[2]]",
        "{}",
        "{\"a\":1,\"a\":2}",
        "{ \"a\" : [ ] }",
    ] {
        assert!(ok(good), "{good}");
    }
    for bad in [
        "",
        " ",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "tru",
        "nul",
        "\"",
        "\"\\x\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83dx\"",
        "\"\\ud83d\\u0041\"",
        "\"\t\"",
        "[1,]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{\"a\":1,}",
        "1 2",
        "\u{feff}1",
        "NaN",
        "'a'",
        "{}}",
        "[",
    ] {
        assert!(matches!(check(bad.as_bytes(), &Limits::MESSAGE), Err(ScanError::Syntax(_))), "{bad}");
    }
    assert_eq!(check(b"\"\xc0\xaf\"", &Limits::MESSAGE), Err(ScanError::Syntax(1)));
}

#[test]
fn limits_are_exact() {
    let limits = Limits { depth: 2, values: 4, key: 2, string: 3, number: 3 };
    let verdict = |text: &'static str| check(text.as_bytes(), &limits);
    assert!(verdict("[[1]]").is_ok());
    assert_eq!(verdict("[[[1]]]"), Err(ScanError::Limit(2)));
    assert!(verdict("[1,2,3]").is_ok());
    assert_eq!(verdict("[1,2,3,4]"), Err(ScanError::Limit(7)));
    assert_eq!(verdict("{\"abc\":1}"), Err(ScanError::Limit(1)));
    assert_eq!(verdict("\"abcd\""), Err(ScanError::Limit(0)));
    assert_eq!(verdict("1234"), Err(ScanError::Limit(0)));
}

#[test]
fn members_keep_spans_and_resolve_names() {
    let text = r#" { "m\u0065thod" : "x" ,"params":{"a":[1,"]"]} } "#;
    let found: Vec<_> = members(text).collect();
    assert_eq!(found[0].key, "method");
    assert_eq!(found[0].value, "\"x\"");
    assert_eq!(&text[found[0].span.clone()], r#" "m\u0065thod" : "x" "#);
    assert_eq!(found[1].value, r#"{"a":[1,"]"]}"#);
    assert_eq!(found.len(), 2);
    assert_eq!(elements(r#"[1, "a,b" ,{"c":[2]}]"#).collect::<Vec<_>>(), ["1", "\"a,b\"", r#"{"c":[2]}"#]);
}

proptest! {
    #[test]
    fn agrees_with_serde_json(text in r#"[\{\}\[\]",:0-9eE+\-.truefalsn \\u]{0,24}"#) {
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        // serde_json does not look for halves of surrogate pairs in values it ignores.
        if !text.contains("\\u") {
            prop_assert_eq!(ok(&text), theirs, "{}", text);
        }
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(text) = check(&bytes, &Limits::MESSAGE) {
            for m in members(text) {
                prop_assert!(check(m.value.as_bytes(), &Limits::MESSAGE).is_ok());
            }
        }
    }
}
