//! One role as a process of its own: its dependencies are elsewhere and are reached over gRPC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{KeyRing, SlotCount};
use chassis::config::Loaded;
use chassis::entry::{self, Flags};
use chassis::process::Process;
use chassis::serve::{self, Group, Incoming, RoleResult};
use chassis::tls::{self, Dialler, Mesh};
use gateway::auth::Gate;
use placement::Following;
use session::store::{SessionStore, Store, Unfit};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::cluster::{Member, shown};
use crate::config::Config;
use crate::process::{self, Failure};
use crate::reload::Hands;
use crate::scoped;

/// How long a store that does not answer is waited for at the start, and how often it is asked.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// What a process can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Gateway,
    Session,
    Tools,
    Resources,
    Prompts,
}

impl Role {
    pub(crate) const ALL: [Self; 5] =
        [Self::Gateway, Self::Session, Self::Tools, Self::Resources, Self::Prompts];

    /// Of the subcommand and of the section.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Session => "session",
            Self::Tools => "tool-registry",
            Self::Resources => "resource-registry",
            Self::Prompts => "prompt-registry",
        }
    }

    fn address(self, config: &Config) -> &str {
        match self {
            Self::Gateway => &config.gateway.listen,
            Self::Session => &config.session.listen,
            Self::Tools => &config.tool_registry.listen,
            Self::Resources => &config.resource_registry.listen,
            Self::Prompts => &config.prompt_registry.listen,
        }
    }
}

/// A role that is built and not yet served.
enum Built {
    Gateway(gateway::App, Arc<Gate>, Option<Following>),
    Session(session::App),
    Tools(tool_registry::App),
    Resources(resource_registry::App),
    Prompts(prompt_registry::App),
}

/// Runs one role.
pub(crate) fn run(role: Role, flags: &Flags) -> Result<(), Failure> {
    let Some(mut loaded) = process::configuration(flags, role.name(), |_| ())? else { return Ok(()) };
    let keys = keys(role, &loaded)?;
    let mesh = mesh(role, &loaded.config)?;
    if flags.check {
        // Whether somebody answers there is no matter of the configuration.
        check_store(&mut loaded.config)?;
        if let Ok(address) = role.address(&loaded.config).parse() {
            check_listen(role, &mesh, address)?;
        }
        let address = role.address(&loaded.config).to_owned();
        if loaded.config.cluster.advertise.is_empty() {
            loaded.config.cluster.advertise.clone_from(&address);
        }
        let member = Member::new(&loaded.config.cluster, &address)?;
        let plan = Plan { config: &loaded.config, keys, mesh: &mesh, member: member.as_ref() };
        process::runtime()?.block_on(build(role, plan, &Process::default()))?;
        return process::accepted();
    }
    process::run(flags, &[role.name()], loaded.config, |config, process| {
        start(role, config, keys, mesh, process)
    })
}

/// The keys of the roles that sign and seal. They must be configured: made up here, they would not be the others' keys.
fn keys(role: Role, loaded: &Loaded<Config>) -> Result<Option<KeyRing>, Failure> {
    match role {
        Role::Gateway | Role::Session => {}
        Role::Tools | Role::Resources | Role::Prompts => return Ok(None),
    }
    if loaded.config.keys.is_empty() {
        let accepted = "current = \"k1\" and ring = { k1 = \"..\" } with 32 random bytes as base64 \
                        (openssl rand -base64 32), the same in every process";
        return Err(loaded
            .refuse("keys", "separate processes need keys, and there are none", accepted)
            .into());
    }
    loaded.config.keys.ring().map(Some).map_err(Failure::refused)
}

/// How a process of this role deals with the others. Its certificate must be that of the role.
pub(crate) fn mesh(role: Role, config: &Config) -> Result<Mesh, Failure> {
    let member = match role {
        Role::Gateway => tls::Role::Gateway,
        Role::Session => tls::Role::Session,
        Role::Tools | Role::Resources | Role::Prompts => tls::Role::Registry,
    };
    Mesh::new(&config.mtls, Some(member)).map_err(Failure::refused)
}

