//! Settings of the tool registry role.

use serde::{Deserialize, Serialize};

/// Section `[tool-registry]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address session nodes reach this registry at, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Name of this node, which `echo` reports.
    pub node: String,
    /// Prefix of the tools' names, `[A-Za-z0-9-]{1,24}`; empty = none.
    pub namespace: String,
    /// Built-in tools to offer: "echo", "calculator".
    pub tools: Vec<Builtin>,
}

/// A built-in tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    /// Says what it was told, and where.
    Echo,
    /// Four operations on two numbers.
    Calculator,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7201".into(),
            node: "tool-registry-1".into(),
            namespace: String::new(),
            tools: vec![Builtin::Echo, Builtin::Calculator],
        }
    }
}
