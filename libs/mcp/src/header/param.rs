//! Headers that repeat arguments of a tool: which ones its schema asks for, and whether a call's headers say what its body says.

use std::fmt;

use bytes::Bytes;

use super::{HeaderMismatch, PARAM_PREFIX, Problem, decode};
use crate::scan;

/// The keyword that asks for a header.
const KEYWORD: &str = "x-mcp-header";

/// Keywords with subschemas that a chain of `properties` does not reach: one, or an array of them.
const SUBSCHEMAS: [&str; 16] = [
    "items",
    "additionalItems",
    "prefixItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "propertyNames",
    "contentSchema",
    "oneOf",
    "anyOf",
    "allOf",
    "not",
    "if",
    "then",
    "else",
];

/// The same, with a name for each subschema.
const NAMED_SUBSCHEMAS: [&str; 5] =
    ["patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"];

/// A header that repeats one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamHeader {
    /// The header's whole name, lower case: `mcp-param-region`.
    pub header: String,
    /// Names of members, from the arguments down to the value.
    pub path: Vec<String>,
    /// The declared type of the value.
    pub kind: ParamKind,
}

/// Types of value a header can repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParamKind {
    /// `"type": "string"`
    String,
    /// `"type": "integer"`
    Integer,
    /// `"type": "boolean"`
    Boolean,
}

/// Why a schema may not ask for its headers. Such a tool is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IllegalHeader {
    /// Where in the schema, as names joined by dots.
    pub at: String,
    /// What is wrong.
    pub fault: Fault,
}

/// See [`IllegalHeader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The value is not a string that is a token (RFC 9110, section 5.6.2).
    Name,
    /// Another property asks for the same header; case does not count.
    NotUnique,
    /// The type is not string, integer or boolean.
    Type,
    /// A chain of `properties` does not lead here.
    Unreachable,
}

impl fmt::Display for IllegalHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.fault {
            Fault::Name => "its value must be a non-empty HTTP token",
            Fault::NotUnique => "its value occurs twice",
            Fault::Type => "only properties of type string, integer or boolean may have it",
            Fault::Unreachable => "only a chain of `properties` may lead to it",
        };
        write!(f, "{KEYWORD} at {:?}: {fault}", self.at)
    }
}

impl std::error::Error for IllegalHeader {}

/// The headers a tool's input schema asks for. `schema` must be checked JSON text.
///
/// # Errors
/// [`IllegalHeader`] for the first one that breaks a rule.
pub fn param_headers(schema: &str) -> Result<Vec<ParamHeader>, IllegalHeader> {
    let mut found = Vec::new();
    // Nearly every schema stops here. An escape could hide the keyword.
    if schema.contains(KEYWORD) || schema.contains('\\') {
        visit(schema, &mut Vec::new(), true, &mut found)?;
    }
    Ok(found)
}

fn visit(
    schema: &str,
    path: &mut Vec<String>,
    reachable: bool,
    found: &mut Vec<ParamHeader>,
) -> Result<(), IllegalHeader> {
    for member in scan::members(schema) {
        let key = member.key.as_ref();
        if key == KEYWORD {
            let header = annotation(schema, member.value, path, reachable, found)?;
            found.push(header);
        } else if key == "properties" {
            for property in scan::members(member.value) {
                path.push(property.key.into_owned());
                visit(property.value, path, reachable, found)?;
                path.pop();
            }
        } else if SUBSCHEMAS.contains(&key) {
            path.push(key.to_owned());
            visit(member.value, path, false, found)?;
            for element in scan::elements(member.value) {
                visit(element, path, false, found)?;
            }
            path.pop();
        } else if NAMED_SUBSCHEMAS.contains(&key) {
            path.push(key.to_owned());
            for named in scan::members(member.value) {
                visit(named.value, path, false, found)?;
            }
            path.pop();
        }
    }
    Ok(())
}

