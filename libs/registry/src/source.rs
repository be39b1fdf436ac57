//! Where resources and prompts come from when they are not fixed entries: a folder, a database, another server.
//!
//! A source answers from what it has at hand: its lists are plain functions, and it says through [`Changes`] when they
//! have changed. What has to run for that (a file watch, a poll) is the source's own business.

use async_trait::async_trait;
use mcp::Json;

use crate::call::Call;
use crate::changes::Changes;
use crate::completion::{Completion, CompletionRequest};
use crate::error::Error;
use crate::output::Output;

/// Resources that are listed, read and watched.
#[async_trait]
pub trait ResourceSource: Send + Sync + 'static {
    /// Called once when the source is put into a registry, before anything else. Keep `changes` to report through it.
    fn attach(&self, changes: Changes) {
        drop(changes);
    }

    /// Every resource, each an object as clients shall see it, with `uri` and `name`. The order does not matter.
    fn resources(&self) -> Vec<Json>;

    /// Every template, each an object as clients shall see it, with `uriTemplate` and `name`. The order does not matter.
    fn templates(&self) -> Vec<Json> {
        Vec::new()
    }

    /// Reads a resource: one that is listed, or one that a template stands for. Usually ends in [`Output::contents`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such resource here; the next source is asked then.
    async fn read(&self, uri: &str, call: &Call) -> Result<Output, Error>;

    /// Whether variables of templates can be completed; advertised as a capability.
    fn completions(&self) -> bool {
        false
    }

    /// Completes a variable of a template. `request.reference` is the template's text.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such template here; the next source is asked then.
    async fn complete(&self, request: &CompletionRequest) -> Result<Completion, Error> {
        Err(Error::NotFound(request.reference.clone()))
    }

    /// Whether subscriptions are offered at all; advertised as a capability.
    fn subscriptions(&self) -> bool {
        false
    }

    /// Somebody watches this resource from now on: report with [`Changes::updated`]. Called for the first watcher only.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it cannot be watched here; the next source is asked then.
    fn subscribe(&self, uri: &str) -> Result<(), Error> {
        Err(Error::NotFound(uri.to_owned()))
    }

    /// Nobody watches this resource any more.
    fn unsubscribe(&self, uri: &str) {
        let _: &str = uri;
    }
}

/// Prompts that are listed and filled in.
#[async_trait]
pub trait PromptSource: Send + Sync + 'static {
    /// Called once when the source is put into a registry, before anything else. Keep `changes` to report through it.
    fn attach(&self, changes: Changes) {
        drop(changes);
    }

    /// Every prompt, each an object as clients shall see it, with `name`. The order does not matter.
    fn prompts(&self) -> Vec<Json>;

    /// Fills a prompt in, usually from [`Call::text_arguments`]. Usually ends in [`Output::messages`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such prompt here; the next source is asked then. [`Error::InvalidParams`] for a
    /// missing or unusable argument.
    async fn get(&self, name: &str, call: &Call) -> Result<Output, Error>;

    /// Whether arguments can be completed; advertised as a capability.
    fn completions(&self) -> bool {
        false
    }

    /// Completes an argument. `request.reference` is the prompt's name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such prompt here; the next source is asked then.
    async fn complete(&self, request: &CompletionRequest) -> Result<Completion, Error> {
        Err(Error::NotFound(request.reference.clone()))
    }
}
