//! Something made of files, made anew when they change.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::file::{File, FileError, Print};

/// How old the last look at the files may be when something made of them is used.
pub const LOOK: Duration = Duration::from_secs(2);

type Make<T> = Box<dyn Fn() -> Result<T, FileError> + Send + Sync>;

/// Keeps what it has while the files are broken.
pub(super) struct Fresh<T> {
    files: Vec<File>,
    make: Make<T>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

struct Seen {
    looked: Instant,
    /// Of what was last tried, usable or not, so that a broken file is told once.
    prints: Vec<Option<Print>>,
}

impl<T: Send + Sync + 'static> Fresh<T> {
    /// Blocks.
    pub(super) fn new(
        files: Vec<File>,
        make: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        // Before they are read: what changes in between is seen at the next look.
        let prints = prints(&files);
        let current = RwLock::new(Arc::new(make()?));
        let seen = Mutex::new(Seen { looked: Instant::now(), prints });
        Ok(Self { files, make: Box::new(make), current, seen })
    }

    /// What the files say, or said [`LOOK`] ago.
    pub(super) async fn get(self: &Arc<Self>) -> Arc<T> {
        if self.is_due() {
            let this = self.clone();
            // If the process ends meanwhile, what was there does.
            drop(tokio::task::spawn_blocking(move || this.look()).await);
        }
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same for who may be kept waiting by the disk.
    pub(super) fn peek(&self) -> Arc<T> {
        if self.is_due() {
            self.look();
        }
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whoever is told so looks; those who come meanwhile take what is there.
    fn is_due(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let due = seen.looked.elapsed() >= LOOK;
        if due {
            seen.looked = Instant::now();
        }
        due
    }

    fn look(&self) {
        let now = prints(&self.files);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.prints == now {
                return;
            }
            seen.prints = now;
        }
        let files = self.files.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match (self.make)() {
            Ok(made) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                tracing::info!(files, "TLS files changed, new ones in use");
            }
            Err(error) => {
                tracing::warn!(%error, "TLS files changed and cannot be used, keeping the old ones")
            }
        }
    }
}

impl<T> fmt::Debug for Fresh<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.files).finish()
    }
}

fn prints(files: &[File]) -> Vec<Option<Print>> {
    files.iter().map(File::print).collect()
}
