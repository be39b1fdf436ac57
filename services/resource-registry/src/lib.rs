//! Directories served as MCP resources.
//!
//! Owns: which URI means which file (`uri.rs`, `rules.rs`), the safe way to it (`folder.rs`), the templates that are
//! advertised (`template.rs`), and noticing changes (`watch.rs`, `upkeep.rs`). Must not know: sessions, clients, other
//! registries. What every registry does is in the kit, `registry`. Start reading at `source.rs`.
//!
//! Deliberately absent: symbolic links. Below the root none is listed or followed, wherever it leads.

mod app;
mod config;
mod deps;
mod folder;
mod item;
mod rules;
mod source;
mod template;
mod upkeep;
mod uri;

pub use app::{App, BuildError, ServeError};
pub use config::{Config, ConfigError, Directory, Template};
pub use deps::{ConnectError, Deps};
pub use source::Directories;
