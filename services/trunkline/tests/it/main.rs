//! The binary as people and scripts use it: real processes, ports of the system's choice.

mod process;

mod configuration;
mod lifecycle;
mod trace;
