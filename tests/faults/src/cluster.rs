//! A whole mesh of real processes on loopback, each behind a fault proxy.
//!
//! Owns: which processes there are, their settings, their ends. Must not know: clients, and what is done to the mesh when.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::future::try_join_all;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use tokio::time::Instant;

use crate::clients::drowsy::PASSIVATE_AFTER_S;
use crate::draw::Draw;
use crate::observers;
use crate::process::{Pids, Process, binary};
use crate::proxy::Proxy;
use crate::shape::{Shape, USUAL_SLOTS};
use crate::sink::Sink;
use crate::stores::{Etcd, Place, Redis, free_ports, local};

/// Where everything of the mesh is in etcd.
pub const PREFIX: &str = "/trunkline";
/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// What a process of the mesh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Whose tools keep the ledger.
    Ledger,
    /// The built-in tools.
    Tools,
    /// The built-in resources.
    Resources,
    /// The built-in prompts.
    Prompts,
    /// Hosts sessions.
    Session,
    /// The edge.
    Gateway,
}

impl Role {
    const fn command(self) -> &'static str {
        match self {
            Self::Ledger => "ledger-registry",
            Self::Tools => "tool-registry",
            Self::Resources => "resource-registry",
            Self::Prompts => "prompt-registry",
            Self::Session => "session",
            Self::Gateway => "gateway",
        }
    }
}

/// One process of the mesh, which may be started again.
pub struct Unit {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    port: u16,
    process: Option<Process>,
    /// In front of it.
    pub proxy: Proxy,
    /// Where its metrics are.
    pub admin: Option<String>,
    config: PathBuf,
    /// What is run the next time it is started.
    program: PathBuf,
}

/// A running mesh. Everything ends with it.
pub struct Cluster {
    /// Leases.
    pub etcd: Etcd,
    /// Sessions.
    pub redis: Redis,
    /// Where spans go.
    pub sink: Sink,
    /// In front of that.
    pub sink_proxy: Proxy,
    /// Keys of the principals, by name.
    pub keys: BTreeMap<String, String>,
    /// What the tools really did.
    pub ledger: PathBuf,
    /// Who runs.
    pub pids: Pids,
    slots: u16,
    units: Vec<Unit>,
    place: Place,
}

impl Cluster {
    /// Starts everything; returns when every process listens.
    ///
    /// # Errors
    /// When a program is missing, or one does not start; the error says which.
    pub async fn start(root: &Path, shape: &Shape, draw: &Draw) -> Result<Self> {
        for name in ["trunkline", "ledger-registry"] {
            binary(name)?;
        }
        let pids = Pids::default();
        let place = Place::make(root, pids.clone())?;
        let (etcd, redis) = tokio::try_join!(Etcd::start(&place, draw), Redis::start(&place, draw))?;
        let sink = Sink::start().await?;
        let sink_proxy = Proxy::start(sink.address(), pids.clone(), draw.of("sink")).await?;
        let keys = ["alice", "mallory"].map(|name| (name.to_owned(), key(&mut draw.of(name))));
        let ledger = place.data.join("ledger.jsonl");
        let (keys, slots, units) = (keys.into(), shape.slots, Vec::new());
        let mut cluster = Self { etcd, redis, sink, sink_proxy, keys, ledger, pids, slots, units, place };
        cluster.lay_out(shape, draw).await?;
        cluster.configure(shape, draw)?;
        for roles in [
            &[Role::Ledger, Role::Tools, Role::Resources, Role::Prompts][..],
            &[Role::Session][..],
            &[Role::Gateway][..],
        ] {
            let place = cluster.place.clone();
            let (ledger, sink) = (cluster.ledger.clone(), cluster.sink_proxy.address());
            let units = cluster.units.iter_mut().filter(|unit| roles.contains(&unit.role));
            try_join_all(units.map(|unit| unit.start(&place, &ledger, sink))).await?;
        }
        Ok(cluster)
    }

