//! What one registry holds: its entries and sources, and the lists that follow from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use api::registry::Kind;
use mcp::Json;

use crate::call::Call;
use crate::catalog::Catalog;
use crate::completion::{Completion, CompletionRequest};
use crate::error::Error;
use crate::feed::Feed;
use crate::output::Answered;
use crate::prompt::Prompt;
use crate::resource::{Resource, ResourceTemplate};
use crate::source::{PromptSource, ResourceSource};
use crate::subscription::Subscriptions;
use crate::tool::ToolEntry;

/// See the module. Shared by the registry, its handles and its sources.
pub(crate) struct State {
    name: String,
    content: RwLock<Content>,
    lists: RwLock<BTreeMap<Kind, Arc<Catalog>>>,
    feed: OnceLock<Feed>,
    pub(crate) subscriptions: Subscriptions,
    /// Whether single resources may be watched.
    pub(crate) watchable: AtomicBool,
    /// Whether somebody holds a handle, so that entries may still come.
    pub(crate) is_live: AtomicBool,
    stale: AtomicBool,
    refreshing: Mutex<()>,
}

/// Entries by name or URI, and sources in the order in which they are asked.
#[derive(Default, Clone)]
pub(crate) struct Content {
    pub(crate) tools: BTreeMap<String, Arc<ToolEntry>>,
    pub(crate) resources: BTreeMap<String, Arc<Resource>>,
    pub(crate) templates: BTreeMap<String, Arc<ResourceTemplate>>,
    pub(crate) prompts: BTreeMap<String, Arc<Prompt>>,
    pub(crate) resource_sources: Vec<Arc<dyn ResourceSource>>,
    pub(crate) prompt_sources: Vec<Arc<dyn PromptSource>>,
    /// Kinds that are advertised even while they are empty.
    pub(crate) declared: BTreeSet<Kind>,
}

impl State {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            content: RwLock::default(),
            lists: RwLock::default(),
            feed: OnceLock::new(),
            subscriptions: Subscriptions::default(),
            watchable: AtomicBool::new(false),
            is_live: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            refreshing: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Changes the content; the lists follow.
    pub(crate) fn edit<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        let answer = change(&mut self.content.write().unwrap_or_else(PoisonError::into_inner));
        self.refresh();
        answer
    }

    /// Looks at the content.
    pub(crate) fn view<T>(&self, look: impl FnOnce(&Content) -> T) -> T {
        look(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes the lists to this feed from now on.
    pub(crate) fn publish_to(&self, feed: Feed) {
        // A registry is built once, so the place is free.
        let _is_first = self.feed.set(feed).is_ok();
        self.refresh();
    }

    /// Makes the lists anew; watchers hear of those that differ. When it is already being done, whoever does it does it
    /// once more.
    pub(crate) fn refresh(&self) {
        self.stale.store(true, Ordering::SeqCst);
        while self.stale.load(Ordering::SeqCst) {
            let Ok(_refreshing) = self.refreshing.try_lock() else { return };
            self.stale.store(false, Ordering::SeqCst);
            // Sources are asked without the content's lock: they may report changes while they answer.
            let content = self.view(Content::clone);
            let fresh: BTreeMap<Kind, Arc<Catalog>> = content
                .kinds()
                .into_iter()
                .map(|kind| (kind, Arc::new(Catalog::new(content.entries(kind)))))
                .collect();
            let digests = fresh.iter().map(|(kind, list)| (*kind, list.digest.clone())).collect();
            *self.lists.write().unwrap_or_else(PoisonError::into_inner) = fresh;
            if let Some(feed) = self.feed.get() {
                feed.publish(&self.name, &digests);
            }
        }
    }

    pub(crate) fn list(&self, kind: Kind) -> Option<Arc<Catalog>> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner).get(&kind).cloned()
    }

    pub(crate) fn digests(&self) -> Vec<(Kind, String)> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.iter().map(|(kind, list)| (*kind, list.digest.clone())).collect()
    }

    pub(crate) fn tool(&self, name: &str) -> Option<Arc<ToolEntry>> {
        self.view(|content| content.tools.get(name).cloned()).filter(|tool| tool.handler.is_some())
    }

    /// Reads a resource: a single one, what a single template stands for, or from the first source that has it.
    pub(crate) async fn read(self: Arc<Self>, call: Call) -> Answered {
        let uri = call.target().to_owned();
        if let Some(resource) = self.view(|content| content.resources.get(&uri).cloned()) {
            return (resource.reader)(call).await;
        }
        let found = self.view(|content| {
            content.templates.values().find_map(|template| Some((template.clone(), template.capture(&uri)?)))
        });
        if let Some((template, variables)) = found {
            return (template.reader)(variables, call).await;
        }
        for source in self.view(|content| content.resource_sources.clone()) {
            match source.read(&uri, &call).await {
                Err(Error::NotFound(_)) => {}
                answered => return answered,
            }
        }
        Err(Error::NotFound(uri))
    }

    /// Fills a prompt in: a single one, or from the first source that has it.
    pub(crate) async fn get(self: Arc<Self>, call: Call) -> Answered {
        let name = call.target().to_owned();
        if let Some(prompt) = self.view(|content| content.prompts.get(&name).cloned()) {
            return prompt.fill(call).await;
        }
        for source in self.view(|content| content.prompt_sources.clone()) {
            match source.get(&name, &call).await {
                Err(Error::NotFound(_)) => {}
                answered => return answered,
            }
        }
        Err(Error::NotFound(name))
    }

    pub(crate) async fn complete(&self, request: &CompletionRequest) -> Result<Completion, Error> {
        if request.is_template {
            return self.complete_template(request).await;
        }
        if let Some(prompt) = self.view(|content| content.prompts.get(&request.reference).cloned()) {
            let completer = prompt.completers.get(&request.argument);
            return Ok(completer.map(|complete| complete(request)).unwrap_or_default());
        }
        for source in self.view(|content| content.prompt_sources.clone()) {
            match source.complete(request).await {
                Err(Error::NotFound(_)) if has(&source.prompts(), "name", &request.reference) => {
                    return Ok(Completion::default());
                }
                Err(Error::NotFound(_)) => {}
                completed => return completed,
            }
        }
        Err(Error::InvalidParams(format!("unknown prompt: {}", request.reference)))
    }

    async fn complete_template(&self, request: &CompletionRequest) -> Result<Completion, Error> {
        if let Some(template) = self.view(|content| content.templates.get(&request.reference).cloned()) {
            return Ok(template.completer.as_ref().map(|complete| complete(request)).unwrap_or_default());
        }
        for source in self.view(|content| content.resource_sources.clone()) {
            match source.complete(request).await {
                Err(Error::NotFound(_)) if has(&source.templates(), "uriTemplate", &request.reference) => {
                    return Ok(Completion::default());
                }
                Err(Error::NotFound(_)) => {}
                completed => return completed,
            }
        }
        Err(Error::InvalidParams(format!("unknown resource template: {}", request.reference)))
    }

    pub(crate) fn completions(&self) -> bool {
        self.view(|content| {
            content.prompts.values().any(|prompt| !prompt.completers.is_empty())
                || content.templates.values().any(|template| template.completer.is_some())
                || content.prompt_sources.iter().any(|source| source.completions())
                || content.resource_sources.iter().any(|source| source.completions())
        })
    }

    pub(crate) fn offers_subscriptions(&self) -> bool {
        self.watchable.load(Ordering::Relaxed)
            || self.view(|content| content.resource_sources.iter().any(|source| source.subscriptions()))
    }

    /// The first watcher of a resource comes.
    pub(crate) fn watch(&self, uri: &str) -> Result<(), Error> {
        let is_single = self.view(|content| {
            content.resources.contains_key(uri)
                || content.templates.values().any(|template| template.capture(uri).is_some())
        });
        if is_single && self.watchable.load(Ordering::Relaxed) {
            return Ok(());
        }
        for source in self.view(|content| content.resource_sources.clone()) {
            match source.subscribe(uri) {
                Err(Error::NotFound(_)) => {}
                answered => return answered,
            }
        }
        Err(Error::NotFound(uri.to_owned()))
    }

    /// The last watcher of a resource goes.
    pub(crate) fn unwatch(&self, uri: &str) {
        for source in self.view(|content| content.resource_sources.clone()) {
            source.unsubscribe(uri);
        }
    }
}

