//! A mesh of 16,384 slots, with a real etcd: what it serves, and who may not take part.

use std::time::{Duration, Instant};

use crate::kept::{begin, call};
use crate::lifecycle::{host, post};
use crate::moved::Etcd;
use crate::process::{Running, command, finished};

const PATIENCE: Duration = Duration::from_secs(60);
const LARGE: &str = "cluster.slots=16384";
const HEAD: &str = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n";
const ECHO: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

/// Tries until something comes of it.
pub(crate) fn soon<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < until, "never: {what}");
    }
}

fn started(etcd: &Etcd, role: &str, settings: &[&str]) -> (Running, String) {
    let mut process = Running::start(&mut etcd.role(role, settings));
    let place = process.until_listening(role);
    (process, place)
}

#[test]
fn a_mesh_of_16384_slots_serves_both_eras_and_nobody_joins_it_with_4096() {
    let etcd = Etcd::start();
    let (_tools, _) = started(&etcd, "tool-registry", &[]);
    let (_first, _) = started(&etcd, "session", &["session.node=session-1", LARGE]);
    let (_second, _) = started(&etcd, "session", &["session.node=session-2", LARGE]);
    let (_gateway, url) = started(&etcd, "gateway", &[LARGE]);

    soon("a modern call", || {
        let answer = post(host(&url), HEAD, ECHO);
        (answer.starts_with("HTTP/1.1 200 ") && answer.contains("hello")).then_some(())
    });
    let beyond = soon("a session in a slot from 4096 on", || {
        let id = begin(&url);
        call(&url, &id);
        (id.split('.').nth(2).unwrap().len() == 4).then_some(id)
    });
    let moved = soon("a move", || {
        let moved = etcd.moving(&["16383", "--to", "session-2", "--set", LARGE]);
        (moved.0 == Some(0)).then_some(moved)
    });
    assert!(moved.1.ends_with("-> session-2, for 24 h\n"), "{moved:?}");
    let named = etcd.moving(&[&beyond, "--to", "session-1", "--set", LARGE]);
    assert!(named.0 == Some(0), "{named:?}");
    call_again(&url, &beyond);

    let why = "cluster.slots: 4096 here, and the mesh under cluster.prefix \"/trunkline\" was made with 16384, for good: set \
               cluster.slots = 16384, or make a mesh of 4096 under another prefix";
    let gateway = finished(&mut etcd.role("gateway", &[]));
    let session = finished(&mut etcd.role("session", &["session.node=session-3"]));
    for (code, said, error) in [gateway, session, etcd.moving(&["7", "--to", "session-1"]), etcd.moving(&[])]
    {
        assert!(code == Some(2) && said.is_empty() && error.contains(why), "{code:?} {said} {error}");
    }
    call_again(&url, &beyond);
}

/// What lives in memory does not come along to the next owner: the session is gone, and nobody waits for an owner.
fn call_again(url: &str, session: &str) {
    let headers = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
    let answer = post(host(url), &headers, r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#);
    assert!(answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[test]
fn a_mesh_has_one_of_two_numbers_of_slots_and_ranges_are_within_it() {
    let check = |settings: &[&str]| {
        let ring = format!("keys.ring={{ k1 = \"{}\" }}", crate::process::KEY);
        let mut command = command(&[settings[0], "--check", "--set", "keys.current=k1", "--set", &ring]);
        settings[1..].iter().for_each(|setting| _ = command.args(["--set", setting]));
        let (code, _, said) = finished(&mut command);
        (code, said)
    };
    for wrong in ["0", "4095", "8192", "65536", "-1", "\"16384\"", "many"] {
        let (code, said) = check(&["up", &format!("cluster.slots={wrong}")]);
        assert!(code == Some(2) && said.contains("cluster.slots"), "{wrong}: {said}");
        assert!(said.contains("4096 or 16384") || said.contains("4096"), "{wrong}: {said}");
    }
    let sessions = |slots| format!("gateway.sessions=[{{address=\"127.0.0.1:1\", slots=\"{slots}\"}}]");
    for (slots, count, is_good) in [
        ("0-4095", "4096", true),
        ("0-16383", "16384", true),
        ("all", "16384", true),
        ("0-4095", "16384", false),
        ("0-16383", "4096", false),
    ] {
        let count = format!("cluster.slots={count}");
        let (code, said) = check(&["gateway", &sessions(slots), &count]);
        assert_eq!(code == Some(0), is_good, "{slots} {count}: {said}");
        assert!(is_good || said.contains("gateway.sessions: "), "{said}");
    }
    let (code, said) = check(&["session", "session.slots=4000-4100"]);
    assert!(
        code == Some(2) && said.contains("session.slots: 4000-4100 goes beyond the 4096 slots of the mesh"),
        "{said}"
    );
    assert_eq!(check(&["session", "session.slots=4000-4100", LARGE]).0, Some(0));
}
