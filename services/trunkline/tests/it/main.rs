//! The binary as people and scripts use it: real processes, ports of the system's choice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod collector;
mod process;

mod callers;
mod canaries;
mod configuration;
mod crossed;
mod defaults;
mod kept;
mod lifecycle;
mod moved;
mod mtls;
mod reload;
mod settings;
mod slots;
mod trace;
mod trace_ui;
