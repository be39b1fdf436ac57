//! The directories as a source of resources: where a URI leads, what is listed, who is told of a change.
//!
//! What is listed is what was found when the directories were last looked through; a read goes to the disk by the same
//! rules. This file starts nothing by itself: [`crate::upkeep`] looks when it is time to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use mcp::Json;
use mcp::rpc::RpcError;
use registry::{Call, Changes, Completion, CompletionRequest, Error, Output, ResourceSource};

use crate::config::{Config, ConfigError, Template};
use crate::folder::{Folder, ReadError, Scan};
use crate::item;
use crate::rules::Rules;
use crate::template::UriTemplate;
use crate::uri::FilePath;

/// The configured directories. Cheap to share, made by [`Directories::open`].
#[derive(Debug)]
pub struct Directories {
    shelves: Vec<Shelf>,
    templates: Vec<(UriTemplate, Json)>,
    state: RwLock<State>,
    changes: OnceLock<Changes>,
}

/// A directory and the URIs it answers to.
#[derive(Debug)]
struct Shelf {
    prefix: String,
    folder: Arc<Folder>,
}

#[derive(Debug, Default)]
struct State {
    /// One per shelf; empty while the directory is away.
    scans: Vec<Scan>,
    away: Vec<bool>,
    resources: Vec<Json>,
    /// Watched files and the spellings of their URIs that watchers used.
    watched: BTreeMap<Place, BTreeSet<String>>,
}

/// Index of a shelf, and a path on it.
type Place = (usize, FilePath);

impl Directories {
    /// Looks through the directories for the first time. Blocks.
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that cannot be used, or a directory that is not there.
    pub fn open(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let mut shelves = Vec::new();
        let mut templates = Vec::new();
        let mut state = State::default();
        for (at, directory) in config.directories.iter().enumerate() {
            let key = |name: &str| format!("directories[{at}].{name}");
            let rules = Rules::new(directory).map_err(|(name, why)| ConfigError::new(key(name), why))?;
            let (max_bytes, max_files) = (directory.max_bytes, directory.max_files);
            let folder = Folder { root: directory.path.clone(), rules, max_bytes, max_files };
            let scan = folder.scan().map_err(|error| {
                ConfigError::new(
                    key("path"),
                    format!("cannot read the directory {}: {error}", directory.path.display()),
                )
            })?;
            warn_if_truncated(&folder, &Scan::default(), &scan);
            state.scans.push(scan);
            state.away.push(false);
            shelves.push(Shelf { prefix: directory.uri.clone(), folder: Arc::new(folder) });
            if directory.template {
                templates.push(own_template(&directory.uri));
            }
        }
        templates.extend(config.templates.iter().cloned());
        let templates = read_templates(templates)?;
        state.resources = resources(&shelves, &state.scans);
        Ok(Self { shelves, templates, state: RwLock::new(state), changes: OnceLock::new() })
    }

    /// The directories whose changes matter: those that were looked into, and every root, there or not.
    pub(crate) fn to_watch(&self) -> BTreeSet<PathBuf> {
        let roots = self.shelves.iter().map(|shelf| shelf.folder.root.clone());
        let state = self.read_state();
        roots.chain(state.scans.iter().flat_map(|scan| scan.directories.iter().cloned())).collect()
    }

    /// Looks through every directory. Blocks.
    pub(crate) fn look(&self) -> Vec<io::Result<Scan>> {
        self.shelves.iter().map(|shelf| shelf.folder.scan()).collect()
    }

    /// Takes over what was found, and tells whom it concerns. Says whether every directory is there.
    pub(crate) fn publish(&self, found: Vec<io::Result<Scan>>) -> bool {
        let (is_different, updated, is_complete) = self.take_over(found);
        let Some(changes) = self.changes.get() else { return is_complete };
        if is_different {
            changes.listed();
        }
        for uri in updated {
            changes.updated(&uri);
        }
        is_complete
    }

    fn take_over(&self, found: Vec<io::Result<Scan>>) -> (bool, Vec<String>, bool) {
        let mut guard = self.write_state();
        let state = &mut *guard;
        let mut is_different = false;
        let mut updated = Vec::new();
        for (at, (found, shelf)) in found.into_iter().zip(&self.shelves).enumerate() {
            let (Some(scan), Some(away)) = (state.scans.get_mut(at), state.away.get_mut(at)) else {
                continue;
            };
            let directory = shelf.folder.root.display();
            let next = match found {
                Ok(next) => {
                    if *away {
                        tracing::info!(%directory, "directory is back");
                    }
                    *away = false;
                    next
                }
                Err(error) => {
                    if !*away {
                        tracing::warn!(%directory, %error, "directory cannot be read, its resources are gone for now");
                    }
                    *away = true;
                    Scan::default()
                }
            };
            warn_if_truncated(&shelf.folder, scan, &next);
            for path in scan.differences(&next) {
                is_different = true;
                let spellings = state.watched.get(&(at, path.clone()));
                updated.extend(spellings.into_iter().flatten().cloned());
            }
            *scan = next;
        }
        if is_different {
            state.resources = resources(&self.shelves, &state.scans);
        }
        (is_different, updated, !state.away.contains(&true))
    }

