//! The kit a registry is written with: say what there is and do the work, the kit keeps the contract.
//!
//! ```
//! use registry::{Call, Error, Registry, Structured, Tool};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Add { a: f64, b: f64 }
//! #[derive(serde::Serialize, schemars::JsonSchema)]
//! struct Sum { sum: f64 }
//!
//! async fn add(input: Add, _: Call) -> Result<Structured<Sum>, Error> {
//!     Ok(Structured(Sum { sum: input.a + input.b }))
//! }
//!
//! let registry = Registry::new("calc").version("1.0.0").tool(Tool::new("add").description("Adds two numbers").handler(add));
//! # let _: Registry = registry;
//! ```
//!
//! Owns: lists with pages, digests and a feed of changes; invocations with their numbered frames, kept for callers that
//! come back; epochs; questions to the client; subscriptions; schemas. Must not know: gRPC, sessions, where it runs (a
//! [`Runtime`] is handed in). Start reading at [`Registry`], then [`Call`], then the module `invocation`.
//!
//! Deliberately absent: a difference between tools and the rest in everything but the builders; a second way to answer
//! (every answer is read from the frames); memory without a bound.

mod ask;
mod build;
mod call;
mod catalog;
mod changes;
mod completion;
#[cfg(any(test, feature = "test-util"))]
pub mod contract;
mod cursor;
mod error;
mod feed;
mod fence;
mod handle;
mod host;
mod input;
mod invocation;
mod limits;
mod output;
mod prompt;
mod resource;
mod runtime;
mod schema;
mod source;
mod span;
mod state;
mod subscription;
mod tool;

pub use api::registry::{Kind, Round};
pub use mcp::Json;

pub use self::ask::{Answers, Ask, Elicited, PATIENCE};
pub use self::build::{BuildError, Registry};
pub use self::call::Call;
pub use self::changes::Changes;
pub use self::completion::{Completion, CompletionRequest};
pub use self::error::Error;
pub use self::handle::Handle;
pub use self::host::Host;
pub use self::input::{Input, InputBuilder};
pub use self::invocation::CutShort;
pub use self::limits::Limits;
pub use self::output::{Answer, Content, Message, Output, ResourceContents, Structured};
pub use self::prompt::Prompt;
pub use self::resource::{Resource, ResourceTemplate, Variables};
pub use self::runtime::{Clock, Runtime, Spawner, SystemClock, Tasks};
pub use self::schema::SchemaError;
pub use self::source::{PromptSource, ResourceSource};
pub use self::tool::Tool;
