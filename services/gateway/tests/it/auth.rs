//! Who may call: keys, tokens, and what is told to those who may not.

mod fetched;
mod forge;
mod forged;
mod keys;
mod streams;

use std::sync::Arc;

use gateway::Config;
use gateway::auth::Authenticate;

use crate::kit::{Gateway, Node, Request};

/// What the challenges of the forge's configuration end with.
const WHERE: &str = "resource_metadata=\"https://mesh.example/.well-known/oauth-protected-resource/mcp\", \
                     scope=\"mcp:more mcp:use\"";

/// A gateway on loopback that asks this who calls.
async fn asking(auth: Arc<dyn Authenticate>, node: &Arc<Node>) -> Gateway {
    Gateway::asking(auth, Config::default(), &[("a", node)], 1).await
}

fn list() -> Request {
    Request::modern("tools/list", "")
}

fn bearing(token: &str) -> Request {
    list().with("Authorization", format!("Bearer {token}"))
}
