//! Behaviour of the whole mesh, and of the tools it is tested with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod proxy;
