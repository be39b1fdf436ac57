//! etcd, three of it, and Redis, a primary and a replica: real, on loopback, each behind a fault proxy.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::draw::Draw;
use crate::process::{Pids, Process, program};
use crate::proxy::Proxy;

const START: Duration = Duration::from_secs(30);
/// One question to a store.
const ASK: Duration = Duration::from_secs(5);

/// Where ports are taken from: below those that the system gives to connections and to listeners that take any, so that
/// nobody gets one of ours between two starts of a process.
const PORTS: std::ops::Range<u16> = 15_000..30_000;

/// Ports that are free, all different, and never given twice by this process.
///
/// # Errors
/// When there are none.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = [0; N];
    // Processes that look at the same time begin at different places.
    let offset = std::process::id().wrapping_mul(619);
    for port in &mut ports {
        *port = (0..PORTS.len())
            .find_map(|_| {
                let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset);
                let port = PORTS.start + u16::try_from(number % u32::try_from(PORTS.len()).ok()?).ok()?;
                TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
            })
            .with_context(|| {
                format!("there is no free port on 127.0.0.1 between {} and {}", PORTS.start, PORTS.end)
            })?;
    }
    Ok(ports)
}

/// An address on this machine.
#[must_use]
pub const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

/// A cluster of etcd.
pub struct Etcd {
    members: Vec<Member>,
    place: Place,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    process: Option<Process>,
    proxy: Proxy,
}

/// Where processes keep what is theirs.
#[derive(Debug, Clone)]
pub struct Place {
    /// Data.
    pub data: PathBuf,
    /// Logs.
    pub logs: PathBuf,
    /// Who runs.
    pub pids: Pids,
}

impl Place {
    /// Folders for data and logs.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn make(root: &Path, pids: Pids) -> Result<Self> {
        let place = Self { data: root.join("data"), logs: root.join("logs"), pids };
        for dir in [&place.data, &place.logs] {
            std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        }
        Ok(place)
    }
}

impl Etcd {
    /// Starts three members and waits until they have a leader.
    ///
    /// # Errors
    /// When etcd is missing or does not start.
    pub async fn start(place: &Place, draw: &Draw) -> Result<Self> {
        program("etcd")?;
        program("etcdctl")?;
        let ports: [u16; 6] = free_ports()?;
        let mut members = Vec::new();
        for (number, ports) in ports.chunks_exact(2).enumerate() {
            let &[client, peer] = ports else { continue };
            let name = format!("etcd-{}", number + 1);
            let proxy = Proxy::start(local(client), place.pids.clone(), draw.of(&name)).await?;
            members.push(Member { name, client, peer, process: None, proxy });
        }
        let mut etcd = Self { members, place: place.clone() };
        for number in 0..etcd.members.len() {
            etcd.start_member(number)?;
        }
        etcd.healthy().await?;
        Ok(etcd)
    }