/// Whether the role may listen there. The edge has rules of its own.
fn check_listen(role: Role, mesh: &Mesh, address: SocketAddr) -> Result<(), Failure> {
    match role {
        Role::Gateway => Ok(()),
        Role::Session | Role::Tools | Role::Resources | Role::Prompts => mesh
            .check_listen(address)
            .map_err(|error| Failure::refused(format!("{}.listen: {error}", role.name()))),
    }
}

/// How session nodes dial registries.
pub(crate) fn to_registries(mesh: &Mesh) -> Result<Dialler, Failure> {
    mesh.dialler(&[tls::Role::Registry, tls::Role::Bridge]).map_err(Failure::refused)
}

/// What a role is built from.
struct Plan<'a> {
    config: &'a Config,
    keys: Option<KeyRing>,
    mesh: &'a Mesh,
    /// Its place in the cluster, if there is one.
    member: Option<&'a Member>,
}

async fn build(role: Role, plan: Plan<'_>, process: &Process) -> Result<Built, Failure> {
    let Plan { config, keys, mesh, member } = plan;
    // Only roles that have keys get here without any.
    let keys = || keys.ok_or_else(|| Failure::refused("no keys"));
    match role {
        Role::Gateway => {
            let dialler = mesh.dialler(&[tls::Role::Session]).map_err(Failure::refused)?;
            let gate = gate(config)?;
            let (deps, following) = match member {
                None => {
                    let deps = gateway::Deps::connect(
                        &config.gateway,
                        config.cluster.slots,
                        keys()?,
                        &dialler,
                        gate.clone(),
                    );
                    (deps.map_err(Failure::refused)?, None)
                }
                Some(member) => {
                    let (directory, following) = member.directory(Role::Gateway.name());
                    let deps = gateway::Deps::found(directory, keys()?, &dialler, gate.clone());
                    (deps, Some(following))
                }
            };
            let deps = gateway::Deps { process: process.clone(), ..deps };
            let app = gateway::App::build(&config.gateway, deps).map_err(Failure::refused)?;
            Ok(Built::Gateway(app, gate, following))
        }
        Role::Session => {
            let dialler = to_registries(mesh)?;
            let mut deps = session::Deps::connect(&config.session, config.cluster.slots, keys()?, &dialler)
                .map_err(Failure::refused)?;
            if let Some(member) = member {
                deps.seat = member.seat(&config.session.node, dialler)?;
            }
            deps.process = process.clone();
            let deps = deps.keeping_in(store(config, process).await?);
            let neighbours = mesh.dialler(&[tls::Role::Session]).map_err(Failure::refused)?;
            let settings = settled(config, &deps).await?;
            let app = session::App::build(settings, deps).map_err(Failure::refused)?;
            Ok(Built::Session(app.passing_on(neighbours)))
        }
        Role::Tools => tools(config, process).await.map(Built::Tools),
        Role::Resources => resources(config, process).await.map(Built::Resources),
        Role::Prompts => prompts(config, process).await.map(Built::Prompts),
    }
}

/// Says what is wrong with where sessions are kept, as far as that shows without asking anybody, and leaves it out.
pub(crate) fn check_store(config: &mut Config) -> Result<(), Failure> {
    fits_the_cluster(config)?;
    Store::check(&config.store).map_err(Failure::refused)?;
    config.store = Default::default();
    Ok(())
}

fn fits_the_cluster(config: &Config) -> Result<(), Failure> {
    if config.store.file().is_none() || config.cluster.etcd.is_empty() {
        return Ok(());
    }
    let why = "store.file: the nodes of a cluster take sessions over from each other, and cannot from a file of one of them; use \
               store.redis there, or leave cluster.etcd out";
    Err(Failure::refused(why))
}

