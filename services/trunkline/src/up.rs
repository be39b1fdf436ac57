//! Everything in one process: the same roles, built the same way, with each other's handles for dependencies.

use std::path::Path;
use std::sync::Arc;

use api::{KeyRing, Registry};
use chassis::clock;
use chassis::entry;
use chassis::process::Process;
use chassis::serve::{Group, Incoming};
use chassis::tls::Dialler;
use gateway::auth::Gate;
use placement::Static;
use session::RegistryPeer;

use crate::cli::Up;
use crate::config::Config;
use crate::data::DataDir;
use crate::process::{self, Failure};
use crate::reload::Hands;
use crate::role::{self, Role};
use crate::trace_ui::{self, TraceUi};

/// Where keys and samples are, if nothing else is said.
pub(crate) const DATA: &str = ".trunkline";
/// The file of sessions in a data directory.
const SESSIONS: &str = "sessions.redb";
/// What the URIs of the data directory's resources begin with.
const DOCS: &str = "file:///docs/";

/// The five roles, built and not yet served.
struct Mesh {
    gateway: gateway::App,
    gate: Arc<Gate>,
    session: session::App,
    tools: tool_registry::App,
    resources: resource_registry::App,
    prompts: prompt_registry::App,
}

/// Runs everything.
pub(crate) fn run(up: &Up) -> Result<(), Failure> {
    let data = up.data.clone();
    let keep = |config: &mut Config| keep_sessions(config, data.as_deref());
    let Some(loaded) = process::configuration(&up.flags, Role::Gateway.name(), keep)? else { return Ok(()) };
    if up.flags.check {
        process::runtime()?.block_on(check(up, loaded.config))?;
        return process::accepted();
    }
    let mut config = loaded.config;
    // Ends after the exporter, whose last spans it takes.
    let traces = up.trace_ui.as_deref().map(TraceUi::start).transpose()?;
    let elsewhere = std::mem::take(&mut config.telemetry.endpoint);
    config.telemetry.endpoint = traces.as_ref().map_or_else(|| elsewhere.clone(), TraceUi::otlp);
    process::run(&up.flags, &Role::ALL.map(Role::name), config, async |config, process| {
        if traces.is_some() && !elsewhere.is_empty() {
            tracing::warn!(endpoint = elsewhere, "spans go to --trace-ui and not to telemetry.endpoint");
        }
        start(up, config, traces.as_ref(), &process).await
    })
}

/// Sessions live in a data directory that was named: whoever names one has something to keep. The default one holds what a
/// first try needs, and a first try leaves nothing behind that grows.
fn keep_sessions(config: &mut Config, data: Option<&Path>) {
    if let Some(data) = data.filter(|_| config.store.file.is_empty() && config.store.redis.is_empty()) {
        config.store.file = data.join(SESSIONS).to_string_lossy().into_owned();
    }
}

/// Builds everything as a start would, without making anything in the data directory.
async fn check(up: &Up, mut config: Config) -> Result<(), Failure> {
    role::check_store(&mut config)?;
    up.trace_ui.as_deref().map(trace_ui::check).transpose()?;
    let keys = match config.keys.is_empty() {
        true => KeyRing::single("check", clock::random().map_err(Failure::failed)?),
        false => config.keys.ring().map_err(Failure::refused)?,
    };
    build(&config, keys, more(up, &config)?, &Process::default()).await.map(drop)
}

async fn start(
    up: &Up,
    mut config: Config,
    traces: Option<&TraceUi>,
    process: &Process,
) -> Result<(Group, Hands), Failure> {
    let folder = up.data.as_deref().unwrap_or(Path::new(DATA));
    let data = config.keys.is_empty().then(|| folder.to_owned());
    let keys = equip(&mut config, folder)?;
    let listener = role::bind(Role::Gateway, &config).await?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    let built = build(&config, keys.clone(), more(up, &config)?, process).await?;
    let Mesh { gateway, gate, session, tools, resources, prompts } = built;
    let mut group = Group::new();
    let hands =
        Hands { keys: Some(keys), data, gate: Some(gate), edge: Some(gateway.clone()), ..Hands::default() };
    role::gateway_role(&mut group, gateway, listener);
    group.start(Role::Session.name(), |stop| session.serve(Incoming::None, stop));
    group.start(Role::Tools.name(), |stop| async move { Ok(tools.serve(Incoming::None, stop).await?) });
    group.start(
        Role::Resources.name(),
        |stop| async move { Ok(resources.serve(Incoming::None, stop).await?) },
    );
    group.start(Role::Prompts.name(), |stop| async move { Ok(prompts.serve(Incoming::None, stop).await?) });
    let url = role::url(&config, address);
    entry::announce(Role::Gateway.name(), &url).map_err(Failure::failed)?;
    if let Some(traces) = traces {
        entry::announce("trace-ui", &traces.page()).map_err(Failure::failed)?;
        entry::announce("otlp", &traces.otlp()).map_err(Failure::failed)?;
    }
    let wants_key = !config.auth.keys.is_empty() && !config.auth.anonymous;
    entry::print(&client_configuration(&url, wants_key)).map_err(Failure::failed)?;
    Ok((group, hands))
}

