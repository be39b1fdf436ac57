//! gRPC between our processes: how they listen, and how they dial. Knows no service of ours.

pub mod channel;
pub mod server;
