//! What a handler answers with: a result built from parts or given whole, a question, or a task.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use mcp::Json;
use mcp::edit::{self, ObjectEditor};
use schemars::JsonSchema;
use serde::Serialize;

use crate::ask::Ask;
use crate::error::Error;
use crate::schema;

/// The answer of a handler.
#[derive(Debug, Clone, PartialEq)]
pub struct Output(pub(crate) Body);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    Result(Json),
    InputRequired { ask: Ask, state: Bytes },
    Task(Json),
}

impl Output {
    /// A tool's result of one text.
    #[must_use]
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::content([Content::text(text)])
    }

    /// A tool's result of one image.
    #[must_use]
    pub fn image(bytes: impl AsRef<[u8]>, mime_type: &str) -> Self {
        Self::content([Content::image(bytes, mime_type)])
    }

    /// A tool's result of one sound.
    #[must_use]
    pub fn audio(bytes: impl AsRef<[u8]>, mime_type: &str) -> Self {
        Self::content([Content::audio(bytes, mime_type)])
    }

    /// A tool's result of several pieces of content.
    #[must_use]
    pub fn content(content: impl IntoIterator<Item = Content>) -> Self {
        Self::list("content", content)
    }

    /// A tool's structured result, with the same as text for clients that do not know structured ones.
    #[must_use]
    pub fn structured<T: Serialize + ?Sized>(value: &T) -> Self {
        let value = Json::of(value);
        let mut content = String::with_capacity(2 * value.as_str().len() + 32);
        content.push_str("[{\"type\":\"text\",\"text\":");
        edit::quote_into(&mut content, value.as_str());
        content.push_str("}]");
        Self::raw(Json::object(&[("content", content.as_str()), ("structuredContent", value.as_str())]))
    }

    /// A tool's result that says that it failed, so that the model can correct itself.
    #[must_use]
    pub fn error(text: &str) -> Self {
        Self::raw(error_result(text))
    }

    /// The result of reading a resource.
    #[must_use]
    pub fn contents<T: Into<Json>>(contents: impl IntoIterator<Item = T>) -> Self {
        Self::list("contents", contents)
    }

    /// The result of filling in a prompt.
    #[must_use]
    pub fn messages<T: Into<Json>>(messages: impl IntoIterator<Item = T>) -> Self {
        Self::list("messages", messages)
    }

    /// A whole result object, sent as it is.
    #[must_use]
    pub fn raw(result: Json) -> Self {
        Self(Body::Result(result))
    }

    /// The same result with one more member, for example `_meta` or `description`.
    #[must_use]
    pub fn with(self, member: &str, value: Json) -> Self {
        match self.0 {
            Body::Result(result) => {
                let mut editor = ObjectEditor::new(result.as_str());
                editor.set(member, value.as_str());
                Self::raw(editor.finish_json())
            }
            other @ (Body::InputRequired { .. } | Body::Task(_)) => Self(other),
        }
    }

    /// Questions to the client, from a handler that does not wait: it is called again with `state`, which the mesh seals,
    /// and finds both in [`crate::Call::round`]. Mind that it starts from its beginning then.
    #[must_use]
    pub fn input_required(ask: Ask, state: impl Into<Bytes>) -> Self {
        Self(Body::InputRequired { ask, state: state.into() })
    }

    /// The work goes on as a task.
    #[must_use]
    pub fn task(task: Json) -> Self {
        Self(Body::Task(task))
    }

    fn list<T: Into<Json>>(member: &str, items: impl IntoIterator<Item = T>) -> Self {
        let mut text = format!("{{{}:[", edit::quote(member));
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(item.into().as_str());
        }
        text.push_str("]}");
        Self::raw(Json::trusted(text))
    }
}

/// What a handler may return: [`Output`], [`Structured`] (with a derived output schema), or plain text.
pub trait Answer: Send + 'static {
    /// The schema of structured results, if it follows from the type.
    fn schema() -> Option<Json> {
        None
    }

    /// As an output.
    fn into_output(self) -> Output;
}

impl Answer for Output {
    fn into_output(self) -> Output {
        self
    }
}

impl Answer for String {
    fn into_output(self) -> Output {
        Output::text(self)
    }
}

impl Answer for &'static str {
    fn into_output(self) -> Output {
        Output::text(self)
    }
}

/// A structured result whose type is the tool's output schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Structured<T>(pub T);

impl<T: Serialize + JsonSchema + Send + 'static> Answer for Structured<T> {
    fn schema() -> Option<Json> {
        Some(schema::of_output::<T>())
    }

    fn into_output(self) -> Output {
        Output::structured(&self.0)
    }
}

/// A piece of a tool's content or of a prompt's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content(Json);

