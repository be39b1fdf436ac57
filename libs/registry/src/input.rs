//! The inputs of a tool, named one by one instead of by a schema.

use mcp::Json;
use mcp::edit::{self, ObjectEditor};
use serde::Serialize;

use crate::tool::Tool;

/// One input of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    name: String,
    schema: Json,
    required: bool,
}

impl Input {
    /// Text.
    #[must_use]
    pub fn string(name: impl Into<String>) -> Self {
        Self::typed(name, "string")
    }

    /// A number.
    #[must_use]
    pub fn number(name: impl Into<String>) -> Self {
        Self::typed(name, "number")
    }

    /// A whole number.
    #[must_use]
    pub fn integer(name: impl Into<String>) -> Self {
        Self::typed(name, "integer")
    }

    /// True or false.
    #[must_use]
    pub fn boolean(name: impl Into<String>) -> Self {
        Self::typed(name, "boolean")
    }

    /// A list. Say what is in it with `.with("items", ..)`.
    #[must_use]
    pub fn array(name: impl Into<String>) -> Self {
        Self::typed(name, "array")
    }

    /// An object. Say what is in it with `.with("properties", ..)`.
    #[must_use]
    pub fn object(name: impl Into<String>) -> Self {
        Self::typed(name, "object")
    }

    /// An input with a JSON Schema of its own.
    #[must_use]
    pub fn schema(name: impl Into<String>, schema: Json) -> Self {
        Self { name: name.into(), schema, required: false }
    }

    /// Calls without it are refused.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// What it is, for the model.
    #[must_use]
    pub fn description(self, text: &str) -> Self {
        self.with("description", &Json::of(text))
    }

    /// What is used where it is missing. Advertised, and filled in before the handler is called.
    #[must_use]
    pub fn default<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.with("default", &Json::of(value))
    }

    /// The values it may have.
    #[must_use]
    pub fn one_of<T: Serialize>(self, values: impl IntoIterator<Item = T>) -> Self {
        let values: Vec<T> = values.into_iter().collect();
        self.with("enum", &Json::of(&values))
    }

    /// Sets any keyword of its schema.
    #[must_use]
    pub fn with(mut self, keyword: &str, value: &Json) -> Self {
        let mut editor = ObjectEditor::new(self.schema.as_str());
        editor.set(keyword, value.as_str());
        self.schema = editor.finish_json();
        self
    }

    /// Its name and what is used where it is missing.
    pub(crate) fn given_default(&self) -> Option<(String, Json)> {
        Some((self.name.clone(), self.schema.member("default")?))
    }

    fn typed(name: impl Into<String>, kind: &str) -> Self {
        Self::schema(name, edit::object([("type", edit::quote(kind).into())]))
    }
}

/// The schema of an object with these inputs.
pub(crate) fn object_schema<'a>(inputs: impl IntoIterator<Item = &'a Input>) -> Json {
    let mut properties = ObjectEditor::new("{}");
    let mut required = Vec::new();
    for input in inputs {
        properties.set(input.name.as_str(), input.schema.as_str());
        if input.required {
            required.push(input.name.as_str());
        }
    }
    let properties = properties.finish();
    let mut schema = ObjectEditor::new("{\"type\":\"object\"}");
    schema.set("properties", properties.as_str());
    let required_json = Json::of(&required);
    if !required.is_empty() {
        schema.set("required", required_json.as_str());
    }
    schema.finish_json()
}

/// One input of a tool that is being written down in a chain; [`InputBuilder::add`] goes back to the tool.
#[derive(Debug)]
#[must_use = "an input belongs to its tool only after `add()`"]
pub struct InputBuilder {
    tool: Tool,
    input: Input,
}

impl InputBuilder {
    pub(crate) const fn new(tool: Tool, input: Input) -> Self {
        Self { tool, input }
    }

    /// See [`Input::required`].
    pub fn required(self) -> Self {
        self.map(Input::required)
    }

    /// See [`Input::description`].
    pub fn description(self, text: &str) -> Self {
        self.map(|input| input.description(text))
    }

    /// See [`Input::default`].
    pub fn default<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.map(|input| input.default(value))
    }

    /// See [`Input::one_of`].
    pub fn one_of<T: Serialize>(self, values: impl IntoIterator<Item = T>) -> Self {
        self.map(|input| input.one_of(values))
    }

    /// See [`Input::with`].
    pub fn with(self, keyword: &str, value: &Json) -> Self {
        self.map(|input| input.with(keyword, value))
    }

    /// Puts the input into its tool.
    #[must_use]
    pub fn add(self) -> Tool {
        self.tool.inputs([self.input])
    }

    fn map(mut self, change: impl FnOnce(Input) -> Input) -> Self {
        self.input = change(self.input);
        self
    }
}
