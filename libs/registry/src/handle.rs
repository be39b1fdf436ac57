//! Adding and removing entries while a registry runs.

use std::fmt;
use std::sync::Arc;

use mcp::Json;

use crate::build::{BuildError, check_name};
use crate::call::Call;
use crate::changes::Changes;
use crate::error::Error;
use crate::output::Answer;
use crate::prompt::Prompt;
use crate::resource::{Resource, ResourceTemplate};
use crate::state::State;
use crate::tool::{self, Tool};

/// The running registry, for whoever changes it. Cheap to clone. Every change shows in the next list, and watchers hear
/// of it.
#[derive(Clone)]
pub struct Handle {
    state: Arc<State>,
}

impl Handle {
    pub(crate) const fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    /// Adds a tool with its handler.
    ///
    /// # Errors
    /// [`BuildError`] if the tool cannot be used, has no handler, or there is one with its name.
    pub fn add_tool(&self, tool: Tool) -> Result<(), BuildError> {
        self.put_tool(tool, true)
    }

    /// Adds a tool that is not listed until it has a handler.
    ///
    /// # Errors
    /// [`BuildError`] if the tool cannot be used or there is one with its name.
    pub fn define(&self, tool: Tool) -> Result<(), BuildError> {
        self.put_tool(tool, false)
    }

    /// Sets the handler of a defined tool, or another one; calls that run are not touched.
    ///
    /// # Errors
    /// [`BuildError::UnknownTool`].
    pub fn set_handler<A, F, W>(&self, tool: &str, work: F) -> Result<(), BuildError>
    where
        A: Answer,
        F: Fn(Json, Call) -> W + Send + Sync + 'static,
        W: Future<Output = Result<A, Error>> + Send + 'static,
    {
        let handler = tool::raw_handler(work);
        self.state.edit(|content| {
            let known = content.tools.get(tool).cloned();
            let known = known.ok_or_else(|| BuildError::UnknownTool(tool.to_owned()))?;
            content.tools.insert(tool.to_owned(), Arc::new(known.with_handler(handler)?));
            Ok(())
        })
    }

    /// Removes a tool; calls that run are not touched. False if there was none.
    #[allow(clippy::must_use_candidate, reason = "removing what is not there is fine")]
    pub fn remove_tool(&self, name: &str) -> bool {
        self.state.edit(|content| content.tools.remove(name).is_some())
    }

    /// Adds a resource.
    ///
    /// # Errors
    /// [`BuildError`] if it has no URI or there is one with its URI.
    pub fn add_resource(&self, resource: Resource) -> Result<(), BuildError> {
        if resource.uri.is_empty() {
            return Err(BuildError::Uri(resource.uri));
        }
        let uri = resource.uri.clone();
        self.state.edit(|content| {
            let old = content.resources.insert(uri.clone(), Arc::new(resource));
            restore(&mut content.resources, uri, old, "a resource")
        })
    }

    /// Removes a resource. False if there was none.
    #[allow(clippy::must_use_candidate, reason = "removing what is not there is fine")]
    pub fn remove_resource(&self, uri: &str) -> bool {
        self.state.edit(|content| content.resources.remove(uri).is_some())
    }

    /// Adds a template of resources.
    ///
    /// # Errors
    /// [`BuildError`] if it is no template or there is the same one.
    pub fn add_resource_template(&self, template: ResourceTemplate) -> Result<(), BuildError> {
        let text = template.template.clone();
        if mcp::template::capture(&text, "").is_none() && !text.contains('{') {
            return Err(BuildError::Uri(text));
        }
        self.state.edit(|content| {
            let old = content.templates.insert(text.clone(), Arc::new(template));
            restore(&mut content.templates, text, old, "a resource template")
        })
    }

    /// Removes a template of resources. False if there was none.
    #[allow(clippy::must_use_candidate, reason = "removing what is not there is fine")]
    pub fn remove_resource_template(&self, template: &str) -> bool {
        self.state.edit(|content| content.templates.remove(template).is_some())
    }

    /// Adds a prompt.
    ///
    /// # Errors
    /// [`BuildError`] if it may not be called so, has no handler, or there is one with its name.
    pub fn add_prompt(&self, prompt: Prompt) -> Result<(), BuildError> {
        check_name(&prompt.name)?;
        if !prompt.has_handler() {
            return Err(BuildError::NoHandler("prompt", prompt.name));
        }
        let name = prompt.name.clone();
        self.state.edit(|content| {
            let old = content.prompts.insert(name.clone(), Arc::new(prompt));
            restore(&mut content.prompts, name, old, "a prompt")
        })
    }

    /// Removes a prompt. False if there was none.
    #[allow(clippy::must_use_candidate, reason = "removing what is not there is fine")]
    pub fn remove_prompt(&self, name: &str) -> bool {
        self.state.edit(|content| content.prompts.remove(name).is_some())
    }

    /// A resource has changed: its watchers hear of it.
    pub fn updated(&self, uri: &str) {
        self.state.subscriptions.updated(uri, None);
    }

    /// The handle a source would get.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::new(Arc::downgrade(&self.state))
    }

    fn put_tool(&self, tool: Tool, is_whole: bool) -> Result<(), BuildError> {
        let (name, entry) = tool.prepare()?;
        if is_whole && entry.handler.is_none() {
            return Err(BuildError::NoHandler("tool", name));
        }
        self.state.edit(|content| {
            let old = content.tools.insert(name.clone(), Arc::new(entry));
            restore(&mut content.tools, name, old, "a tool")
        })
    }
}

/// Puts back what was there before.
fn restore<T>(
    entries: &mut std::collections::BTreeMap<String, T>,
    name: String,
    old: Option<T>,
    kind: &'static str,
) -> Result<(), BuildError> {
    match old {
        None => Ok(()),
        Some(old) => {
            entries.insert(name.clone(), old);
            Err(BuildError::Duplicate(kind, name))
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("registry", &self.state.name()).finish()
    }
}
