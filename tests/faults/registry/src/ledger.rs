//! What tools really did: one line for each run, in one file for all replicas, on disk before anybody is told.
//!
//! The file is the state as well. A replica that takes a turn holds the file's lock, reads what others have added since,
//! adds its own line and syncs it; so all runs are in one order, whichever replica they ran in.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use history::line::{Doing, What};
use serde::{Deserialize, Serialize};

/// A line of the ledger.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// The replica.
    proc: String,
    /// Nanoseconds since 1970.
    t: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    /// What was appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    #[serde(flatten)]
    what: What,
}

/// The ledger, as one replica holds it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
}

struct State {
    file: File,
    read: u64,
    lists: HashMap<String, Vec<u64>>,
}

impl Ledger {
    /// Opens it, or begins it.
    pub(crate) fn open(path: &Path, name: &str) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("the ledger {} cannot be opened", path.display()))?;
        let state = State { file, read: 0, lists: HashMap::new() };
        Ok(Self { name: name.into(), state: Arc::new(Mutex::new(state)) })
    }

    /// Writes down that a tool ran; the name of this run.
    pub(crate) async fn ran(
        &self,
        f: Doing,
        op: String,
        session: String,
        value: Option<u64>,
    ) -> Result<String> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)?;
        let nonce = format!("{:016x}", u64::from_le_bytes(random));
        let what = What::Execute { op, nonce: nonce.clone(), f };
        self.write(Some(session), value, what).await?;
        Ok(nonce)
    }

    /// Writes down that a tool got a message of the client.
    pub(crate) async fn got(&self, message: String) -> Result<()> {
        self.write(None, None, What::Consume { message }).await
    }

    /// The list of a session.
    pub(crate) async fn list(&self, session: String) -> Result<Vec<u64>> {
        self.turn(move |state| Ok(state.lists.get(&session).cloned().unwrap_or_default())).await
    }

    async fn write(&self, session: Option<String>, value: Option<u64>, what: What) -> Result<()> {
        let proc = self.name.to_string();
        self.turn(move |state| {
            let t = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
            let entry = Entry { proc, t: u64::try_from(t)?, session, value, what };
            // Behind the half line of a replica that was killed, this one still stands alone.
            let line = format!("\n{}\n", serde_json::to_string(&entry)?);
            state.file.write_all(line.as_bytes())?;
            state.file.sync_data()?;
            state.catch_up()
        })
        .await
    }

    /// Does something while no other replica does anything, on a thread that may wait.
    async fn turn<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut State) -> Result<T> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let locked = move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.file.lock()?;
            let done = state.catch_up().and_then(|()| work(&mut state));
            state.file.unlock()?;
            done
        };
        tokio::task::spawn_blocking(locked).await?
    }
}

impl State {
    /// Reads what was added. The lock is held, so that no line is half written.
    fn catch_up(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut reader = BufReader::new(&self.file);
        let mut line = String::new();
        loop {
            line.clear();
            let length = reader.read_line(&mut line)?;
            if length == 0 {
                return Ok(());
            }
            // Empty, or half a line of a replica that was killed: nobody was told of what it says.
            let Ok(entry) = serde_json::from_str::<Entry>(&line) else {
                self.read += length as u64;
                continue;
            };
            self.read += length as u64;
            if let (Some(session), Some(value)) = (entry.session, entry.value) {
                self.lists.entry(session).or_default().push(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replicas_share_one_order() {
        let dir = std::env::temp_dir().join(format!("ledger-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("ledger.jsonl");
        let (one, two) = (Ledger::open(&path, "one").unwrap(), Ledger::open(&path, "two").unwrap());
        for (number, ledger) in [&one, &two, &two, &one].into_iter().enumerate() {
            let value = u64::try_from(number).unwrap();
            let ran = ledger.ran(Doing::Append, format!("op-{number}"), "s".into(), Some(value)).await;
            assert_eq!(ran.unwrap().len(), 16);
        }
        assert_eq!(one.list("s".into()).await.unwrap(), [0, 1, 2, 3]);
        assert_eq!(two.list("s".into()).await.unwrap(), [0, 1, 2, 3]);
        assert!(two.list("t".into()).await.unwrap().is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
