//! Keeping the prompts true: read again when something changed, and now and then in case nobody said so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chassis::watch::{Look, Watch};

use crate::source::Prompts;

/// Pause between two looks while the directory is away or not watched.
const RETRY: Duration = Duration::from_secs(1);

/// Reads a directory whenever it may have changed.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) prompts: Arc<Prompts>,
    /// Pause between two looks while all is well.
    pub(crate) rescan: Duration,
}

impl Look for Upkeep {
    fn look(&mut self, watch: &mut Watch) -> Duration {
        let is_watched = watch.cover(&self.prompts.to_watch().map(Path::to_owned).into_iter().collect());
        let is_there = self.prompts.publish(self.prompts.look());
        if is_there && is_watched { self.rescan } else { self.rescan.min(RETRY) }
    }
}
