//! The kit a registry is written with.
