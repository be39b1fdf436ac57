//! The port of a session node: what a gateway asks of it.

pub mod batch;
mod client;
mod convert;
pub(crate) mod link;
mod server;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mcp::rpc::Message;
use mcp::{Era, Json};

pub use self::client::SessionClient;
pub use self::link::{LinkClient, link};
pub use self::server::service;
use crate::Principal;
use crate::error::{Code, Error};
pub use crate::link::{Driver, Trace};

/// Steps of an answer to a client. An `Err` item means that the node was lost before the ending.
pub type Frames = BoxStream<'static, Result<Frame, Error>>;

/// What a link needs from the surroundings of a session node.
pub type Surroundings = crate::link::server::Surroundings<Frame>;

/// How an older client speaks HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// One endpoint; each POST has its own answer.
    #[default]
    Streamable,
    /// 2024-11-05: one long GET, on which everything comes back, and POSTs beside it.
    HttpSse,
}

/// One message of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// As the client sent it; already known to be one JSON-RPC message, or a batch in a session of [`Transport::HttpSse`].
    pub message: Json,
    /// The same, read, where this process has read it already. Crosses no wire.
    pub read: Option<Arc<Message>>,
    /// Which kind of client.
    pub era: Era,
    /// Session id of an older client; `None` for `initialize` and for modern requests.
    pub session: Option<String>,
    /// The version header.
    pub revision: Option<String>,
    /// As the edge authenticated it.
    pub principal: Principal,
    /// Virtual server; empty = the whole mesh.
    pub group: String,
    /// The `Mcp-Param-*` headers, lower-case names, repeats kept.
    pub param_headers: Vec<(String, Bytes)>,
    /// Tells a repeated delivery.
    pub request_key: String,
    /// How the client speaks to the gateway; a session is found only in the way it was begun.
    pub transport: Transport,
    /// What became of an earlier attempt, as far as the gateway knows; `None` = this is the first.
    pub again: Option<Again>,
    /// Whether it is a member of a batch, legal in sessions of 2025-03-26 alone.
    pub in_batch: bool,
}

/// What is known of an earlier attempt at a delivery. A node that finds what came of it goes on with that.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Again {
    /// It was taken on. If nothing of it can be found, its outcome is unknown; else it may be taken on now.
    pub accepted: bool,
    /// Id of the last event of the answer that the client was sent; `None` = none with an id.
    pub last_event_id: Option<String>,
}

/// Opens or continues a server-to-client stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Attach {
    /// Session id.
    pub session: String,
    /// The version header.
    pub revision: Option<String>,
    /// As the edge authenticated it.
    pub principal: Principal,
    /// Where to continue; `None` = the session's own stream.
    pub last_event_id: Option<String>,
    /// Begins a session of [`Transport::HttpSse`] in a slot of the node; `session` is empty. It ends with this stream.
    pub begin: bool,
    /// The stream is that of a session of [`Transport::HttpSse`], which goes on at its next owner: events have ids, the first
    /// one before anything is said, and the session waits a while for whoever comes with the last of them.
    pub carried: bool,
}

/// Ends a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Close {
    /// Session id.
    pub session: String,
    /// The version header.
    pub revision: Option<String>,
    /// As the edge authenticated it.
    pub principal: Principal,
    /// Ends a session of [`Transport::HttpSse`] as soon as none of its calls is under way: the gateway that holds its stream
    /// drains.
    pub when_idle: bool,
    /// The way in which the session was begun.
    pub transport: Transport,
}

/// One thing to ask of a session node.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// See [`Delivery`].
    Deliver(Box<Delivery>),
    /// See [`Attach`].
    Attach(Attach),
    /// See [`Close`].
    Close(Close),
}

/// `Refused`, or `Accepted` and then either one `Answer`, or `Open`, events and the end of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Taken on. Carries the session id to hand out.
    Accepted {
        /// The session that `initialize` or [`Attach::begin`] made.
        session: Option<String>,
    },
    /// Not taken on; nothing was executed.
    Refused(Answer),
    /// The whole answer.
    Answer(Answer),
    /// The answer is an event stream.
    Open,
    /// One event.
    Event(Event),
}

/// A whole HTTP answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Option<Json>,
    /// Retry-After, in seconds.
    pub retry_after_s: Option<u32>,
}

impl Answer {
    /// Status and body.
    #[must_use]
    pub const fn new(status: u16, body: Option<Json>) -> Self {
        Self { status, body, retry_after_s: None }
    }
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// SSE id, signed.
    pub id: Option<String>,
    /// A JSON-RPC message; `None` = an event without data.
    pub message: Option<Json>,
    /// SSE retry.
    pub retry_ms: Option<u32>,
}

/// What a gateway asks of a session node.
#[async_trait]
pub trait SessionHost: Send + Sync + 'static {
    /// Hands over one message. Dropping the frames is the client's disconnect.
    async fn deliver(&self, delivery: Delivery) -> Result<Frames, Error>;

    /// Opens or continues a stream.
    async fn attach(&self, attach: Attach) -> Result<Frames, Error>;

    /// Ends a session; the answer has no body.
    async fn close(&self, close: Close) -> Result<Frames, Error>;

    /// Says that the node is there, or asks the one at another address whether it is.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if that one does not answer this node either.
    async fn probe(&self, to: Option<&str>) -> Result<(), Error> {
        match to {
            None => Ok(()),
            Some(to) => Err(Error::new(Code::Unimplemented, format!("{to} is not asked from here"))),
        }
    }

    /// Passes a request on to the node at another address, which the gateway cannot reach, and its frames back.
    ///
    /// # Errors
    /// Those of the other node. [`Code::Unavailable`] if this one cannot reach it either.
    async fn relay(&self, to: &str, request: Request) -> Result<Frames, Error> {
        drop(request);
        Err(Error::new(Code::Unimplemented, format!("nothing is passed on to {to} here")))
    }
}
