//! Tools: how one is described, and the handler that does its work.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mcp::Json;
use mcp::edit::ObjectEditor;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::build::BuildError;
use crate::call::Call;
use crate::error::Error;
use crate::input::{self, Input, InputBuilder};
use crate::output::{Answer, Answered, Body};
use crate::schema::{self, Schema};

/// Does the work of a tool. Gets the arguments as the client wrote them.
pub(crate) type Handler = Arc<dyn Fn(Json, Call) -> BoxFuture<'static, Answered> + Send + Sync>;

/// A tool that is being described.
#[derive(Clone)]
pub struct Tool {
    name: String,
    raw: Option<Json>,
    members: Vec<(String, Json)>,
    inputs: Vec<Input>,
    input_schema: Option<Json>,
    output_schema: Option<Json>,
    handler: Option<Handler>,
}

impl Tool {
    /// A tool with this name: 1 to 128 letters, digits, `_`, `-`, `.` or `/`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            raw: None,
            members: Vec::new(),
            inputs: Vec::new(),
            input_schema: None,
            output_schema: None,
            handler: None,
        }
    }

    /// A tool by its whole definition, which clients see byte for byte.
    #[must_use]
    pub fn raw(definition: Json) -> Self {
        let name = definition.text("name").unwrap_or_default();
        let (input_schema, output_schema) =
            (definition.member("inputSchema"), definition.member("outputSchema"));
        Self { raw: Some(definition), input_schema, output_schema, ..Self::new(name) }
    }

    /// A name for people.
    #[must_use]
    pub fn title(self, text: &str) -> Self {
        self.member("title", Json::of(text))
    }

    /// What it does, for the model.
    #[must_use]
    pub fn description(self, text: &str) -> Self {
        self.member("description", Json::of(text))
    }

    /// Hints such as `readOnlyHint`.
    #[must_use]
    pub fn annotations(self, annotations: Json) -> Self {
        self.member("annotations", annotations)
    }

    /// Any other member of the definition: `icons`, `_meta`, something of an extension.
    #[must_use]
    pub fn member(mut self, name: &str, value: Json) -> Self {
        self.members.retain(|(known, _)| known != name);
        self.members.push((name.to_owned(), value));
        self
    }

    /// The schema of its arguments; otherwise it follows from the inputs or from the handler's type.
    #[must_use]
    pub fn input_schema(mut self, schema: Json) -> Self {
        self.input_schema = Some(schema);
        self
    }

    /// The schema of its structured results. Results that do not fit are not sent.
    #[must_use]
    pub fn output_schema(mut self, schema: Json) -> Self {
        self.output_schema = Some(schema);
        self
    }

    /// The schema of its structured results, derived from a type.
    #[must_use]
    pub fn output<T: JsonSchema>(self) -> Self {
        self.output_schema(schema::of_output::<T>())
    }

    /// Inputs as a list.
    #[must_use]
    pub fn inputs(mut self, inputs: impl IntoIterator<Item = Input>) -> Self {
        self.inputs.extend(inputs);
        self
    }

    /// Begins a text input; end it with `add()`.
    pub fn string(self, name: &str) -> InputBuilder {
        InputBuilder::new(self, Input::string(name))
    }

    /// Begins a number input; end it with `add()`.
    pub fn number(self, name: &str) -> InputBuilder {
        InputBuilder::new(self, Input::number(name))
    }

    /// Begins a whole-number input; end it with `add()`.
    pub fn integer(self, name: &str) -> InputBuilder {
        InputBuilder::new(self, Input::integer(name))
    }

    /// Begins a yes-or-no input; end it with `add()`.
    pub fn boolean(self, name: &str) -> InputBuilder {
        InputBuilder::new(self, Input::boolean(name))
    }

    /// Begins any other input; end it with `add()`.
    pub fn input(self, input: Input) -> InputBuilder {
        InputBuilder::new(self, input)
    }

    /// Its work, with arguments of a type. The input schema follows from that type, the output schema from
    /// [`crate::Structured`] results, unless they are set.
    #[must_use]
    pub fn handler<I, A, F, W>(mut self, work: F) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        A: Answer,
        F: Fn(I, Call) -> W + Send + Sync + 'static,
        W: Future<Output = Result<A, Error>> + Send + 'static,
    {
        if self.raw.is_none() {
            if self.inputs.is_empty() {
                self.input_schema.get_or_insert_with(schema::of_input::<I>);
            }
            self.output_schema = self.output_schema.or_else(A::schema);
        }
        self.handler = Some(Arc::new(move |arguments: Json, call| match arguments.read::<I>() {
            Ok(input) => work(input, call).map(|done| done.map(Answer::into_output)).boxed(),
            Err(error) => futures::future::ready(Err(Error::invalid_params(error))).boxed(),
        }));
        self
    }

    /// Its work, with the arguments as the client wrote them.
    #[must_use]
    pub fn raw_handler<A, F, W>(mut self, work: F) -> Self
    where
        A: Answer,
        F: Fn(Json, Call) -> W + Send + Sync + 'static,
        W: Future<Output = Result<A, Error>> + Send + 'static,
    {
        self.handler = Some(raw_handler(work));
        self
    }

    /// Checks the tool and makes what is registered.
    pub(crate) fn prepare(self) -> Result<(String, ToolEntry), BuildError> {
        let fail = |what: &'static str| {
            let tool = self.name.clone();
            move |error| BuildError::Schema { tool, what, error }
        };
        if !is_name(&self.name) {
            return Err(BuildError::Name(self.name));
        }
        let input = match (&self.raw, &self.input_schema) {
            (_, Some(schema)) => schema.clone(),
            (Some(_), None) => return Err(fail("inputSchema")(schema::SchemaError::NotAnObject)),
            (None, None) => input::object_schema(&self.inputs),
        };
        let checked = Schema::input(&input).map_err(fail("inputSchema"))?;
        let output =
            self.output_schema.as_ref().map(Schema::output).transpose().map_err(fail("outputSchema"))?;
        let definition = self.raw.clone().unwrap_or_else(|| self.written(&input));
        let defaults = self.inputs.iter().filter_map(Input::given_default).collect();
        let entry = ToolEntry { definition, input: checked, output, defaults, handler: self.handler };
        Ok((self.name, entry))
    }

    fn written(&self, input: &Json) -> Json {
        let name = Json::of(&self.name);
        let mut editor = ObjectEditor::new("{}");
        editor.set("name", name.as_str());
        for (member, value) in self.members.iter().filter(|(m, _)| m == "title" || m == "description") {
            editor.set(member.as_str(), value.as_str());
        }
        editor.set("inputSchema", input.as_str());
        if let Some(output) = &self.output_schema {
            editor.set("outputSchema", output.as_str());
        }
        for (member, value) in &self.members {
            editor.set(member.as_str(), value.as_str());
        }
        editor.finish_json()
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Wraps work on raw arguments.
pub(crate) fn raw_handler<A, F, W>(work: F) -> Handler
where
    A: Answer,
    F: Fn(Json, Call) -> W + Send + Sync + 'static,
    W: Future<Output = Result<A, Error>> + Send + 'static,
{
    Arc::new(move |arguments, call| work(arguments, call).map(|done| done.map(Answer::into_output)).boxed())
}

/// Whether a tool or prompt may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'/'))
}

