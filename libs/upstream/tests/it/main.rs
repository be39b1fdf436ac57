//! The client against servers that do what they are told: correct ones of both eras, and bad ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod answers;
mod bad;
mod eras;
mod kit;
mod rounds;
mod streams;
