//! A cluster in this process: session nodes that claim their slots, each on a runtime of its own so that it can be killed with
//! all its connections, and gateways that follow them.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api::{KeyRing, Registry};
use chassis::drain::{self, Trigger};
use chassis::serve::Incoming;
use chassis::task::{self, Handle, Kind};
use chassis::tls::Dialler;
use gateway::auth::Anonymous;
use placement::{Claimer, Cluster, Directory, Embedded, Identity, Incarnation, Keys, Locator, keep};
use session::store::{Memory, SessionStore};
use session::{Claimed, RegistryPeer, Seat};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::client::{Client, DEADLINE};

const KEY: [u8; 32] = *b"0123456789abcdefghijklmnopqrstuv";
/// How long a lease lives.
const TTL: Duration = Duration::from_secs(2);

/// See the module. Everything ends with it.
pub struct Nodes {
    /// Where they find each other.
    pub cluster: Cluster,
    dialler: Dialler,
    store: Arc<dyn SessionStore>,
    registries: Vec<Arc<dyn Registry>>,
    nodes: Vec<Node>,
    gateways: Vec<SocketAddr>,
    /// What the gateways see.
    pub directory: Arc<Directory>,
    _tasks: Vec<Handle<()>>,
    triggers: Vec<Trigger>,
}

struct Node {
    name: String,
    trigger: Trigger,
    ended: watch::Receiver<bool>,
    runtime: Option<Runtime>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Nodes {
    /// So many nodes, and two gateways, in front of these registries. Every slot has its owner.
    pub async fn start(count: usize, registries: Vec<Arc<dyn Registry>>) -> Result<Self> {
        Self::dialling(count, registries, Dialler::default()).await
    }

    /// The same, and registries that show themselves are dialled like this.
    pub async fn dialling(
        count: usize,
        registries: Vec<Arc<dyn Registry>>,
        dialler: Dialler,
    ) -> Result<Self> {
        let now: placement::Now = Arc::new(chassis::clock::boot_millis);
        let cluster = Cluster {
            store: Arc::new(Embedded::new(now.clone())),
            keys: Keys::new("/tests"),
            slots: Default::default(),
            now,
            seed: u64::from_le_bytes(chassis::clock::random()?),
        };
        let (directory, following) = Directory::new(cluster.clone(), "gateways");
        let following = task::spawn(Kind::Upkeep, "directory", async { drop(following.run().await) });
        let mut all = Self {
            cluster,
            dialler,
            store: Arc::new(Memory::default()),
            registries,
            nodes: Vec::new(),
            gateways: Vec::new(),
            directory,
            _tasks: vec![following],
            triggers: Vec::new(),
        };
        for index in 0..count {
            all.add(&format!("session-{}", index + 1))?;
        }
        for _ in 0..2 {
            all.gateway().await?;
        }
        all.settled(|owners| owners.len() == count).await?;
        Ok(all)
    }

    /// A client that takes the gateways in turn.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.gateways.clone())
    }

    /// A client of one gateway.
    #[must_use]
    pub fn client_of(&self, gateway: usize) -> Client {
        Client::new(vec![self.gateways[gateway]])
    }

    /// Asks a gateway to leave.
    pub fn drain_gateway(&self, gateway: usize) {
        self.triggers[gateway].drain();
    }

