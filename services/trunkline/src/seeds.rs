//! Settings by the names of the founding documents: which of them mean one of ours, and what to use instead of the others.
//!
//! Owns: the table, the variables of the environment that take effect, and the reading of an `mcp_settings.json`. Must not
//! know: how a configuration is loaded. Everything of ours wins over what is set by these names.

mod jsonc;
mod redis;
mod settings;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chassis::config::Override;

pub(crate) use self::settings::translate;
use crate::config::Config;

/// What a name of theirs is with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It sets one of our keys.
    Sets(&'static str),
    /// It says what is so anyway.
    Is(&'static str),
    /// It takes effect when this exists.
    NotYet(&'static str),
    /// It has no place here; this has.
    Instead(&'static str),
    /// It has no place here, and nothing needs to have it.
    NotNeeded(&'static str),
}

const BRIDGE: &str = "existing MCP servers come with the bridge; registry processes are session.registries";

/// Variables of the environment.
const VARIABLES: [(&str, Fate); 14] = [
    ("MCP_HTTP_PORT", Fate::Sets("gateway.listen (its port)")),
    ("PORT", Fate::Sets("gateway.listen (its port), if MCP_HTTP_PORT does not")),
    ("NODE_ID", Fate::Sets("session.node and telemetry.node")),
    ("NODE_NAME", Fate::Sets("session.node and telemetry.node, if NODE_ID does not")),
    ("NODE_ADDRESS", Fate::Sets("session.listen (its host)")),
    ("NODE_PORT", Fate::Sets("session.listen (its port)")),
    ("MCP_SESSION_USE_INMEMORY", Fate::Is("true is how it is without store.redis; for false, set that")),
    ("REDIS_URL", Fate::Sets("store.redis, and store.password if it has one")),
    ("REDIS_ADDRESS", Fate::Sets("store.redis (host:port), if REDIS_URL does not")),
    ("REDIS_PASSWORD", Fate::Sets("store.password, if REDIS_URL does not")),
    ("MCP_REDIS_HOST", Fate::Sets("store.redis (its host), if the two above do not")),
    ("MCP_REDIS_PORT", Fate::Sets("store.redis (its port, else 6379) beside MCP_REDIS_HOST")),
    ("MCP_SERVERS", Fate::NotYet(BRIDGE)),
    ("LOAD_BALANCING_STRATEGY", Fate::NotYet("comes with pools of equal servers, which the bridge uses")),
];

/// Members of `mcp_settings.json`.
const MEMBERS: [(&str, Fate); 15] = [
    ("mcpServers", Fate::NotYet(BRIDGE)),
    (
        "systemConfig.cluster.enabled",
        Fate::Instead("the subcommand says what a process is; `trunkline up` is all of it"),
    ),
    (
        "systemConfig.cluster.mode",
        Fate::Instead(
            "standalone is `trunkline up`; for coordinator run `trunkline gateway` and `trunkline session`; for node run registries",
        ),
    ),
    ("systemConfig.cluster.coordinator.nodeTimeout", Fate::Sets("session.registry_grace_ms")),
    (
        "systemConfig.cluster.coordinator.cleanupInterval",
        Fate::NotNeeded("what is gone is noticed by its connection, without a sweep"),
    ),
    (
        "systemConfig.cluster.coordinator.stickySessionTimeout",
        Fate::Sets("session.idle_timeout_s (in seconds)"),
    ),
    (
        "systemConfig.cluster.stickySession.enabled",
        Fate::NotNeeded("any gateway serves any request, and the session's id says where it lives"),
    ),
    (
        "systemConfig.cluster.stickySession.strategy",
        Fate::NotNeeded("the session's id says where it lives; consistent-hash is the nearest to that"),
    ),
    ("systemConfig.cluster.stickySession.cookieName", Fate::NotNeeded("no cookie helps to find a session")),
    (
        "systemConfig.cluster.stickySession.headerName",
        Fate::NotNeeded("the protocol's own Mcp-Session-Id is enough"),
    ),
    ("systemConfig.cluster.node.id", Fate::Sets("session.node")),
    ("systemConfig.cluster.node.name", Fate::Sets("session.node, if node.id does not")),
    (
        "systemConfig.cluster.node.coordinatorUrl",
        Fate::Instead("gateway.sessions and session.registries: nodes are dialled, they do not register"),
    ),
    (
        "systemConfig.cluster.node.heartbeatInterval",
        Fate::NotNeeded("a connection that is kept alive says that its peer is"),
    ),
    (
        "systemConfig.cluster.node.registerOnStartup",
        Fate::Instead("session.registries: whoever is listed there is dialled until it is there"),
    ),
];

impl Fate {
    fn shown(self) -> String {
        match self {
            Self::Sets(key) => format!("sets {key}"),
            Self::Is(what) => format!("accepted: {what}"),
            Self::NotYet(with) => format!("not yet: {with}"),
            Self::Instead(what) => format!("refused, use instead: {what}"),
            Self::NotNeeded(why) => format!("refused, not needed: {why}"),
        }
    }
}

/// The table, for people.
pub(crate) fn table() -> String {
    let mut out = String::from(
        "Settings of the founding documents, and what they are here. Whatever is set by our own names wins over them.\n",
    );
    let environment = ("Environment (takes effect as it is)", &VARIABLES[..]);
    let file = ("mcp_settings.json (`trunkline config --from-seeds FILE` translates one)", &MEMBERS[..]);
    for (title, rows) in [environment, file] {
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        // Writing to a String cannot fail.
        let _written = writeln!(out, "\n{title}").is_ok();
        for (name, fate) in rows {
            let _written = writeln!(out, "  {name:width$}  {}", fate.shown()).is_ok();
        }
    }
    out
}

/// What the environment sets by these names, weaker than everything else.
pub(crate) fn overrides(environment: &BTreeMap<String, String>) -> Vec<Override> {
    let defaults = Config::default();
    let given = Given::read(environment);
    let mut found = Vec::new();
    if let Some((name, port)) = given.http_port {
        let host = split(&defaults.gateway.listen).0;
        found.push(Override::environment(name, &["gateway", "listen"], &format!("{host}:{port}")));
    }
    if let Some((name, id)) = given.node {
        found.push(Override::environment(name, &["session", "node"], &mcp::edit::quote(id)));
        found.push(Override::environment(name, &["telemetry", "node"], &mcp::edit::quote(id)));
    }
    if let Some((name, _)) = given.address.or(given.port) {
        let (host, port) = split(&defaults.session.listen);
        let host = given.address.map_or(host, |(_, host)| host);
        let port = given.port.map_or(port, |(_, port)| port);
        found.push(Override::environment(name, &["session", "listen"], &format!("{host}:{port}")));
    }
    if let Some(redis) = redis::read(environment) {
        let list = format!("[{}]", mcp::edit::quote(&redis.address));
        found.push(Override::environment(redis.named, &["store", "redis"], &list));
        if let Some((name, password)) = redis.password {
            found.push(Override::environment(name, &["store", "password"], &mcp::edit::quote(&password)));
        }
    }
    found
}

/// What is to be said about such names when a process with these roles starts: what took effect, and what did not.
pub(crate) fn remarks(environment: &BTreeMap<String, String>, config: &Config, roles: &[&str]) -> Remarks {
    let given = Given::read(environment);
    let mut remarks = Remarks::default();
    if let Some((name, port)) = given.http_port
        && roles.contains(&"gateway")
        && split(&config.gateway.listen).1 == port
    {
        remarks.taken.push(format!("{name} sets gateway.listen to {}", config.gateway.listen));
    }
    if let Some((name, id)) = given.node
        && [&config.session.node, &config.telemetry.node].contains(&&id.to_owned())
    {
        remarks.taken.push(format!("{name} names this node {id}"));
    }
    if let Some((name, _)) = given.address.or(given.port)
        // In one process nobody dials the session role.
        && roles == ["session"]
    {
        remarks.taken.push(format!("{name} sets session.listen to {}", config.session.listen));
    }
    if let Some(redis) = redis::read(environment)
        && config.store.redis == [redis.address]
        && roles.contains(&"session")
    {
        remarks.taken.push(format!("{} keeps sessions in {}", redis.named, config.store.redis.join(" ")));
    }
    for (name, fate) in VARIABLES {
        let Some(value) = environment.get(name) else { continue };
        match fate {
            Fate::NotYet(with) => remarks.ignored.push(format!("{name} has no effect yet: {with}")),
            Fate::Is(_) if value != "true" && value != "1" && config.store.redis.is_empty() => {
                let why = "sessions are kept in Redis once store.redis or REDIS_URL says where it is";
                remarks.ignored.push(format!("{name}={value} has no effect: {why}"));
            }
            Fate::Sets(_) | Fate::Is(_) | Fate::Instead(_) | Fate::NotNeeded(_) => {}
        }
    }
    remarks
}

/// See [`remarks`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Remarks {
    taken: Vec<String>,
    ignored: Vec<String>,
}

impl Remarks {
    /// One line for each kind.
    pub(crate) fn log(&self) {
        if !self.taken.is_empty() {
            tracing::info!(settings = self.taken.join("; "), "settings by names of the founding documents");
        }
        if !self.ignored.is_empty() {
            tracing::warn!(settings = self.ignored.join("; "), "settings without effect");
        }
    }
}

type Variable<'a> = Option<(&'static str, &'a str)>;

/// The variables that take effect, with the name each came by.
struct Given<'a> {
    http_port: Variable<'a>,
    node: Variable<'a>,
    address: Variable<'a>,
    port: Variable<'a>,
}

impl<'a> Given<'a> {
    fn read(environment: &'a BTreeMap<String, String>) -> Self {
        let first = |names: &[&'static str], fits: fn(&str) -> bool| {
            names.iter().find_map(|name| {
                let value = environment.get(*name)?.trim();
                fits(value).then_some((*name, value))
            })
        };
        // Something else than a number is somebody else's PORT.
        let is_port = |text: &str| text.parse::<u16>().is_ok();
        let is_there = |text: &str| !text.is_empty();
        Self {
            http_port: first(&["MCP_HTTP_PORT", "PORT"], is_port),
            node: first(&["NODE_ID", "NODE_NAME"], is_there),
            address: first(&["NODE_ADDRESS"], is_there),
            port: first(&["NODE_PORT"], is_port),
        }
    }
}

fn split(address: &str) -> (&str, &str) {
    address.rsplit_once(':').unwrap_or((address, "0"))
}

#[cfg(test)]
mod tests {
    use chassis::entry::Flags;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn loaded(pairs: &[(&str, &str)], set: &[&str]) -> Config {
        let environment = environment(pairs);
        let flags = Flags { set: set.iter().map(|text| (*text).to_owned()).collect(), ..Flags::default() };
        flags.load_over::<Config>("gateway", &environment, overrides(&environment)).unwrap().config
    }

    #[test]
    fn their_variables_take_effect_under_ours() {
        let pairs = [("PORT", "3000"), ("NODE_NAME", "7"), ("NODE_ADDRESS", "node1"), ("NODE_PORT", "9090")];
        let config = loaded(&pairs, &[]);
        assert_eq!(config.gateway.listen, "127.0.0.1:3000");
        assert_eq!((config.session.node.as_str(), config.telemetry.node.as_str()), ("7", "7"));
        assert_eq!(config.session.listen, "node1:9090");
        let pairs = [("PORT", "3000"), ("MCP_HTTP_PORT", "9985"), ("NODE_ID", "a"), ("NODE_NAME", "b")];
        let config = loaded(&pairs, &[]);
        assert_eq!((config.gateway.listen.as_str(), config.session.node.as_str()), ("127.0.0.1:9985", "a"));
        let pairs = [("PORT", "3000"), ("NODE_ID", "a"), ("TRUNKLINE_SESSION__NODE", "c")];
        let config = loaded(&pairs, &["gateway.listen=127.0.0.1:1"]);
        assert_eq!((config.gateway.listen.as_str(), config.session.node.as_str()), ("127.0.0.1:1", "c"));
        let config = loaded(&[("PORT", "tcp://10.0.0.1:80")], &[]);
        assert_eq!(config.gateway.listen, Config::default().gateway.listen);
    }

    #[test]
    fn where_redis_is_takes_effect_under_ours() {
        let kept = |pairs: &[(&str, &str)], set: &[&str]| {
            let store = loaded(pairs, set).store;
            (store.redis.join(" "), store.password.expose().to_owned())
        };
        let at = |address: &str, password: &str| (address.to_owned(), password.to_owned());
        let url = ("REDIS_URL", "rediss://u:p%40q@h:1");
        let (address, password) = (("REDIS_ADDRESS", "a:2"), ("REDIS_PASSWORD", "w"));
        let (host, port) = (("MCP_REDIS_HOST", "m"), ("MCP_REDIS_PORT", "3"));
        for (pairs, expected) in [
            (&[url][..], at("rediss://u@h:1", "p@q")),
            (&[("REDIS_URL", "redis://h:1"), password], at("redis://h:1", "w")),
            (&[address, password], at("redis://a:2", "w")),
            (&[host, port, password], at("redis://m:3", "w")),
            (&[host], at("redis://m:6379", "")),
            (&[url, address, host, password], at("rediss://u@h:1", "p@q")),
            (&[url, ("MCP_SESSION_USE_INMEMORY", "true")], at("", "")),
            (&[port, password], at("", "")),
        ] {
            assert_eq!(kept(pairs, &[]), expected, "{pairs:?}");
        }
        let ours =
            [url, ("TRUNKLINE_STORE__REDIS", "[\"redis://ours:9\"]"), ("TRUNKLINE_STORE__PASSWORD", "o")];
        assert_eq!(kept(&ours, &[]), at("redis://ours:9", "o"), "a variable of ours wins");
        assert_eq!(kept(&ours, &["store.redis=[\"redis://set:8\"]"]), at("redis://set:8", "o"));
    }

    #[test]
    fn what_took_effect_is_said_and_what_did_not_too() {
        let used = [("PORT", "3000"), ("NODE_ID", "n1")];
        let unused = [("MCP_SESSION_USE_INMEMORY", "false"), ("MCP_SERVERS", "secret-word")];
        let all = environment(&[used, unused].concat());
        let config = loaded(&used, &[]);
        let said = remarks(&all, &config, &["gateway", "session"]);
        assert_eq!(said.taken, ["PORT sets gateway.listen to 127.0.0.1:3000", "NODE_ID names this node n1"]);
        assert_eq!(said.ignored.len(), 2);
        assert!(!format!("{said:?}").contains("secret-word"));
        let quiet = environment(&[("MCP_SESSION_USE_INMEMORY", "true"), ("HOME", "/")]);
        assert_eq!(remarks(&quiet, &config, &["gateway"]), Remarks::default());
    }

    #[test]
    fn the_table_names_every_one() {
        let table = table();
        for (name, _) in VARIABLES.iter().chain(&MEMBERS) {
            assert!(table.contains(name), "{name}");
        }
    }
}
