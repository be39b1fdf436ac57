//! The tool registry role: built-in tools, chosen by configuration.
//!
//! Owns: the tools in `source`. Must not know: sessions, gRPC (the port's adapter does), how invocations are kept (the kit
//! does). Start reading at [`App`].

mod app;
mod config;
mod deps;
mod source;

pub use self::app::{App, BuildError, ServeError};
pub use self::config::{Config, ToolName};
pub use self::deps::{ConnectError, Deps};
