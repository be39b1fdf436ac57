//! What clients see of a prompt: its entry in the list, and its messages.

use mcp::Json;
use registry::{Content, Message, ResourceContents};
use serde::Serialize;

use crate::format::{Argument, PromptFile, Role};
use crate::template::Filled;

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    arguments: Vec<ArgumentEntry<'a>>,
}

#[derive(Serialize)]
struct ArgumentEntry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    required: bool,
}

/// A prompt as an entry of `prompts/list`.
pub(crate) fn prompt(file: &PromptFile) -> Json {
    Json::of(&Entry {
        name: &file.name,
        title: file.title.as_deref(),
        description: file.description.as_deref(),
        arguments: file.arguments.iter().map(entry).collect(),
    })
}

/// A message of `prompts/get`.
pub(crate) fn message(filled: &Filled<'_>) -> Message {
    let content = match filled.resource {
        None => Content::text(&filled.text),
        Some(resource) => {
            let mime_type = resource.mime_type.as_deref().unwrap_or("text/plain");
            Content::resource(ResourceContents::text(&resource.uri, mime_type, &filled.text))
        }
    };
    match filled.role {
        Role::User => Message::user(content),
        Role::Assistant => Message::assistant(content),
    }
}

fn entry(argument: &Argument) -> ArgumentEntry<'_> {
    ArgumentEntry {
        name: &argument.name,
        title: argument.title.as_deref(),
        description: argument.description.as_deref(),
        required: argument.required,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Resource;

    #[test]
    fn a_prompt_is_listed_with_its_arguments() {
        let text = "+++\ntitle='T'\n[[arguments]]\nname='a'\ntitle='A'\ndescription='D'\nrequired=true\n[[arguments]]\nname='b'\n\
                    values=['x']\n+++\nx";
        assert_eq!(
            prompt(&PromptFile::parse("p", text).unwrap()).as_str(),
            r#"{"name":"p","title":"T","arguments":[{"name":"a","title":"A","description":"D","required":true},{"name":"b","required":false}]}"#
        );
        assert_eq!(prompt(&PromptFile::parse("p", "+++\n+++\nx").unwrap()).as_str(), r#"{"name":"p"}"#);
    }

    #[test]
    fn a_message_is_text_or_a_resource() {
        let json = |filled| Json::from(message(&filled)).to_string();
        assert_eq!(
            json(Filled { role: Role::Assistant, resource: None, text: "a\n\"b\"".into() }),
            r#"{"role":"assistant","content":{"type":"text","text":"a\n\"b\""}}"#
        );
        let resource = Resource { uri: "a://b".into(), mime_type: None };
        assert_eq!(
            json(Filled { role: Role::User, resource: Some(&resource), text: "x".into() }),
            r#"{"role":"user","content":{"type":"resource","resource":{"uri":"a://b","mimeType":"text/plain","text":"x"}}}"#
        );
    }
}
