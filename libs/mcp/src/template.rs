//! Which URIs a URI template (RFC 6570) stands for. Matching only, linear in practice and bounded: no regular expressions.

/// A piece of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    Literal(&'a str),
    /// A variable that stands for at least one character; `{name}` never spans `/`, `{+name}` and `{#name}` may.
    Variable {
        name: &'a str,
        spans_slash: bool,
    },
}

/// Most variables a template may have.
const MAX_VARIABLES: usize = 16;

fn parse(template: &str) -> Option<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            parts.push(Part::Literal(&rest[..open]));
        }
        let close = open + rest[open..].find('}')?;
        let inside = &rest[open + 1..close];
        let spans_slash = inside.starts_with(['+', '#']);
        let name = inside.trim_start_matches(['+', '#', '.', '/', ';', '?', '&']).trim_end_matches('*');
        if name.is_empty() {
            return None;
        }
        parts.push(Part::Variable { name, spans_slash });
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest));
    }
    let variables = parts.iter().filter(|p| matches!(p, Part::Variable { .. })).count();
    (variables <= MAX_VARIABLES).then_some(parts)
}

/// Whether `uri` is one of the URIs of `template`.
#[must_use]
pub fn matches(template: &str, uri: &str) -> bool {
    capture(template, uri).is_some()
}

/// The variables with the text each stands for, as it is written in the URI. `None` if it does not match.
///
/// Each variable takes as little as lets the literal behind it match, the last one takes the rest.
#[must_use]
pub fn capture<'t, 'u>(template: &'t str, uri: &'u str) -> Option<Vec<(&'t str, &'u str)>> {
    let parts = parse(template)?;
    let mut rest = uri;
    let mut found = Vec::new();
    for (index, part) in parts.iter().copied().enumerate() {
        match part {
            Part::Literal(text) => rest = rest.strip_prefix(text)?,
            Part::Variable { name, spans_slash } => {
                let end = match parts.get(index + 1) {
                    Some(Part::Literal(next)) if index + 2 == parts.len() => {
                        rest.len().checked_sub(next.len())?
                    }
                    Some(Part::Literal(next)) => {
                        rest.char_indices().skip(1).find(|(i, _)| rest[*i..].starts_with(next))?.0
                    }
                    Some(Part::Variable { .. }) => rest.char_indices().nth(1).map_or(rest.len(), |(i, _)| i),
                    None => rest.len(),
                };
                let value = rest.get(..end)?;
                if value.is_empty() || (!spans_slash && value.contains('/')) {
                    return None;
                }
                found.push((name, value));
                rest = &rest[end..];
            }
        }
    }
    rest.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        type Captured<'a> = Option<&'a [(&'a str, &'a str)]>;
        let cases: [(&str, &str, Captured<'_>); 14] = [
            ("test://template/{id}/data", "test://template/123/data", Some(&[("id", "123")])),
            ("test://template/{id}/data", "test://template/1/2/data", None),
            ("test://template/{id}/data", "test://template//data", None),
            ("test://template/{id}/data", "test://template/1/dat", None),
            ("file:///docs/{+path}", "file:///docs/a/b.md", Some(&[("path", "a/b.md")])),
            ("file:///docs/{path}", "file:///docs/a/b.md", None),
            ("a:{x}-{y}", "a:1-2-3", Some(&[("x", "1"), ("y", "2-3")])),
            ("a:{x}.txt", "a:b.txt.txt", Some(&[("x", "b.txt")])),
            ("a:{x}{y}", "a:12", Some(&[("x", "1"), ("y", "2")])),
            ("a:{x}", "a:", None),
            ("a:b", "a:b", Some(&[])),
            ("a:b", "a:bc", None),
            ("a:{", "a:{", None),
            ("a:{}", "a:x", None),
        ];
        for (template, uri, expected) in cases {
            assert_eq!(capture(template, uri).as_deref(), expected, "{template} {uri}");
        }
        let many = "{a}".repeat(MAX_VARIABLES + 1);
        assert!(!matches(&many, "xxxxxxxxxxxxxxxxxxxxxxxx"));
        assert_eq!(capture("é:{x}é", "é:üé").as_deref(), Some([("x", "ü")].as_slice()));
    }
}
