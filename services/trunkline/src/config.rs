//! The one configuration: a section for each role, and what all roles share.

use std::collections::BTreeMap;

use api::KeyRing;
use api::keys::KeyError;
use chassis::config::Secret;
use serde::{Deserialize, Serialize};

/// Everything that can be set, by file, environment or command line. The defaults are those of each role.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The edge: where clients connect, who may, and how much of the gateway one of them may use.
    pub(crate) gateway: gateway::Config,
    pub(crate) auth: gateway::auth::Config,
    /// The hosts of the conversations.
    pub(crate) session: session::Config,
    /// The registry of the built-in tools.
    #[serde(rename = "tool-registry")]
    pub(crate) tool_registry: tool_registry::Config,
    /// The registry that serves directories as resources.
    #[serde(rename = "resource-registry")]
    pub(crate) resource_registry: resource_registry::Config,
    /// The registry that serves a directory of prompt files.
    #[serde(rename = "prompt-registry")]
    pub(crate) prompt_registry: prompt_registry::Config,
    /// Where separate processes find each other.
    pub(crate) cluster: crate::cluster::Config,
    pub(crate) store: session::store::Config,
    pub(crate) keys: Keys,
    pub(crate) mtls: chassis::tls::Config,
    pub(crate) telemetry: chassis::telemetry::Config,
    pub(crate) admin: chassis::admin::Config,
    pub(crate) limits: Limits,
    pub(crate) runtime: Runtime,
}

/// The section `[keys]`: what session ids, event ids and states are signed and sealed with. The same in every process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Keys {
    /// Name of the key that is used for new things.
    pub(crate) current: String,
    /// All keys that are accepted, by name: 32 random bytes each, as base64. To rotate: add one everywhere, make it current,
    /// then remove the old one.
    pub(crate) ring: BTreeMap<String, Secret>,
}

impl Keys {
    /// Whether nothing is configured.
    pub(crate) fn is_empty(&self) -> bool {
        self.current.is_empty() && self.ring.is_empty()
    }

    /// The ring that the roles use.
    pub(crate) fn ring(&self) -> Result<KeyRing, KeyError> {
        let plain = self.ring.iter().map(|(name, key)| (name.clone(), key.expose().to_owned())).collect();
        KeyRing::new(&self.current, &plain)
    }
}

/// The section `[limits]`: what bounds a process as a whole.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Seconds a process may take to finish what it has when it is told to stop. Keep it below what the platform allows
    /// before it kills.
    pub(crate) drain_grace_s: u64,
}

/// The section `[runtime]`: how a process uses the machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Runtime {
    /// Threads that serve connections, each with a runtime of its own; 0 = one for each core. Lower it where several processes
    /// share a machine: fewer threads need less CPU for the same calls.
    pub(crate) threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { drain_grace_s: 20 }
    }
}
