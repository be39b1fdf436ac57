//! The templates that are advertised: RFC 6570 level 1 (`{name}`), and `{+name}` where the value may hold `/`.
//!
//! Matching is [`mcp::template`]'s, a walk from left to right without backtracking. What would make it ambiguous is refused
//! when a template is read: two variables side by side, and a `{+name}` that is not the last variable.

use crate::uri::decode_segment;

/// Longest template, in bytes.
const MAX_LENGTH: usize = 2048;
/// Most variables.
const MAX_VARIABLES: usize = 16;

/// A template that URIs are matched against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UriTemplate {
    text: String,
    /// Length of what comes before the first variable.
    prefix: usize,
    variables: Vec<String>,
}

/// Why a text is not used as a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("longer than {MAX_LENGTH} bytes, or more than {MAX_VARIABLES} variables")]
    TooLarge,
    #[error("no variable: a fixed URI is not a template")]
    Fixed,
    #[error("`{{` and `}}` do not pair up")]
    Braces,
    #[error("`{{{0}}}` is not understood: only `{{name}}` and `{{+name}}` are")]
    Expression(String),
    #[error("`{{{0}}}` stands twice")]
    Repeated(String),
    #[error("`{{{0}}}` stands directly behind another variable")]
    Adjacent(String),
    #[error("`{{+{0}}}` must be the last variable")]
    PathNotLast(String),
    #[error("`{0}` cannot stand in a URI")]
    Character(char),
}

impl UriTemplate {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_LENGTH {
            return Err(TemplateError::TooLarge);
        }
        let mut pieces = text.split('{');
        let mut behind = pieces.next().unwrap_or_default();
        check_literal(behind)?;
        let prefix = behind.len();
        let mut variables: Vec<String> = Vec::new();
        let mut path = None;
        for piece in pieces {
            let (expression, literal) = piece.split_once('}').ok_or(TemplateError::Braces)?;
            let name = expression.strip_prefix('+').unwrap_or(expression);
            if !is_name(name) {
                return Err(TemplateError::Expression(expression.to_owned()));
            }
            if variables.iter().any(|known| known == name) {
                return Err(TemplateError::Repeated(name.to_owned()));
            }
            if let Some(path) = path {
                return Err(TemplateError::PathNotLast(path));
            }
            if !variables.is_empty() && behind.is_empty() {
                return Err(TemplateError::Adjacent(name.to_owned()));
            }
            check_literal(literal)?;
            behind = literal;
            path = (name != expression).then(|| name.to_owned());
            variables.push(name.to_owned());
        }
        match variables.len() {
            0 => Err(TemplateError::Fixed),
            1..=MAX_VARIABLES => Ok(Self { text: text.to_owned(), prefix, variables }),
            _ => Err(TemplateError::TooLarge),
        }
    }

    /// As written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// What every URI that matches begins with.
    pub(crate) fn prefix(&self) -> &str {
        self.text.get(..self.prefix).unwrap_or_default()
    }

    /// Whether it has this variable.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.variables.iter().any(|variable| variable == name)
    }

    /// The variables and their values, in order, if `uri` is of this form. No value is empty.
    pub(crate) fn matches(&self, uri: &str) -> Option<Vec<(&str, String)>> {
        let captured = mcp::template::capture(&self.text, uri)?;
        captured.into_iter().map(|(name, raw)| Some((name, decode(raw)?))).collect()
    }
}

fn decode(raw: &str) -> Option<String> {
    let names: Result<Vec<String>, _> = raw.split('/').map(decode_segment).collect();
    names.ok().map(|names| names.join("/"))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

fn check_literal(text: &str) -> Result<(), TemplateError> {
    if text.contains('}') {
        return Err(TemplateError::Braces);
    }
    let stranger = text.chars().find(|c| !c.is_ascii_graphic() || "\"<>\\^`|".contains(*c));
    stranger.map_or(Ok(()), |c| Err(TemplateError::Character(c)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn matched(template: &str, uri: &str) -> Option<String> {
        let template = UriTemplate::parse(template).unwrap();
        let values = template.matches(uri)?;
        Some(values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn values_are_found_and_decoded() {
        for (template, uri, expected) in [
            ("f:///{a}", "f:///x", Some("a=x")),
            ("f:///{a}", "f:///x%20y", Some("a=x y")),
            ("f:///{a}", "f:///x/y", None),
            ("f:///{a}", "f:///", None),
            ("f:///{a}", "g:///x", None),
            ("f:///{+a}", "f:///x/y%20z.md", Some("a=x/y z.md")),
            ("f:///{a}.md", "f:///x.md.md", Some("a=x.md")),
            ("f:///{a}.md", "f:///.md", None),
            ("f:///{a}-{b}", "f:///x-y-z", Some("a=x b=y-z")),
            ("f:///{a}-{b}", "f:///-y-z", Some("a=-y b=z")),
            ("f:///{a}/{b}/c", "f:///x/y/c", Some("a=x b=y")),
            ("f:///{a}/{+b}", "f:///x/y/z", Some("a=x b=y/z")),
            ("f:///{a}", "f:///%zz", None),
            ("f:///{a}", "f:///%FF", None),
            ("f:///{a}-{b}", "f:///ü-y", None),
        ] {
            assert_eq!(matched(template, uri).as_deref(), expected, "{template} {uri}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        use TemplateError::{
            Adjacent, Braces, Character, Expression, Fixed, PathNotLast, Repeated, TooLarge,
        };
        for (text, expected) in [
            ("f:///x", Fixed),
            ("", Fixed),
            ("f:///{a", Braces),
            ("f:///a}", Braces),
            ("f:///{a}}", Braces),
            ("f:///{}", Expression(String::new())),
            ("f:///{+}", Expression("+".into())),
            ("f:///{#a}", Expression("#a".into())),
            ("f:///{?a}", Expression("?a".into())),
            ("f:///{a,b}", Expression("a,b".into())),
            ("f:///{a*}", Expression("a*".into())),
            ("f:///{a:3}", Expression("a:3".into())),
            ("f:///{a}{b}", Adjacent("b".into())),
            ("f:///{+a}-{b}", PathNotLast("a".into())),
            ("f:///{a}/{a}", Repeated("a".into())),
            ("f:///x y/{a}", Character(' ')),
            ("f:///ü/{a}", Character('ü')),
        ] {
            assert_eq!(UriTemplate::parse(text), Err(expected), "{text}");
        }
        let many: String = (0..17).map(|n| format!("{{v{n}}}/")).collect();
        assert_eq!(UriTemplate::parse(&many), Err(TooLarge));
        assert_eq!(UriTemplate::parse(&format!("{{a}}{}", "x".repeat(MAX_LENGTH))), Err(TooLarge));
    }

    #[test]
    fn what_begins_every_match_is_known() {
        assert_eq!(UriTemplate::parse("f:///x/{a}/y").unwrap().prefix(), "f:///x/");
    }

    #[test]
    fn a_hostile_uri_costs_no_more_than_its_length() {
        let template = UriTemplate::parse("f:///{a}a{b}a{c}a{d}a{e}a{f}a{g}a{h}b").unwrap();
        let hostile = format!("f:///{}", "a".repeat(1 << 20));
        let started = Instant::now();
        assert_eq!(template.matches(&hostile), None);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
