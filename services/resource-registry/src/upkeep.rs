//! Keeping the lists true: look again when something changed, and now and then in case nobody said so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::source::Directories;
use crate::watch::Watch;

/// Pause between two looks while a directory is away or not watched.
const RETRY: Duration = Duration::from_secs(1);
/// How often directories that appear while we look are looked for again before that is left to the next change.
const ROUNDS: usize = 8;

/// Looks through directories whenever they may have changed.
#[derive(Debug)]
pub(crate) struct Upkeep {
    directories: Arc<Directories>,
    watch: Watch,
    rescan: Duration,
    is_watched: bool,
}

impl Upkeep {
    pub(crate) fn new(directories: Arc<Directories>, rescan: Duration) -> Self {
        Self { directories, watch: Watch::default(), rescan, is_watched: true }
    }

    /// Works until it is dropped.
    pub(crate) async fn run(self) {
        let signal = self.watch.signal();
        let mut upkeep = self;
        loop {
            let looked = tokio::task::spawn_blocking(move || {
                let pause = upkeep.look();
                (upkeep, pause)
            });
            let pause = match looked.await {
                Ok((back, pause)) => {
                    upkeep = back;
                    pause
                }
                Err(error) => {
                    tracing::error!(%error, "directories are no longer watched");
                    return;
                }
            };
            tokio::select! {
                () = signal.settled() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Looks, and says when to look again at the latest. Blocks.
    fn look(&mut self) -> Duration {
        let mut watched = self.directories.to_watch();
        let mut is_watched = self.cover(&watched);
        let mut found = self.directories.look();
        // A directory that is new is watched only from now on, so what happened in it meanwhile has to be looked at again.
        for _ in 0..ROUNDS {
            let seen = found.iter().flatten().flat_map(|scan| scan.directories.iter().cloned()).collect();
            if watched.is_superset(&seen) {
                break;
            }
            watched.extend(seen);
            is_watched = self.cover(&watched);
            found = self.directories.look();
        }
        let is_complete = self.directories.publish(found);
        if is_complete && is_watched { self.rescan } else { self.rescan.min(RETRY) }
    }

    fn cover(&mut self, directories: &std::collections::BTreeSet<std::path::PathBuf>) -> bool {
        let outcome = self.watch.cover(directories);
        if let (Err(error), true) = (&outcome, self.is_watched) {
            tracing::warn!(%error, "not told of every change, looking every second instead");
        }
        self.is_watched = outcome.is_ok();
        self.is_watched
    }
}