/// A registered tool.
pub(crate) struct ToolEntry {
    pub(crate) definition: Json,
    input: Schema,
    output: Option<Schema>,
    defaults: Vec<(String, Json)>,
    pub(crate) handler: Option<Handler>,
}

impl ToolEntry {
    /// Checks the arguments, does the work, checks the result.
    pub(crate) async fn run(self: Arc<Self>, arguments: Json, call: Call) -> Answered {
        self.input
            .check(arguments.as_str())
            .map_err(|problems| Error::Failed(format!("invalid input: {problems}")))?;
        let arguments = self.with_defaults(arguments);
        let Some(handler) = &self.handler else {
            return Err(Error::NotFound(call.target().to_owned()));
        };
        let output = handler(arguments, call).await?;
        match (&self.output, &output.0) {
            (Some(schema), Body::Result(result)) => check_output(schema, result)?,
            (None, Body::Result(_)) | (_, Body::InputRequired { .. } | Body::Task(_)) => {}
        }
        Ok(output)
    }

    fn with_defaults(&self, arguments: Json) -> Json {
        if self.defaults.is_empty() {
            return arguments;
        }
        let mut editor = ObjectEditor::new(arguments.as_str());
        for (name, value) in &self.defaults {
            editor.set_default(name.as_str(), value.as_str());
        }
        if editor.is_unchanged() { arguments.clone() } else { editor.finish_json() }
    }