/// Where sessions are kept.
pub(crate) async fn store(config: &Config, process: &Process) -> Result<Arc<dyn SessionStore>, Failure> {
    fits_the_cluster(config)?;
    // A session that nobody touches ends by itself long before the store forgets it.
    let idle = Duration::from_secs(config.session.idle_timeout_s);
    let store = Store::connect(&config.store, idle, &process.metrics).await.map_err(Failure::refused)?;
    fits_its_slots(store.as_ref(), config.cluster.slots).await.map_err(Failure::refused)?;
    Ok(store)
}

/// Whether the store keeps the sessions of so many slots. One that does not answer may just be starting, too.
async fn fits_its_slots(store: &dyn SessionStore, slots: SlotCount) -> Result<(), Unfit> {
    let until = Instant::now() + STORE_PATIENCE;
    loop {
        match store.live_in(slots).await {
            Err(Unfit::Down { .. }) if Instant::now() < until => tokio::time::sleep(STORE_PAUSE).await,
            other => return other,
        }
    }
}

/// The settings of a session node, with what the store adds to them.
pub(crate) async fn settled(config: &Config, deps: &session::Deps) -> Result<session::Config, Failure> {
    let mesh = deps.mesh(&config.session).await.map_err(Failure::refused)?;
    Ok(session::Config { mesh, ..config.session.clone() })
}

pub(crate) async fn tools(config: &Config, process: &Process) -> Result<tool_registry::App, Failure> {
    let mut deps = tool_registry::Deps::connect(&config.tool_registry).await.map_err(Failure::refused)?;
    deps.runtime = scoped::in_role(Role::Tools, deps.runtime);
    deps.metrics = process.metrics.of_role(Role::Tools.name());
    tool_registry::App::build(&config.tool_registry, deps).map_err(Failure::refused)
}

pub(crate) async fn resources(config: &Config, process: &Process) -> Result<resource_registry::App, Failure> {
    let mut deps =
        resource_registry::Deps::connect(&config.resource_registry).await.map_err(Failure::refused)?;
    deps.runtime = scoped::in_role(Role::Resources, deps.runtime);
    deps.metrics = process.metrics.of_role(Role::Resources.name());
    resource_registry::App::build(&config.resource_registry, deps).map_err(Failure::refused)
}

pub(crate) async fn prompts(config: &Config, process: &Process) -> Result<prompt_registry::App, Failure> {
    let mut deps = prompt_registry::Deps::connect(&config.prompt_registry).await.map_err(Failure::refused)?;
    deps.runtime = scoped::in_role(Role::Prompts, deps.runtime);
    deps.metrics = process.metrics.of_role(Role::Prompts.name());
    prompt_registry::App::build(&config.prompt_registry, deps).map_err(Failure::refused)
}

