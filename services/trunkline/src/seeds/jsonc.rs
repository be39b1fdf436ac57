//! JSON with comments, as people write settings.

/// The same without comments and without commas before a closing bracket; every line keeps its place.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek()) {
            ('"', _) => {
                out.push(c);
                string(&mut rest, &mut out);
            }
            ('/', Some('/')) => while rest.next_if(|c| *c != '\n').is_some() {},
            ('/', Some('*')) => {
                rest.next();
                block(&mut rest, &mut out);
            }
            (']' | '}', _) => {
                let end = out.trim_end().len();
                if out[..end].ends_with(',') {
                    out.replace_range(end - 1..end, "");
                }
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

fn string(rest: &mut impl Iterator<Item = char>, out: &mut String) {
    while let Some(c) = rest.next() {
        out.push(c);
        match c {
            '\\' => out.extend(rest.next()),
            '"' => return,
            _ => {}
        }
    }
}

fn block(rest: &mut impl Iterator<Item = char>, out: &mut String) {
    let mut last = ' ';
    for c in rest {
        if c == '\n' {
            out.push(c);
        }
        if last == '*' && c == '/' {
            return;
        }
        last = c;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_last_commas_go() {
        let text = "{ // one\n \"a\": \"// no /* comment */ \\\" \", /* two\nlines */ \"b\": [1, 2,\n ],\n}";
        assert_eq!(plain(text), "{ \n \"a\": \"// no /* comment */ \\\" \", \n \"b\": [1, 2\n ]\n}");
        assert_eq!(plain("{\"u\": \"http://x/**/\"} /"), "{\"u\": \"http://x/**/\"} /");
    }
}
