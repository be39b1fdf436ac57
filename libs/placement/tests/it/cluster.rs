//! Nodes that share slots, on lease stores that fail.
