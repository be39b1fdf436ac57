//! Behaviour of the whole mesh, and of the tools it is tested with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

/// Runs each of these behaviours in every topology that lives in one process.
macro_rules! topologies {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(tests::mesh::Topology::Embedded).await.unwrap();
            })*
        }
        mod split {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(tests::mesh::Topology::Split).await.unwrap();
            })*
        }
    };
}

mod announced;
mod asks;
mod batches;
mod budgets;
mod calls;
mod carried;
mod cli;
mod cluster;
mod given_away;
mod handshake;
mod hostile;
mod http_sse;
mod listen;
mod mutual;
mod params;
#[cfg(debug_assertions)]
mod passive;
mod principals;
mod processes;
mod proxy;
mod registries;
mod replicas;
mod sessions;
#[cfg(debug_assertions)]
mod store_faults;
mod streams;
mod successor;
mod transports;
mod upstream_client;
