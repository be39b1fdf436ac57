//! The directory as a source of prompts.
//!
//! What is listed and filled in is what was found when the directory was last read. This file starts nothing by itself:
//! [`crate::upkeep`] reads again when it is time to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use mcp::Json;
use mcp::rpc::RpcError;
use registry::{Call, Changes, Completion, CompletionRequest, Error, Output, PromptSource};

use crate::config::{Config, ConfigError};
use crate::directory::{self, Found};
use crate::item;
use crate::library::{Complaint, Library};
use crate::template::Prompt;

/// The prompts of the configured directory. Cheap to share, made by [`Prompts::open`].
#[derive(Debug)]
pub struct Prompts {
    directory: Option<PathBuf>,
    state: RwLock<State>,
    changes: OnceLock<Changes>,
}

#[derive(Debug, Default)]
struct State {
    library: Library,
    is_away: bool,
}

impl Prompts {
    /// Reads the directory for the first time. Blocks.
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that cannot be used, or a directory that is not there. A prompt file that cannot be
    /// used is no error: it is logged and left out.
    pub fn open(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let directory = Some(config.directory.clone()).filter(|path| !path.as_os_str().is_empty());
        let mut state = State::default();
        if let Some(path) = &directory {
            let found = directory::read(path).map_err(|error| {
                ConfigError::new(
                    "directory",
                    format!("cannot read the directory {}: {error}", path.display()),
                )
            })?;
            state.library.take_over(found).iter().for_each(report);
        }
        Ok(Self { directory, state: RwLock::new(state), changes: OnceLock::new() })
    }

    /// The directory whose changes matter.
    pub(crate) fn to_watch(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Reads the directory. Blocks.
    pub(crate) fn look(&self) -> io::Result<Found> {
        self.directory.as_deref().map_or_else(|| Ok(Found::new()), directory::read)
    }

    /// Takes over what was found, and says so. Says whether the directory is there.
    pub(crate) fn publish(&self, found: io::Result<Found>) -> bool {
        let is_there = found.is_ok();
        self.take_over(found);
        if let Some(changes) = self.changes.get() {
            changes.listed();
        }
        is_there
    }

    fn take_over(&self, found: io::Result<Found>) {
        let directory = self.directory.as_deref().unwrap_or(Path::new("")).display();
        let mut state = self.write_state();
        let is_away = found.is_err();
        let found = found.unwrap_or_else(|error| {
            if !state.is_away {
                tracing::warn!(%directory, %error, "directory cannot be read, its prompts are gone for now");
            }
            Found::new()
        });
        if state.is_away && !is_away {
            tracing::info!(%directory, "directory is back");
        }
        state.is_away = is_away;
        state.library.take_over(found).iter().for_each(report);
    }

    fn get(&self, name: &str) -> Result<Arc<Prompt>, Error> {
        self.read_state().library.get(name).ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PromptSource for Prompts {
    fn attach(&self, changes: Changes) {
        // A second registry would be told of nothing; the first keeps what it has.
        drop(self.changes.set(changes));
    }

    fn prompts(&self) -> Vec<Json> {
        self.read_state().library.prompts().map(|prompt| item::prompt(&prompt.file)).collect()
    }

    async fn get(&self, name: &str, call: &Call) -> Result<Output, Error> {
        let prompt = self.get(name)?;
        let arguments = call.text_arguments()?;
        let filled = tokio::task::spawn_blocking(move || {
            let messages = prompt.fill(&arguments)?.iter().map(item::message).collect::<Vec<_>>();
            let output = Output::messages(messages);
            Ok(match &prompt.file.description {
                Some(description) => output.with("description", Json::of(description)),
                None => output,
            })
        });
        match filled.await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(refusal(&error)),
            Err(error) => {
                tracing::error!(prompt = name, %error, "filling in a prompt ended early");
                Err(Error::Rpc(RpcError::reason("the prompt cannot be filled in", "template")))
            }
        }
    }

    fn completions(&self) -> bool {
        self.directory.is_some()
    }

    async fn complete(&self, request: &CompletionRequest) -> Result<Completion, Error> {
        let prompt = self.get(&request.reference)?;
        let argument = prompt.file.arguments.iter().find(|argument| argument.name == request.argument);
        let argument = argument.ok_or_else(|| {
            Error::invalid_params(format!("the prompt has no argument `{}`", request.argument))
        })?;
        Ok(Completion::matching(&argument.values, &request.value))
    }
}

fn refusal(error: &crate::template::FillError) -> Error {
    if error.is_callers() {
        Error::invalid_params(error)
    } else {
        Error::Rpc(RpcError::reason(&error.to_string(), "template"))
    }
}

fn report(complaint: &Complaint) {
    match complaint {
        Complaint::Broken { file, why, is_kept: true } => {
            tracing::warn!(file, why, "prompt file cannot be used, its last good version is kept");
        }
        Complaint::Broken { file, why, is_kept: false } => {
            tracing::warn!(file, why, "prompt file cannot be used, it is left out");
        }
        Complaint::Contested { name, files } => {
            tracing::warn!(name, ?files, "several prompt files claim one name, none of them is served");
        }
    }
}
