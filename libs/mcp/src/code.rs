//! JSON-RPC error codes the protocol gives a meaning to.

/// The body is not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// JSON, but not one valid message.
pub const INVALID_REQUEST: i32 = -32600;
/// No such method, in this revision or at this server.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// The params do not fit the method; unknown tool, prompt or (modern) resource.
pub const INVALID_PARAMS: i32 = -32602;
/// Anything that is the server's fault; `data.reason` says more.
pub const INTERNAL_ERROR: i32 = -32603;
/// Unknown resource, in older revisions only.
pub const RESOURCE_NOT_FOUND: i32 = -32002;
/// A header is missing, repeated, undecodable or differs from the body (2026-07-28).
pub const HEADER_MISMATCH: i32 = -32020;
/// The client did not declare a capability the request needs (2026-07-28).
pub const MISSING_CAPABILITY: i32 = -32021;
/// The protocol version is not supported (2026-07-28).
pub const UNSUPPORTED_VERSION: i32 = -32022;
