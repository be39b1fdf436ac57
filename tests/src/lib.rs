//! The kit that tests of the whole mesh are written with.

pub mod claimed;
pub mod client;
pub mod cluster;
pub mod http_sse;
pub mod mesh;
pub mod proxy;
pub mod registry_check;
pub mod scripted;
