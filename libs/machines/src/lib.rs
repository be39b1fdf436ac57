//! Every decision about a conversation, as pure state machines: (now, input) -> effects.
//!
//! Owns: the session machine of older clients ([`session`]), the exchange machine of one modern request ([`exchange`]), the
//! listen machine of one modern subscription ([`listen`]), the journal, streams and snapshots. Must not: do I/O, read a
//! clock, draw randomness, log, spawn, iterate a hash map. Start reading at [`input`] and [`effect`], then at the
//! dialogues in `tests/it/scripts`.

mod asks;
pub mod effect;
pub mod exchange;
pub mod input;
pub mod journal;
pub mod listen;
pub mod session;
pub mod settings;
pub mod snapshot;
mod wire;

pub use effect::{CallContext, Effect, Effects, Event, StopReason};
pub use exchange::{Exchange, ExchangeSettings};
pub use input::{CallFrame, CallId, CommitRefusal, Continuation, Input, ListKind, Millis, StreamId};
pub use listen::{Filter, Listen, ListenSettings};
pub use session::{Cursor, Phase, Remembered, Replay, Session, check};
pub use settings::Settings;
pub use snapshot::{Change, Lists, Snapshot};
