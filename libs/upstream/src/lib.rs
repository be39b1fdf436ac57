//! Speaks MCP as a client over Streamable HTTP, in every revision that has it.
//!
//! Owns: which era a server speaks, the handshake, headers, answers in one piece and as event streams, resumption, the rounds
//! in which a server asks for input, paging, cancellation. Must not know: our mesh, who calls it, or what an answer means.
//! It neither spawns nor reads a clock: a [`Host`] is handed in.
//!
//! Deliberately absent: retries of calls that may have been executed, and redirects. Start reading at [`Client`].

mod client;
mod detect;
mod error;
mod exchange;
mod headers;
mod host;
mod list;
mod listener;
mod options;
mod rounds;
pub mod sse;
mod wire;

pub use self::client::{Ask, Client, Server};
pub use self::error::{Error, Refusal};
pub use self::host::Host;
pub use self::list::Listed;
pub use self::listener::{Listener, Question, Silent};
pub use self::options::{Limits, Options, Speak};
