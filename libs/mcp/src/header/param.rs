//! Headers that repeat arguments of a tool: which ones its schema asks for, and whether a call's headers say what its body says.

use std::fmt;

use bytes::Bytes;

use super::{HeaderMismatch, PARAM_PREFIX, Problem, decode};
use crate::scan;

/// The keyword that asks for a header.
const KEYWORD: &str = "x-mcp-header";

/// Keywords with subschemas that a chain of `properties` does not reach: one, or an array of them.
const SUBSCHEMAS: [&str; 17] = [
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
    "extends",
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
    const LARGEST: u64 = (1 << 53) - 1;

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
                let size = digits.parse().unwrap_or(i64::from(i32::MAX));
                if text.starts_with('-') { -size } else { size }
            }
        };
        let digits = format!("{whole}{}", fraction.unwrap_or(""));
        let significant = digits.trim_end_matches('0');
        let dropped = digits.len() - significant.len() + power_of(power) - fraction_len(fraction);
        None.or(Some(Self::of(negative, significant.trim_start_matches('0'), dropped)))
    }
}
