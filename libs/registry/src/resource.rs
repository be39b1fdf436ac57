//! Resources and templates as single entries, for registries that do not need a source.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mcp::edit::ObjectEditor;
use mcp::{Json, template};

use crate::call::Call;
use crate::completion::{Completion, CompletionRequest};
use crate::error::Error;
use crate::output::{Answered, Output, ResourceContents};

/// Reads a resource.
pub(crate) type Reader = Arc<dyn Fn(Call) -> BoxFuture<'static, Answered> + Send + Sync>;

/// Completes a variable or an argument.
pub(crate) type Completer = Arc<dyn Fn(&CompletionRequest) -> Completion + Send + Sync>;

/// A resource.
#[derive(Clone)]
pub struct Resource {
    pub(crate) uri: String,
    pub(crate) definition: Json,
    pub(crate) reader: Reader,
}

impl Resource {
    /// A resource whose content is this text.
    #[must_use]
    pub fn text(uri: &str, name: &str, text: &str) -> Self {
        let contents = ResourceContents::text(uri, "text/plain", text);
        Self::fixed(uri, name, "text/plain", contents)
    }

    /// A resource whose content is these bytes.
    #[must_use]
    pub fn blob(uri: &str, name: &str, mime_type: &str, bytes: &[u8]) -> Self {
        Self::fixed(uri, name, mime_type, ResourceContents::blob(uri, mime_type, bytes))
    }

    /// A resource that is made when it is read.
    #[must_use]
    pub fn new<F, W>(uri: &str, name: &str, read: F) -> Self
    where
        F: Fn(Call) -> W + Send + Sync + 'static,
        W: Future<Output = Answered> + Send + 'static,
    {
        let mut editor = ObjectEditor::new("{}");
        editor.set("uri", mcp::edit::quote(uri)).set("name", mcp::edit::quote(name));
        Self::raw(editor.finish_json(), read)
    }

    /// A resource by its whole definition, which clients see byte for byte.
    #[must_use]
    pub fn raw<F, W>(definition: Json, read: F) -> Self
    where
        F: Fn(Call) -> W + Send + Sync + 'static,
        W: Future<Output = Answered> + Send + 'static,
    {
        let uri = definition.text("uri").unwrap_or_default();
        Self { uri, definition, reader: Arc::new(move |call| read(call).boxed()) }
    }

    /// Sets any member of its definition: `title`, `description`, `mimeType`, `annotations`, `_meta`.
    #[must_use]
    pub fn member(mut self, name: &str, value: &Json) -> Self {
        self.definition = with(&self.definition, name, value);
        self
    }

    fn fixed(uri: &str, name: &str, mime_type: &str, contents: ResourceContents) -> Self {
        let output = Output::contents([contents]);
        Self::new(uri, name, move |_| futures::future::ready(Ok(output.clone())))
            .member("mimeType", &Json::of(mime_type))
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// Reads what a template stands for: the variables and the call.
pub(crate) type TemplateReader = Arc<dyn Fn(Variables, Call) -> BoxFuture<'static, Answered> + Send + Sync>;

/// The variables of a template with what stands for them in a URI, as it is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variables(Vec<(String, String)>);

impl Variables {
    /// What stands for a variable.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] if the template has no such variable.
    pub fn get(&self, name: &str) -> Result<&str, Error> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| Error::invalid_params(format!("no variable `{name}`")))
    }
}

/// A template for URIs of resources that are made when they are read.
#[derive(Clone)]
pub struct ResourceTemplate {
    pub(crate) template: String,
    pub(crate) definition: Json,
    pub(crate) reader: TemplateReader,
    pub(crate) completer: Option<Completer>,
}

impl ResourceTemplate {
    /// A template such as `weather://{city}/today`.
    #[must_use]
    pub fn new<F, W>(template: &str, name: &str, read: F) -> Self
    where
        F: Fn(Variables, Call) -> W + Send + Sync + 'static,
        W: Future<Output = Answered> + Send + 'static,
    {
        let mut editor = ObjectEditor::new("{}");
        editor.set("uriTemplate", mcp::edit::quote(template)).set("name", mcp::edit::quote(name));
        Self {
            template: template.to_owned(),
            definition: editor.finish_json(),
            reader: Arc::new(move |variables, call| read(variables, call).boxed()),
            completer: None,
        }
    }

    /// Sets any member of its definition: `title`, `description`, `mimeType`, `annotations`, `_meta`.
    #[must_use]
    pub fn member(mut self, name: &str, value: &Json) -> Self {
        self.definition = with(&self.definition, name, value);
        self
    }

    /// Completes its variables.
    #[must_use]
    pub fn complete(
        mut self,
        completer: impl Fn(&CompletionRequest) -> Completion + Send + Sync + 'static,
    ) -> Self {
        self.completer = Some(Arc::new(completer));
        self
    }

    /// The variables of `uri`, if this template stands for it.
    pub(crate) fn capture(&self, uri: &str) -> Option<Variables> {
        let found = template::capture(&self.template, uri)?;
        Some(Variables(found.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }
}

impl fmt::Debug for ResourceTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceTemplate").field("template", &self.template).finish_non_exhaustive()
    }
}

/// The same object with a member set.
pub(crate) fn with(definition: &Json, name: &str, value: &Json) -> Json {
    let mut editor = ObjectEditor::new(definition.as_str());
    editor.set(name, value.as_str());
    editor.finish_json()
}
