//! Writing a registry down.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::registry::Kind;
use mcp::Json;

use crate::call::Call;
use crate::changes::Changes;
use crate::error::Error;
use crate::handle::Handle;
use crate::host::Host;
use crate::limits::Limits;
use crate::output::Answer;
use crate::prompt::Prompt;
use crate::resource::{Resource, ResourceTemplate};
use crate::runtime::Runtime;
use crate::schema::SchemaError;
use crate::source::{PromptSource, ResourceSource};
use crate::state::State;
use crate::tool::{self, Tool};

/// Why a registry cannot be built, or an entry not added to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A tool or prompt may not be called so.
    #[error("the name {0:?} must be 1 to 128 letters, digits, `_`, `-`, `.` or `/`")]
    Name(String),
    /// A registry may not be called so.
    #[error("the registry name {0:?} must be 1 to 64 letters, digits or `-`")]
    RegistryName(String),
    /// Not a namespace.
    #[error("the namespace {0:?} must be at most 24 letters, digits or `-`, or empty")]
    Namespace(String),
    /// A resource without URI, or a template that is none.
    #[error("{0:?} is not a usable URI or URI template")]
    Uri(String),
    /// A schema is not accepted.
    #[error("{what} of tool `{tool}`: {error}")]
    Schema {
        /// The tool.
        tool: String,
        /// Which of its schemas.
        what: &'static str,
        /// What is wrong with it.
        error: SchemaError,
    },
    /// There is an entry with this name already.
    #[error("there is already {0} `{1}`")]
    Duplicate(&'static str, String),
    /// Nothing would answer.
    #[error("{0} `{1}` has no handler")]
    NoHandler(&'static str, String),
    /// A handler for a tool that is not defined.
    #[error("there is no tool `{0}`")]
    UnknownTool(String),
}

/// What a registry says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) instructions: String,
    pub(crate) capabilities: Option<Json>,
    pub(crate) server_info: Option<Json>,
    pub(crate) page_size: usize,
    pub(crate) ttl: Duration,
    pub(crate) public: bool,
}

/// A registry that is being written down. What is wrong with it is told by [`Registry::build`].
pub struct Registry {
    pub(crate) state: Arc<State>,
    pub(crate) settings: Settings,
    problems: Vec<BuildError>,
}