fn annotation(
    schema: &str,
    value: &str,
    path: &[String],
    reachable: bool,
    found: &[ParamHeader],
) -> Result<ParamHeader, IllegalHeader> {
    let illegal = |fault| IllegalHeader { at: path.join("."), fault };
    if !reachable || path.is_empty() {
        return Err(illegal(Fault::Unreachable));
    }
    let name = scan::string(value).filter(|name| is_token(name)).ok_or_else(|| illegal(Fault::Name))?;
    let kind = match scan::member(schema, "type").and_then(scan::string).as_deref() {
        Some("string") => ParamKind::String,
        Some("integer") => ParamKind::Integer,
        Some("boolean") => ParamKind::Boolean,
        _ => return Err(illegal(Fault::Type)),
    };
    let header = format!("{PARAM_PREFIX}{}", name.to_ascii_lowercase());
    if found.iter().any(|other| other.header == header) {
        return Err(illegal(Fault::NotUnique));
    }
    Ok(ParamHeader { header, path: path.to_vec(), kind })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

/// Checks that a call's headers repeat its arguments: one header for each annotated value that is there and not null, none
/// for the others, every one saying the same. Headers nobody asked for are ignored.
///
/// `headers` are the `Mcp-Param-*` headers as they came, repeats kept; `arguments` must be checked JSON text.
///
/// # Errors
/// [`HeaderMismatch`] for the first header that fails.
pub fn check_params(
    headers: &[(String, Bytes)],
    arguments: Option<&str>,
    params: &[ParamHeader],
) -> Result<(), HeaderMismatch> {
    for param in params {
        let fail = |problem| Err(HeaderMismatch::new(param.header.as_str(), problem));
        let mut given = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&param.header));
        let first = given.next();
        if given.next().is_some() {
            return fail(Problem::Repeated);
        }
        let Ok(value) = value_at(arguments, &param.path) else {
            return fail(Problem::Different);
        };
        match (first, value) {
            (None, None) => {}
            (None, Some(_)) => return fail(Problem::Missing),
            (Some(_), None) => return fail(Problem::Unexpected),
            (Some((_, bytes)), Some(value)) => match decode(bytes) {
                Err(_) => return fail(Problem::Undecodable),
                Ok(text) if !says(&text, value) => return fail(Problem::Different),
                Ok(_) => {}
            },
        }
    }
    Ok(())
}

/// The member's name occurs twice, so that readers may differ on its value.
struct Ambiguous;

/// The value at a path, if it is there and not null.
fn value_at<'a>(arguments: Option<&'a str>, path: &[String]) -> Result<Option<&'a str>, Ambiguous> {
    let mut value = arguments;
    for name in path {
        let Some(object) = value else { return Ok(None) };
        let mut same = scan::members(object).filter(|m| m.key == name.as_str());
        value = same.next().map(|m| m.value);
        if same.next().is_some() {
            return Err(Ambiguous);
        }
    }
    Ok(value.filter(|raw| *raw != "null"))
}

/// Whether a header's text says what a raw value says. The value's own type decides: one that does not fit the schema is
/// still repeated by clients and refused by the tool.
fn says(text: &str, raw: &str) -> bool {
    match raw.as_bytes().first() {
        Some(b'"') => scan::string(raw).is_some_and(|value| value == text),
        Some(b't' | b'f') => text == raw,
        Some(b'-' | b'0'..=b'9') => match (Number::read(text), Number::read(raw)) {
            (Some(Number::Integer(a)), Some(Number::Integer(b))) => a == b,
            (Some(Number::Fraction), Some(Number::Fraction)) => text == raw,
            _ => false,
        },
        _ => false,
    }
}

/// A number of JSON, as far as headers need it.
#[derive(Debug, PartialEq)]
enum Number {
    /// Exact in every implementation.
    Integer(i64),
    /// An integer that some implementations round.
    Unsafe,
    /// Not an integer.
    Fraction,
}

impl Number {
    const LARGEST: i64 = (1 << 53) - 1;
    const LARGEST_POWER: i64 = 1_000_000;

    /// Reads JSON's grammar of numbers; `None` for other text.
    fn read(text: &str) -> Option<Self> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (rest, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let is_digits = |t: &str| !t.is_empty() && t.bytes().all(|c| c.is_ascii_digit());
        if !is_digits(whole) || (whole.len() > 1 && whole.starts_with('0')) || !fraction.is_none_or(is_digits)
        {
            return None;
        }
        let power: i64 = match exponent {
            None => 0,
            Some(text) => {
                let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
                if !is_digits(digits) {
                    return None;
                }
                let size =
                    digits.parse().map_or(Self::LARGEST_POWER, |size: i64| size.min(Self::LARGEST_POWER));
                if text.starts_with('-') { -size } else { size }
            }
        };
        let digits = format!("{whole}{}", fraction.unwrap_or(""));
        let significant = digits.trim_end_matches('0');
        let power = power + (digits.len() - significant.len()) as i64 - fraction.map_or(0, str::len) as i64;
        Some(Self::of(negative, significant.trim_start_matches('0'), power))
    }

