//! Keeping the prompts true: read again when something changed, and now and then in case nobody said so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::source::Prompts;
use crate::watch::Watch;

/// Pause between two looks while the directory is away or not watched.
const RETRY: Duration = Duration::from_secs(1);

/// Reads a directory whenever it may have changed.
#[derive(Debug)]
pub(crate) struct Upkeep {
    prompts: Arc<Prompts>,
    watch: Watch,
    rescan: Duration,
    is_watched: bool,
}

impl Upkeep {
    pub(crate) fn new(prompts: Arc<Prompts>, rescan: Duration) -> Self {
        Self { prompts, watch: Watch::default(), rescan, is_watched: true }
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
                    tracing::error!(%error, "the prompt directory is no longer watched");
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
        let directories: BTreeSet<PathBuf> =
            self.prompts.to_watch().map(Path::to_owned).into_iter().collect();
        let outcome = self.watch.cover(&directories);
        if let (Err(error), true) = (&outcome, self.is_watched) {
            tracing::warn!(%error, "not told of every change, looking every second instead");
        }
        self.is_watched = outcome.is_ok();
        let is_there = self.prompts.publish(self.prompts.look());
        if is_there && self.is_watched { self.rescan } else { self.rescan.min(RETRY) }
    }
}
