//! Text of what is sent to clients.
