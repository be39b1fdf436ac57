//! The vocabulary of the Model Context Protocol, every revision side by side.
//!
//! Owns: the JSON-RPC envelope with raw `params` and `result` ([`rpc`]), checked JSON text and its limits ([`json`],
//! [`scan`]), the one editor that changes members of raw JSON ([`edit`]), methods, revisions, error codes, `_meta` keys,
//! header names and rules, advertised names, names in traces and metrics. Must not know: transports, runtimes, services. Start reading at [`rpc`].

pub mod code;
pub mod content;
pub mod edit;
pub mod header;
pub mod json;
pub mod log;
pub mod meta;
pub mod method;
pub mod name;
mod outline;
pub mod revision;
pub mod rpc;
pub mod scan;
pub mod telemetry;
pub mod template;

pub use json::Json;
pub use method::Method;
pub use revision::{Era, Revision};