impl Registry {
    /// A registry with this name, unique within its process.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let settings = Settings {
            version: String::new(),
            namespace: String::new(),
            instructions: String::new(),
            capabilities: None,
            server_info: None,
            page_size: 100,
            ttl: Duration::ZERO,
            public: false,
        };
        let well_named =
            (1..=64).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        let problems = if well_named { Vec::new() } else { vec![BuildError::RegistryName(name.to_owned())] };
        Self { state: State::new(name), settings, problems }
    }

    /// Version of the content, for people.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.settings.version);
        self
    }

    /// What advertised names of its tools and prompts begin with; empty (the default) = names as they are.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        if !namespace.is_empty() && !mcp::name::is_namespace(namespace) {
            self.problems.push(BuildError::Namespace(namespace.to_owned()));
        }
        namespace.clone_into(&mut self.settings.namespace);
        self
    }

    /// Instructions for the model.
    #[must_use]
    pub fn instructions(mut self, text: &str) -> Self {
        text.clone_into(&mut self.settings.instructions);
        self
    }

    /// MCP server capabilities beyond those that follow from its content.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Json) -> Self {
        self.settings.capabilities = Some(capabilities);
        self
    }

    /// MCP Implementation object.
    #[must_use]
    pub fn server_info(mut self, info: Json) -> Self {
        self.settings.server_info = Some(info);
        self
    }

    /// Entries of one page of a list; 100 unless set.
    #[must_use]
    pub fn page_size(mut self, entries: usize) -> Self {
        self.settings.page_size = entries.max(1);
        self
    }

    /// How long clients may keep lists, and whether principals may share them; not at all unless set.
    #[must_use]
    pub const fn cache(mut self, ttl: Duration, public: bool) -> Self {
        self.settings.ttl = ttl;
        self.settings.public = public;
        self
    }

    /// Advertises a kind even while there are no entries of it: they will come through a [`Handle`].
    #[must_use]
    pub fn serves(self, kind: Kind) -> Self {
        self.state.edit(|content| content.declared.insert(kind));
        self
    }

    /// Lets clients watch single resources; say that one has changed with [`Handle::updated`].
    #[must_use]
    pub fn subscriptions(self) -> Self {
        self.state.watchable.store(true, Ordering::Relaxed);
        self
    }

    /// A tool with its handler.
    #[must_use]
    pub fn tool(self, tool: Tool) -> Self {
        let added = self.quiet_handle().add_tool(tool);
        self.note(added)
    }

    /// A tool whose handler is set later: [`Registry::set_handler`], or [`Handle::set_handler`] while running. It is not
    /// listed before.
    #[must_use]
    pub fn define(self, tool: Tool) -> Self {
        let added = self.quiet_handle().define(tool);
        self.note(added)
    }

    /// The handler of a tool that was defined before.
    #[must_use]
    pub fn set_handler<A, F, W>(self, tool: &str, work: F) -> Self
    where
        A: Answer,
        F: Fn(Json, Call) -> W + Send + Sync + 'static,
        W: Future<Output = Result<A, Error>> + Send + 'static,
    {
        let set = self.quiet_handle().set_handler(tool, work);
        self.note(set)
    }

    /// A resource.
    #[must_use]
    pub fn resource(self, resource: Resource) -> Self {
        let added = self.quiet_handle().add_resource(resource);
        self.note(added)
    }

    /// A template of resources.
    #[must_use]
    pub fn resource_template(self, template: ResourceTemplate) -> Self {
        let added = self.quiet_handle().add_resource_template(template);
        self.note(added)
    }

    /// A prompt.
    #[must_use]
    pub fn prompt(self, prompt: Prompt) -> Self {
        let added = self.quiet_handle().add_prompt(prompt);
        self.note(added)
    }

    /// Resources from a source. Sources are asked in the order in which they were added, single entries first.
    #[must_use]
    pub fn resource_source(self, source: Arc<dyn ResourceSource>) -> Self {
        source.attach(Changes::new(Arc::downgrade(&self.state)));
        self.state.edit(|content| content.resource_sources.push(source));
        self
    }

    /// Prompts from a source. Sources are asked in the order in which they were added, single entries first.
    #[must_use]
    pub fn prompt_source(self, source: Arc<dyn PromptSource>) -> Self {
        source.attach(Changes::new(Arc::downgrade(&self.state)));
        self.state.edit(|content| content.prompt_sources.push(source));
        self
    }

    /// What entries are added and removed with while the registry runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.state.is_live.store(true, Ordering::Relaxed);
        self.quiet_handle()
    }

    /// Makes the registry ready to answer, alone in its process.
    ///
    /// # Errors
    /// [`BuildError`], the first if there are several.
    pub fn build(self, runtime: Runtime) -> Result<Host, BuildError> {
        Host::of([self], runtime, Limits::default())
    }

    pub(crate) fn check(&self) -> Result<(), BuildError> {
        if let Some(problem) = self.problems.first() {
            return Err(problem.clone());
        }
        if self.state.is_live.load(Ordering::Relaxed) {
            return Ok(());
        }
        let orphan = self.state.view(|content| {
            content.tools.iter().find(|(_, tool)| tool.handler.is_none()).map(|(name, _)| name.clone())
        });
        orphan.map_or(Ok(()), |name| Err(BuildError::NoHandler("tool", name)))
    }

    fn quiet_handle(&self) -> Handle {
        Handle::new(self.state.clone())
    }

    fn note(mut self, outcome: Result<(), BuildError>) -> Self {
        self.problems.extend(outcome.err());
        self
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("name", &self.state.name()).finish_non_exhaustive()
    }
}

/// Whether a tool or prompt may be called so.
pub(crate) fn check_name(name: &str) -> Result<(), BuildError> {
    if tool::is_name(name) { Ok(()) } else { Err(BuildError::Name(name.to_owned())) }
}