    async fn lay_out(&mut self, shape: &Shape, draw: &Draw) -> Result<()> {
        let counts = [
            (Role::Ledger, shape.replicas),
            (Role::Tools, shape.replicas),
            (Role::Resources, shape.replicas),
            (Role::Prompts, shape.replicas),
            (Role::Session, shape.sessions),
            (Role::Gateway, shape.gateways),
        ];
        for (role, count) in counts {
            for number in 1..=count {
                let name = format!("{}-{number}", role.command());
                let [port] = free_ports()?;
                // Clients are of this process, and dial often: who they are does not matter, and takes milliseconds to find out.
                let pids = if role == Role::Gateway { Pids::default() } else { self.pids.clone() };
                let proxy = Proxy::start(local(port), pids, draw.of(&name)).await?;
                let config = self.place.data.join(format!("{name}.toml"));
                let program = match (role, &shape.former) {
                    (Role::Ledger, _) => binary("ledger-registry")?,
                    (_, Some(former)) => former.clone(),
                    (_, None) => binary("trunkline")?,
                };
                self.units.push(Unit {
                    name,
                    role,
                    port,
                    process: None,
                    proxy,
                    admin: None,
                    config,
                    program,
                });
            }
        }
        Ok(())
    }

    /// Writes everybody's settings.
    fn configure(&self, shape: &Shape, draw: &Draw) -> Result<()> {
        let mut signing = draw.of("keys");
        let ring: Vec<u8> = (0..4).flat_map(|_| signing.next().to_le_bytes()).collect();
        let mut shared = String::new();
        let quoted = |all: &[String]| all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
        let hashes = self.keys.iter().map(|(name, key)| {
            let hash: String =
                Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{{ name = {name:?}, hash = \"sha256:{hash}\" }}")
        });
        let hashes: Vec<String> = hashes.collect();
        write!(
            shared,
            "[keys]\ncurrent = \"k1\"\nring = {{ k1 = {ring:?} }}\n[auth]\nkeys = [{hashes}]\n[runtime]\nthreads = 1\n",
            ring = STANDARD.encode(ring),
            hashes = hashes.join(", "),
        )?;
        if takes_store()? {
            let (redis, wait) = (quoted(&self.redis.urls()), shape.wait_replicas);
            write!(shared, "[store]\nredis = [{redis}]\nwait_replicas = {wait}\n")?;
        }
        let (sink, sample, etcd) = (self.sink_proxy.address(), shape.sample, quoted(&self.etcd.urls()));
        let content = self.place.data.join("content");
        std::fs::create_dir_all(&content)?;
        std::fs::write(content.join("welcome.md"), "# Welcome\n")?;
        let slots = match shape.slots {
            USUAL_SLOTS => String::new(),
            other => format!("slots = {other}\n"),
        };
        // An earlier version may not know of it.
        let passivate = shape.former.is_none().then(|| format!("passivate_after_s = {PASSIVATE_AFTER_S}\n"));
        let passivate = passivate.unwrap_or_default();
        let ledgers = self.units.iter().filter(|unit| unit.role == Role::Ledger);
        let ledgers: Vec<String> =
            ledgers.map(|unit| format!("{{ address = \"{}\" }}", unit.proxy.address())).collect();
        for unit in &self.units {
            let (listen, advertise) = (local(unit.port), unit.proxy.address());
            let name = &unit.name;
            let head = format!(
                "[telemetry]\nendpoint = \"http://{sink}\"\nsample = {sample:?}\nnode = \"{name}\"\n\
                 [cluster]\netcd = [{etcd}]\nprefix = \"{PREFIX}\"\nadvertise = \"{advertise}\"\n{slots}\
                 [{}]\nlisten = \"{listen}\"\n",
                unit.role.command()
            );
            let own = match unit.role {
                Role::Ledger => continue,
                Role::Tools => "tools = [\"calculator\"]\n".to_owned(),
                Role::Resources => {
                    format!("directories = [{{ path = {content:?}, uri = \"file:///docs/\" }}]\n")
                }
                Role::Prompts => format!("directory = {content:?}\n"),
                Role::Session => format!(
                    "node = \"{name}\"\nregistries = [{}]\ncreations_per_s = 0\nmax_sessions_per_principal = 0\n\
                     call_timeout_s = 20\ninit_timeout_s = 10\n{passivate}",
                    ledgers.join(", ")
                ),
                Role::Gateway => "request_timeout_s = 10\nkeep_alive_s = 5\n".to_owned(),
            };
            std::fs::write(&unit.config, format!("{head}{own}{shared}{}\n", shape.more.join("\n")))?;
        }
        Ok(())
    }

    /// Where clients connect.
    #[must_use]
    pub fn gateways(&self) -> Vec<SocketAddr> {
        self.of(Role::Gateway).map(|unit| unit.proxy.address()).collect()
    }

    /// The file for the keys that count as left in Redis.
    #[must_use]
    pub fn keys_left(&self) -> PathBuf {
        self.place.logs.join("redis-keys.txt")
    }

    /// All processes of a role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(move |unit| unit.role == role)
    }

