//! Real processes: started, watched for the address they print, paused, killed, and always ended by their own number.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long a process may take to say where it listens.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end when it is asked to.
const END: Duration = Duration::from_secs(40);

/// Which processes there are, by name.
#[derive(Debug, Clone, Default)]
pub struct Pids(Arc<Mutex<BTreeMap<String, u32>>>);

/// A process. It is killed with its handle.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pids: Pids,
    log: PathBuf,
    said: Arc<Mutex<Vec<String>>>,
    _reading: JoinSet<()>,
}

impl Process {
    /// Starts one. What it says goes to `logs/NAME.log`, behind what an earlier one of that name said.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: Command, logs: &Path, pids: &Pids) -> Result<Self> {
        let mut command = tethered(command);
        let log = logs.join(format!("{name}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started: {program}"))?;
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut reading = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            let said = Arc::clone(&said);
            reading.spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    said.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            });
        }
        if let Some(pid) = child.id() {
            pids.lock().insert(name.to_owned(), pid);
        }
        Ok(Self { name: name.to_owned(), child, pids: pids.clone(), log, said, _reading: reading })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its line `listening WHAT ADDRESS`; the address.
    ///
    /// # Errors
    /// When it ends, or says nothing of the kind in time. The error shows the end of its log.
    pub async fn address(&mut self, what: &str) -> Result<String> {
        let prefix = format!("listening {what} ");
        let until = Instant::now() + START;
        loop {
            let found = {
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                said.iter().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
            };
            if let Some(address) = found {
                return Ok(address);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                bail!("{} ended before it listened ({status}){}", self.name, self.tail());
            }
            if Instant::now() > until {
                bail!("{} did not say where its {what} listens{}", self.name, self.tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it at once (SIGKILL), and waits until it is gone.
    ///
    /// # Errors
    /// When the system does not let us.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be killed", self.name))?;
        self.gone();
        Ok(())
    }

    /// Stops it where it stands (SIGSTOP).
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// When it takes too long, or ends as if something was wrong.
    pub async fn stop(&mut self) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        let ended = timeout(END, self.child.wait()).await;
        let Ok(status) = ended else {
            self.kill().await?;
            bail!("{} did not end when it was asked to{}", self.name, self.tail());
        };
        self.gone();
        let status = status?;
        if !status.success() {
            bail!("{} ended with {status}{}", self.name, self.tail());
        }
        Ok(())
    }

    fn gone(&self) {
        self.pids.lock().remove(&self.name);
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is gone", self.name))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process without a number")?;
        kill_process(pid, signal).with_context(|| format!("{} cannot be signalled", self.name))
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(20));
        last.fold(format!("; {} ends with", self.log.display()), |text, line| format!("{text}\n    {line}"))
    }
}

/// The same command, whose process ends with this one even if this one is killed outright; only if the system can do that.
fn tethered(command: Command) -> Command {
    let Ok(tether) = program("setpriv") else { return command };
    let inner = command.as_std();
    let mut outer = Command::new(tether);
    outer.args(["--pdeathsig", "KILL", "--"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer
}

impl Drop for Process {
    fn drop(&mut self) {
        self.gone();
    }
}

impl Pids {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, u32> {
        self.lock().clone()
    }

    /// Whose end of a connection has this local and this remote port; empty if nobody's that is known.
    pub async fn of_connection(&self, local: u16, remote: u16) -> String {
        let pids = self.all();
        if pids.is_empty() {
            return String::new();
        }
        let look = move || owner(&pids, local, remote).unwrap_or_default();
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }
}

/// Looks a socket up in the tables of the kernel.
fn owner(pids: &BTreeMap<String, u32>, local: u16, remote: u16) -> Option<String> {
    let tables: HashMap<&str, String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| Some((path, fs::read_to_string(path).ok()?)))
        .collect();
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    let inode = tables.values().flat_map(|table| table.lines()).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ends = fields.get(1)?.ends_with(&local) && fields.get(2)?.ends_with(&remote);
        ends.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    })?;
    pids.iter().find_map(|(name, pid)| {
        let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let holds =
            open.any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == inode.as_str()));
        holds.then(|| name.clone())
    })
}

/// A program that is built with the tests, beside this one.
///
/// # Errors
/// When it is not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "the program {name} is missing: cargo build -p trunkline -p ledger-registry -p tests -p faults"
        )
    })
}

/// A program of the system.
///
/// # Errors
/// When it is not installed.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("the program {name} is missing: ./scripts/stores installs it"))
}
