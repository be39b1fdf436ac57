//! Being told by the operating system that something in some directories has changed.
//!
//! It only says *that* something changed; what changed is found by looking. It knows nothing of what the directories are for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// A change is looked at when nothing more has happened for this long.
const QUIET: Duration = Duration::from_millis(50);
/// A change is looked at after this long even if more keeps happening.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches a set of directories, each without what is below it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
    covered: BTreeSet<PathBuf>,
    signal: Signal,
}

/// Is raised by a change. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signal(Arc<Notify>);

impl Watch {
    /// What is raised when something changes.
    pub(crate) fn signal(&self) -> Signal {
        self.signal.clone()
    }

    /// Watches these directories and no others from now on. Blocks. Directories that are gone are passed over.
    ///
    /// Every directory is handed to the operating system again, because one that was removed and made again has the same
    /// name and is no longer watched.
    ///
    /// # Errors
    /// The first reason why a directory that exists is not watched; the others are.
    pub(crate) fn cover(&mut self, directories: &BTreeSet<PathBuf>) -> Result<(), notify::Error> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            None => self.watcher.insert(start(self.signal.clone())?),
        };
        for left in self.covered.difference(directories) {
            // Fails when the directory is gone, and the watch with it.
            drop(watcher.unwatch(left));
        }
        self.covered.clone_from(directories);
        let mut outcome = Ok(());
        for directory in directories {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Err(error) if !is_absence(&error) && outcome.is_ok() => outcome = Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        outcome
    }
}

impl Signal {
    /// Says that something has changed.
    pub(crate) fn raise(&self) {
        self.0.notify_one();
    }

    /// Waits until it is raised and things are quiet again. Safe to use in `select!` only if the caller looks anyway.
    pub(crate) async fn settled(&self) {
        self.0.notified().await;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && timeout(QUIET, self.0.notified()).await.is_ok() {}
    }
}

fn start(signal: Signal) -> Result<RecommendedWatcher, notify::Error> {
    notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
        // Our own reading is an event too.
        if event.as_ref().map_or(true, |event| is_change(event.kind)) {
            signal.raise();
        }
    })
}

fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

fn is_absence(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound | ErrorKind::WatchNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        ErrorKind::Generic(_) | ErrorKind::InvalidConfig(_) | ErrorKind::MaxFilesWatch => false,
    }
}
