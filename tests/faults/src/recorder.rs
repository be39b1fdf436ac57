//! Writes a history while it happens: every writer's lines in order, all on one clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use history::line::{Line, Source, What};
use sha2::{Digest as _, Sha256};

/// What is longer stands in a history as its digest.
const WHOLE: usize = 400;

/// A history that is being written. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    begun: Instant,
    /// The same moment, in nanoseconds since 1970.
    begun_unix: u64,
    writers: Mutex<BTreeMap<String, (Source, Vec<Line>)>>,
    operations: AtomicUsize,
}

/// Writes as one of the writers.
#[derive(Clone)]
pub struct Pen {
    recorder: Recorder,
    src: Source,
    name: Arc<str>,
}

impl Default for Recorder {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let begun_unix = u64::try_from(now.as_nanos()).unwrap_or(0);
        Self(Arc::new(Inner {
            begun: Instant::now(),
            begun_unix,
            writers: Mutex::default(),
            operations: AtomicUsize::new(0),
        }))
    }
}

impl Recorder {
    /// Nanoseconds since the history began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// When it began, in nanoseconds since 1970.
    #[must_use]
    pub fn begun_unix(&self) -> u64 {
        self.0.begun_unix
    }

    /// One more writer.
    #[must_use]
    pub fn pen(&self, src: Source, name: &str) -> Pen {
        Pen { recorder: self.clone(), src, name: name.into() }
    }

    /// How many operations there are so far.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.0.operations.load(Ordering::Relaxed)
    }

    /// Whether the latest operation that ended was done.
    #[must_use]
    pub fn succeeds(&self) -> bool {
        self.latest_end().is_some_and(|line| matches!(line.what, What::Ok { .. }))
    }

    /// The latest operation that ended, for people, if it was not done.
    #[must_use]
    pub fn last_failure(&self) -> String {
        match self.latest_end() {
            Some(line) => format!("; the latest says {}", serde_json::to_string(&line).unwrap_or_default()),
            None => "; nothing was answered at all".to_owned(),
        }
    }

    fn latest_end(&self) -> Option<Line> {
        let writers = self.0.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = writers.values().flat_map(|(_, lines)| lines);
        let ends = lines.filter(|line| {
            matches!(
                line.what,
                What::Ok { .. } | What::Fail { .. } | What::Info { .. } | What::Cancelled { .. }
            )
        });
        ends.max_by_key(|line| line.t).cloned()
    }

    /// All lines, each writer's with its end.
    #[must_use]
    pub fn finish(&self) -> Vec<Line> {
        let now = self.now();
        let mut writers = self.0.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for (proc, (src, mut lines)) in std::mem::take(&mut *writers) {
            let last = lines.last().map_or(0, |line| line.t);
            let (n, t) = (lines.len() as u64, now.max(last));
            all.append(&mut lines);
            all.push(Line { src, proc, n, t, session: None, what: What::End {} });
        }
        all.sort_by_key(|line| line.t);
        all
    }
}

impl Pen {
    /// Writes a line now.
    pub fn write(&self, session: Option<&str>, what: What) {
        self.write_at(self.recorder.now(), session, what);
    }

    /// Writes a line of another time, which must not be before this writer's last one.
    pub fn write_at(&self, t: u64, session: Option<&str>, what: What) {
        if matches!(what, What::Invoke { .. }) {
            self.recorder.0.operations.fetch_add(1, Ordering::Relaxed);
        }
        let mut writers = self.recorder.0.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, lines) = writers.entry(self.name.to_string()).or_insert_with(|| (self.src, Vec::new()));
        let t = lines.last().map_or(t, |last| t.max(last.t));
        lines.push(Line {
            src: self.src,
            proc: self.name.to_string(),
            n: lines.len() as u64,
            t,
            session: session.map(str::to_owned),
            what,
        });
    }

    /// The history it writes in.
    #[must_use]
    pub const fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}

/// Bytes as they stand in a history.
#[must_use]
pub fn digest(data: &str) -> String {
    if data.len() <= WHOLE {
        return data.to_owned();
    }
    let hash = Sha256::digest(data.as_bytes());
    hash.iter().take(16).fold(String::from("sha256:"), |mut text, byte| {
        // Writing to a string does not fail.
        let _written = write!(text, "{byte:02x}").is_ok();
        text
    })
}
