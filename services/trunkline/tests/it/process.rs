//! Runs the binary and reads what it says.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A key for tests, of 32 bytes.
pub(crate) const KEY: &str = "c2l4dGVlbi1ieXRlcy1hbmQtc2l4dGVlbi1tb3JlISE=";

/// A running `trunkline`; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    /// Read as it comes, so that nobody waits for a reader; gives all of it at the end.
    stderr: Option<JoinHandle<String>>,
}

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TRUNKLINE_"))
    {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs it to its end; returns exit code, standard output, standard error.
pub(crate) fn finished(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut stderr = child.stderr.take().unwrap();
        let reading = thread::spawn(move || {
            let mut text = Vec::new();
            // Half of it is better than none.
            let _read = stderr.read_to_end(&mut text).is_ok();
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, lines, stderr: Some(reading) }
    }

    /// The next line of standard output.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => {
                self.child.kill().unwrap();
                panic!("no line ({error}); standard error: {}", self.stderr());
            }
        }
    }

    /// What stands after `listening ROLE ` in the next line.
    pub(crate) fn listening(&mut self, role: &str) -> String {
        let line = self.line();
        line.strip_prefix(&format!("listening {role} ")).unwrap_or_else(|| panic!("{line}")).to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        // Reading to the end of the output is waiting for the end of the process.
        while Instant::now() < end {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(_line) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => break,
            }
        }
        self.child.kill().unwrap();
        panic!("it did not end; standard error: {}", self.stderr());
    }

    /// What it said on standard error; waits for its end.
    pub(crate) fn stderr(&mut self) -> String {
        self.stderr.take().map(|reading| reading.join().unwrap()).unwrap_or_default()
    }

    /// Reads on to the line that says where something listens.
    pub(crate) fn until_listening(&mut self, what: &str) -> String {
        let prefix = format!("listening {what} ");
        loop {
            if let Some(place) = self.line().strip_prefix(&prefix) {
                return place.to_owned();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Usually it has ended already.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
