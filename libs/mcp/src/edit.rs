//! The one editor of raw JSON objects: members are set or removed, every other byte stays as it was.

use std::borrow::Cow;

use crate::json::Json;
use crate::scan::{self, Member};

/// Collects changes to one object and writes the new text.
///
/// A name that occurs more than once is changed at each place it occurs.
#[derive(Debug)]
pub struct ObjectEditor<'a> {
    source: &'a str,
    members: Vec<(Member<'a>, Change<'a>)>,
    added: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

#[derive(Debug, Clone)]
enum Change<'a> {
    Keep,
    Remove,
    Replace(Cow<'a, str>),
}

impl<'a> ObjectEditor<'a> {
    /// Starts on an object in checked JSON text; anything else is treated as the empty object.
    #[must_use]
    pub fn new(source: &'a str) -> Self {
        let source = if scan::is_object(source) { source } else { "{}" };
        let members = scan::members(source).map(|m| (m, Change::Keep)).collect();
        Self { source, members, added: Vec::new() }
    }

    /// The present value of a member, changes included.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        if let Some((_, value)) = self.added.iter().find(|(name, _)| name == key) {
            return Some(value);
        }
        let (member, change) = self.members.iter().rev().find(|(m, _)| m.key == key)?;
        match change {
            Change::Keep => Some(member.value),
            Change::Remove => None,
            Change::Replace(value) => Some(value),
        }
    }

    /// Sets a member to a raw JSON value, in its place if it exists, else at the end.
    pub fn set(&mut self, key: impl Into<Cow<'a, str>>, raw: impl Into<Cow<'a, str>>) -> &mut Self {
        let (key, raw) = (key.into(), raw.into());
        let mut found = false;
        for (member, change) in &mut self.members {
            if member.key == key {
                *change = Change::Replace(raw.clone());
                found = true;
            }
        }
        if !found {
            match self.added.iter_mut().find(|(name, _)| *name == key) {
                Some((_, value)) => *value = raw,
                None => self.added.push((key, raw)),
            }
        }
        self
    }

    /// Sets a member unless it is there already.
    pub fn set_default(&mut self, key: impl Into<Cow<'a, str>>, raw: impl Into<Cow<'a, str>>) -> &mut Self {
        let key = key.into();
        if self.get(&key).is_none() {
            self.set(key, raw);
        }
        self
    }

    /// Removes a member.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        for (member, change) in &mut self.members {
            if member.key == key {
                *change = Change::Remove;
            }
        }
        self.added.retain(|(name, _)| name != key);
        self
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.added.is_empty() && self.members.iter().all(|(_, c)| matches!(c, Change::Keep))
    }

    /// The new text.
    #[must_use]
    pub fn finish(&self) -> String {
        let source = self.source;
        if self.is_unchanged() {
            return source.to_owned();
        }
        let open = source.find('{').unwrap_or(0);
        let close = source.rfind('}').unwrap_or(source.len());
        let extra: usize = self.added.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
        let mut out = String::with_capacity(source.len() + extra);
        out.push_str(&source[..=open]);
        let mut first = true;
        for (member, change) in &self.members {
            let (span, value) = (&member.span, &member.value_span);
            match change {
                Change::Remove => continue,
                Change::Keep => {
                    separate(&mut out, &mut first);
                    out.push_str(&source[span.clone()]);
                }
                Change::Replace(raw) => {
                    separate(&mut out, &mut first);
                    out.push_str(&source[span.start..value.start]);
                    out.push_str(raw);
                    out.push_str(&source[value.end..span.end]);
                }
            }
        }
        for (key, raw) in &self.added {
            separate(&mut out, &mut first);
            quote_into(&mut out, key);
            out.push(':');
            out.push_str(raw);
        }
        out.push_str(&source[close..]);
        out
    }

    /// The new text as [`Json`].
    #[must_use]
    pub fn finish_json(&self) -> Json {
        Json::trusted(self.finish())
    }
}

