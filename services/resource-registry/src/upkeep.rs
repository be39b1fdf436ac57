//! Keeping the lists true: look again when something changed, and now and then in case nobody said so.

use std::sync::Arc;
use std::time::Duration;

use chassis::watch::{Look, Watch};

use crate::source::Directories;

/// Pause between two looks while a directory is away or not watched.
const RETRY: Duration = Duration::from_secs(1);
/// How often directories that appear while we look are looked for again before that is left to the next change.
const ROUNDS: usize = 8;

/// Looks through directories whenever they may have changed.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) directories: Arc<Directories>,
    /// Pause between two looks while all is well.
    pub(crate) rescan: Duration,
}

impl Look for Upkeep {
    fn look(&mut self, watch: &mut Watch) -> Duration {
        let mut watched = self.directories.to_watch();
        let mut is_watched = watch.cover(&watched);
        let mut found = self.directories.look();
        // A directory that is new is watched only from now on, so what happened in it meanwhile has to be looked at again.
        for _ in 0..ROUNDS {
            let seen = found.iter().flatten().flat_map(|scan| scan.directories.iter().cloned()).collect();
            if watched.is_superset(&seen) {
                break;
            }
            watched.extend(seen);
            is_watched = watch.cover(&watched);
            found = self.directories.look();
        }
        let is_complete = self.directories.publish(found);
        if is_complete && is_watched { self.rescan } else { self.rescan.min(RETRY) }
    }
}
