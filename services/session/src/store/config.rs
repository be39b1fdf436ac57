//! Settings of the store.
//!
//! A user of Redis for a node needs no more than `~<key_prefix>* -@all +@read +@write +@scripting +role +ping +info +time +wait`,
//! and `+cluster` in a cluster.

use std::path::Path;

use chassis::config::Secret;
use serde::{Deserialize, Serialize};

/// Section `[store]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Redis servers, for example ["redis://127.0.0.1:6379"]; the one that says it is the master is used. Empty = sessions live in `file`, or in memory and end with the process.
    pub redis: Vec<String>,
    /// Whether these are nodes of a Redis Cluster, which then tells where the others are.
    pub cluster: bool,
    /// File with the password; the user stands in the address, redis://user@host:port.
    pub password_file: String,
    /// The password itself, where there is no file for it.
    #[serde(skip_serializing_if = "is_empty")]
    pub password: Secret,
    /// File with the authorities (PEM) that may vouch for servers of rediss:// addresses. Empty = those of this machine.
    pub ca: String,
    /// Replicas that have to have a commit before its client hears of it. 0 = none; else set min-replicas-to-write too.
    pub wait_replicas: usize,
    /// How long replicas are waited for, in milliseconds, at most 400. If it is not enough, a request is refused before anything is done, and a result is delivered all the same.
    pub wait_ms: u64,
    /// Whether to use a server that may evict sessions when its memory is full.
    pub allow_eviction: bool,
    /// In front of every key, for servers that are shared. No braces and no spaces.
    pub key_prefix: String,
    /// File that sessions live in instead, on a disk of this machine; no other process may use it. `up --data DIR` takes DIR/sessions.redb where this is empty and there is no Redis; "none" = it does not.
    pub file: String,
    /// Most commits that share one write of the file to the disk.
    pub file_group: usize,
}

impl Config {
    /// The file that sessions live in, if they do.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        Some(Path::new(&self.file)).filter(|_| !self.file.is_empty() && self.file != Self::NO_FILE)
    }

    /// Stands for no file where one would be taken otherwise.
    const NO_FILE: &str = "none";
}

fn is_empty(secret: &Secret) -> bool {
    secret.expose().is_empty()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis: Vec::new(),
            cluster: false,
            password_file: String::new(),
            password: Secret::default(),
            ca: String::new(),
            wait_replicas: 0,
            wait_ms: 50,
            allow_eviction: false,
            key_prefix: String::new(),
            file: String::new(),
            file_group: 256,
        }
    }
}
