//! Sessions in a data directory: they are there after any end of the process, and what cannot be used is refused and left alone.

use std::fs;
use std::path::Path;

use crate::lifecycle::{host, post};
use crate::process::{Running, command, finished};

const FILE: &str = "sessions.redb";
const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;

fn up(data: &Path) -> (Running, String) {
    let data = data.to_str().unwrap();
    let mut mesh = Running::start(&mut command(&["up", "--listen", "127.0.0.1:0", "--data", data]));
    let url = mesh.listening("gateway");
    (mesh, url)
}

/// A session whose handshake is finished.
pub(crate) fn begin(url: &str) -> String {
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;
    let answer = post(host(url), "", hello);
    let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap().to_owned();
    let ready = in_session(url, &id, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert!(ready.starts_with("HTTP/1.1 202 "), "{ready}");
    id
}

fn in_session(url: &str, id: &str, body: &str) -> String {
    let headers = format!("mcp-session-id: {id}\r\nmcp-protocol-version: 2025-11-25\r\n");
    post(host(url), &headers, body)
}

pub(crate) fn call(url: &str, id: &str) {
    let echo = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello"}}}"#;
    let answer = in_session(url, id, echo);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("hello"), "{answer}");
}

#[test]
fn a_session_goes_on_after_a_stop_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (mut mesh, url) = up(folder.path());
    let first = begin(&url);
    call(&url, &first);
    mesh.signal("TERM");
    assert_eq!(mesh.ended().code(), Some(0));
    let (mesh, url) = up(folder.path());
    call(&url, &first);
    let second = begin(&url);
    call(&url, &second);
    // A drop is a kill.
    drop(mesh);
    let (mut mesh, url) = up(folder.path());
    for id in [&first, &second] {
        let answer = in_session(&url, id, PING);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        call(&url, id);
    }
    mesh.signal("TERM");
    assert_eq!(mesh.ended().code(), Some(0));
}

#[test]
fn without_a_named_directory_sessions_live_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut asked = command(&["up", "--listen", "127.0.0.1:0"]);
        let mut mesh = Running::start(asked.current_dir(folder.path()));
        let url = mesh.listening("gateway");
        (mesh, url)
    };
    let (mesh, url) = start();
    let id = begin(&url);
    drop(mesh);
    let (_mesh, url) = start();
    let answer = in_session(&url, &id, PING);
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(folder.path().join(".trunkline/keys.toml").exists());
    assert!(!folder.path().join(".trunkline").join(FILE).exists());
    let named = folder.path().join("named");
    let data = named.to_str().unwrap();
    let none = ["up", "--listen", "127.0.0.1:0", "--data", data, "--set", "store.file=none"];
    Running::start(&mut command(&none)).listening("gateway");
    assert!(named.join("keys.toml").exists() && !named.join(FILE).exists());
}

#[test]
fn a_directory_in_use_is_refused_and_its_user_not_disturbed() {
    let folder = tempfile::tempdir().unwrap();
    let (_mesh, url) = up(folder.path());
    let id = begin(&url);
    let data = folder.path().to_str().unwrap();
    let (code, _, said) = finished(&mut command(&["up", "--listen", "127.0.0.1:0", "--data", data]));
    assert_eq!(code, Some(2));
    assert!(said.contains(FILE) && said.contains("in use by another process"), "{said}");
    let (code, _, said) = finished(&mut command(&["up", "--check", "--data", data]));
    assert_eq!(code, Some(0), "what is in use was accepted before: {said}");
    call(&url, &id);
}

#[test]
fn a_file_serves_a_mesh_of_more_slots_and_no_mesh_of_fewer() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let arguments = |slots| {
        let slots = format!("cluster.slots={slots}");
        command(&["up", "--listen", "127.0.0.1:0", "--data", data, "--set", &slots])
    };
    let (mut mesh, url) = up(folder.path());
    let first = begin(&url);
    mesh.signal("TERM");
    mesh.ended();
    let mut mesh = Running::start(&mut arguments(16_384));
    let url = mesh.listening("gateway");
    call(&url, &first);
    // Three of four are in slots that the mesh did not have before.
    let new = (0..64).map(|_| begin(&url)).find(|id| id.split('.').nth(2).unwrap().len() == 4).unwrap();
    call(&url, &new);
    mesh.signal("TERM");
    mesh.ended();
    let (code, _, said) = finished(&mut arguments(4096));
    let why =
        "sessions in slots from 4096 on would be lost. Set cluster.slots = 16384, or name another store.file";
    assert!(code == Some(2) && said.contains(FILE) && said.contains(why), "{code:?} {said}");
    let mut mesh = Running::start(&mut arguments(16_384));
    call(&mesh.listening("gateway"), &new);
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (mut mesh, url) = up(folder.path());
    begin(&url);
    mesh.signal("TERM");
    mesh.ended();
    let file = folder.path().join(FILE);
    let data = folder.path().to_str().unwrap();
    let good = fs::read(&file).unwrap();
    let mut damaged = good.clone();
    // Everything behind the head.
    damaged[4096..].iter_mut().step_by(97).for_each(|byte| *byte ^= 0xff);
    for (content, word) in
        [(&b"not ours"[..], "another program"), (&damaged, "damaged"), (&good[..9_000], "damaged")]
    {
        fs::write(&file, content).unwrap();
        for more in [&["--check"][..], &["--listen", "127.0.0.1:0"]] {
            let args = [&["up", "--data", data][..], more].concat();
            let (code, _, said) = finished(&mut command(&args));
            assert_eq!(code, Some(2), "{word}: {said}");
            let line = said.lines().last().unwrap();
            assert!(line.contains(file.to_str().unwrap()) && line.contains(word), "{said}");
            assert!(line.contains("move it away"), "it says what to do: {said}");
            assert!(fs::read(&file).unwrap() == content, "{word}: it was changed");
        }
    }
    fs::write(&file, &good).unwrap();
    drop(up(folder.path()));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let (code, _, said) = finished(&mut command(&["up", "--listen", "127.0.0.1:0", "--data", data]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(FILE) && said.contains("cannot be used"), "{said}");
}

#[test]
fn the_settings_know_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let dumped = |args: &[&str]| finished(&mut command(&[&["up", "--dump-config"], args].concat())).1;
    let line = format!("file = \"{data}/{FILE}\"");
    assert!(dumped(&["--data", data]).contains(&line));
    assert!(dumped(&[]).contains("\nfile = \"\""));
    assert!(dumped(&["--data", data, "--set", "store.file=none"]).contains("file = \"none\""));
    let with_redis = dumped(&["--data", data, "--set", "store.redis=[\"redis://127.0.0.1:1\"]"]);
    assert!(with_redis.contains("\nfile = \"\""), "{with_redis}");
    let refused = |args: &[&str]| {
        let (code, _, said) = finished(&mut command(args));
        assert_eq!(code, Some(2), "{said}");
        said
    };
    let both = ["up", "--check", "--set", "store.file=x", "--set", "store.redis=[\"redis://127.0.0.1:1\"]"];
    assert!(refused(&both).contains("store.redis and store.file"));
    let ring = format!("keys.ring={{k1=\"{}\"}}", crate::process::KEY);
    let mut cluster = vec!["session", "--check", "--set", "keys.current=k1", "--set", &ring];
    cluster.extend(["--set", "store.file=x", "--set", "cluster.etcd=[\"http://127.0.0.1:1\"]"]);
    let said = refused(&cluster);
    assert!(said.contains("store.file") && said.contains("cluster.etcd"), "{said}");
}