fn separate(out: &mut String, first: &mut bool) {
    if !std::mem::take(first) {
        out.push(',');
    }
}

/// Text as a JSON string, quotes included.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote_into(&mut out, text);
    out
}

/// Adds text as a JSON string, quotes included.
pub fn quote_into(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    loop {
        let (plain, behind) = rest.split_at(scan::plain(rest.as_bytes(), 0));
        out.push_str(plain);
        let Some(next) = behind.chars().next() else { break };
        escape_into(out, next);
        rest = &behind[next.len_utf8()..];
    }
    out.push('"');
}

fn escape_into(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        other => {
            out.push_str("\\u");
            let code = u32::from(other);
            let digits = [12, 8, 4, 0].map(|shift| char::from_digit((code >> shift) & 15, 16).unwrap_or('0'));
            out.extend(digits);
        }
    }
}

/// An object with members added at its end. It must have none of these names; anything else than an object is treated as the
/// empty one.
#[must_use]
pub fn append(source: &str, members: &[(&str, &str)]) -> String {
    let source = if scan::is_object(source) { source } else { "{}" };
    let (before, close) = source.split_at(source.rfind('}').unwrap_or(source.len()));
    let extra: usize = members.iter().map(|(name, raw)| name.len() + raw.len() + 8).sum();
    let mut out = String::with_capacity(source.len() + extra);
    let mut first = before.trim_ascii() == "{";
    out.push_str(if first { before.trim_ascii_end() } else { before });
    for (name, raw) in members {
        separate(&mut out, &mut first);
        quote_into(&mut out, name);
        out.push(':');
        out.push_str(raw);
    }
    out.push_str(close);
    out
}

/// The object without its members of these names, every other byte as it was; `None` if it has none of them.
#[must_use]
pub fn without(object: &Json, names: &[&str]) -> Option<Json> {
    let source = object.as_str();
    let open = source.find('{')?;
    let mut out = String::new();
    let (mut from, mut copied, mut left_out) = (open + 1, 0, false);
    for (name, value) in object.part().members() {
        let end = value.as_str().as_ptr().addr() - source.as_ptr().addr() + value.as_str().len();
        let behind = source.get(end..)?;
        let until = end + behind.len() - behind.trim_ascii_start().len();
        if names.contains(&name.as_ref()) {
            left_out = true;
        } else {
            if out.is_empty() {
                out.reserve_exact(source.len());
                out.push_str(source.get(..=open)?);
            }
            if copied > 0 {
                out.push(',');
            }
            out.push_str(source.get(from..until)?);
            copied += 1;
        }
        // Behind a comma, or at the closing bracket.
        from = (until + 1).min(source.len());
    }
    if !left_out {
        return None;
    }
    if copied == 0 {
        out.push_str(source.get(..=open)?);
    }
    out.push_str(source.get(source.rfind('}')?..)?);
    Some(Json::trusted(out))
}

/// Builds an object from raw values, in the order given.
#[must_use]
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, Cow<'a, str>)>) -> Json {
    let mut editor = ObjectEditor::new("{}");
    for (key, raw) in members {
        editor.set(key, raw);
    }
    editor.finish_json()
}

