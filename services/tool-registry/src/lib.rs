//! The built-in tools as a registry.
