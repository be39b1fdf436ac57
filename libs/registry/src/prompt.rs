//! Prompts as single entries, for registries that do not need a source.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mcp::Json;
use mcp::edit::ObjectEditor;

use crate::call::Call;
use crate::completion::{Completion, CompletionRequest};
use crate::error::Error;
use crate::output::Answered;
use crate::resource::{self, Completer};

/// Fills a prompt in.
type Filler = Arc<dyn Fn(BTreeMap<String, String>, Call) -> BoxFuture<'static, Answered> + Send + Sync>;

/// A prompt.
#[derive(Clone)]
pub struct Prompt {
    pub(crate) name: String,
    definition: Json,
    arguments: Vec<Json>,
    required: Vec<String>,
    filler: Option<Filler>,
    pub(crate) completers: BTreeMap<String, Completer>,
}

impl Prompt {
    /// A prompt with this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            definition: mcp::edit::object([("name", mcp::edit::quote(name).into())]),
            arguments: Vec::new(),
            required: Vec::new(),
            filler: None,
            completers: BTreeMap::new(),
        }
    }

    /// What it is for.
    #[must_use]
    pub fn description(self, text: &str) -> Self {
        self.member("description", &Json::of(text))
    }

    /// Sets any member of its definition: `title`, `icons`, `_meta`.
    #[must_use]
    pub fn member(mut self, name: &str, value: &Json) -> Self {
        self.definition = resource::with(&self.definition, name, value);
        self
    }

    /// An argument.
    #[must_use]
    pub fn argument(mut self, name: &str, description: &str, required: bool) -> Self {
        let mut editor = ObjectEditor::new("{}");
        editor.set("name", mcp::edit::quote(name)).set("description", mcp::edit::quote(description));
        editor.set("required", if required { "true" } else { "false" });
        self.arguments.push(editor.finish_json());
        if required {
            self.required.push(name.to_owned());
        }
        self
    }

    /// Completes an argument.
    #[must_use]
    pub fn complete(
        mut self,
        argument: &str,
        completer: impl Fn(&CompletionRequest) -> Completion + Send + Sync + 'static,
    ) -> Self {
        self.completers.insert(argument.to_owned(), Arc::new(completer));
        self
    }

    /// Fills it in.
    #[must_use]
    pub fn handler<F, W>(mut self, fill: F) -> Self
    where
        F: Fn(BTreeMap<String, String>, Call) -> W + Send + Sync + 'static,
        W: Future<Output = Answered> + Send + 'static,
    {
        self.filler = Some(Arc::new(move |arguments, call| fill(arguments, call).boxed()));
        self
    }

    pub(crate) const fn has_handler(&self) -> bool {
        self.filler.is_some()
    }

    pub(crate) fn definition(&self) -> Json {
        if self.arguments.is_empty() {
            return self.definition.clone();
        }
        resource::with(&self.definition, "arguments", &Json::of(&self.arguments))
    }

    /// Checks the arguments and fills the prompt in.
    pub(crate) async fn fill(self: Arc<Self>, call: Call) -> Answered {
        let arguments = call.text_arguments()?;
        if let Some(missing) = self.required.iter().find(|name| !arguments.contains_key(*name)) {
            return Err(Error::invalid_params(format!("the argument `{missing}` is missing")));
        }
        match &self.filler {
            Some(fill) => fill(arguments, call).await,
            None => Err(Error::NotFound(self.name.clone())),
        }
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt").field("name", &self.name).finish_non_exhaustive()
    }
}