    /// URLs for clients, through the proxies.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://{}", member.proxy.address())).collect()
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// There always are some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The proxies in front of them.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.members.iter().map(|member| &member.proxy)
    }

    /// Starts a member that does not run, with the data it has.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_member(&mut self, number: usize) -> Result<()> {
        let cluster: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.name, local_url(member.peer))).collect();
        let member = self.members.get_mut(number).context("no such member of etcd")?;
        let mut command = Command::new(program("etcd")?);
        let (client, peer) = (local_url(member.client), local_url(member.peer));
        command.args(["--name", &member.name, "--data-dir"]).arg(self.place.data.join(&member.name));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-token", "faults"]);
        command.args(["--log-level", "warn"]);
        member.process = Some(Process::start(&member.name, command, &self.place.logs, &self.place.pids)?);
        member.proxy.listen(true);
        Ok(())
    }

    /// Kills a member.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn kill(&mut self, number: usize) -> Result<()> {
        let member = self.members.get_mut(number).context("no such member of etcd")?;
        member.proxy.listen(false);
        let mut process = member.process.take().with_context(|| format!("{} does not run", member.name))?;
        process.kill().await
    }

    /// Waits until all that run answer and there is a leader.
    ///
    /// # Errors
    /// When they do not in time.
    pub async fn healthy(&mut self) -> Result<()> {
        let until = Instant::now() + START;
        loop {
            let said = self.ctl(&["endpoint", "health"]).await;
            if said.is_ok() {
                return Ok(());
            }
            for member in &mut self.members {
                if let Some(process) = member.process.as_mut()
                    && !process.runs()
                {
                    bail!("{} has ended{}", member.name, process.tail());
                }
            }
            ensure!(
                Instant::now() < until,
                "etcd has no leader: {}",
                said.err().map(|e| e.to_string()).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Which member leads.
    ///
    /// # Errors
    /// When nobody knows.
    pub async fn leader(&self) -> Result<usize> {
        let said = self.ctl(&["endpoint", "status", "-w", "json"]).await?;
        let statuses: Vec<serde_json::Value> = serde_json::from_str(&said)?;
        for status in &statuses {
            let inner = status.get("Status").context("no status")?;
            let own = inner.pointer("/header/member_id").and_then(serde_json::Value::as_u64);
            if own.is_some() && own == inner.get("leader").and_then(serde_json::Value::as_u64) {
                let endpoint = status.get("Endpoint").and_then(serde_json::Value::as_str).unwrap_or_default();
                let found = self.members.iter().position(|member| endpoint == local_url(member.client));
                return found.context("the leader is not one of ours");
            }
        }
        bail!("etcd has no leader")
    }

    /// All keys under a prefix with their values; directly, whatever the proxies do.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let said = self.ctl(&["get", "--prefix", prefix]).await?;
        let mut lines = said.lines().map(str::to_owned);
        Ok(std::iter::from_fn(|| Some((lines.next()?, lines.next()?))).collect())
    }

    /// A process that prints all changes under a prefix as they come: key and value on lines of their own, behind `PUT` or
    /// `DELETE`.
    ///
    /// # Errors
    /// When etcdctl is missing.
    pub fn watch(&self, prefix: &str) -> Result<Command> {
        let mut command = self.command()?;
        command.args(["watch", "--prefix", prefix, "--rev", "1"]);
        Ok(command)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(program("etcdctl")?);
        let live = self.members.iter().filter(|member| member.process.is_some());
        let urls: Vec<String> = live.map(|member| local_url(member.client)).collect();
        ensure!(!urls.is_empty(), "no member of etcd runs");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &urls.join(",")]);
        command.args(["--dial-timeout", "1s", "--command-timeout", "3s"]).kill_on_drop(true);
        Ok(command)
    }

    async fn ctl(&self, args: &[&str]) -> Result<String> {
        said(self.command()?.args(args)).await
    }
}

/// A primary and a replica, which may change places.
pub struct Redis {
    nodes: Vec<Node>,
    primary: usize,
    place: Place,
}

struct Node {
    name: String,
    port: u16,
    process: Option<Process>,
    proxy: Proxy,
}

impl Redis {
    /// Starts both and waits until the replica follows.
    ///
    /// # Errors
    /// When Redis is missing or does not start.
    pub async fn start(place: &Place, draw: &Draw) -> Result<Self> {
        program("redis-server")?;
        program("redis-cli")?;
        let ports: [u16; 2] = free_ports()?;
        let mut nodes = Vec::new();
        for (number, port) in ports.into_iter().enumerate() {
            let name = format!("redis-{}", number + 1);
            let proxy = Proxy::start(local(port), place.pids.clone(), draw.of(&name)).await?;
            nodes.push(Node { name, port, process: None, proxy });
        }
        let mut redis = Self { nodes, primary: 0, place: place.clone() };
        redis.start_node(0).await?;
        redis.start_node(1).await?;
        redis.replicates().await?;
        Ok(redis)
    }