impl Content {
    /// Text.
    #[must_use]
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::of("text", &[("text", &edit::quote(text.as_ref()))])
    }

    /// An image.
    #[must_use]
    pub fn image(bytes: impl AsRef<[u8]>, mime_type: &str) -> Self {
        Self::binary("image", bytes.as_ref(), mime_type)
    }

    /// A sound.
    #[must_use]
    pub fn audio(bytes: impl AsRef<[u8]>, mime_type: &str) -> Self {
        Self::binary("audio", bytes.as_ref(), mime_type)
    }

    /// A resource together with what is in it.
    #[must_use]
    pub fn resource(contents: ResourceContents) -> Self {
        Self::of("resource", &[("resource", contents.0.as_str())])
    }

    /// A resource that the client may read.
    #[must_use]
    pub fn link(uri: &str, name: &str) -> Self {
        Self::of("resource_link", &[("uri", &edit::quote(uri)), ("name", &edit::quote(name))])
    }

    /// A whole content object, sent as it is.
    #[must_use]
    pub fn raw(content: Json) -> Self {
        Self(content)
    }

    /// The same content with one more member, for example `annotations` or `_meta`.
    #[must_use]
    pub fn with(self, member: &str, value: &Json) -> Self {
        let mut editor = ObjectEditor::new(self.0.as_str());
        editor.set(member, value.as_str());
        Self(editor.finish_json())
    }

    fn binary(kind: &str, bytes: &[u8], mime_type: &str) -> Self {
        Self::of(
            kind,
            &[("data", &edit::quote(&BASE64.encode(bytes))), ("mimeType", &edit::quote(mime_type))],
        )
    }

    fn of(kind: &str, members: &[(&str, &str)]) -> Self {
        let mut editor = ObjectEditor::new("{}");
        editor.set("type", edit::quote(kind));
        for (name, raw) in members {
            editor.set(*name, *raw);
        }
        Self(editor.finish_json())
    }
}

impl From<Content> for Json {
    fn from(content: Content) -> Self {
        content.0
    }
}

/// What is in a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceContents(Json);

impl ResourceContents {
    /// Text.
    #[must_use]
    pub fn text(uri: &str, mime_type: &str, text: &str) -> Self {
        Self::of(uri, mime_type, "text", text)
    }

    /// Anything else.
    #[must_use]
    pub fn blob(uri: &str, mime_type: &str, bytes: &[u8]) -> Self {
        Self::of(uri, mime_type, "blob", &BASE64.encode(bytes))
    }

    fn of(uri: &str, mime_type: &str, member: &str, value: &str) -> Self {
        Self(edit::object([
            ("uri", edit::quote(uri).into()),
            ("mimeType", edit::quote(mime_type).into()),
            (member, edit::quote(value).into()),
        ]))
    }
}

impl From<ResourceContents> for Json {
    fn from(contents: ResourceContents) -> Self {
        contents.0
    }
}

/// A message of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Json);

impl Message {
    /// Said by the user.
    #[must_use]
    pub fn user(content: Content) -> Self {
        Self::of("user", content)
    }

    /// Said by the model.
    #[must_use]
    pub fn assistant(content: Content) -> Self {
        Self::of("assistant", content)
    }

    fn of(role: &str, content: Content) -> Self {
        Self(edit::object([("role", edit::quote(role).into()), ("content", content.0.as_str().into())]))
    }
}

impl From<Message> for Json {
    fn from(message: Message) -> Self {
        message.0
    }
}

/// A tool's result that says that it failed.
pub(crate) fn error_result(text: &str) -> Json {
    let content = format!("[{}]", Content::text(text).0);
    edit::object([("content", content.into()), ("isError", "true".into())])
}

/// What the handlers of any kind of entry resolve to.
pub(crate) type Answered = Result<Output, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    fn result(output: Output) -> String {
        match output.0 {
            Body::Result(json) => json.to_string(),
            Body::InputRequired { .. } | Body::Task(_) => panic!("not a result"),
        }
    }

    #[test]
    fn results_have_the_protocols_shapes() {
        assert_eq!(result(Output::text("a\"b")), r#"{"content":[{"type":"text","text":"a\"b"}]}"#);
        assert_eq!(
            result(Output::image([1, 2, 3], "image/png")),
            r#"{"content":[{"type":"image","data":"AQID","mimeType":"image/png"}]}"#
        );
        assert_eq!(
            result(Output::structured(&serde_json::json!({"result": 3}))),
            r#"{"content":[{"type":"text","text":"{\"result\":3}"}],"structuredContent":{"result":3}}"#
        );
        assert_eq!(
            result(Output::error("no")),
            r#"{"content":[{"type":"text","text":"no"}],"isError":true}"#
        );
        let contents = ResourceContents::blob("a://b", "x/y", b"\xff");
        assert_eq!(
            result(Output::contents([contents.clone()])),
            r#"{"contents":[{"uri":"a://b","mimeType":"x/y","blob":"/w=="}]}"#
        );
        assert_eq!(
            result(Output::content([Content::resource(contents), Content::link("a://c", "c")])),
            r#"{"content":[{"type":"resource","resource":{"uri":"a://b","mimeType":"x/y","blob":"/w=="}},{"type":"resource_link","uri":"a://c","name":"c"}]}"#
        );
        assert_eq!(
            result(Output::messages([Message::user(Content::text("hi"))]).with("description", Json::of("d"))),
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"hi"}}],"description":"d"}"#
        );
    }

    #[test]
    fn a_raw_result_is_not_touched() {
        let text = "{ \"n\" : 1.0, \"big\":1e400, \"a\":{\"x\":1,\"x\":2} }";
        assert_eq!(result(Output::raw(Json::trusted(text))), text);
    }
}
