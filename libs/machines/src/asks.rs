//! What a registry wants from the client, and whether this client can do it.