    /// URLs for clients, through the proxies.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("redis://{}", node.proxy.address())).collect()
    }

    /// Where they really listen.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// Which one is the primary.
    #[must_use]
    pub const fn primary(&self) -> usize {
        self.primary
    }

    /// The proxies in front of them.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.nodes.iter().map(|node| &node.proxy)
    }

    /// Starts one that does not run: with the data it has as the primary, without any as a replica.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start_node(&mut self, number: usize) -> Result<()> {
        let primary = self.nodes.get(self.primary).map(|node| node.port).context("no primary")?;
        let follows = number != self.primary;
        let node = self.nodes.get_mut(number).context("no such Redis")?;
        let dir = self.place.data.join(&node.name);
        std::fs::create_dir_all(&dir)?;
        let mut command = Command::new(program("redis-server")?);
        command
            .args(["--port", &node.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(dir);
        command.args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--maxmemory-policy",
            "noeviction",
        ]);
        command.args(["--repl-diskless-sync-delay", "0", "--repl-timeout", "10"]);
        if follows {
            command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
        }
        node.process = Some(Process::start(&node.name, command, &self.place.logs, &self.place.pids)?);
        let until = Instant::now() + START;
        while self.ask(number, &["ping"]).await.is_err() {
            let node = self.nodes.get_mut(number).context("no such Redis")?;
            let process = node.process.as_mut().context("it was just started")?;
            ensure!(process.runs(), "{} has ended{}", node.name, process.tail());
            ensure!(Instant::now() < until, "{} does not answer{}", node.name, process.tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if let Some(node) = self.nodes.get(number) {
            node.proxy.listen(true);
        }
        Ok(())
    }

    /// Kills one.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn kill(&mut self, number: usize) -> Result<()> {
        let node = self.nodes.get_mut(number).context("no such Redis")?;
        node.proxy.listen(false);
        let mut process = node.process.take().with_context(|| format!("{} does not run", node.name))?;
        process.kill().await
    }

    /// Makes the replica the primary, as an operator or a sentinel would.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn promote(&mut self) -> Result<()> {
        let other = 1 - self.primary;
        self.ask(other, &["replicaof", "no", "one"]).await?;
        self.primary = other;
        Ok(())
    }

    /// Stops the replica from hearing of anything more, so that what follows is lost with the primary.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn lose_replication(&self) -> Result<()> {
        // A replica of nobody that still says it is one: it waits for a primary that is not there.
        let [nowhere] = free_ports()?;
        self.ask(1 - self.primary, &["replicaof", "127.0.0.1", &nowhere.to_string()]).await.map(drop)
    }

    /// Waits until the replica has heard everything.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn replicates(&self) -> Result<()> {
        let until = Instant::now() + START;
        loop {
            let info = self.ask(self.primary, &["info", "replication"]).await.unwrap_or_default();
            if info.contains("state=online") {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the replica of Redis does not follow: {info}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What one answers to a command; directly, whatever the proxies do.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ask(&self, number: usize, args: &[&str]) -> Result<String> {
        said(self.command(number)?.args(args)).await
    }

    /// A client of one, to be given a command.
    ///
    /// # Errors
    /// When redis-cli is missing.
    pub fn command(&self, number: usize) -> Result<Command> {
        let node = self.nodes.get(number).context("no such Redis")?;
        let mut command = Command::new(program("redis-cli")?);
        command.args(["-h", "127.0.0.1", "-p", &node.port.to_string()]).kill_on_drop(true);
        Ok(command)
    }

    /// Keys in the primary.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn keys(&self) -> Result<u64> {
        let said = self.ask(self.primary, &["dbsize"]).await?;
        said.trim().parse().with_context(|| format!("dbsize: {said:?}"))
    }
}

/// What a program says, if it ends well and soon.
async fn said(command: &mut Command) -> Result<String> {
    let output = timeout(ASK, command.output()).await.context("no answer in time")??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}{}", text.trim(), wrong.trim());
    Ok(text)
}

fn local_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
