//! gRPC between our processes: how they listen, how they dial, and who may call what. Of our services it knows the names that
//! stand in [`allowed`], and nothing else.

pub mod allowed;
pub mod channel;
mod cork;
mod greet;
mod guard;
mod measure;
pub mod server;
mod sparse;
mod stream;
