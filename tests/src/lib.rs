//! The kit that tests of the whole mesh are written with.

pub mod proxy;
