//! The ownership of sessions, simulated: session nodes, gateways, registries, stores and clients in one thread and in virtual
//! time, with every fault that follows from a seed.
//!
//! Owns: a world whose whole course follows from one number, so that what went wrong once goes wrong again. The decisions are
//! the product's own: the session machine of `machines`, placement's desk, plan, table and records, the identifiers of `api`.
//! The thin layers around them, which wait for sockets and timers in the product, are said anew here; each names the file it
//! mirrors. The verdict is that of `history`. Must not know: sockets, threads, the real clock.
//!
//! Start reading at [`run()`], then `world`, then `node`.

#![allow(clippy::wildcard_enum_match_arm, reason = "a world reacts to the few things that it names")]

mod ask;
mod client;
mod follow;
mod gateway;
mod lease;
mod nemesis;
mod node;
mod record;
mod registry;
mod run;
mod sabotage;
mod scene;
mod store;
mod trap;
mod world;

pub use self::record::Counts;
pub use self::run::{Outcome, Pauses, Plan, run};
pub use self::sabotage::{Known, Sabotage};
pub use self::trap::Around;