async fn start(
    role: Role,
    config: Config,
    keys: Option<KeyRing>,
    mesh: Mesh,
    process: Process,
) -> Result<(Group, Hands), Failure> {
    let listener = bind(role, &config).await?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    check_listen(role, &mesh, address)?;
    let mut hands = Hands { keys: keys.clone(), ..Hands::default() };
    let member = Member::new(&config.cluster, &address.to_string())?;
    // Registries have nothing to do with slots.
    if let (Role::Gateway | Role::Session, Some(member)) = (role, &member) {
        member.agrees().await?;
    }
    let plan = Plan { config: &config, keys, mesh: &mesh, member: member.as_ref() };
    let built = build(role, plan, &process).await?;
    let name = role.name();
    let metrics = process.metrics.of_role(name);
    mesh.tell_expiry(&metrics);
    if let Some(member) = &member {
        member.tell_expiry(&metrics);
    }
    let registry = || member.as_ref().map(|member| member.registry(name));
    let mut group = Group::new();
    match built {
        Built::Gateway(app, gate, following) => {
            (hands.edge, hands.gate) = (Some(app.clone()), Some(gate));
            let showing = member.as_ref().map(|member| member.gateway(process.health.node()));
            group.start(name, |stop| {
                let work = shown(showing, stop.clone(), async move { Ok(app.serve(listener, stop).await?) });
                with_directory(following, work)
            });
        }
        Built::Session(app) => group.start(name, |stop| app.serve(Incoming::Mesh(listener, mesh), stop)),
        Built::Tools(app) => {
            let (incoming, showing) = (Incoming::Mesh(listener, mesh), registry());
            group.start(name, |stop| {
                shown(showing, stop.clone(), async move { Ok(app.serve(incoming, stop).await?) })
            });
        }
        Built::Resources(app) => {
            let (incoming, showing) = (Incoming::Mesh(listener, mesh), registry());
            group.start(name, |stop| {
                shown(showing, stop.clone(), async move { Ok(app.serve(incoming, stop).await?) })
            });
        }
        Built::Prompts(app) => {
            let (incoming, showing) = (Incoming::Mesh(listener, mesh), registry());
            group.start(name, |stop| {
                shown(showing, stop.clone(), async move { Ok(app.serve(incoming, stop).await?) })
            });
        }
    }
    let place = match role {
        Role::Gateway => url(&config, address),
        Role::Session | Role::Tools | Role::Resources | Role::Prompts => address.to_string(),
    };
    entry::announce(name, &place).map_err(Failure::failed)?;
    Ok((group, hands))
}

pub(crate) async fn bind(role: Role, config: &Config) -> Result<TcpListener, Failure> {
    serve::bind(&format!("{}.listen", role.name()), role.address(config)).await.map_err(Failure::failed)
}

/// Who may call the gateway. It can be told of another configuration while it is used.
pub(crate) fn gate(config: &Config) -> Result<Arc<Gate>, Failure> {
    Gate::new(&config.auth).map(Arc::new).map_err(Failure::refused)
}

pub(crate) fn gateway_role(group: &mut Group, app: gateway::App, listener: TcpListener) {
    group.start(Role::Gateway.name(), |stop| async move { Ok(app.serve(listener, stop).await?) });
}

/// Keeps the table of owners up to date for as long as a gateway works, and ends it if the table is of another mesh.
async fn with_directory(following: Option<Following>, work: impl Future<Output = RoleResult>) -> RoleResult {
    let following = async {
        match following {
            Some(following) => following.run().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = work => ended,
        why = following => Err(why.into()),
    }
}

/// The URL for clients. Behind a wildcard address it is a name that is allowed, if there is one.
pub(crate) fn url(config: &Config, address: SocketAddr) -> String {
    let host = match config.gateway.allowed_hosts.first() {
        Some(name) if address.ip().is_unspecified() && name.contains(':') => name.clone(),
        Some(name) if address.ip().is_unspecified() => format!("{name}:{}", address.port()),
        Some(_) | None => address.to_string(),
    };
    let scheme = if config.gateway.is_https() { "https" } else { "http" };
    format!("{scheme}://{host}{}", config.gateway.mcp_path)
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use session::store::Memory;
    use session::store::faulty::Faulty;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_just_starting_is_waited_for() {
        let store = Faulty::new(Arc::new(Memory::default()));
        store.set_down(true);
        let begun = Instant::now();
        let starting = async {
            tokio::time::sleep(STORE_PATIENCE / 2).await;
            store.set_down(false);
        };
        let (fits, ()) = tokio::join!(fits_its_slots(store.as_ref(), SlotCount::Usual), starting);
        assert_eq!(fits, Ok(()));
        assert!(begun.elapsed() < STORE_PATIENCE);

        store.set_down(true);
        let begun = Instant::now();
        let refused = fits_its_slots(store.as_ref(), SlotCount::Usual).await;
        assert!(matches!(refused, Err(Unfit::Down { .. })), "{refused:?}");
        assert_eq!(begun.elapsed(), STORE_PATIENCE);
    }
}
