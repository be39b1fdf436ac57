//! The mesh under faults: real processes behind bad links, clients that write down what they see, and the verdict.
//!
//! Owns: starting and hurting processes and links, the load, the record of it. Must not know: what is right; `history` judges.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "most of what comes from outside is matched for what it should be"
)]

pub mod clients;
pub mod cluster;
pub mod draw;
pub mod faults;
pub mod http;
mod limits;
pub mod monitor;
pub mod observers;
pub mod process;
pub mod proxy;
pub mod recorder;
pub mod run;
pub mod shape;
pub mod sink;
pub mod stores;
