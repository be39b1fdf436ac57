//! Slots that are moved by hand, with a real etcd and real session nodes.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{KEY, Running, command, finished};

const PATIENCE: Duration = Duration::from_secs(60);

/// One member; killed when dropped.
pub(crate) struct Etcd {
    child: Child,
    url: String,
    _data: TempDir,
}

impl Etcd {
    pub(crate) fn start() -> Self {
        let data = TempDir::new().unwrap();
        // Both are held until both are chosen.
        let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [url, peer] = held.map(|port| format!("http://{}", port.local_addr().unwrap()));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--name", "e0", "--unsafe-no-fsync"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("e0={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("etcd does not start ({error}): scripts/stores installs it"));
        Self { child, url, _data: data }
    }

    pub(crate) fn setting(&self) -> String {
        format!("cluster.etcd=[\"{}\"]", self.url)
    }

    /// A process of the mesh, with these settings besides.
    pub(crate) fn role(&self, role: &str, settings: &[&str]) -> Command {
        let ring = format!("keys.ring={{ k1 = \"{KEY}\" }}");
        let mut command = command(&[role, "--listen", "127.0.0.1:0", "--set", &self.setting()]);
        for setting in ["keys.current=k1", &ring].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        command
    }

    fn node(&self, name: &str) -> Running {
        let mut node = Running::start(&mut self.role("session", &[&format!("session.node={name}")]));
        node.until_listening("session");
        node
    }

    /// `trunkline move` with these arguments.
    pub(crate) fn moving(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        finished(command(&["move", "--set", &self.setting()]).args(arguments))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Usually it runs still.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[test]
fn a_slot_goes_where_it_is_told_and_is_left_to_the_nodes_again() {
    let etcd = Etcd::start();
    let _nodes = ["session-1", "session-2"].map(|name| etcd.node(name));
    let until = Instant::now() + PATIENCE;
    // They are there as soon as they can be named.
    let [_, moved] = ["session-2", "session-1"].map(|node| {
        loop {
            let moved = etcd.moving(&["7", "--to", node]);
            if moved.0 == Some(0) || Instant::now() > until {
                break moved;
            }
        }
    });
    assert!(moved.1.ends_with("-> session-1, for 24 h\n"), "{moved:?}");
    let there = etcd.moving(&["v1.k1.007.pVv1r3.x", "--to", "session-2", "--hours", "2"]);
    assert_eq!(there.1, "slot 7: session-1 -> session-2, for 2 h\n", "{there:?}");
    let listed = etcd.moving(&[]);
    assert_eq!(listed.1, "slot 7 is to be owned by session-2, and is owned by session-2\n", "{listed:?}");
    let back = etcd.moving(&["7", "--back"]);
    assert_eq!((back.0, back.1.as_str()), (Some(0), "slot 7 is left to the nodes\n"), "{back:?}");
    assert_eq!(etcd.moving(&[]).1, "no slot was moved\n");

    let nobody = etcd.moving(&["7", "--to", "session-9"]);
    assert_eq!(nobody.0, Some(2));
    let said = "--to session-9: there is no such session node; there are session-1, session-2";
    assert!(nobody.2.contains(said), "{nobody:?}");
    let wrong = etcd.moving(&["4096", "--to", "session-2"]);
    assert!(wrong.0 == Some(2) && wrong.2.contains("4096: neither a slot (0 to 4095)"), "{wrong:?}");
    let more = etcd.moving(&["4096", "--to", "session-2", "--set", "cluster.slots=16384"]);
    assert!(more.0 == Some(2) && more.2.contains("cluster.slots: 16384 here, and the mesh"), "{more:?}");
}

#[test]
fn without_etcd_it_says_what_is_missing() {
    let (code, _, said) = finished(&mut command(&["move", "7", "--to", "session-2"]));
    assert!(code == Some(2) && said.contains("cluster.etcd: not set"), "{said}");
    let (code, _, said) = finished(&mut command(&["move", "7"]));
    assert!(code == Some(2) && said.contains("--to <NODE>"), "{said}");
}
