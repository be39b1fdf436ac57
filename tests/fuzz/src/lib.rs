//! What the targets have in common: another reader to compare with, and bounds on time and memory.

pub mod bounds;
pub mod view;