    /// The same tool with another handler.
    pub(crate) fn with_handler(self: Arc<Self>, handler: Handler) -> Result<Self, BuildError> {
        let mut tool = Tool::raw(self.definition.clone());
        tool.handler = Some(handler);
        let (_, mut entry) = tool.prepare()?;
        entry.defaults.clone_from(&self.defaults);
        Ok(entry)
    }
}

/// A result with an output schema must have fitting structured content, unless it says that the tool failed.
fn check_output(schema: &Schema, result: &Json) -> Result<(), Error> {
    use mcp::rpc::RpcError;
    let [flag, content] = result.part().fields(["isError", "structuredContent"]);
    if flag.is_some_and(|flag| flag.as_str() == "true") {
        return Ok(());
    }
    let problem = match content {
        Some(content) => schema.check(content.as_str()).err(),
        None => Some("`structuredContent` is missing".to_owned()),
    };
    match problem {
        None => Ok(()),
        Some(problem) => {
            tracing::error!(%problem, "a tool broke its own output schema");
            Err(Error::Rpc(RpcError::reason(
                "the tool's result does not fit its output schema",
                "output_schema",
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(tool: Tool) -> String {
        tool.prepare().unwrap().1.definition.to_string()
    }

    #[test]
    fn list_and_chain_describe_the_same_tool() {
        let list = Tool::new("calculator").description("Computes").inputs([
            Input::string("operation").required().description("What to do"),
            Input::number("a").required(),
            Input::string("units").default("celsius"),
        ]);
        let chain = Tool::new("calculator")
            .description("Computes")
            .string("operation")
            .required()
            .description("What to do")
            .add()
            .number("a")
            .required()
            .add()
            .string("units")
            .default("celsius")
            .add();
        let expected = r#"{"name":"calculator","description":"Computes","inputSchema":{"type":"object","properties":{"operation":{"type":"string","description":"What to do"},"a":{"type":"number"},"units":{"type":"string","default":"celsius"}},"required":["operation","a"]}}"#;
        assert_eq!(definition(list), expected);
        assert_eq!(definition(chain), expected);
    }

    #[test]
    fn a_raw_definition_is_not_touched() {
        let text =
            r#"{ "x-new" : 1.0, "name":"t", "inputSchema":{"type":"object", "x-mcp-header":{"a":1e400}} }"#;
        assert_eq!(definition(Tool::raw(Json::trusted(text))), text);
    }

    #[test]
    fn bad_tools_are_refused() {
        let problem = |tool: Tool| tool.prepare().err().unwrap().to_string();
        assert!(problem(Tool::new("a b")).contains("a b"));
        assert!(problem(Tool::new("")).contains("name"));
        assert!(problem(Tool::new("t").input_schema(Json::trusted("{}"))).contains("inputSchema"));
        assert!(problem(Tool::raw(Json::trusted(r#"{"name":"t"}"#))).contains("inputSchema"));
        let output = Json::trusted(r#"{"$ref":"https://example.com/x"}"#);
        assert!(problem(Tool::new("t").output_schema(output)).contains("outputSchema"));
    }
}
