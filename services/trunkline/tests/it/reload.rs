//! What a running process takes over from a configuration that changed, and what it says of the rest.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{KEY, command, finished};

const PATIENCE: Duration = Duration::from_secs(60);
const OTHER: &str = "b3RoZXItc2l4dGVlbi1ieXRlcy1hbmQtc2l4dGVlbiE=";
/// Of nobody's key.
const HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";

struct Up {
    child: Child,
    url: String,
    file: PathBuf,
    /// Kept open, so that what it still prints goes somewhere.
    _stdout: Lines<BufReader<ChildStdout>>,
    _folder: TempDir,
}

impl Up {
    fn start(configuration: &str) -> Self {
        Self::start_with(configuration, &["--listen", "127.0.0.1:0"])
    }

    fn start_with(configuration: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.toml");
        fs::write(&file, configuration).unwrap();
        let data = folder.path().join("data");
        let mut args = vec!["up", "--config", file.to_str().unwrap(), "--data", data.to_str().unwrap()];
        args.extend(more);
        let log = File::create(folder.path().join("log")).unwrap();
        let mut child = command(&args).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines
            .find_map(|line| line.unwrap().strip_prefix("listening gateway ").map(str::to_owned))
            .unwrap();
        Self { child, url, file, _stdout: lines, _folder: folder }
    }

    /// Changes the file as a whole, as careful editors and platforms do.
    fn change(&self, configuration: &str) {
        let draft = self.file.with_extension("new");
        fs::write(&draft, configuration).unwrap();
        fs::rename(draft, &self.file).unwrap();
    }

