//! A gateway over real HTTP, in front of session nodes that follow a script and write down what reaches them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bodies;
mod http2;
mod http_sse;
mod kit;
mod ladder;
mod media;
mod mismatch;
mod negotiation;
mod rebinding;
mod routing;
mod sessions;
mod streams;
