//! How any of the processes starts, is configured, serves, traces and stops.
//!
//! Owns: the configuration loader, telemetry and trace propagation, tasks, clocks and randomness, shutdown, TLS, gRPC servers
//! and channels. Must not know: MCP, or any type of the domain. Start reading at [`serve`].
//!
//! Deliberately absent: globals. Configuration, shutdown and clocks are handed in, so that two meshes fit in one process. The one
//! thing a thread knows by itself is its runtime, and with [`workers`] the runtimes beside it.

pub mod admin;
pub mod clock;
pub mod config;
pub mod drain;
pub mod entry;
pub mod grpc;
pub mod metrics;
pub mod outbound;
pub mod process;
pub mod serve;
pub mod task;
pub mod telemetry;
pub mod tls;
pub mod watch;
pub mod workers;
