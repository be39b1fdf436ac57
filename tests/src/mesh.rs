//! A whole mesh for one test, in each of the ways it can be put together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use api::{KeyRing, Registry};
use chassis::drain::{self, Trigger};
use chassis::metrics::Metrics;
use chassis::serve::Incoming;
use chassis::task::{self, Handle, Kind};
use chassis::tls::Dialler;
use gateway::auth::{Anonymous, Authenticate};
use placement::Static;
use session::RegistryPeer;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::runtime::Runtime;

use crate::client::Client;

pub mod mutual;

/// How the roles are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// All roles in this process, through handles.
    Embedded,
    /// Two gateways, two session nodes and the registries, each behind its own gRPC server.
    Split,
    /// The same as separate processes of the real binary; the registries stay in this one.
    Processes,
}

/// A running mesh. Everything ends with it.
pub struct Mesh {
    /// Where clients connect; each is as good as the others.
    pub gateways: Vec<SocketAddr>,
    /// Who asks its gateways.
    auth: Arc<dyn Authenticate>,
    /// What is counted of the session role, where all roles are in this process.
    metrics: Metrics,
    triggers: Vec<Trigger>,
    _tasks: Vec<Handle<()>>,
    /// Each gateway, by its place in `gateways`.
    edges: Vec<Option<Edge>>,
    _children: Vec<Process>,
    registries: Vec<Served>,
    _data: Option<TempDir>,
}

/// A running gateway; it ends at once with this.
enum Edge {
    Task { _role: Handle<()> },
    Process { _child: Box<Process> },
}

/// A running process; it ends with this.
pub struct Process {
    _child: Child,
    /// Kept open, so that what it still prints goes somewhere.
    _stdout: BufReader<ChildStdout>,
}

/// A registry behind a gRPC server of its own.
struct Served {
    port: Arc<dyn Registry>,
    address: SocketAddr,
    /// A runtime of its own, so that its connections end with it, as those of a killed process do.
    running: Option<Runtime>,
}

const KEY: [u8; 32] = *b"0123456789abcdefghijklmnopqrstuv";

impl Mesh {
    /// Starts one in front of these registries.
    pub async fn start(topology: Topology, registries: Vec<Arc<dyn Registry>>) -> Result<Self> {
        Self::asking(topology, Arc::new(Anonymous), registries).await
    }

    /// Starts one whose gateways ask this who calls; separate processes have a way of their own.
    pub async fn asking(
        topology: Topology,
        auth: Arc<dyn Authenticate>,
        registries: Vec<Arc<dyn Registry>>,
    ) -> Result<Self> {
        let mut mesh = Self { auth, ..Self::empty() };
        match topology {
            Topology::Embedded => mesh.start_embedded(session::Config::default(), registries).await?,
            Topology::Split => mesh.start_split(registries).await?,
            Topology::Processes => mesh.start_processes(registries).await?,
        }
        Ok(mesh)
    }

    /// Starts one in this process, with these settings of the session role.
    pub async fn embedded_with(config: session::Config, registries: Vec<Arc<dyn Registry>>) -> Result<Self> {
        let mut mesh = Self::empty();
        mesh.start_embedded(config, registries).await?;
        Ok(mesh)
    }

    /// The same, whose gateway asks this who calls.
    pub async fn embedded_asking(
        auth: Arc<dyn Authenticate>,
        config: session::Config,
        registries: Vec<Arc<dyn Registry>>,
    ) -> Result<Self> {
        let mut mesh = Self { auth, ..Self::empty() };
        mesh.start_embedded(config, registries).await?;
        Ok(mesh)
    }

    /// Starts one in this process on a store that others have used, as their successor.
    pub async fn successor(
        store: Arc<dyn session::store::SessionStore>,
        epoch: u64,
        registries: Vec<Arc<dyn Registry>>,
    ) -> Result<Self> {
        let mut mesh = Self::empty();
        let owner = (store, api::Epoch(epoch));
        mesh.embed(session::Config::default(), owner, registries).await?;
        Ok(mesh)
    }

    /// The same with these settings of the session role, whose gateway asks this who calls.
    pub async fn keeping(
        (store, epoch): (Arc<dyn session::store::SessionStore>, u64),
        config: session::Config,
        auth: Arc<dyn Authenticate>,
        registries: Vec<Arc<dyn Registry>>,
    ) -> Result<Self> {
        let mut mesh = Self { auth, ..Self::empty() };
        mesh.embed(config, (store, api::Epoch(epoch)), registries).await?;
        Ok(mesh)
    }

