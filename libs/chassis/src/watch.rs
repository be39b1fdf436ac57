//! Keeping what was read from directories true: told by the operating system *that* something changed, one looks again;
//! and looks now and then in case nobody said so.
//!
//! It knows nothing of what the directories are for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// A change is looked at when nothing more has happened for this long.
const QUIET: Duration = Duration::from_millis(50);
/// A change is looked at after this long even if more keeps happening.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches a set of directories, each without what is below it.
#[derive(Debug, Default)]
pub struct Watch {
    /// The last attempt failed, which was said.
    is_partial: bool,
    watcher: Option<RecommendedWatcher>,
    covered: BTreeSet<PathBuf>,
    signal: Signal,
}

/// Is raised by a change. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Signal(Arc<Notify>);

impl Watch {
    /// What is raised when something changes.
    #[must_use]
    pub fn signal(&self) -> Signal {
        self.signal.clone()
    }

    /// Watches these directories and no others from now on; says whether every change of them will be told. Blocks.
    /// Directories that are gone are passed over.
    ///
    /// Every directory is handed to the operating system again, because one that was removed and made again has the same
    /// name and is no longer watched.
    pub fn cover(&mut self, directories: &BTreeSet<PathBuf>) -> bool {
        let outcome = self.try_cover(directories);
        if let (Err(error), false) = (&outcome, self.is_partial) {
            tracing::warn!(%error, "not told of every change, looking more often instead");
        }
        self.is_partial = outcome.is_err();
        outcome.is_ok()
    }

    fn try_cover(&mut self, directories: &BTreeSet<PathBuf>) -> Result<(), notify::Error> {
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

/// Looks at directories.
pub trait Look: Send + 'static {
    /// Looks, tells `watch` what to watch, and says when to look again at the latest. Blocks.
    fn look(&mut self, watch: &mut Watch) -> Duration;
}

/// Looks whenever something may have changed, until it is dropped. `what` is what the log calls it.
pub async fn keep(mut looker: impl Look, what: &'static str) {
    let mut watch = Watch::default();
    let signal = watch.signal();
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let pause = looker.look(&mut watch);
            (looker, watch, pause)
        });
        let pause = match looked.await {
            Ok((looker_back, watch_back, pause)) => {
                (looker, watch) = (looker_back, watch_back);
                pause
            }
            Err(error) => {
                tracing::error!(%error, what, "no longer watched");
                return;
            }
        };
        tokio::select! {
            () = signal.settled() => {}
            () = sleep(pause) => {}
        }
    }
}

impl Signal {
    /// Says that something has changed.
    pub fn raise(&self) {
        self.0.notify_one();
    }

    /// Waits until it is raised and things are quiet again. Safe to use in `select!` only if the caller looks anyway.
    pub async fn settled(&self) {
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
