//! Settings of the gateway role.

use std::path::PathBuf;

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
    /// loopback names need not be listed while listening on loopback; only pages that are listed get CORS headers, which
    /// browsers want before they let a page of another origin read an answer. Empty = CORS is off.
    pub allowed_origins: Vec<String>,
    /// PEM file with the certificate chain clients see. With it and `tls_key` the gateway speaks HTTPS. Read again when it
    /// changes. Empty = plain HTTP, for loopback and behind a proxy that speaks HTTPS.
    pub tls_certificate: PathBuf,
    /// PEM file with the private key of `tls_certificate`.
    pub tls_key: PathBuf,
    /// Lets other machines call without saying who they are. Only where something else in front authenticates them.
    pub insecure_no_auth: bool,
    /// Session nodes and the slots each one owns. Together they own every slot once: 0-4095, or 0-16383 where `cluster.slots`
    /// says so.
    pub sessions: Vec<SessionNode>,
    /// How long a session node may take to say whether it takes a request on, in seconds. Then the client gets a 503.
    pub request_timeout_s: u64,
    /// How long a session may be without an owner before its requests and streams hear of it, in milliseconds; until then they
    /// wait for the next one. Lower it for clients that would rather ask again. 0 = nobody waits.
    pub failover_wait_ms: u64,
    /// Silence on an event stream after which a comment is sent, in seconds. Lower it if a proxy on the way is impatient.
    pub keep_alive_s: u64,
    /// How long a client may leave what it is sent unread, in seconds; then its connection is closed. An older client resumes
    /// where it was, a modern call is cancelled.
    pub write_stall_s: u64,
    /// Age at which the stream of an older client is ended and the client asked to come back, in seconds. Lower it to move
    /// clients to new gateways sooner. 0 = never.
    pub stream_max_age_s: u64,
    /// Largest request body, in bytes. Raise it for tools that take large arguments; session nodes take up to 8 MiB.
    pub max_body_bytes: usize,
    /// Bytes of all bodies that are being waited for. A request that would need more gets a 503. Raise it where many callers
    /// send large arguments over slow lines. 0 = no limit.
    pub max_body_bytes_in_all: usize,
    /// How long a client may pause while it sends a body, in seconds.
    pub body_idle_s: u64,
    /// How long a client may take for a whole body, in seconds.
    pub body_total_s: u64,
    /// Bytes of a body that must come in each second on average, from the fifth second on. 0 = no minimum.
    pub body_min_bytes_per_s: u64,
    /// Bytes of all names and values of a request's headers. Raise it for large tokens.
    pub max_header_bytes: usize,
    /// Number of a request's headers.
    pub max_headers: usize,
    /// Bytes of a request target: path and query.
    pub max_target_bytes: usize,
    /// How long a client may take for the head of a request that it has begun, and a new connection for its first one, in
    /// seconds.
    pub header_timeout_s: u64,
    /// How long a connection without a request under way is kept, in seconds. Longer than that of a proxy in front.
    pub idle_timeout_s: u64,
    /// Connections in all. More are closed at once. Raise it together with the process' limit on open files. 0 = no limit.
    pub max_connections: usize,
    /// Connections of one address (IPv4) or network (IPv6, /64). More are closed at once. Raise it behind a proxy, whose
    /// address all clients share. Loopback is not counted. 0 = no limit.
    pub max_connections_per_ip: usize,
    /// Requests under way in all, those not counted whose stream waits for news. More get a 503. 0 = no limit.
    pub max_requests: usize,
    /// Requests under way for one principal; anonymous callers count by address. More get a 429. 0 = no limit.
    pub max_requests_per_principal: usize,
    /// Streams that wait for news (GET, `subscriptions/listen`, HTTP+SSE) for one principal; anonymous callers count by
    /// address. More get a 429. 0 = no limit.
    pub max_streams_per_principal: usize,
    /// Requests of one principal in a second, as many at once; anonymous callers count by address. More get a 429. 0 = no limit.
    pub requests_per_s_per_principal: u32,
    /// Requests of one address (IPv4) or network (IPv6, /64) in a second, as many at once, whoever makes them. More get a
    /// 429. Raise it behind a proxy. Loopback is not counted. 0 = no limit.
    pub requests_per_s_per_ip: u32,
    /// Requests that one HTTP/2 connection may have under way.
    pub http2_max_streams: u32,
    /// Requests that an HTTP/2 client may have cancelled before we have looked at them; with more its connection is closed.
    pub http2_max_pending_resets: usize,
    /// How often an HTTP/2 connection with requests under way is checked to be alive, in seconds.
    pub http2_ping_s: u64,
}

impl Config {
    /// Whether clients speak HTTPS with the gateway.
    #[must_use]
    pub fn is_https(&self) -> bool {
        !self.tls_certificate.as_os_str().is_empty()
    }
}

/// One session node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionNode {
    /// `host:port`.
    pub address: String,
    /// Slots it owns, for example `"0-2047"`, or `"all"`.
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
            failover_wait_ms: 7000,
            keep_alive_s: 15,
            write_stall_s: 20,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            insecure_no_auth: false,
            stream_max_age_s: 3600,
            max_body_bytes: 4 << 20,
            max_body_bytes_in_all: 256 << 20,
            body_idle_s: 10,
            body_total_s: 30,
            body_min_bytes_per_s: 1024,
            max_header_bytes: 16 << 10,
            max_headers: 100,
            max_target_bytes: 8 << 10,
            header_timeout_s: 10,
            idle_timeout_s: 75,
            max_connections: 10_000,
            max_connections_per_ip: 1000,
            max_requests: 4096,
            max_requests_per_principal: 1024,
            max_streams_per_principal: 1000,
            requests_per_s_per_principal: 10_000,
            requests_per_s_per_ip: 10_000,
            http2_max_streams: 100,
            http2_max_pending_resets: 20,
            http2_ping_s: 20,
        }
    }
}

const fn all_slots() -> SlotRange {
    SlotRange::ALL
}
