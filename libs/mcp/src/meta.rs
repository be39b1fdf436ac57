//! Keys of `_meta` and of the envelope that the mesh reads or writes.

/// The member of params and results that carries metadata.
pub const META: &str = "_meta";
/// Revision of a modern request.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// Capabilities of the client that sent a modern request.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Implementation of the client that sent a modern request.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// Log level a modern request asks for.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Implementation of the server, in modern results.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// Subscription a message on a listen stream belongs to.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// Token that asks for progress notifications.
pub const PROGRESS_TOKEN: &str = "progressToken";
/// What a client says to everybody along a trace (W3C). It is not passed on.
pub const BAGGAGE: &str = "baggage";
/// The client's answers on a retried modern request.
pub const INPUT_RESPONSES: &str = "inputResponses";
/// State handed out with `input_required` and returned on the retry.
pub const REQUEST_STATE: &str = "requestState";
/// Kind of a modern result.
pub const RESULT_TYPE: &str = "resultType";
