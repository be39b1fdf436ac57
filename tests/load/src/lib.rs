//! What speed and steadiness are measured with. `scripts/bench` and `scripts/pressure` start everything and draw the
//! conclusions; the binaries here generate load, and are the floors that the mesh is compared with.
//!
//! Owns: connections ([`connection`]), what is said on them and how each answer is checked ([`dialogue`]), the clock and
//! histogram of a measurement ([`measure`]), and what whole processes cost ([`processes`]). Must not know: anything of the
//! mesh but its wire. A measurement in which one answer was wrong has failed.

pub mod attack;
pub mod connection;
pub mod dialogue;
pub mod flood;
pub mod floor;
pub mod measure;
pub mod processes;
pub mod sessions;
