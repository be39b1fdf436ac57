//! Placement against lease stores, real and in the process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(debug_assertions)]
mod chaos;
#[cfg(debug_assertions)]
mod cluster;
#[cfg(debug_assertions)]
mod contract;
mod etcd;
mod faults;
mod kit;
mod secured;
