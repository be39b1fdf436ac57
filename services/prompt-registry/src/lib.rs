//! A directory of prompt files served as MCP prompts.
//!
//! Owns: the form of a prompt file (`format.rs`), the template language and its limits (`template.rs`), and
//! what happens when files change (`library.rs`, `upkeep.rs`). Must not know: sessions, clients, other registries. What every
//! registry does is in the kit, `registry`. Start reading at `source.rs`.

mod app;
mod config;
mod deps;
mod directory;
mod format;
mod item;
mod library;
mod source;
mod template;
mod upkeep;

pub use app::{App, BuildError, ServeError};
pub use config::{Config, ConfigError};
pub use deps::{ConnectError, Deps};
pub use source::Prompts;
