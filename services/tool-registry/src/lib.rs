//! The built-in tools as a registry: `echo` and `calculator`.
//!
//! Owns the tools (`tools.rs`). Must not know sessions, clients, other registries. What every registry does is in the kit,
//! `registry`. Start reading at `tools.rs`.

mod app;
mod config;
mod deps;
mod tools;

pub use app::{App, BuildError, ServeError};
pub use config::{Builtin, Config};
pub use deps::{ConnectError, Deps};