/// Fills in what is not configured from the data directory, and returns the keys.
fn equip(config: &mut Config, data: &Path) -> Result<KeyRing, Failure> {
    let data = DataDir::open(data).map_err(Failure::refused)?;
    if config.keys.is_empty() {
        config.keys = data.keys().map_err(Failure::refused)?;
    }
    if config.resource_registry.directories.is_empty() {
        let path = data.resources().map_err(Failure::refused)?;
        let directory = resource_registry::Directory { path, uri: DOCS.into(), ..Default::default() };
        config.resource_registry.directories.push(directory);
    }
    if config.prompt_registry.directory.as_os_str().is_empty() {
        config.prompt_registry.directory = data.prompts().map_err(Failure::refused)?;
    }
    config.keys.ring().map_err(Failure::refused)
}

async fn build(
    config: &Config,
    keys: KeyRing,
    more: Vec<RegistryPeer>,
    process: &Process,
) -> Result<Mesh, Failure> {
    let tools = role::tools(config, process).await?;
    let resources = role::resources(config, process).await?;
    let prompts = role::prompts(config, process).await?;
    let mesh = role::mesh(Role::Session, config)?;
    mesh.tell_expiry(&process.metrics.of_role(Role::Session.name()));
    let to_registries = role::to_registries(&mesh)?;
    let mut deps =
        session::Deps::connect(&config.session, config.cluster.slots, keys.clone(), &to_registries)
            .map_err(Failure::refused)?;
    let neighbours = [
        (Role::Tools, tools.handle()),
        (Role::Resources, resources.handle()),
        (Role::Prompts, prompts.handle()),
    ];
    deps.registries.extend(neighbours.map(|(role, port)| neighbour(role, port)));
    deps.registries.extend(more);
    deps.process = process.clone();
    let deps = deps.keeping_in(role::store(config, process).await?);
    let settings = role::settled(config, &deps).await?;
    let session = session::App::build(settings, deps).map_err(Failure::refused)?;
    let gate = role::gate(config)?;
    let deps = gateway::Deps {
        keys,
        locator: Arc::new(Static::embedded(config.cluster.slots, Role::Session.name())),
        peers: Arc::new(gateway::Local(session.handle())),
        auth: gate.clone(),
        process: process.clone(),
    };
    let gateway = gateway::App::build(&config.gateway, deps).map_err(Failure::refused)?;
    Ok(Mesh { gateway, gate, session, tools, resources, prompts })
}

fn neighbour(role: Role, port: Arc<dyn Registry>) -> RegistryPeer {
    RegistryPeer { address: role.name().to_owned(), namespace: None, port }
}

/// How registries in other processes are dialled.
fn dialler(config: &Config) -> Result<Dialler, Failure> {
    role::to_registries(&role::mesh(Role::Session, config)?)
}

/// The registries of `--registry`.
fn more(up: &Up, config: &Config) -> Result<Vec<RegistryPeer>, Failure> {
    let dialler = dialler(config)?;
    let peer = |text: &String| {
        let (address, namespace) = match text.split_once('=') {
            Some((address, namespace)) => (address, Some(namespace.to_owned())),
            None => (text.as_str(), None),
        };
        session::Deps::registry(address, namespace, &dialler)
            .map_err(|error| Failure::refused(format!("--registry {text}: {error}, or HOST:PORT=NAMESPACE")))
    };
    up.registry.iter().map(peer).collect()
}

/// What many clients take as it is. Where API keys are asked for, it has a place for one.
fn client_configuration(url: &str, wants_key: bool) -> String {
    let headers = if wants_key { ", \"headers\": { \"Authorization\": \"Bearer YOUR-KEY\" }" } else { "" };
    format!(
        "\nConfiguration for MCP clients:\n\n{{\n  \"mcpServers\": {{\n    \"trunkline\": {{ \"type\": \"http\", \"url\": \"{url}\"{headers} }}\n  }}\n}}\n"
    )
}
