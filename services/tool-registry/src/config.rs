//! Settings of the tool registry, section `[tool-registry]`.

use serde::{Deserialize, Serialize};

/// Settings of the tool registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the gRPC server, HOST:PORT; port 0 takes any free one. Not used inside `up`.
    pub listen: String,
    /// Name of this process, which `echo` answers with; give each replica its own to see which one answered. `$HOSTNAME` = the
    /// name of the machine.
    pub node: String,
    /// What the names of the tools begin with when clients see them, before `__`: at most 24 letters, digits or `-`; empty = nothing.
    pub namespace: String,
    /// The built-in tools to offer: "echo", "calculator".
    pub tools: Vec<ToolName>,
}

/// A built-in tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ToolName {
    /// Says what it was told, and where.
    Echo,
    /// Computes.
    Calculator,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            node: "tool-registry-1".into(),
            namespace: String::new(),
            tools: vec![ToolName::Echo, ToolName::Calculator],
        }
    }
}
