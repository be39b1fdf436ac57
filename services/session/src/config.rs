//! Settings of the session role.

use placement::SlotRange;
use serde::{Deserialize, Serialize};

/// Section `[session]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address gateways reach this node at, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Name of this node in logs and traces; `$HOSTNAME` = that of the machine.
    pub node: String,
    /// Slots this node owns, for example "0-2047", or "all". All nodes together own every slot once: 0-4095, or 0-16383 where
    /// `cluster.slots` says so. Not used with `cluster.etcd`, where nodes claim their slots.
    #[schemars(with = "String")]
    pub slots: SlotRange,
    /// Identifies the mesh towards registries. Empty = the name that is kept where its sessions are: the first node derives it from
    /// its keys. Give one to a mesh that begins with a copy of another's Redis and uses the same registries.
    pub mesh: String,
    /// Registry processes to use.
    pub registries: Vec<RegistryConfig>,
    /// Name of the server as clients see it.
    pub server_name: String,
    /// Entries per page of a list.
    pub page_size: usize,
    /// How long clients may cache lists, in milliseconds; a registry may ask for less.
    pub list_ttl_ms: u64,
    /// How long the entries of a registry that is gone stay listed, in milliseconds: a restart within it is no change.
    pub registry_grace_ms: u64,
    /// A session without any traffic for this long is ended, in seconds.
    pub idle_timeout_s: u64,
    /// Of a session without any traffic for this long, in seconds, only what finds it again stays in memory, where sessions live in
    /// Redis: its next message loads it from there. 0 = never.
    pub passivate_after_s: u64,
    /// A session whose handshake is not finished within this is ended, in seconds.
    pub init_timeout_s: u64,
    /// A call that has not ended within this is cancelled, in seconds.
    pub call_timeout_s: u64,
    /// How long an answer of the user is awaited, in seconds.
    pub ask_timeout_s: u64,
    /// A session is ended this long after its handshake, whatever is under way, in seconds. 0 = never.
    pub max_life_s: u64,
    /// Sessions on this node; further ones are refused with 429. 0 = no limit.
    pub max_sessions: usize,
    /// Sessions of one principal on this node. Callers without credentials on this machine are one principal together. 0 = no
    /// limit.
    pub max_sessions_per_principal: usize,
    /// Sessions on this node of all callers without credentials together, where other machines can call. 0 = no limit.
    pub max_sessions_anonymous: usize,
    /// Sessions that one principal may begin per second, in the long run. 0 = no limit.
    pub creations_per_s: u32,
    /// The same for callers without credentials on this machine. 0 = no limit.
    pub creations_per_s_local: u32,
    /// Sessions that may be begun at once after a rest.
    pub creation_burst: u32,
    /// `subscriptions/listen` streams of one principal that are open on this node (2026-07-28). 0 = no limit.
    pub max_listens_per_principal: usize,
}

/// One registry process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// `host:port`.
    pub address: String,
    /// Prefix of its names, instead of the one it announces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7101".into(),
            node: "session-1".into(),
            slots: SlotRange::ALL,
            mesh: String::new(),
            registries: Vec::new(),
            server_name: "trunkline".into(),
            page_size: 500,
            list_ttl_ms: 5_000,
            registry_grace_ms: 5_000,
            idle_timeout_s: 1800,
            passivate_after_s: 60,
            init_timeout_s: 30,
            call_timeout_s: 300,
            ask_timeout_s: 600,
            max_life_s: 86_400,
            max_sessions: 1_000_000,
            max_sessions_per_principal: 1_000,
            max_sessions_anonymous: 100,
            creations_per_s: 10,
            creations_per_s_local: 0,
            creation_burst: 50,
            max_listens_per_principal: 16,
        }
    }
}