    /// One more node.
    pub fn add(&mut self, name: &str) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = StdListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let incarnation = Incarnation(u64::from_le_bytes(chassis::clock::random()?));
        let me = Identity {
            node: name.into(),
            address: listener.local_addr()?.to_string().into(),
            zone: "".into(),
            capacity: 100,
            incarnation,
        };
        let cluster = Cluster { seed: incarnation.0, ..self.cluster.clone() };
        let (keeper, kept) = keep(cluster.store.clone(), TTL, cluster.now.clone());
        let tick = kept.tick.clone();
        let (claimer, claims) = Claimer::new(cluster.clone(), me, kept);
        let now = cluster.now.clone();
        let (directory, following) = Directory::new(cluster, name);
        let named = self.registries.iter().enumerate();
        let registries = named
            .map(|(i, port)| RegistryPeer { address: format!("r{i}"), namespace: None, port: port.clone() })
            .collect();
        let deps = session::Deps {
            keys: keys(),
            store: self.store.clone(),
            seat: Seat::Claimed(Box::new(Claimed {
                claimer,
                claims,
                tick,
                now,
                directory,
                following,
                dialler: self.dialler.clone(),
            })),
            registries,
            process: Default::default(),
        };
        let config = session::Config { node: name.to_owned(), ..session::Config::default() };
        let app = session::App::build(config, deps)?;
        let (trigger, shutdown) = drain::pair();
        let (ending, ended) = watch::channel(false);
        let work = async move {
            let _lease = task::spawn(Kind::Upkeep, "lease", keeper.run());
            let served = match TcpListener::from_std(listener) {
                Ok(listener) => app.serve(Incoming::Tcp(listener), shutdown).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = served {
                tracing::error!(%error, "a node of the test cluster failed");
            }
            ending.send_replace(true);
        };
        #[allow(clippy::disallowed_methods, reason = "it ends with the runtime, which its owner shuts down")]
        runtime.spawn(work);
        self.nodes.push(Node { name: name.to_owned(), trigger, ended, runtime: Some(runtime) });
        Ok(())
    }

    async fn gateway(&mut self) -> Result<()> {
        let deps =
            gateway::Deps::found(self.directory.clone(), keys(), &Dialler::default(), Arc::new(Anonymous));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let config = gateway::Config { listen: address.to_string(), ..gateway::Config::default() };
        let app = gateway::App::build(&config, deps)?;
        let (trigger, shutdown) = drain::pair();
        self._tasks.push(task::spawn(Kind::Role, "gateway", async move {
            if let Err(error) = app.serve(listener, shutdown).await {
                tracing::error!(%error, "a gateway of the test cluster failed");
            }
        }));
        self.triggers.push(trigger);
        self.gateways.push(address);
        Ok(())
    }

    /// Waits until every slot has an owner, and the names of the owners are as wanted.
    pub async fn settled(&self, wanted: impl Fn(&std::collections::BTreeSet<String>) -> bool) -> Result<()> {
        let mut changed = self.directory.changed();
        let settle = async {
            loop {
                let slots = self.cluster.slots.slots();
                let owners: Option<_> = slots
                    .map(|slot| self.directory.holder(slot).map(|owner| owner.node.to_string()))
                    .collect();
                if owners.is_some_and(|owners| wanted(&owners)) {
                    return;
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, settle).await.with_context(|| {
            let slots = self.cluster.slots.slots();
            let mut counts = std::collections::BTreeMap::<String, usize>::new();
            for slot in slots {
                let owner = self.directory.holder(slot).map_or("nobody".into(), |o| o.node.to_string());
                *counts.entry(owner).or_default() += 1;
            }
            format!("the slots are not all owned as they should be: {counts:?}")
        })
    }

    /// The node that owns a session.
    pub fn owner_of(&self, session: &str) -> Result<String> {
        let id = api::SessionId::parse(&keys(), session).context("no session id")?;
        let owner = self.directory.holder(id.slot()).context("no owner")?;
        Ok(owner.node.to_string())
    }

    /// Ends a node at once, with its lease, its connections and all that it had not written down.
    pub fn kill(&mut self, name: &str) {
        self.nodes.retain(|node| node.name != name);
    }

    /// Asks a node to leave, and waits until it has.
    pub async fn drain(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name == name).context("no such node")?;
        node.trigger.drain();
        let ended = node.ended.wait_for(|ended| *ended);
        drop(tokio::time::timeout(DEADLINE, ended).await.context("the node does not end")??);
        self.kill(name);
        Ok(())
    }
}

fn keys() -> KeyRing {
    KeyRing::single("k1", KEY)
}
