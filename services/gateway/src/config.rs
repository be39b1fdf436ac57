//! Settings of the gateway role.

use placement::SlotRange;
use serde::{Deserialize, Serialize};

/// Section `[gateway]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address clients reach this gateway at, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Path of the MCP endpoint (Streamable HTTP). Sessions of 2025-03-26 may send batches of up to 50 messages there.
    pub mcp_path: String,
    /// Path where clients of 2024-11-05 (HTTP+SSE) open their event stream.
    pub sse_path: String,
    /// Path where those clients post their messages; the stream tells it them.
    pub message_path: String,
    /// Names clients may use in the URL: `mesh.example.com` with any port, `mesh.example.com:8443` with this one. Loopback
    /// names need not be listed while listening on loopback. Must not be empty when other machines can reach the gateway.
    pub allowed_hosts: Vec<String>,
    /// Web pages that may call the gateway from a browser, as origins: `https://app.example.com`. Pages served from
    /// loopback names need not be listed while listening on loopback.
    pub allowed_origins: Vec<String>,
    /// Session nodes and the slots each one owns. Together they own 0-4095, each slot once.
    pub sessions: Vec<SessionNode>,
    /// How long a session node may take to say whether it takes a request on, in seconds. Then the client gets a 503.
    pub request_timeout_s: u64,
    /// Silence on an event stream after which a comment is sent, in seconds. Lower it if a proxy on the way is impatient.
    pub keep_alive_s: u64,
    /// How long a client may leave what it is sent unread, in seconds; then its connection is closed. An older client resumes
    /// where it was, a modern call is cancelled.
    pub write_stall_s: u64,
}

/// One session node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionNode {
    /// `host:port`.
    pub address: String,
    /// Slots it owns, for example `"0-2047"`.
    #[serde(default = "all_slots")]
    #[schemars(with = "String")]
    pub slots: SlotRange,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            mcp_path: "/mcp".into(),
            sse_path: "/sse".into(),
            message_path: "/messages".into(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            sessions: vec![SessionNode { address: "127.0.0.1:7101".into(), slots: SlotRange::ALL }],
            request_timeout_s: 60,
            keep_alive_s: 15,
            write_stall_s: 20,
        }
    }
}

const fn all_slots() -> SlotRange {
    SlotRange::ALL
}