impl Content {
    fn kinds(&self) -> BTreeSet<Kind> {
        let mut kinds = self.declared.clone();
        let mut has = |kind, is_there: bool| {
            if is_there {
                kinds.insert(kind);
            }
        };
        has(Kind::Tools, !self.tools.is_empty());
        has(Kind::Resources, !self.resources.is_empty() || !self.resource_sources.is_empty());
        has(Kind::Templates, !self.templates.is_empty() || !self.resource_sources.is_empty());
        has(Kind::Prompts, !self.prompts.is_empty() || !self.prompt_sources.is_empty());
        kinds
    }

    /// Every entry of a kind by its name; single entries go before sources, earlier sources before later ones.
    fn entries(&self, kind: Kind) -> BTreeMap<String, Json> {
        match kind {
            Kind::Tools => {
                let ready = self.tools.iter().filter(|(_, tool)| tool.handler.is_some());
                ready.map(|(name, tool)| (name.clone(), tool.definition.clone())).collect()
            }
            Kind::Resources => {
                let single =
                    self.resources.iter().map(|(uri, r)| (uri.clone(), r.definition.clone())).collect();
                self.with_sources(single, "uri", |source| source.resources())
            }
            Kind::Templates => {
                let single =
                    self.templates.iter().map(|(text, t)| (text.clone(), t.definition.clone())).collect();
                self.with_sources(single, "uriTemplate", |source| source.templates())
            }
            Kind::Prompts => {
                let single = self.prompts.iter().map(|(name, p)| (name.clone(), p.definition())).collect();
                let listed = self.prompt_sources.iter().map(|source| source.prompts());
                merged(single, "name", listed)
            }
        }
    }

    fn with_sources(
        &self,
        single: BTreeMap<String, Json>,
        key: &str,
        list: impl Fn(&Arc<dyn ResourceSource>) -> Vec<Json>,
    ) -> BTreeMap<String, Json> {
        merged(single, key, self.resource_sources.iter().map(list))
    }
}

fn merged(
    mut entries: BTreeMap<String, Json>,
    key: &str,
    lists: impl Iterator<Item = Vec<Json>>,
) -> BTreeMap<String, Json> {
    for item in lists.flatten() {
        match item.text(key) {
            Some(name) => {
                entries.entry(name).or_insert(item);
            }
            None => tracing::warn!(key, "an entry without its key is not listed"),
        }
    }
    entries
}

fn has(items: &[Json], key: &str, name: &str) -> bool {
    items.iter().any(|item| item.text(key).as_deref() == Some(name))
}
