//! The edge of the mesh: terminates MCP over HTTP and hands every message to a session node.
//!
//! Owns: the order of checks a request passes before anything else sees it, which node it goes to, and how frames become
//! HTTP. Must not know: what a session or a registry does with a message. It keeps no state of a conversation: any gateway
//! serves any client, request by request. Start reading at [`App`], then `http.rs` (the routes) and `http/admit.rs`.

mod app;
pub mod auth;
mod config;
mod connection;
mod deps;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod limits;
mod observe;
mod peers;

pub use self::app::{App, BuildError, ServeError};
pub use self::config::{Config, SessionNode};
pub use self::deps::{ConnectError, Deps};
pub use self::peers::{Dialled, Local, Peers};
