//! Behaviour of the machines.
