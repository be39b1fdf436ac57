//! A gateway over real HTTP, in front of session nodes that follow a script and write down what reaches them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod auth;
mod batches;
mod bodies;
mod carried;
mod cors;
mod flood;
mod following;
mod http2;
mod http_sse;
mod kit;
mod ladder;
mod limits;
mod malformed;
mod media;
mod mismatch;
mod negotiation;
mod patience;
mod rebinding;
mod routing;
mod sessions;
mod smuggling;
mod streams;
mod tls;
mod waiting;
