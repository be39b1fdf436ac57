//! Placement against lease stores, real and in the process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod chaos;
mod cluster;
mod contract;
mod etcd;
mod faults;
mod kit;
mod secured;
