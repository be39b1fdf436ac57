//! Real etcd, started by the test that needs it, on free ports, and stopped with it.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use placement::etcd::{Etcd, EtcdConfig};
use placement::port::LeaseStore as _;
use tempfile::TempDir;
use tokio::time::timeout;

/// One or more members.
pub(crate) struct Servers {
    members: Vec<Member>,
    data: TempDir,
}

pub(crate) struct Member {
    arguments: Vec<String>,
    pub(crate) url: String,
    process: Option<Child>,
}

/// Ports that were free a moment ago; all are held until all are chosen.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Servers {
    /// Starts members that form one cluster and waits until they answer.
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, "http", &[])
    }

    /// The same with more arguments; `{data}` in them stands for the folder of the servers.
    pub(crate) fn start_with(count: usize, scheme: &str, more: &[String]) -> Self {
        let data = TempDir::new().unwrap();
        let ports = free_ports(2 * count);
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[2 * n + 1]);
        let cluster: Vec<String> = (0..count).map(|n| format!("e{n}={}", peer(n))).collect();
        let members = (0..count)
            .map(|n| {
                let url = format!("{scheme}://127.0.0.1:{}", ports[2 * n]);
                let folder = data.path().join(format!("e{n}"));
                let mut arguments: Vec<String> = [
                    ("--name", format!("e{n}")),
                    ("--data-dir", folder.display().to_string()),
                    ("--listen-client-urls", url.clone()),
                    ("--advertise-client-urls", url.clone()),
                    ("--listen-peer-urls", peer(n)),
                    ("--initial-advertise-peer-urls", peer(n)),
                    ("--initial-cluster", cluster.join(",")),
                    ("--heartbeat-interval", "50".to_owned()),
                    ("--election-timeout", "500".to_owned()),
                ]
                .into_iter()
                .flat_map(|(name, value)| [name.to_owned(), value])
                .collect();
                arguments.push("--unsafe-no-fsync".to_owned());
                arguments.extend(more.iter().cloned());
                Member { arguments, url, process: None }
            })
            .collect();
        let mut servers = Self { members, data };
        for n in 0..count {
            servers.restart(n);
        }
        servers
    }

    /// Kills a member, as a power cut would.
    pub(crate) fn kill(&mut self, n: usize) {
        if let Some(mut process) = self.members[n].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts a member with the data it has.
    pub(crate) fn restart(&mut self, n: usize) {
        let member = &mut self.members[n];
        let started = Command::new("etcd")
            .args(&member.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let explain =
            "the program `etcd` is needed for this test and is not on the PATH: apt-get install etcd-server";
        member.process = Some(started.unwrap_or_else(|error| panic!("{explain} ({error})")));
    }

    /// Writes down all that the only member holds.
    pub(crate) fn back_up(&self) {
        let file = self.backup();
        etcdctl(&["--endpoints", &self.members[0].url, "snapshot", "save", &file]);
    }

    /// Puts that in place of what the only member, which does not run, holds.
    pub(crate) fn restore(&self) {
        let value = |name: &str| {
            let arguments = &self.members[0].arguments;
            arguments[arguments.iter().position(|argument| argument == name).unwrap() + 1].clone()
        };
        let folder = value("--data-dir");
        std::fs::remove_dir_all(&folder).unwrap();
        let same = ["--name", "--initial-cluster", "--initial-advertise-peer-urls", "--data-dir"];
        let file = self.backup();
        let mut arguments = vec!["snapshot".to_owned(), "restore".to_owned(), file];
        arguments.extend(same.iter().flat_map(|name| [(*name).to_owned(), value(name)]));
        etcdctl(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn backup(&self) -> String {
        self.data.path().join("backup").display().to_string()
    }

    /// Stops a member as a debugger would: it accepts connections and says nothing.
    pub(crate) fn stop(&self, n: usize) {
        let process = self.members[n].process.as_ref().unwrap();
        let done = Command::new("kill").args(["-STOP", &process.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// The member that leads, once one does.
    pub(crate) async fn leader(&self) -> usize {
        let waiting = async {
            loop {
                for (n, member) in self.members.iter().enumerate() {
                    let client = etcd_client::Client::connect([&member.url], None).await.unwrap();
                    let status = timeout(Duration::from_secs(1), client.maintenance_client().status()).await;
                    if let Ok(Ok(status)) = status
                        && status.leader() != 0
                        && status.header().map(etcd_client::ResponseHeader::member_id)
                            == Some(status.leader())
                    {
                        return n;
                    }
                }
            }
        };
        timeout(Duration::from_secs(30), waiting).await.expect("no member leads")
    }

    pub(crate) fn config_of(&self, n: usize) -> EtcdConfig {
        EtcdConfig { endpoints: vec![self.members[n].url.clone()], ..EtcdConfig::default() }
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        let endpoints = self.members.iter().map(|member| member.url.clone()).collect();
        EtcdConfig { endpoints, ..EtcdConfig::default() }
    }

    /// A client with connections of its own, once the servers answer.
    pub(crate) async fn client(&self) -> Etcd {
        let etcd = Etcd::new(&self.config(), 0).unwrap();
        answers(&etcd).await;
        etcd
    }
}

/// Runs etcdctl.
pub(crate) fn etcdctl(arguments: &[&str]) {
    let explain =
        "the program `etcdctl` is needed for this test and is not on the PATH: apt-get install etcd-client";
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{explain} ({error})"));
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until a store answers.
pub(crate) async fn answers(etcd: &Etcd) {
    let waiting = async {
        let mut polls = tokio::time::interval(Duration::from_millis(20));
        while etcd.list("any/").await.is_err() {
            polls.tick().await;
        }
    };
    timeout(Duration::from_secs(30), waiting).await.expect("etcd did not answer within 30 s");
}

impl Drop for Servers {
    fn drop(&mut self) {
        for n in 0..self.members.len() {
            self.kill(n);
        }
    }
}
