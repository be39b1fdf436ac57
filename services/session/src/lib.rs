//! The session role: hosts the conversations and asks the registries.
//!
//! `host.rs` is the door ([`api::SessionHost`]); `actor.rs` runs one session while something is in flight (`carry.rs` where
//! several of its streams share a response), `modern.rs` one modern request, `listen.rs` one modern subscription; none of them decides anything: `machines` does. `registries` is
//! everything about registry processes, `store` keeps sessions. Must not know HTTP, nor any other service.

mod actor;
mod app;
mod begin;
mod budget;
mod calling;
mod carry;
mod config;
mod deps;
mod facts;
mod host;
mod letter;
mod listen;
mod loads;
mod modern;
mod neighbours;
mod observe;
mod ownership;
mod perform;
mod pickup;
mod reader;
mod readers;
mod refuse;
mod registries;
mod residents;
mod seal;
mod seat;
mod several;
pub mod store;
mod wake;

pub use app::{App, BuildError};
pub use config::{Config, RegistryConfig};
pub use deps::{Claimed, ConnectError, Deps, RegistryPeer, Seat};
