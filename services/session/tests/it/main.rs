//! Sessions in Redis, with servers that the tests start: `redis-server` 7 has to be a command. One server, a primary with its
//! replica, a cluster; each with what goes wrong there. And in a file, as far as the walks go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod cluster;
mod config;
mod faults;
mod late;
mod layout;
mod lost;
mod replicas;
mod server;
mod walks;
mod writer;

#[allow(dead_code, reason = "walks need less of it than the machines' own tests")]
#[path = "../../../../libs/machines/tests/it/alphabet.rs"]
mod alphabet;
#[allow(dead_code, reason = "walks need less of it than the machines' own tests")]
#[path = "../../../../libs/machines/tests/it/world.rs"]
mod world;
