//! A link: the calls of a port over one long-lived gRPC stream for each pair of runtimes.
//!
//! A gRPC call costs more than everything else that is done for a request; on a link a request costs two messages. What a
//! stream of its own would give is here: numbers tell calls apart, each has its own credit, so that a reader who stalls
//! stops nobody else, a cancelled call ends at the callee, and when the link ends every open call hears of it. Neither side
//! spawns: the caller drives [`Driver`], at the callee the connection's own task drives [`server::Calls`].
//!
//! What is asked and answered differs from port to port: see [`Port`].

pub(crate) mod client;
pub(crate) mod server;

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tonic::{Code as Grpc, Response, Status, Streaming};

use self::client::Sayings;
use self::server::Opening;
use crate::error::{Code, Error};

/// Payload bytes of a call that may be under way unread.
const WINDOW: i64 = 256 << 10;
/// A frame larger than this is sent in pieces, a request larger than this as a call of its own.
pub(crate) const LARGE: usize = 64 << 10;
/// What a frame costs besides its payload, so that many small ones are bounded too.
const FRAME: usize = 64;
/// Calls that may be open on one link.
const MAX_CALLS: usize = 16_384;

/// The W3C trace context that crosses the link beside a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// `traceparent`; empty = none.
    pub parent: String,
    /// `tracestate`; empty = none.
    pub state: String,
}

/// Keeps a link; whoever made it runs it for as long as the link is wanted.
pub struct Driver(BoxFuture<'static, ()>);

impl Driver {
    /// Makes the link when a call wants one, and again after it was lost.
    pub async fn run(self) {
        self.0.await;
    }
}

/// What the caller says.
pub(crate) struct Up<R> {
    pub(crate) call: u64,
    pub(crate) said: Said<R>,
}

pub(crate) enum Said<R> {
    Request(R, Trace),
    /// So many more bytes are taken.
    Credit(u32),
    Cancel,
    /// Of a newer version.
    Unknown,
}

/// What the callee says.
pub(crate) struct Down<F> {
    pub(crate) call: u64,
    pub(crate) frames: Vec<F>,
    pub(crate) part: Option<Part>,
    pub(crate) end: Option<End>,
    pub(crate) drain: bool,
}

impl<F> Down<F> {
    const fn of(call: u64) -> Self {
        Self { call, frames: Vec::new(), part: None, end: None, drain: false }
    }
}

/// A piece of an encoded frame that is larger than [`LARGE`].
pub(crate) struct Part {
    pub(crate) data: Bytes,
    pub(crate) last: bool,
}

/// How a call ended.
#[derive(Default)]
pub(crate) struct End {
    /// gRPC status code; 0 = all frames have been sent.
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) detail: Bytes,
}

/// A port whose calls go over links: its messages, and what they mean.
pub(crate) trait Port: Send + Sync + Sized + 'static {
    /// Who answers.
    type Host: ?Sized + Send + Sync;
    /// What the caller asks.
    type Request: Send + Unpin;
    /// A step of the answer.
    type Item: Send + 'static;
    /// The same on the wire.
    type Frame: prost::Message + Default + Unpin;
    /// Message of the caller.
    type Up: Send + Unpin + 'static;
    /// Message of the callee.
    type Down: Send + Unpin + 'static;
    /// Makes the stream.
    type Client: Send + Sync;

    fn up(up: Up<Self::Request>) -> Self::Up;
    fn read_up(up: Self::Up) -> Up<Self::Request>;
    fn down(down: Down<Self::Frame>) -> Self::Down;
    fn read_down(down: Self::Down) -> Down<Self::Frame>;
    fn frame(item: Self::Item) -> Self::Frame;
    fn read_frame(frame: Self::Frame) -> Result<Self::Item, Error>;

    /// Length of what a frame carries. Both sides count the same, whatever their versions add to the encoding.
    fn payload(frame: &Self::Frame) -> usize;

    /// Begins what was asked.
    fn open(host: Arc<Self::Host>, request: Self::Request) -> Opening<Self::Item>;

    /// Opens the stream.
    fn connect(
        client: &mut Self::Client,
        sayings: Sayings<Self>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Down>>, Status>> + Send;
}

/// What a frame takes of the credit.
fn cost<P: Port>(frame: &P::Frame) -> i64 {
    i64::try_from(P::payload(frame) + FRAME).unwrap_or(i64::MAX)
}

fn end(error: Option<Error>) -> End {
    error.map_or_else(End::default, |error| {
        let (code, message, detail) = error.into_parts();
        End { code: code as u32, message, detail: detail.into() }
    })
}

fn ended(end: End) -> Result<(), Error> {
    if end.code == 0 {
        return Ok(());
    }
    let code = i32::try_from(end.code).map_or(Grpc::Unknown, Grpc::from_i32);
    Err(Error::from_parts(code, end.message, &end.detail))
}

pub(crate) fn broken(text: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Code::Internal, text.into())
}