    /// Which file a URI stands for, whether there is one or not.
    fn locate(&self, uri: &str) -> Option<(Place, &Shelf)> {
        let (at, shelf) =
            self.shelves.iter().enumerate().find(|(_, shelf)| uri.starts_with(shelf.prefix.as_str()))?;
        match FilePath::decode(uri.get(shelf.prefix.len()..)?) {
            Ok(path) => Some(((at, path), shelf)),
            Err(refused) => {
                tracing::debug!(%refused, "uri refused");
                None
            }
        }
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ResourceSource for Directories {
    fn attach(&self, changes: Changes) {
        // A second registry would be told of nothing; the first keeps what it has.
        drop(self.changes.set(changes));
    }

    fn resources(&self) -> Vec<Json> {
        self.read_state().resources.clone()
    }

    fn templates(&self) -> Vec<Json> {
        self.templates.iter().map(|(_, json)| json.clone()).collect()
    }

    async fn read(&self, uri: &str, _call: &Call) -> Result<Output, Error> {
        let ((_, path), shelf) = self.locate(uri).ok_or_else(|| Error::NotFound(uri.to_owned()))?;
        let folder = Arc::clone(&shelf.folder);
        let place = path.clone();
        let read = tokio::task::spawn_blocking(move || folder.read(&place)).await;
        let failed = || RpcError::reason("the resource cannot be read", "unreadable");
        match read {
            Ok(Ok(content)) => Ok(Output::contents([item::contents(uri, &path, &content)])),
            Ok(Err(ReadError::Unknown)) => Err(Error::NotFound(uri.to_owned())),
            Ok(Err(error @ ReadError::TooLarge { .. })) => {
                Err(Error::Rpc(RpcError::reason(&format!("the resource is too large: {error}"), "too_large")))
            }
            Ok(Err(ReadError::Io(error))) => {
                tracing::warn!(uri, %error, "file cannot be read");
                Err(Error::Rpc(failed()))
            }
            Err(error) => {
                tracing::error!(%error, "reading a file ended early");
                Err(Error::Rpc(failed()))
            }
        }
    }

    fn completions(&self) -> bool {
        !self.templates.is_empty()
    }

    async fn complete(&self, request: &CompletionRequest) -> Result<Completion, Error> {
        let template = self.templates.iter().find(|(template, _)| template.as_str() == request.reference);
        let Some((template, _)) = template else { return Err(Error::NotFound(request.reference.clone())) };
        if !template.has(&request.argument) {
            return Err(Error::invalid_params(format!(
                "the template has no variable `{}`",
                request.argument
            )));
        }
        let mut candidates = BTreeSet::new();
        let state = self.read_state();
        for (shelf, scan) in self.shelves.iter().zip(&state.scans) {
            if !template.prefix().starts_with(&shelf.prefix) {
                continue;
            }
            for path in scan.files.keys() {
                let uri = shelf.uri(path);
                let Some(values) = template.matches(&uri) else { continue };
                let fits = values.iter().all(|(name, value)| {
                    *name == request.argument || request.known.get(*name).is_none_or(|known| known == value)
                });
                let value = values.into_iter().find(|(name, _)| *name == request.argument);
                candidates.extend(value.filter(|_| fits).map(|(_, value)| value));
            }
        }
        Ok(Completion::matching(candidates, &request.value))
    }

    fn subscriptions(&self) -> bool {
        true
    }

    fn subscribe(&self, uri: &str) -> Result<(), Error> {
        let unknown = || Error::NotFound(uri.to_owned());
        let (place, _) = self.locate(uri).ok_or_else(unknown)?;
        let mut state = self.write_state();
        if !state.scans.get(place.0).is_some_and(|scan| scan.files.contains_key(&place.1)) {
            return Err(unknown());
        }
        state.watched.entry(place).or_default().insert(uri.to_owned());
        Ok(())
    }

    fn unsubscribe(&self, uri: &str) {
        let Some((place, _)) = self.locate(uri) else { return };
        let mut state = self.write_state();
        if let Some(spellings) = state.watched.get_mut(&place) {
            spellings.remove(uri);
            if spellings.is_empty() {
                state.watched.remove(&place);
            }
        }
    }
}

impl Shelf {
    fn uri(&self, path: &FilePath) -> String {
        format!("{}{}", self.prefix, path.encode())
    }
}

fn resources(shelves: &[Shelf], scans: &[Scan]) -> Vec<Json> {
    let of_shelf = |(shelf, scan): (&Shelf, &Scan)| {
        let entries = scan.files.iter().map(|(path, meta)| item::resource(&shelf.uri(path), path, meta));
        entries.collect::<Vec<_>>()
    };
    shelves.iter().zip(scans).flat_map(of_shelf).collect()
}

/// The template every directory has: any file in it.
fn own_template(prefix: &str) -> Template {
    let name = prefix.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty());
    Template {
        uri: format!("{prefix}{{+path}}"),
        name: name.unwrap_or("files").to_owned(),
        title: None,
        description: Some(format!("A file below {prefix}")),
        mime_type: None,
    }
}

fn read_templates(templates: Vec<Template>) -> Result<Vec<(UriTemplate, Json)>, ConfigError> {
    let read = |template: Template| match UriTemplate::parse(&template.uri) {
        Ok(parsed) => Ok((parsed, item::template(&template))),
        Err(error) => Err(ConfigError::new("templates", format!("{}: {error}", template.uri))),
    };
    templates.into_iter().map(read).collect()
}

fn warn_if_truncated(folder: &Folder, before: &Scan, now: &Scan) {
    if now.truncated && !before.truncated {
        let (directory, limit) = (folder.root.display(), folder.max_files);
        tracing::warn!(%directory, limit, "directory holds more than may be listed, the rest is left out");
    }
}