    /// `digits` times ten to the `power`; `digits` neither starts nor ends with a zero.
    fn of(negative: bool, digits: &str, power: i64) -> Self {
        if digits.is_empty() {
            return Self::Integer(0);
        }
        let Ok(power) = usize::try_from(power) else {
            return Self::Fraction;
        };
        // 2^53 has sixteen digits.
        if digits.len() + power > 16 {
            return Self::Unsafe;
        }
        match format!("{digits}{}", "0".repeat(power)).parse::<i64>() {
            Ok(size) if size <= Self::LARGEST => Self::Integer(if negative { -size } else { size }),
            _ => Self::Unsafe,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn param(header: &str, path: &[&str], kind: ParamKind) -> ParamHeader {
        ParamHeader { header: header.into(), path: path.iter().map(|p| (*p).to_owned()).collect(), kind }
    }

    #[test]
    fn headers_are_found_at_any_depth_of_properties() {
        let schema = r#"{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "query":{"type":"string","description":"say \"x-mcp-header\"","default":{"x-mcp-header":"no"}},
            "options":{"type":"object","properties":{"limit":{"x-mcp-h\u0065ader":"LIMIT","type":"integer"}}},
            "x-mcp-header":{"type":"boolean","x-mcp-header":"a.b"}}}"#;
        assert_eq!(
            param_headers(schema),
            Ok(vec![
                param("mcp-param-region", &["region"], ParamKind::String),
                param("mcp-param-limit", &["options", "limit"], ParamKind::Integer),
                param("mcp-param-a.b", &["x-mcp-header"], ParamKind::Boolean),
            ])
        );
        for plain in
            ["{}", "true", r#"{"type":"object"}"#, r#"{"properties":[]}"#, r#"{"properties":{"a":true}}"#]
        {
            assert_eq!(param_headers(plain), Ok(vec![]), "{plain}");
        }
    }

    #[test]
    fn illegal_headers_name_place_and_fault() {
        let property = |body: &str| format!(r#"{{"properties":{{"a":{{{body}}}}}}}"#);
        let marked = r#"{"type":"string","x-mcp-header":"X"}"#;
        let mut table = vec![
            (property(r#""type":"string","x-mcp-header":"""#), "a", Fault::Name),
            (property(r#""type":"string","x-mcp-header":"a b""#), "a", Fault::Name),
            (property(r#""type":"string","x-mcp-header":"a:b""#), "a", Fault::Name),
            (property(r#""type":"string","x-mcp-header":"a\r\nb""#), "a", Fault::Name),
            (property(r#""type":"string","x-mcp-header":"é""#), "a", Fault::Name),
            (property(r#""type":"string","x-mcp-header":7"#), "a", Fault::Name),
            (property(r#""type":"string","x-mcp-header":null"#), "a", Fault::Name),
            (property(r#""type":"number","x-mcp-header":"X""#), "a", Fault::Type),
            (property(r#""type":"object","x-mcp-header":"X""#), "a", Fault::Type),
            (property(r#""type":["string","null"],"x-mcp-header":"X""#), "a", Fault::Type),
            (property(r#""x-mcp-header":"X""#), "a", Fault::Type),
            (r#"{"type":"string","x-mcp-header":"X"}"#.to_owned(), "", Fault::Unreachable),
            (
                r#"{"properties":{"a":{"type":"string","x-mcp-header":"Xy"},"b":{"type":"string","x-mcp-header":"xY"}}}"#.to_owned(),
                "b",
                Fault::NotUnique,
            ),
            (property(&format!(r#""properties":{{"b":{{"items":{marked}}}}}"#)), "a.b.items", Fault::Unreachable),
        ];
        for keyword in SUBSCHEMAS {
            table.push((property(&format!(r#""{keyword}":{marked}"#)), "?", Fault::Unreachable));
            table.push((property(&format!(r#""{keyword}":[true,{marked}]"#)), "?", Fault::Unreachable));
            table.push((
                format!(r#"{{"{keyword}":{{"properties":{{"a":{marked}}}}}}}"#),
                "?",
                Fault::Unreachable,
            ));
        }
        for keyword in NAMED_SUBSCHEMAS {
            table.push((format!(r#"{{"{keyword}":{{"properties":{marked}}}}}"#), "?", Fault::Unreachable));
        }
        for (schema, at, fault) in table {
            let found = param_headers(&schema).unwrap_err();
            assert_eq!(found.fault, fault, "{schema}");
            assert!(at == "?" || found.at == at, "{schema}: {}", found.at);
        }
    }

    /// Header values for `mcp-param-x` and arguments, with the verdict.
    fn verdict(headers: &[&[u8]], arguments: &str) -> Option<Problem> {
        let params = [param("mcp-param-x", &["o", "x"], ParamKind::Integer)];
        let mut given = vec![("mcp-param-unknown".to_owned(), Bytes::from_static(b"\xff"))];
        given.extend(headers.iter().map(|v| ("mcp-param-x".to_owned(), Bytes::copy_from_slice(v))));
        check_params(&given, Some(arguments), &params).err().map(|e| {
            assert_eq!(e.header, "mcp-param-x");
            e.problem
        })
    }

    #[test]
    fn presence_is_the_same_on_both_sides() {
        let given: [&[u8]; 1] = [b"7"];
        for absent in
            ["{}", r#"{"o":{}}"#, r#"{"o":{"x":null}}"#, r#"{"o":null}"#, r#"{"o":[7]}"#, r#"{"x":7}"#, "[]"]
        {
            assert_eq!(verdict(&[], absent), None, "{absent}");
            assert_eq!(verdict(&given, absent), Some(Problem::Unexpected), "{absent}");
        }
        for present in ["7", "true", "\"\"", "[7]", "{}", "7.5"] {
            let arguments = format!(r#"{{"o":{{"x":{present}}}}}"#);
            assert_eq!(verdict(&[], &arguments), Some(Problem::Missing), "{present}");
            assert_eq!(verdict(&[b"7", b"7"], &arguments), Some(Problem::Repeated), "{present}");
        }
        assert_eq!(verdict(&given, r#"{"o":{"x":7,"x":7}}"#), Some(Problem::Different));
        assert_eq!(verdict(&given, r#"{"o":{"x":7},"o":{}}"#), Some(Problem::Different));
        assert_eq!(check_params(&[], None, &[param("mcp-param-x", &["x"], ParamKind::String)]), Ok(()));
    }

    #[test]
    fn values_are_compared_by_their_type() {
        const SAME: Option<Problem> = None;
        const OTHER: Option<Problem> = Some(Problem::Different);
        const BROKEN: Option<Problem> = Some(Problem::Undecodable);
        let table: [(&[u8], &str, Option<Problem>); 44] = [
            (b"42", "42", SAME),
            (b"42.0", "42", SAME),
            (b"42", "42.00", SAME),
            (b"4.2e1", "42", SAME),
            (b"42", "420E-1", SAME),
            (b"-7", "-7", SAME),
            (b"0", "-0", SAME),
            (b"0e99999999999999999999", "0", SAME),
            (b" 42\t", "42", SAME),
            (b"=?base64?NDI=?=", "42", SAME),
            (b"9007199254740991", "9007199254740991", SAME),
            (b"-9007199254740991", "-9.007199254740991e15", SAME),
            (b"4.5", "4.5", SAME),
            (b"9007199254740992", "9007199254740992", OTHER),
            (b"9007199254740993", "9007199254740992", OTHER),
            (b"1e99999999999999999999", "1e99999999999999999999", OTHER),
            (b"42", "43", OTHER),
            (b"042", "42", OTHER),
            (b"+42", "42", OTHER),
            (b"0x2a", "42", OTHER),
            (b"42.", "42", OTHER),
            (b"1e", "1", OTHER),
            (b"", "0", OTHER),
            (b"4.50", "4.5", OTHER),
            (b"1e-99999999999999999999", "0", OTHER),
            (b"true", "1", OTHER),
            (b"true", "true", SAME),
            (b"false", "false", SAME),
            (b"True", "true", OTHER),
            (b"1", "true", OTHER),
            (b"us-west1", "\"us-west1\"", SAME),
            (b"us-west1", "\"us\\u002dwest1\"", SAME),
            (b"US-WEST1", "\"us-west1\"", OTHER),
            (b"42.0", "\"42\"", OTHER),
            (b"=?base64?SGVsbG8sIOS4lueVjA==?=", "\"Hello, 世界\"", SAME),
            (b"=?base64??=", "\"\"", SAME),
            (b"", "\"\"", SAME),
            (b"=?BASE64?SGVsbG8=?=", "\"Hello\"", OTHER),
            (b"=?BASE64?SGVsbG8=?=", "\"=?BASE64?SGVsbG8=?=\"", SAME),
            (b"=?base64?SGVsbG8?=", "\"Hello\"", BROKEN),
            (b"=?base64?SGVs*G8=?=", "\"Hello\"", BROKEN),
            (b"Hello, \xe4\xb8\x96", "\"Hello, 世\"", BROKEN),
            (b"[7]", "[7]", OTHER),
            (b"{}", "{}", OTHER),
        ];
        for (header, value, expected) in table {
            let found = verdict(&[header], &format!(r#"{{"o":{{"x":{value}}}}}"#));
            assert_eq!(found, expected, "{} against {value}", header.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_a_client_repeats_is_accepted(text in any::<String>(), number in -Number::LARGEST..=Number::LARGEST) {
            for value in [crate::Json::of(&text), crate::Json::of(&number)] {
                let plain = scan::string(value.as_str()).unwrap_or(value.as_str().into());
                let header = crate::header::encode(&plain);
                let arguments = format!(r#"{{"o":{{"x":{value}}}}}"#);
                prop_assert_eq!(verdict(&[header.as_bytes()], &arguments), None);
            }
        }

        #[test]
        fn integers_compare_as_numbers(a in -2000_i64..2000, b in -2000_i64..2000, zeros in 0_usize..3) {
            let header = format!("{a}.0{}", "0".repeat(zeros));
            let same = verdict(&[header.as_bytes()], &format!(r#"{{"o":{{"x":{b}}}}}"#)).is_none();
            prop_assert_eq!(same, a == b);
        }
    }
}