    /// What a gauge of the session role says now, where all roles are in this process.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Option<u64> {
        let text = self.metrics.text();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines.find(|rest| rest.starts_with(['{', ' ']))?.rsplit_once(' ')?.1.parse().ok()
    }

    fn empty() -> Self {
        Self {
            auth: Arc::new(Anonymous),
            metrics: Metrics::default(),
            gateways: Vec::new(),
            triggers: Vec::new(),
            _tasks: Vec::new(),
            edges: Vec::new(),
            _children: Vec::new(),
            registries: Vec::new(),
            _data: None,
        }
    }

    /// A client of this mesh that takes its gateways in turn.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.gateways.clone())
    }

    /// Asks every role of this process to drain.
    pub fn drain(&self) {
        self.triggers.iter().for_each(Trigger::drain);
    }

    fn run<F>(&mut self, name: &'static str, serve: impl FnOnce(drain::Shutdown) -> F)
    where
        F: Future<Output = chassis::serve::RoleResult> + Send + 'static,
    {
        let (trigger, shutdown) = drain::pair();
        let served = serve(shutdown);
        self.triggers.push(trigger);
        self._tasks.push(task::spawn(Kind::Role, name, async move {
            if let Err(error) = served.await {
                tracing::error!(name, %error, "a role of the test mesh failed");
            }
        }));
    }

    async fn start_embedded(
        &mut self,
        config: session::Config,
        registries: Vec<Arc<dyn Registry>>,
    ) -> Result<()> {
        let store = Arc::new(session::store::Memory::default());
        self.embed(config, (store, session::Deps::epoch_of_this_start()), registries).await
    }

    async fn embed(
        &mut self,
        config: session::Config,
        (store, epoch): (Arc<dyn session::store::SessionStore>, api::Epoch),
        registries: Vec<Arc<dyn Registry>>,
    ) -> Result<()> {
        let named = registries.into_iter().enumerate();
        let peers =
            named.map(|(i, port)| RegistryPeer { address: format!("r{i}"), namespace: None, port }).collect();
        let deps = session::Deps {
            keys: keys(),
            store,
            seat: session::Seat::Fixed { slots: Default::default(), epoch },
            registries: peers,
            process: chassis::process::Process { metrics: self.metrics.clone(), ..Default::default() },
        };
        let app = session::App::build(config, deps)?;
        let locator = Arc::new(Static::embedded(Default::default(), "session"));
        let peers = Arc::new(gateway::Local(app.handle()));
        self.run("session", |shutdown| app.serve(Incoming::None, shutdown));
        self.gateway(gateway::Deps {
            keys: keys(),
            locator,
            peers,
            auth: self.auth.clone(),
            process: Default::default(),
        })
        .await
    }

    async fn gateway(&mut self, deps: gateway::Deps) -> Result<()> {
        let (listener, address) = listener().await?;
        let config = gateway::Config { listen: address.to_string(), ..gateway::Config::default() };
        let app = gateway::App::build(&config, deps)?;
        self.run("gateway", |shutdown| async move { Ok(app.serve(listener, shutdown).await?) });
        self.gateways.push(address);
        self.edges.push(self._tasks.pop().map(|role| Edge::Task { _role: role }));
        Ok(())
    }

    /// Asks a gateway of this process to drain, and nobody else.
    pub fn drain_gateway(&self, index: usize) {
        // Gateways are started last.
        let first = self.triggers.len() - self.gateways.len();
        self.triggers[first + index].drain();
    }

    /// Ends a gateway at once, connections and all.
    pub fn stop_gateway(&mut self, index: usize) {
        drop(self.edges.get_mut(index).and_then(Option::take));
    }

    /// Puts each registry behind a gRPC server of its own.
    async fn serve_registries(&mut self, registries: Vec<Arc<dyn Registry>>) -> Result<Vec<SocketAddr>> {
        for port in registries {
            let (listener, address) = listener().await?;
            let running = Some(serve_registry(port.clone(), listener)?);
            self.registries.push(Served { port, address, running });
        }
        Ok(self.registries.iter().map(|r| r.address).collect())
    }

    /// Ends a registry's server at once, connections and all. Only where it has one.
    pub fn stop_registry(&mut self, index: usize) {
        if let Some(runtime) = self.registries.get_mut(index).and_then(|r| r.running.take()) {
            runtime.shutdown_background();
        }
    }

    /// Starts it again at the same address.
    pub async fn start_registry(&mut self, index: usize) -> Result<()> {
        let served = self.registries.get_mut(index).context("no such registry")?;
        let listener = TcpListener::bind(served.address).await?;
        served.running = Some(serve_registry(served.port.clone(), listener)?);
        Ok(())
    }

    /// Starts two gateways and two session nodes in this process, in front of registries that are served elsewhere.
    pub async fn before(registries: &[SocketAddr]) -> Result<Self> {
        let mut mesh = Self::empty();
        mesh.start_before(registries).await?;
        Ok(mesh)
    }

    async fn start_split(&mut self, registries: Vec<Arc<dyn Registry>>) -> Result<()> {
        let registries = self.serve_registries(registries).await?;
        self.start_before(&registries).await
    }

    async fn start_before(&mut self, registries: &[SocketAddr]) -> Result<()> {
        let mut nodes = Vec::new();
        for slots in ["0-2047", "2048-4095"] {
            let (listener, address) = listener().await?;
            let peers =
                registries.iter().map(|a| session::Deps::registry(&a.to_string(), None, &Dialler::default()));
            let deps = session::Deps {
                keys: keys(),
                store: Arc::new(session::store::Memory::default()),
                seat: session::Seat::Fixed {
                    slots: Default::default(),
                    epoch: session::Deps::epoch_of_this_start(),
                },
                registries: peers.collect::<Result<_, _>>()?,
                process: Default::default(),
            };
            let config = session::Config {
                slots: slots.parse()?,
                registry_grace_ms: 300,
                ..session::Config::default()
            };
            let app = session::App::build(config, deps)?;
            self.run("session", |shutdown| app.serve(Incoming::Tcp(listener), shutdown));
            nodes.push(gateway::SessionNode { address: address.to_string(), slots: slots.parse()? });
        }
        for _ in 0..2 {
            let config = gateway::Config { sessions: nodes.clone(), ..gateway::Config::default() };
            let auth = self.auth.clone();
            self.gateway(gateway::Deps::connect(
                &config,
                Default::default(),
                keys(),
                &Dialler::default(),
                auth,
            )?)
            .await?;
        }
        Ok(())
    }

    async fn start_processes(&mut self, registries: Vec<Arc<dyn Registry>>) -> Result<()> {
        let registries = self.serve_registries(registries).await?;
        let listed: Vec<String> = registries.iter().map(|a| format!("{{address=\"{a}\"}}")).collect();
        let listed = format!("session.registries=[{}]", listed.join(","));
        let mut nodes = Vec::new();
        for slots in ["0-2047", "2048-4095"] {
            let address = self.process("session", &[&listed, &format!("session.slots=\"{slots}\"")]).await?;
            nodes.push(format!("{{address=\"{address}\",slots=\"{slots}\"}}"));
        }
        let sessions = format!("gateway.sessions=[{}]", nodes.join(","));
        for _ in 0..2 {
            let url = self.process("gateway", &[&sessions]).await?;
            let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
            self.edges.push(self._children.pop().map(|child| Edge::Process { _child: Box::new(child) }));
            self.gateways
                .push(address.parse().with_context(|| format!("listening line of a gateway: {url}"))?);
        }
        Ok(())
    }

    /// Starts `trunkline up` as a process, in front of these registries besides its own.
    pub async fn up(registries: &[&str]) -> Result<Self> {
        let mut mesh = Self::empty();
        let data = tempfile::tempdir()?;
        let mut command = Command::new(binary("trunkline")?);
        command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(data.path());
        for registry in registries {
            command.args(["--registry", registry]);
        }
        let (child, url) = listening(command, "gateway").await?;
        mesh._children.push(child);
        mesh._data = Some(data);
        mesh.gateways.push(gateway_address(&url)?);
        Ok(mesh)
    }

    /// Starts a role of the real binary and reads where it listens.
    async fn process(&mut self, role: &str, settings: &[&str]) -> Result<String> {
        use base64::Engine as _;
        let key = base64::engine::general_purpose::STANDARD.encode(KEY);
        let mut command = Command::new(binary("trunkline")?);
        command.args([role, "--listen", "127.0.0.1:0"]);
        command.args(["--set", "keys.current=k1", "--set", &format!("keys.ring={{k1=\"{key}\"}}")]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let (child, address) = listening(command, role).await?;
        self._children.push(child);
        Ok(address)
    }
}

/// Starts a registry example of the kit: the process, and where it listens.
pub async fn example(name: &str) -> Result<(Process, String)> {
    let mut command = Command::new(binary(&format!("examples/{name}"))?);
    command.args(["--listen", "127.0.0.1:0"]);
    listening(command, name).await
}

/// Starts a process that says `listening WHAT WHERE`. It ends with its handle.
async fn listening(mut command: Command, what: &str) -> Result<(Process, String)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let prefix = format!("listening {what} ");
    let read = async {
        while let Some(line) = lines.next_line().await? {
            if let Some(address) = line.strip_prefix(&prefix) {
                return Ok(address.to_owned());
            }
        }
        anyhow::bail!("{what} ended before it listened")
    };
    let read = tokio::time::timeout(crate::client::DEADLINE, read).await;
    let address = read.with_context(|| format!("{what} did not start"))??;
    Ok((Process { _child: child, _stdout: lines.into_inner() }, address))
}

fn gateway_address(url: &str) -> Result<SocketAddr> {
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
    address.parse().with_context(|| format!("listening line of a gateway: {url}"))
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

fn serve_registry(port: Arc<dyn Registry>, listener: TcpListener) -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = listener.into_std()?;
    let routes = api::registry::services(port);
    let serving = async move {
        let served = match TcpListener::from_std(listener) {
            Ok(listener) => {
                chassis::grpc::server::serve(routes, Incoming::Tcp(listener), drain::Shutdown::never()).await
            }
            Err(error) => return tracing::error!(%error, "no listener for a registry of the test mesh"),
        };
        if let Err(error) = served {
            tracing::error!(%error, "a registry of the test mesh failed");
        }
    };
    #[allow(
        clippy::disallowed_methods,
        reason = "the task ends with the runtime, which its owner shuts down"
    )]
    runtime.spawn(serving);
    Ok(runtime)
}

fn keys() -> KeyRing {
    KeyRing::single("k1", KEY)
}

/// A port that is taken before anybody is told of it.
async fn listener() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// A binary beside the tests; `cargo test --workspace` builds them all.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: run `cargo build --workspace --all-targets` first"))
}
