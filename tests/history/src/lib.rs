//! The history of a run under faults, and the judge of it.
//!
//! Owns: the form of a history (one JSON line for each event), the invariants I1 to I18 and I20 with a shortest witness for
//! each that is broken, and the demand that enough happened. Must not know: how a history is made. It reads no clock but to
//! bound a search, opens no connection, and believes clients and the ledger of the tools more than anything the mesh says.
//!
//! Start reading at [`line::What`], then [`judge`].

#![allow(clippy::wildcard_enum_match_arm, reason = "a rule is about the few kinds of lines that it names")]

mod figures;
mod history;
mod leftovers;
pub mod line;
mod messages;
mod outcomes;
mod ownership;
mod register;
mod search;
mod streams;
mod verdict;
mod windows;

pub use self::figures::{Figures, Spread};
pub use self::history::{Damage, History};
pub use self::verdict::{Breach, Demands, Findings, Invariant, Judgement, judge};