/// Sets members of the object at `key` inside `source`, making it if it is missing or not an object.
#[must_use]
pub fn set_inside(source: &str, key: &str, inner: &[(&str, &str)]) -> String {
    let current = scan::member(source, key).unwrap_or("{}");
    let mut editor = ObjectEditor::new(current);
    for (name, raw) in inner {
        editor.set(*name, *raw);
    }
    let value = editor.finish();
    ObjectEditor::new(source).set(key, value).finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edited(source: &str, f: impl FnOnce(&mut ObjectEditor<'_>)) -> String {
        let mut editor = ObjectEditor::new(source);
        f(&mut editor);
        editor.finish()
    }

    #[test]
    fn every_other_byte_stays() {
        let source = "{ \"n\" : 1.0 , \"big\":1e400,\"-0\": -0 , \"dup\":{\"a\":1,\"a\":2} }";
        assert_eq!(edited(source, |_| {}), source);
        assert_eq!(
            edited(source, |e| {
                e.set("n", "2");
            }),
            source.replace("1.0", "2")
        );
        assert_eq!(
            edited(source, |e| {
                e.set("new", "true");
            }),
            "{ \"n\" : 1.0 , \"big\":1e400,\"-0\": -0 , \"dup\":{\"a\":1,\"a\":2} ,\"new\":true}"
        );
        assert_eq!(
            edited(source, |e| {
                e.remove("n");
            }),
            "{ \"big\":1e400,\"-0\": -0 , \"dup\":{\"a\":1,\"a\":2} }"
        );
    }

    #[test]
    fn all_members_may_go_and_come() {
        assert_eq!(
            edited("{\"a\":1,\"b\":2}", |e| {
                e.remove("a").remove("b");
            }),
            "{}"
        );
        assert_eq!(
            edited("{}", |e| {
                e.set("a", "1").set("a", "2").set_default("a", "3");
            }),
            "{\"a\":2}"
        );
        assert_eq!(
            set_inside("{\"_meta\":{\"x\":1}}", "_meta", &[("y", "2")]),
            "{\"_meta\":{\"x\":1,\"y\":2}}"
        );
        assert_eq!(set_inside("{}", "_meta", &[("y", "2")]), "{\"_meta\":{\"y\":2}}");
    }

    #[test]
    fn what_is_appended_is_what_an_editor_sets() {
        for source in ["{}", " { } ", "{\"a\":1}", " {\"a\": {\"b\":\"}\"} } ", "7"] {
            let edited = edited(source, |e| {
                e.set("x", "1").set("_meta", "{\"y\":2}");
            });
            assert_eq!(append(source, &[("x", "1"), ("_meta", "{\"y\":2}")]), edited, "{source}");
        }
    }

    #[test]
    fn what_is_left_out_is_what_an_editor_removes() {
        let sources = [
            "{}",
            " { } ",
            "{\"a\":1}",
            "{\"b\":1}",
            "{\"a\":1,\"b\":2}",
            " { \"a\" : {\"b\":\"},\"} , \"b\" : [1 , 2] ,\"c\":3 } ",
            "{\"b\":1, \"a\":\"x\\\"\" ,\"b\":{\"a\":7}}",
            "{\"\\u0061\":1,\"b\":2}",
            "[{\"a\":1}]",
            "\"{a}\"",
            "7",
        ];
        for source in sources {
            let read = Json::trusted(source.to_owned());
            let noted = Json::parse(source.to_owned().into(), &scan::Limits::MESSAGE).unwrap();
            for names in [&["a"][..], &["b"], &["c"], &["a", "b"], &["x"], &["a", "b", "c"]] {
                let expected = edited(source, |e| names.iter().for_each(|name| _ = e.remove(name)));
                let has = scan::members(source).any(|member| names.contains(&member.key.as_ref()));
                for object in [&read, &noted] {
                    let left = without(object, names).map(|json| json.to_string());
                    assert_eq!(left, has.then(|| expected.clone()), "{source} {names:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn quoted_as_serde_quotes(text in "[a\"\\\\é\u{0}-\u{1f}\u{7f}\u{2028}]{0,40}|\\PC{0,60}") {
            prop_assert_eq!(quote(&text), serde_json::to_string(&text).unwrap());
        }

        #[test]
        fn setting_then_removing_restores(keys in proptest::collection::btree_map("[a-z]{1,3}", "[0-9]{1,3}", 0..5)) {
            let body: Vec<String> = keys.iter().map(|(k, v)| format!(" \"{k}\" :1{v}")).collect();
            let source = format!("{{{}}}", body.join(","));
            let added = edited(&source, |e| { e.set("NEW", "null"); });
            prop_assert_eq!(scan::member(&added, "NEW"), Some("null"));
            let back = edited(&added, |e| { e.remove("NEW"); });
            prop_assert_eq!(back, source);
        }
    }
}