    fn hang_up(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file.with_file_name("log")).unwrap()
    }

    /// Lists the tools, with another header; the exit code.
    fn list(&self, header: &str) -> Option<i32> {
        finished(&mut command(&["list", &self.url, "tools", "--header", header])).0
    }

    /// Asks again and again until it is so.
    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < end, "{what}: {}", self.log());
            std::thread::yield_now();
        }
    }

    /// The id of a new session, or what is said of an old one.
    fn post(&self, session: Option<&str>, body: &str) -> String {
        let address = self.url.trim_start_matches("http://").split('/').next().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let session = session.map(|id| format!("mcp-session-id: {id}\r\n")).unwrap_or_default();
        write!(
            stream,
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\n{session}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn initialize(&self) -> String {
        let answer = self.post(
            None,
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#,
        );
        let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
        id.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Usually it is still running.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn keys(current: &str, names: &[(&str, &str)]) -> String {
    let ring: Vec<String> = names.iter().map(|(name, key)| format!("{name} = \"{key}\"")).collect();
    format!("[keys]\ncurrent = \"{current}\"\nring = {{ {} }}\n", ring.join(", "))
}

#[test]
fn a_changed_file_is_taken_over_and_what_cannot_be_is_named() {
    let up = Up::start("[telemetry]\nlog = \"error\"\n");
    let host = "Host: mesh.example.com";
    assert_eq!(up.list(host), Some(4));
    assert_eq!(up.log(), "");
    up.change(
        "[gateway]\nallowed_hosts = [\"mesh.example.com\"]\nkeep_alive_s = 7\n[telemetry]\nlog = \"info\"\n",
    );
    up.until("the name is allowed", || up.list(host) == Some(0));
    let log = up.log();
    assert!(
        log.contains("changed keys take effect at the next start") && log.contains("gateway.keep_alive_s"),
        "{log}"
    );
    assert!(log.contains("the configuration was read again"), "{log}");
}

#[test]
fn a_wrong_file_changes_nothing() {
    let up = Up::start("[gateway]\nallowed_hosts = [\"a.example.com\"]\n");
    up.change("[gateway]\nallowed_hosts = [\"b.example.com\"]\nlisen = \"x\"\n");
    up.hang_up();
    let said = "the configuration is wrong; nothing of it is taken over";
    up.until("it is said", || up.list("Host: a.example.com") == Some(0) && up.log().contains(said));
    assert!(up.log().contains("unknown key gateway.lisen"), "{}", up.log());
    assert_eq!(up.list("Host: b.example.com"), Some(4));
}

#[test]
fn a_mistake_in_one_part_changes_nothing_and_can_be_put_right_elsewhere() {
    let up = Up::start("[gateway]\nallowed_hosts = [\"a.example.com\"]\n");
    let set = up.file.with_file_name("keys.json");
    up.change(&format!(
        "[gateway]\nallowed_hosts = [\"b.example.com\"]\n[auth]\nresource = \"https://a.example.com/mcp\"\n\
         issuers = [{{ issuer = \"https://login.example.com\", jwks = {set:?} }}]\n"
    ));
    up.hang_up();
    let said = "the configuration is wrong; nothing of it is taken over";
    up.until("it is said", || up.log().contains(said));
    assert_eq!((up.list("Host: a.example.com"), up.list("Host: b.example.com")), (Some(0), Some(4)));
    fs::write(&set, "{\"keys\":[]}").unwrap();
    up.hang_up();
    up.until("it is taken over", || up.log().contains("the configuration was read again"));
    assert_eq!(up.list("Host: localhost"), Some(4), "tokens are asked for");
    assert!(up.post(None, "{}").starts_with("HTTP/1.1 401"));
}

#[test]
fn where_it_will_listen_next_does_not_lock_out_who_calls_now() {
    let everybody = "[gateway]\nlisten = \"0.0.0.0:0\"\ninsecure_no_auth = true\n";
    let up = Up::start_with(&format!("{everybody}allowed_hosts = [\"127.0.0.1\"]\n"), &[]);
    assert_eq!(up.list("X-Any: thing"), Some(0));
    up.change("[gateway]\ninsecure_no_auth = true\nlisten = \"127.0.0.1:0\"\n");
    up.hang_up();
    let said = "the configuration is wrong; nothing of it is taken over";
    up.until("it is said", || up.log().contains(said));
    assert_eq!(up.list("X-Any: thing"), Some(0));
}

#[test]
fn callers_are_told_apart_from_now_on() {
    let up = Up::start("");
    assert_eq!(up.list("X-Any: thing"), Some(0));
    up.change(&format!("[auth]\nkeys = [{{ name = \"a\", hash = \"{HASH}\" }}]\n"));
    up.hang_up();
    up.until("nobody without a key comes in", || up.list("X-Any: thing") == Some(4));
    up.change("");
    up.hang_up();
    up.until("everybody comes in again", || up.list("X-Any: thing") == Some(0));
}

#[test]
fn who_may_call_from_other_machines_is_not_forgotten_by_mistake() {
    let public = "[gateway]\nlisten = \"0.0.0.0:0\"\nallowed_hosts = [\"127.0.0.1\"]\n";
    let key = format!("{public}[auth]\nkeys = [{{ name = \"a\", hash = \"{HASH}\" }}]\n");
    let up = Up::start_with(&key, &[]);
    up.change(public);
    up.hang_up();
    up.until("it is refused", || up.log().contains("nothing of it is taken over"));
    assert!(up.log().contains("[auth] lets nobody in from there: configure auth.keys"), "{}", up.log());
    up.change(&key.replace("name = \"a\"", "name = \"b\""));
    up.hang_up();
    up.until("what lets somebody in is taken over", || up.log().contains("the configuration was read again"));
}

#[test]
fn keys_are_rotated_under_live_sessions() {
    let up = Up::start(&keys("k1", &[("k1", KEY)]));
    let ping = r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#;
    let old = up.initialize();
    assert!(old.starts_with("v1.k1."), "{old}");
    up.change(&keys("k2", &[("k1", KEY), ("k2", OTHER)]));
    up.hang_up();
    up.until("the new key signs", || up.initialize().starts_with("v1.k2."));
    assert!(up.post(Some(&old), ping).starts_with("HTTP/1.1 200"), "the old key is still accepted");
    up.change(&keys("k2", &[("k2", OTHER)]));
    up.hang_up();
    up.until("the old key is gone", || up.post(Some(&old), ping).starts_with("HTTP/1.1 404"));
    assert!(!up.log().contains(OTHER) && !up.log().contains(KEY));
}

#[test]
fn a_data_directory_gives_new_keys_too() {
    let up = Up::start("");
    let data: &Path = &up.file.with_file_name("data");
    assert!(up.initialize().starts_with("v1.k1."));
    let text = keys("k9", &[("k9", OTHER)]);
    fs::write(data.join("keys.toml"), text).unwrap();
    up.hang_up();
    up.until("the new key signs", || up.initialize().starts_with("v1.k9."));
}