    /// Names of all processes of a role.
    #[must_use]
    pub fn names(&self, role: Role) -> Vec<String> {
        self.of(role).map(|unit| unit.name.clone()).collect()
    }

    /// A process.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn unit(&self, name: &str) -> Result<&Unit> {
        self.units.iter().find(|unit| unit.name == name).with_context(|| format!("there is no {name}"))
    }

    fn unit_mut(&mut self, name: &str) -> Result<&mut Unit> {
        self.units.iter_mut().find(|unit| unit.name == name).with_context(|| format!("there is no {name}"))
    }

    /// Kills one, as an out-of-memory killer would.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        let unit = self.unit_mut(name)?;
        let mut process = unit.process.take().with_context(|| format!("{name} does not run"))?;
        let killed = process.kill().await;
        unit.proxy.listen(false);
        killed
    }

    /// Asks one to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn stop(&mut self, name: &str) -> Result<()> {
        let unit = self.unit_mut(name)?;
        let mut process = unit.process.take().with_context(|| format!("{name} does not run"))?;
        unit.proxy.close_door();
        let stopped = process.stop().await;
        unit.proxy.listen(false);
        stopped
    }

    /// Starts one again.
    ///
    /// # Errors
    /// When it does not listen.
    pub async fn restart(&mut self, name: &str) -> Result<()> {
        let place = self.place.clone();
        let (ledger, sink) = (self.ledger.clone(), self.sink_proxy.address());
        self.unit_mut(name)?.start(&place, &ledger, sink).await
    }

    /// Whatever is started from now on is of this version.
    ///
    /// # Errors
    /// When its binary is missing.
    pub fn upgrade(&mut self) -> Result<()> {
        let program = binary("trunkline")?;
        let units = self.units.iter_mut().filter(|unit| unit.role != Role::Ledger);
        units.for_each(|unit| unit.program.clone_from(&program));
        Ok(())
    }

    /// Stops one where it stands.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, name: &str) -> Result<()> {
        let unit = self.unit(name)?;
        unit.process.as_ref().with_context(|| format!("{name} does not run"))?.pause()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, name: &str) -> Result<()> {
        let unit = self.unit(name)?;
        unit.process.as_ref().with_context(|| format!("{name} does not run"))?.resume()
    }

    /// Names of processes that have ended by themselves, with the ends of their logs.
    pub fn died(&mut self) -> Vec<String> {
        let mut died = Vec::new();
        for unit in &mut self.units {
            if let Some(process) = unit.process.as_mut()
                && !process.runs()
            {
                died.push(format!("{}{}", unit.name, process.tail()));
            }
        }
        died
    }

    /// Who owns a slot, as etcd says.
    ///
    /// # Errors
    /// When etcd does not answer, or nobody owns it.
    pub async fn owner(&self, slot: u16) -> Result<String> {
        let owners = self.owners().await?;
        owners.get(&slot).cloned().with_context(|| format!("nobody owns slot {slot}"))
    }

    /// Who owns each slot, as etcd says.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn owners(&self) -> Result<BTreeMap<u16, String>> {
        let mut owners = BTreeMap::new();
        for (key, value) in self.etcd.list(&format!("{PREFIX}/slots/")).await? {
            let slot = key.rsplit('/').next().and_then(|slot| slot.parse().ok());
            let value: serde_json::Value = serde_json::from_str(&value)?;
            if let (Some(slot), Some(node)) = (slot, value.get("node").and_then(|node| node.as_str())) {
                owners.insert(slot, node.to_owned());
            }
        }
        Ok(owners)
    }

    /// Waits until every slot has an owner, and every node about its share: nothing moves any more that no fault moves.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn settled(&mut self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        let nodes = self.of(Role::Session).count().max(1);
        let mut before = BTreeMap::new();
        loop {
            let owners = self.owners().await.unwrap_or_default();
            let owned = owners.len();
            let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
            owners.values().for_each(|node| *shares.entry(node).or_default() += 1);
            let most = usize::from(self.slots) / nodes * 11 / 10 + 2;
            let is_shared = shares.len() == nodes && shares.values().all(|share| *share <= most);
            if owned == usize::from(self.slots) && is_shared && owners == before {
                return Ok(());
            }
            before = owners;
            let died = self.died();
            anyhow::ensure!(died.is_empty(), "ended by itself: {}", died.join("\n"));
            anyhow::ensure!(
                Instant::now() < until,
                "{owned} of {} slots have an owner after {} s",
                self.slots,
                within.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }

    /// Ends everything, the edge first.
    ///
    /// # Errors
    /// When something does not end well; the rest is ended all the same.
    pub async fn shut_down(&mut self) -> Result<()> {
        let mut wrong = Vec::new();
        // The edge first, then what stands behind it.
        for role in [Role::Gateway, Role::Session, Role::Ledger, Role::Tools, Role::Resources, Role::Prompts]
        {
            let units = self.units.iter_mut().filter(|unit| unit.role == role);
            let stopping = units
                .filter_map(|unit| unit.process.take())
                .map(|mut process| async move { process.stop().await });
            let stopped = futures::future::join_all(stopping).await;
            wrong.extend(stopped.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")));
        }
        anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}

impl Unit {
    async fn start(&mut self, place: &Place, ledger: &Path, sink: SocketAddr) -> Result<()> {
        let mut command = Command::new(&self.program);
        if self.role == Role::Ledger {
            command.arg("--ledger").arg(ledger).args(["--name", &self.name]);
            command.args(["--listen", &local(self.port).to_string()]);
            command.args(["--telemetry", &format!("http://{sink}")]);
        } else {
            command.arg(self.role.command()).arg("--config").arg(&self.config);
        }
        let mut process = Process::start(&self.name, command, &place.logs, &place.pids)?;
        process.address(self.role.command()).await?;
        self.admin = match self.role {
            Role::Ledger => None,
            _ => Some(process.address("admin").await?),
        };
        // As an orchestrator would: nothing is sent to what does not say that it is ready.
        let until = Instant::now() + READY;
        while let Some(admin) = &self.admin
            && !observers::is_ready(admin).await
        {
            anyhow::ensure!(process.runs(), "{} ended before it was ready{}", self.name, process.tail());
            anyhow::ensure!(Instant::now() < until, "{} does not become ready{}", self.name, process.tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.process = Some(process);
        self.proxy.listen(true);
        Ok(())
    }

    /// Its number, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// Whether it was started and not ended by us.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.process.is_some()
    }
}

/// Whether the binary knows where to keep sessions. Until it does they are in memory.
fn takes_store() -> Result<bool> {
    let said = std::process::Command::new(binary("trunkline")?).args(["config", "--example"]).output()?;
    Ok(String::from_utf8_lossy(&said.stdout).lines().any(|line| line == "[store]"))
}

/// An API key as gateways make them.
fn key(draw: &mut Draw) -> String {
    let random: Vec<u8> = (0..4).flat_map(|_| draw.next().to_le_bytes()).collect();
    format!("tlk_{}", URL_SAFE_NO_PAD.encode(random))
}

/// The slot that a session id carries.
#[must_use]
pub fn slot_of(session: &str) -> Option<u16> {
    u16::from_str_radix(session.split('.').nth(2)?, 16).ok()
}
