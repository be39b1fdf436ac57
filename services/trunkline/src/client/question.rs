//! A server's question to the user, put line by line.

use std::io::{self, BufRead, Write};

use mcp::edit::ObjectEditor;
use mcp::{Json, edit, scan};

use super::arguments::{self, Types};
use super::plain;

/// What this client can answer.
pub(super) const CAPABILITIES: &str = r#"{"elicitation":{"form":{},"url":{}}}"#;

/// Puts the question of `elicitation/create` and returns its result. The end of the input cancels.
pub(super) fn put(params: &Json, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<Json> {
    writeln!(output, "The server asks: {}", plain::text(&params.text("message").unwrap_or_default()))?;
    if params.text("mode").as_deref() == Some("url") {
        let url = plain::line(&params.text("url").unwrap_or_default());
        writeln!(output, "Open this page in your browser if you trust it: {url}")?;
        return confirm("Done? [Y/n] ", "{\"action\":\"accept\"}", input, output);
    }
    let schema = params.member("requestedSchema").unwrap_or_else(Json::empty_object);
    let properties: Vec<(String, Json)> = arguments::properties(&schema).collect();
    if properties.is_empty() {
        return confirm("Agree? [Y/n] ", "{\"action\":\"accept\",\"content\":{}}", input, output);
    }
    writeln!(
        output,
        "(an empty answer takes the default, or leaves it out; to decline, leave out what is required)"
    )?;
    let mut content = ObjectEditor::new("{}");
    for (name, property) in &properties {
        let is_required = arguments::is_required(&schema, name);
        match field(name, property, is_required, &schema, input, output)? {
            Field::Value(raw) => {
                content.set(name.as_str(), raw);
            }
            Field::LeftOut => {}
            Field::Declined => return Ok(Json::trusted("{\"action\":\"decline\"}")),
            Field::End => return Ok(Json::trusted("{\"action\":\"cancel\"}")),
        }
    }
    let members = [("action", "\"accept\"".into()), ("content", content.finish().into())];
    Ok(edit::object(members))
}

enum Field {
    Value(String),
    LeftOut,
    Declined,
    End,
}

fn field(
    name: &str,
    property: &Json,
    is_required: bool,
    schema: &Json,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<Field> {
    let types = arguments::types(schema, property);
    let default = property.member("default");
    let label = property.text("title").unwrap_or_else(|| name.to_owned());
    let description =
        property.text("description").map(|text| format!(" ({})", plain::line(&text))).unwrap_or_default();
    let mut hint = types.shown();
    if let Some(default) = &default {
        hint = format!("{hint}, default {}", plain::line(default.as_str()));
    } else if !is_required {
        hint = format!("{hint}, optional");
    }
    loop {
        write!(output, "{}{description} [{}]: ", plain::line(&label), plain::line(&hint))?;
        output.flush()?;
        let Some(line) = line(input)? else { return Ok(Field::End) };
        let answer = line.trim();
        if answer.is_empty() {
            return Ok(match default {
                Some(default) => Field::Value(default.as_str().to_owned()),
                None if is_required => Field::Declined,
                None => Field::LeftOut,
            });
        }
        match read(answer, property, &types) {
            Ok(raw) => return Ok(Field::Value(raw)),
            Err(why) => writeln!(output, "  {why}")?,
        }
    }
}

fn read(answer: &str, property: &Json, types: &Types) -> Result<String, String> {
    if types.allow("boolean") {
        match answer.to_lowercase().as_str() {
            "y" | "yes" | "true" => return Ok("true".to_owned()),
            "n" | "no" | "false" => return Ok("false".to_owned()),
            _ => return Err("answer yes or no".to_owned()),
        }
    }
    if types.allow("array") {
        // Several of a list of choices.
        let chosen: Vec<String> =
            answer.split(',').map(str::trim).filter(|part| !part.is_empty()).map(edit::quote).collect();
        return Ok(format!("[{}]", chosen.join(",")));
    }
    let choices = property.member("enum");
    if let Some(choices) = choices {
        let known =
            scan::elements(choices.as_str()).any(|choice| scan::string(choice).as_deref() == Some(answer));
        if !known {
            return Err(format!("choose one of {}", plain::line(&types.shown())));
        }
    }
    arguments::convert("", answer, types).map_err(|_| format!("this is to be {}", types.shown()))
}

fn confirm(
    prompt: &str,
    accepted: &'static str,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<Json> {
    write!(output, "{prompt}")?;
    output.flush()?;
    let action = match line(input)?.as_deref().map(str::trim) {
        None => "{\"action\":\"cancel\"}",
        Some("" | "y" | "Y" | "yes") => accepted,
        Some(_) => "{\"action\":\"decline\"}",
    };
    Ok(Json::trusted(action))
}

fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    Ok((input.read_line(&mut line)? > 0).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = r#"{"message":"Who?","requestedSchema":{"type":"object","properties":{
        "name":{"type":"string","title":"Your name"},"age":{"type":"integer"},"ok":{"type":"boolean","default":true},
        "size":{"type":"string","enum":["S","M"]}},"required":["name"]}}"#;

    fn answered(params: &'static str, typed: &str) -> (String, String) {
        let mut shown = Vec::new();
        let answer = put(&Json::trusted(params), &mut typed.as_bytes(), &mut shown).unwrap();
        (answer.as_str().to_owned(), String::from_utf8(shown).unwrap())
    }

    #[test]
    fn a_form_is_filled_line_by_line() {
        let (answer, shown) = answered(FORM, "Ada\nold\n36\n\nXL\nM\n");
        assert_eq!(answer, r#"{"action":"accept","content":{"name":"Ada","age":36,"ok":true,"size":"M"}}"#);
        assert!(shown.starts_with("The server asks: Who?\n"), "{shown}");
        for words in ["Your name [string]: ", "this is to be integer", "choose one of S|M", "default true"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }

    #[test]
    fn it_can_be_declined_and_cancelled() {
        assert_eq!(answered(FORM, "\n").0, r#"{"action":"decline"}"#);
        assert_eq!(answered(FORM, "Ada\n").0, r#"{"action":"cancel"}"#);
        assert_eq!(answered(r#"{"message":"Sure?"}"#, "n\n").0, r#"{"action":"decline"}"#);
        assert_eq!(answered(r#"{"message":"Sure?"}"#, "\n").0, r#"{"action":"accept","content":{}}"#);
    }

    #[test]
    fn a_page_is_named_and_not_opened() {
        let (answer, shown) =
            answered(r#"{"mode":"url","message":"Log in","url":"https://a.example/x\u001b"}"#, "y\n");
        assert!(shown.contains("https://a.example/x\u{fffd}"), "{shown}");
        assert_eq!(answer, r#"{"action":"accept"}"#);
    }
}
